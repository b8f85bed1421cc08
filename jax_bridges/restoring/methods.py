"""Which solver and which operator, as a user writes them: `ddnm:eta=0.5`, `colorize+inpaint`."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import numpy as np

from jax_bridges.choices import look_up
from jax_bridges.corruptions import (
    CORRUPTIONS,
    Composition,
    Corruption,
    Identity,
    Rows,
    make_corruption,
)
from jax_bridges.stages.zero_shot import OWN_SETTINGS, Method, make_method
from jax_bridges.zero_shot import SOLVERS

# What a picture can be a measurement of; "inpaint" is what --mask and --box say.
OPERATORS = {"inpaint": None} | {
    name: CORRUPTIONS[name]
    for name in ("superres", "blur", "colorize", "denoise", "walsh_hadamard", "block_sensing")
}
SENSING = ("walsh_hadamard", "block_sensing")  # no picture shows their numbers


def parse_choice(text: str) -> tuple[str, dict[str, Any]]:
    """("superres", {"factor": 4}) from "superres:factor=4"; values are Python literals or words.

    Raises ValueError for a setting without "=".
    """
    name, _, rest = text.partition(":")
    settings = {}
    for part in re.split(r",(?![^(\[]*[)\]])", rest) if rest else ():  # not within brackets
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"'{text}': settings are written NAME:KEY=VALUE,KEY=VALUE.")
        try:
            settings[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            settings[key.strip()] = value.strip()
    return name.strip(), settings


def parse_operator(text: str) -> tuple[Corruption, bool]:
    """The operator of "colorize+superres:kind=pool+inpaint", and whether pixels of y are missing.

    The first part acts first; "inpaint" comes last, as its mask is one of the picture that is given.

    Raises:
      ValueError: an unknown operator or setting, or an order that cannot be.
    """
    parts, inpaint = [], False
    for piece in text.split("+"):
        name, settings = parse_choice(piece)
        look_up("operator", OPERATORS, name)
        if inpaint:
            raise ValueError(
                f"--operator={text}: 'inpaint' comes last, since the mask is that of the given picture."
            )
        if name == "inpaint":
            if settings:
                raise ValueError("The operator 'inpaint' has no settings: give --mask or --box.")
            inpaint = True
            continue
        if name == "blur":  # so that A A^+ A = A, as all zero-shot papers have it
            settings = {"truncated": True} | settings
        try:
            parts.append(make_corruption(name, **settings))
        except TypeError as error:
            raise ValueError(f"--operator={piece}: {error}.") from error
    whole = (
        parts[0] if len(parts) == 1 else Composition(parts=tuple(parts)) if parts else Identity()
    )
    if inpaint and parts:
        Rows(operator=whole, mask=np.zeros(1))  # refuses what cannot do with a part
    return whole, inpaint


def parse_method(text: str, bridge: Any, zero_shot: Any, nfe: int | None = None) -> Method:
    """The solver of "ddnm:eta=0.5,travel=(10,3)".

    Args:
      bridge: of the prior.
      zero_shot: its recorded settings: `nfe` and `settings` of methods, which the text overrides.
      nfe: noise levels that it visits; overrides both.

    Raises:
      ValueError: an unknown solver or setting, or levels that there are not.
    """
    name, given = parse_choice(text)
    known = inspect.signature(look_up("zero-shot solver", SOLVERS, name).solve).parameters
    known = [k for k, p in known.items() if p.kind is p.KEYWORD_ONLY] + list(OWN_SETTINGS)
    for key in given:
        if key not in known:
            raise ValueError(
                f"The solver '{name}' has no setting '{key}': it takes {', '.join(known)}."
            )
    settings = dict(zero_shot.settings.get(name, {})) | given
    if nfe is not None:
        settings["nfe"] = nfe
    return make_method(name, bridge, settings, zero_shot.nfe)
