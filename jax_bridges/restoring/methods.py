"""Which solver and which operator, as a user writes them: `ddnm:eta=0.5`, `colorize+inpaint`."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_bridges.choices import look_up, parse_choice
from jax_bridges.corruptions import (
    CORRUPTIONS,
    Composition,
    Identity,
    LinearOperator,
    Rows,
    make_corruption,
)
from jax_bridges.zero_shot import Method, make_method, make_solver

# What a picture can be a measurement of; "inpaint" is what --mask and --box say.
OPERATORS = {"inpaint": None} | {
    name: CORRUPTIONS[name]
    for name in ("superres", "blur", "colorize", "denoise", "walsh_hadamard", "block_sensing")
}
SENSING = ("walsh_hadamard", "block_sensing")  # no picture shows their numbers

# Threshold of a blur whose result was rounded to 8 bits: A^+ y of a blurred photograph has 37 dB with
# it (5 taps, std 10), 23 dB with the papers' 0.03, and 37.5 dB and 46 dB if it was not rounded.
ROUNDED = 0.2


def parse_operator(text: str, simulate: bool = False) -> tuple[LinearOperator, bool]:
    """The operator of "colorize+superres:kind=pool+inpaint", and whether pixels of y are missing.

    The first part acts first; "inpaint" comes last, as its mask is one of the picture that is given.

    Args:
      simulate: y is computed, and not a picture's. In a picture levels are rounded, and a blur's
        pseudo-inverse multiplies that by up to 1 / threshold^2: hence its larger default there.

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
            rounded = {} if simulate else {"threshold": ROUNDED}
            settings = {"truncated": True} | rounded | settings
        if settings.get("noise_std"):
            raise ValueError(
                f"--operator={piece}: noise_std is for training a bridge; give --sigma-y."
            )
        parts.append(make_corruption(name, **settings))
    if any(part.noisy for part in parts[:-1]):
        raise ValueError(
            f"--operator={text}: 'denoise' comes after all but 'inpaint', since the noise is that of the "
            "given picture."
        )
    whole = (
        parts[0] if len(parts) == 1 else Composition(parts=tuple(parts)) if parts else Identity()
    )
    if len(parts) > 1 and not whole.orthogonal:
        raise ValueError(
            f"--operator={text}: together these have no pseudo-inverse in closed form: of superres take "
            "kind=pool; blur goes alone (noise on it: --sigma-y)."
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
    settings = dict(zero_shot.settings.get(make_solver(name).name, {})) | given
    if nfe is not None:
        settings["nfe"] = nfe
    return make_method(name, bridge, settings, zero_shot.nfe)
