"""Inpainting: a centred box, irregular strokes or single pixels are cut out of the image.

What x_T holds in the hole (`fill`) is the teacher's choice, not the task's: I2SB teachers were
trained with fresh N(0, I) noise there, DDBM and DBIM teachers with zeros; white is only how I2SB
draws the hole in pictures (see `FILL_OF_TEACHER`). With smooth the bridge starts where the classical
method ends.
"""

import dataclasses
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges import keys as random
from jax_bridges.corruptions.base import (
    Corrupted,
    Corruption,
    LinearOperator,
    check_batch,
    corruption,
    one_of,
)
from jax_bridges.corruptions.masks import Area, mask_bank
from jax_bridges.corruptions.smooth import smooth_fill

FILLS = ("noise", "zero", "white", "smooth")
FILL_OF_TEACHER = {"i2sb": "noise", "ddbm": "zero", "dbim": "zero"}


def fill_hole(x0, mask, keys, fill: str = "noise"):
    """x_T [B, H, W, C]: x0 outside the hole; noise, 0 or 1 (white) where mask [B, H, W, 1] is 1.

    "noise" is I2SB's x_1 = (1 - m) x_0 + m N(0, I), of keys [B]; "zero" is DBIM's; "smooth" the biharmonic
    interpolation of what is around the hole (`smooth_fill`).
    """
    if fill == "smooth":
        return smooth_fill(x0, mask)
    if fill == "noise":
        hole = random.normal(keys, random.CorruptDraw.NOISE, x0)
    else:
        hole = jnp.asarray({"zero": 0, "white": 1}[fill], x0.dtype)
    return jnp.where(mask > 0, hole, x0)


@corruption
class InpaintCenter(LinearOperator):
    """Removes the centred box whose sides are `size` times the image's; keeps the rest.

    With the papers' size 1/2 the hole is rows and columns h/4 to 3h/4 (I2SB, DBIM). As a linear
    operator it blackens (zeroes) the hole, so A = A^T = A^+.

    Attributes:
      size: side of the hole, as a share of the image's.
      fill: what x_T holds in the hole, one of FILLS: noise, zero, white or smooth.
    """

    size: float = 0.5
    fill: str = "noise"
    holes_alone: ClassVar[bool] = True

    def __post_init__(self):
        one_of("inpaint_center", "fill", self.fill, FILLS)
        if not 0 < self.size <= 1:
            raise ValueError(f"inpaint_center: size must be in (0, 1], but is {self.size}.")

    def hole_box(self, height, width):
        """The hole (y0, x0, y1, x1), ends excluded; at least one pixel.

        Raises: ValueError when the image is too small for a hole of this size.
        """
        # The tiny term keeps e.g. 0.2 * 10 = 1.9999... from being floored to 1.
        y0, x0 = (int(n * (1 - self.size) / 2 + 1e-6) for n in (height, width))
        return y0, x0, height - y0, width - x0

    def mask(self, height: int, width: int) -> np.ndarray:
        """[1, H, W, 1] float32, 1 in the hole."""
        y0, x0, y1, x1 = self.hole_box(height, width)
        mask = np.zeros((1, height, width, 1), np.float32)
        mask[:, y0:y1, x0:x1] = 1
        return mask

    hole = mask

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        mask = jnp.asarray(self.mask(*x0.shape[1:3]), x0.dtype)
        mask = jnp.broadcast_to(mask, (*x0.shape[:3], 1))
        return Corrupted(fill_hole(x0, mask, keys, self.fill), mask)

    def forward(self, x):
        return fill_hole(x, self.mask(*x.shape[1:3]), None, "zero")

    transpose = pinv = forward


class _OwnHole(Corruption):
    """One whose hole differs from image to image: a linear operator once its mask is known."""

    def operator(self, mask):
        return InpaintMask(mask=mask)

    def forward(self, x, mask):
        """Zeroes the hole; unlike other operators this one (= A^T = A^+) needs its mask."""
        return fill_hole(x, mask, None, "zero")

    transpose = pinv = forward


@corruption
class InpaintRandom(_OwnHole):
    """Removes single pixels of each image at random, all channels of a pixel together.

    Attributes:
      share: of the pixels that are missing.
      exact: exactly `int(H W share)` pixels of every image, without replacement (EMDiffusion, arXiv
        2407.01014, sec. 5.1); else each by itself with probability `share`, as in Ambient Diffusion.
      fill: what x_T holds in the hole, one of FILLS: noise, zero or white.
    """

    share: float = 0.6
    exact: bool = True
    fill: str = "zero"

    def __post_init__(self):
        one_of("inpaint_random", "fill", self.fill, FILLS)
        if not 0 < self.share < 1:
            raise ValueError(
                f"inpaint_random: share must be between 0 and 1, and is {self.share:g}: nothing, or "
                "everything, would be missing."
            )

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        height, width = x0.shape[1:3]
        u = random.uniform(keys, random.CorruptDraw.CHOICE, (height * width,))
        if self.exact:
            # The tiny term keeps e.g. 0.7 * 10 = 6.9999... from being floored to 6.
            count = int(height * width * self.share + 1e-6)
            missing = jnp.argsort(jnp.argsort(u, axis=-1), axis=-1) < count
        else:
            missing = u < self.share
        mask = missing.reshape(-1, height, width, 1).astype(x0.dtype)
        return Corrupted(fill_hole(x0, mask, keys, self.fill), mask)


@corruption
class InpaintFreeform(_OwnHole):
    """Removes irregular strokes that cover `area` percent of the image, e.g. (10, 20) or (20, 30).

    Each example takes one mask of a bank at random. The bank is made once on the host, packed at
    8 pixels a byte (8 KiB a mask at 256 x 256), and unpacked inside the graph:
    - without `path`: `count` generated masks of any image size, fixed by `seed`
      (`masks.freeform_masks`);
    - with `path`: the masks of Palette's imagenet_freeform_masks.npz, which I2SB and IBMD use;
      the image must then be of the masks' size, 256 x 256. The band's 10000 masks are 82 MB of
      constants in every graph that uses them.
    I2SB's evaluation gives mask i to image i of its list: pass the images' numbers as `index`.

    Attributes:
      area: least and most percent of the image that a mask covers.
      fill: what x_T holds in the hole, one of FILLS: noise, zero, white or smooth.
      count: generated masks in the bank.
      seed: of the generated masks.
      path: .npz file of masks; None: they are generated.
    """

    area: Area = (10, 20)
    fill: str = "noise"
    count: int = 1000
    seed: int = 0
    path: str | None = None

    def __post_init__(self):
        one_of("inpaint_freeform", "fill", self.fill, FILLS)
        object.__setattr__(self, "area", tuple(self.area))
        low, high = self.area
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"inpaint_freeform: area must be percents 0 <= low < high <= 100, not {self.area}."
            )
        if high <= 1 and not self.path:  # a file may have such a band
            raise ValueError(
                f"inpaint_freeform: area is in percents, and {self.area} would be next to nothing: "
                f"for these shares give {low * 100:g} and {high * 100:g}."
            )
        if self.count < 1:
            raise ValueError(f"inpaint_freeform: count must be at least 1, but is {self.count}.")

    def of_bank(self, index, height: int, width: int):
        """Masks [B, H, W, 1] float32 number index [B] of the bank, modulo its length."""
        bank = mask_bank(self.path, self.count, self.area, self.seed, height, width)
        bits = jnp.unpackbits(jnp.asarray(bank)[index % len(bank)], axis=1, count=height * width)
        return bits.reshape(-1, height, width, 1).astype(jnp.float32)

    def __call__(self, x0, keys, index=None):
        check_batch(x0, keys)
        height, width = x0.shape[1:3]
        if index is None:
            bank = mask_bank(self.path, self.count, self.area, self.seed, height, width)
            index = random.randint(keys, random.CorruptDraw.CHOICE, len(bank))
        mask = self.of_bank(index, height, width).astype(x0.dtype)
        return Corrupted(fill_hole(x0, mask, keys, self.fill), mask)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InpaintMask(LinearOperator):
    """Removes the pixels of a given mask, one for all images or one for each; A = A^T = A^+.

    Unlike the other corruptions it holds an array: a pytree with one leaf, so that masks may be
    traced, e.g. those of `InpaintFreeform.of_bank`.

    Attributes:
      mask: [B or 1, H, W, 1], 1 in the hole.
      fill: see `fill_hole`.
    """

    mask: chex.Array
    fill: str = dataclasses.field(default="zero", metadata={"static": True})
    holes_alone: ClassVar[bool] = True

    def hole(self, height, width):
        return self.mask

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        one_of("inpaint_mask", "fill", self.fill, FILLS)
        mask = jnp.broadcast_to(jnp.asarray(self.mask, x0.dtype), (*x0.shape[:3], 1))
        return Corrupted(fill_hole(x0, mask, keys, self.fill), mask)

    def forward(self, x):
        return fill_hole(x, self.mask, None, "zero")

    transpose = pinv = forward
