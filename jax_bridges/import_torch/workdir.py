"""A released checkpoint as a folder that `--config.teacher.checkpoint` takes.

The weights alone would fit any bridge; what they were trained for is recorded beside them, as in a
run of one's own: network, bridge, preconditioning (scalings and network time) and known pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_bridges.bridges import make_bridge
from jax_bridges.checkpoints import Checkpoints
from jax_bridges.choices import look_up
from jax_bridges.config import FORMAT
from jax_bridges.corruptions import I2SB_TASKS
from jax_bridges.import_torch.families import FAMILIES
from jax_bridges.import_torch.names import unwrapped
from jax_bridges.io.atomic import beside
from jax_bridges.io.bucket import is_bucket, place, remove_folder
from jax_bridges.io.torch_file import read_torch
from jax_bridges.models import INPUTS
from jax_bridges.models.adm import ADM
from jax_bridges.starting import unfinished

# I2SB trained these with beta_max 1.0 and without bridge noise, the other five with 0.3 and noise.
_OT_ODE = ("blur", "inpaint")
# Arguments of ADM that belong to its weights, with their defaults.
_SETTINGS = {
    name: field.default
    for name, field in ADM.__dataclass_fields__.items()
    if name not in (*INPUTS, "parent", "name", "remat", "attention", "dtype", "param_dtype")
}


def i2sb_settings(
    task: str | None = None, beta_max: float | None = None, ot_ode: bool | None = None
) -> dict[str, Any]:
    """What I2SB's files do not say: the task, which decides beta_max and whether there is noise.

    Args:
      task: one of I2SB's nine (`corruptions.I2SB_TASKS`).
      beta_max, ot_ode: override the task's, or stand in for it.

    Raises:
      ValueError: an unknown task, or neither a task nor a beta_max.
    """
    corruption = {}
    if task is not None:
        name, settings = look_up("I2SB task", I2SB_TASKS, task)
        fill = {"fill": "noise"} if name.startswith("inpaint") else {}
        legacy = {"legacy": True} if name == "blur" else {}
        corruption = {"corruption": {"name": name, **settings, **fill, **legacy}}
        quiet = task.startswith(_OT_ODE)
        beta_max = (1.0 if quiet else 0.3) if beta_max is None else beta_max
        ot_ode = quiet if ot_ode is None else ot_ode
    if beta_max is None:
        raise ValueError(
            "An I2SB file does not say which bridge it was trained on: give --task, one of "
            f"{', '.join(I2SB_TASKS)}; or --beta-max, and --ot-ode if it was trained with it."
        )
    bridge = {"name": "i2sb", "beta_max": beta_max, "steps": 1000, "deterministic": bool(ot_ode)}
    return {
        "bridge": _checked(bridge),
        "preconditioning": {"name": "i2sb", "t0": 1e-4},
        **corruption,
    }


def ddbm_settings(
    schedule: str | None = None, sigma_min: float | None = None, sigma_max: float | None = None
) -> dict[str, Any]:
    """What DDBM's files do not say: the schedule and, of VE, the range of times.

    Args:
      schedule: "vp" (both released files) or "ve".
      sigma_min, sigma_max: of "ve"; DDBM's are 0.002, 80 (edges2handbags) and 0.0005, 20 (DIODE).

    Raises:
      ValueError: no or an unknown schedule, or a range that does not fit it.
    """
    if schedule not in ("vp", "ve"):
        given = "does not say" if schedule is None else f"cannot have the schedule '{schedule}'"
        raise ValueError(
            f"A DDBM file {given}; give --schedule=vp (both released files) or --schedule=ve."
        )
    if schedule == "vp":
        if sigma_min is not None or sigma_max is not None:
            raise ValueError("--sigma-min and --sigma-max are of --schedule=ve; vp has 1e-4 and 1.")
        bridge = {"name": "vp", "t_min": 1e-4, "T": 1.0, "beta_d": 2.0, "beta_min": 0.1}
    else:
        if sigma_min is None or sigma_max is None or not 0 < sigma_min < sigma_max:
            raise ValueError(
                "--schedule=ve needs 0 < --sigma-min < --sigma-max: 0.002 and 80 for "
                "edges2handbags, 0.0005 and 20 for DIODE."
            )
        bridge = {"name": "ve", "t_min": sigma_min, "T": sigma_max}
    scalings = {"sigma_data": 0.5, "sigma_data_end": 0.5, "cov_xy": 0.0}
    return {
        "bridge": _checked(bridge),
        "preconditioning": {"name": "bridge_karras", **scalings},
    }


def dbim_settings() -> dict[str, Any]:
    """DBIM's one teacher of its own: ImageNet centre inpainting, zeros in the hole."""
    bridge = {"name": "i2sb_ddbm", "beta_max": 1.0, "steps": 1000, "deterministic": False}
    return {
        "bridge": _checked(bridge),
        "preconditioning": {"name": "i2sb", "t0": 1e-4},
        "corruption": {"name": "inpaint_center", "fill": "zero"},
    }


# Family -> settings of its bridge; an ADM file is no bridge yet.
SETTINGS = {"i2sb": i2sb_settings, "ddbm": ddbm_settings, "dbim": dbim_settings, "adm": dict}


def import_workdir(
    file: str | Path,
    family: str,
    workdir: str | Path,
    settings: Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    half: bool = False,
) -> dict[str, Any]:
    """Reads a checkpoint and writes WORKDIR/checkpoints/train/0, whole or not at all.

    Args:
      file: as `read_torch` takes it.
      family: a key of `FAMILIES`.
      workdir: a folder that does not exist or is empty.
      settings: "bridge" and "preconditioning" of the family (`SETTINGS[family](...)`).
      options: further arguments of the family's importer, e.g. `weights` or those of `ADM`.
      half: takes 16-bit weights, whose last digits are lost, as they are.

    Returns:
      What was recorded: network, bridge, preconditioning, keep_known, source.

    Raises:
      FileNotFoundError, ValueError: one sentence; nothing has been left behind.
    """
    file, workdir = place(file), place(workdir)
    look_up("family", FAMILIES, family)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ValueError(f"{workdir} is not an empty folder: give a new one for the import.")
    contents = read_torch(file)
    _check_family(file, contents, family)
    try:
        network, params = FAMILIES[family](contents, **(options or {}))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{file}: its tensors do not have the dimensions of an ADM UNet's "
            f"({type(error).__name__}: {error})."
        ) from error
    _check_network(file, network, family)
    _check_types(file, _tensors(contents), half)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    pointwise = [np.ndim(a) for n, a in _tensors(contents) if n.endswith("qkv.weight")]
    recorded = {
        "format": FORMAT,
        "network": {"name": "adm", **_SETTINGS, **network, "dtype": "float32"},
        **settings,
        "keep_known": True,
        "source": {
            "family": family,
            "file": file.name,
            "sha256": digest,
            "qkv_ndim": max(pointwise, default=3),
        },
    }
    recorded["network"].pop("z_channels")  # a teacher has none, and a student's is config.distill's
    _write(workdir, params, recorded)
    return recorded


def _write(workdir: Path, params: Any, recorded: dict[str, Any]) -> None:
    """The folder is made beside its place and then moved there; a bucket's is its own checkpoint."""
    workdir = workdir.absolute()
    bucket = is_bucket(workdir)
    made = [] if bucket else [p for p in workdir.parents if not p.exists()]  # innermost first
    temporary = workdir if bucket else beside(workdir)
    try:
        temporary.mkdir(parents=True)
        with contextlib.nullcontext() if bucket else unfinished(temporary):
            with Checkpoints(temporary / "checkpoints" / "train") as checkpoints:
                checkpoints.save_weights(
                    {"teacher": params}, {"stage": "train", "config": recorded}
                )
            if not bucket:
                os.replace(temporary, workdir)
    except BaseException as error:
        remove_folder(temporary)
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        if isinstance(error, Exception):
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ValueError(f"{workdir} cannot be written: {reason}.") from error
        raise


def _checked(bridge: dict[str, Any]) -> dict[str, Any]:
    if not 0 < bridge.get("beta_max", 1.0) < np.inf:
        raise ValueError(f"--beta-max is {bridge['beta_max']}: it must be positive (0.3 or 1.0).")
    make_bridge(**bridge)
    return bridge


def _tensors(contents: Any, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    """Every array in the file that has a name of its own or a place in a list."""
    items = []
    if isinstance(contents, np.ndarray):
        items.append((prefix, contents))
    elif isinstance(contents, Mapping):
        for name, value in contents.items():
            if name != "optimizer":
                items += _tensors(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(contents, (list, tuple)):
        for i, value in enumerate(contents):
            items += _tensors(value, f"{prefix}[{i}]")
    return items


def _check_family(file: Path, contents: Any, family: str) -> None:
    """Tells the families apart by what their files hold, before names are compared."""
    if not isinstance(contents, Mapping) or not _tensors(contents):
        raise ValueError(f"{file}: holds no named tensors, so it is no checkpoint of a network.")
    nested = isinstance(contents.get("net"), Mapping)
    weights = contents["net"] if nested else contents
    flat = unwrapped(weights)
    if family == "i2sb" and not nested:
        raise ValueError(
            f"{file}: an I2SB file has 'net' and 'ema', and this one does not: if it belongs to "
            "another family, give --as=ddbm, --as=dbim or --as=adm."
        )
    odd = [name for name, value in flat.items() if not isinstance(value, np.ndarray)]
    if odd:
        raise ValueError(
            f"{file}: '{odd[0]}' is no tensor, and a state dict has nothing else: save that alone."
        )
    first = flat.get("input_blocks.0.0.weight")
    if nested:
        found = "i2sb"
    elif first is None or first.ndim != 4:
        return  # the importer says what is missing
    elif first.shape[1] == 3:
        found = "adm"
    else:
        found = "dbim" if "label_emb.weight" in flat else "ddbm"
    if family != found:
        what = {
            "i2sb": "has 'net' and 'ema' inside, like I2SB's",
            "adm": "has a network that does not see x_T, like OpenAI's",
            "dbim": "has a class-conditional network that sees x_T, like DBIM's",
            "ddbm": "has a network without classes that sees x_T, like DDBM's",
        }
        raise ValueError(
            f"{file}: this is no file of the family '{family}': it {what[found]}; "
            f"give --as={found}."
        )


def _check_types(file: Path, tensors: list[tuple[str, np.ndarray]], half: bool) -> None:
    for name, array in tensors:
        kind = array.dtype.name
        if kind in ("float32", "float64") or array.ndim == 0:
            continue
        if kind not in ("float16", "bfloat16"):
            raise ValueError(
                f"{file}: the tensor '{name}' is {kind}: weights are floating numbers."
            )
        if not half:
            raise ValueError(
                f"{file}: the tensor '{name}' is {kind}, and the released weights are float32: get "
                "the original, or give --half to take these rounded ones."
            )


def _check_network(file: Path, network: Mapping[str, Any], family: str) -> None:
    if network["z_channels"]:
        raise ValueError(f"{file}: this is a distilled student (it takes noise z), not a teacher.")
    if family != "adm" and network["out_channels"] != network["in_channels"]:
        raise ValueError(
            f"{file}: the network gives {network['out_channels']} channels for images of "
            f"{network['in_channels']}: a bridge's gives as many; --as=adm cuts those off."
        )


def check_options(family: str, options: Mapping[str, Any]) -> None:
    """Refuses constructor arguments that `ADM` does not take. Raises ValueError."""
    for name in options:
        look_up(f"setting of ADM ({family})", _SETTINGS, name)
