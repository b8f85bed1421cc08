"""Corruptions x_0 -> x_T: the tasks of the bridge papers, jitted, batched and differentiable.

`make_corruption(name, **settings)(x0, keys)` gives `Corrupted(xT, mask)`. Images are NHWC in
[-1, 1]; keys hold one typed PRNG key per example; mask is 1 where pixels are missing.
"""

from jax_bridges.choices import choose
from jax_bridges.corruptions.base import (
    Corrupted,
    Corruption,
    LinearOperator,
    check_noise,
    keep_known,
)
from jax_bridges.corruptions.blur import Blur
from jax_bridges.corruptions.composition import Composition
from jax_bridges.corruptions.holes import InpaintHoles, hole_masks
from jax_bridges.corruptions.inpaint import (
    FILL_OF_TEACHER,
    FILLS,
    InpaintCenter,
    InpaintFreeform,
    InpaintMask,
    InpaintRandom,
    fill_hole,
)
from jax_bridges.corruptions.jpeg import Jpeg
from jax_bridges.corruptions.masks import freeform_masks, read_masks, write_masks
from jax_bridges.corruptions.mixture import Mixture
from jax_bridges.corruptions.partial import Canvas, Rows
from jax_bridges.corruptions.photo_file import PhotoFile
from jax_bridges.corruptions.pointwise import Colorize, Denoise, Identity, Paired
from jax_bridges.corruptions.sensing import BlockSensing, WalshHadamard
from jax_bridges.corruptions.smooth import smooth_fill
from jax_bridges.corruptions.superres import SuperResolution, bilinear

CORRUPTIONS = {
    "inpaint_center": InpaintCenter,
    "inpaint_freeform": InpaintFreeform,
    "inpaint_holes": InpaintHoles,
    "inpaint_random": InpaintRandom,
    "superres": SuperResolution,
    "jpeg": Jpeg,
    "photo_file": PhotoFile,
    "blur": Blur,
    "colorize": Colorize,
    "denoise": Denoise,
    "mixture": Mixture,
    "walsh_hadamard": WalshHadamard,
    "block_sensing": BlockSensing,
    "composition": Composition,
    "identity": Identity,
    "paired": Paired,
}

# I2SB's nine tasks by its own names. Its blur checkpoints need legacy=True as well.
I2SB_TASKS = {
    "jpeg-5": ("jpeg", {"quality": 5}),
    "jpeg-10": ("jpeg", {"quality": 10}),
    "blur-uni": ("blur", {"kind": "uniform"}),
    "blur-gauss": ("blur", {"kind": "gauss"}),
    "sr4x-pool": ("superres", {"kind": "pool"}),
    "sr4x-bicubic": ("superres", {"kind": "bicubic"}),
    "inpaint-center": ("inpaint_center", {}),
    "inpaint-freeform1020": ("inpaint_freeform", {"area": (10, 20)}),
    "inpaint-freeform2030": ("inpaint_freeform", {"area": (20, 30)}),
}


def make_corruption(name: str, **settings) -> Corruption:
    """The corruption `name` of CORRUPTIONS with these settings, e.g. ("superres", factor=2).

    >>> import jax, jax.numpy as jnp
    >>> x0 = jnp.ones((2, 8, 8, 3))
    >>> corruption = make_corruption("inpaint_center", fill="zero")
    >>> xT, mask = corruption(x0, jax.random.split(jax.random.key(0), 2))
    >>> xT.shape, float(mask.mean())
    ((2, 8, 8, 3), 0.25)
    >>> make_corruption("superres", factor=4).forward(x0).shape  # the linear operator A
    (2, 2, 2, 3)

    A mixture's or composition's `parts` may be corruptions, names or pairs (name, settings); without parts it
    has I2SB's nine tasks. Lists, as configurations hold them, become tuples.

    Raises: ValueError for an unknown name, setting or value, listing the known ones.
    """
    if name == "mixture":
        parts = settings.get("parts") or I2SB_TASKS.values()
        settings["parts"] = tuple(map(_make_part, parts))
    if name == "composition":
        settings["parts"] = tuple(map(_make_part, settings.get("parts") or ()))
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return choose("corruption", CORRUPTIONS, name, settings)


def _make_part(part) -> Corruption:
    if isinstance(part, Corruption):
        return part
    if isinstance(part, str):
        return make_corruption(part)
    name, settings = part
    return make_corruption(name, **dict(settings))


__all__ = [
    "CORRUPTIONS",
    "FILLS",
    "FILL_OF_TEACHER",
    "I2SB_TASKS",
    "BlockSensing",
    "Blur",
    "Canvas",
    "Colorize",
    "Composition",
    "Corrupted",
    "Corruption",
    "Denoise",
    "Identity",
    "InpaintCenter",
    "InpaintFreeform",
    "InpaintHoles",
    "InpaintMask",
    "InpaintRandom",
    "Jpeg",
    "LinearOperator",
    "Mixture",
    "Paired",
    "PhotoFile",
    "Rows",
    "SuperResolution",
    "WalshHadamard",
    "bilinear",
    "check_noise",
    "fill_hole",
    "freeform_masks",
    "hole_masks",
    "keep_known",
    "make_corruption",
    "read_masks",
    "smooth_fill",
    "write_masks",
]
