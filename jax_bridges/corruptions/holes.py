"""Holes that photographs have: scratches, boxes, writing and freeform strokes, drawn on the host.

`hole_masks` makes them, `InpaintHoles` cuts one of them, of any kind, out of each example.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges import keys as random
from jax_bridges.corruptions.base import Corrupted, Corruption, check_batch, corruption, one_of
from jax_bridges.corruptions.inpaint import FILLS, InpaintMask, fill_hole
from jax_bridges.corruptions.masks import freeform_masks

SCRATCH_WIDTH = (3, 8)  # pixels
FREEFORM_AREA = (5, 30)  # percent of the image
_TILE = 64  # pixels: an image has as many scratches, boxes and lines as its tiles of this side have


def draw_line(mask: np.ndarray, start: np.ndarray, end: np.ndarray, width: float) -> None:
    """Sets the pixels of a mask `[H, W]` whose centres are at most width / 2 from a line, ends rounded.

    Args:
      start, end: (y, x) in pixels; the centre of the first pixel is (0.5, 0.5).
    """
    low = np.maximum(np.floor(np.minimum(start, end) - width / 2), 0).astype(int)
    high = np.ceil(np.maximum(start, end) + width / 2).astype(int)
    part = mask[low[0] : max(high[0], 0), low[1] : max(high[1], 0)]
    y, x = np.ogrid[: part.shape[0], : part.shape[1]]
    py, px = y + low[0] + 0.5 - start[0], x + low[1] + 0.5 - start[1]
    dy, dx = end - start
    along = np.clip((py * dy + px * dx) / max(dy * dy + dx * dx, 1e-6), 0, 1)
    part |= (py - along * dy) ** 2 + (px - along * dx) ** 2 <= width**2 / 4


def scratches(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask bool `[H, W]` of long lines of `SCRATCH_WIDTH` that turn a little as they go."""
    mask = np.zeros((height, width), bool)
    step = 8.0
    for _ in range(_number(rng, height, width, 3)):
        point, angle = rng.uniform(0, 1, 2) * (height, width), rng.uniform(0, 2 * np.pi)
        thick = rng.uniform(*SCRATCH_WIDTH)
        for _ in range(max(2, int(rng.uniform(0.4, 1.4) * max(height, width) / step))):
            angle += rng.normal(0, 0.15)
            end = point + step * np.array([np.sin(angle), np.cos(angle)])
            draw_line(mask, point, end, thick)
            point = end
    return mask


def boxes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask bool `[H, W]` of upright rectangles with sides of 6 pixels to half a tile."""
    mask = np.zeros((height, width), bool)
    for _ in range(_number(rng, height, width, 2)):
        halves = [max(1, min(n, _TILE) // 2) for n in mask.shape]
        sides = [rng.integers(min(6, half), half + 1) for half in halves]
        y, x = (rng.integers(0, n - s + 1) for n, s in zip(mask.shape, sides, strict=True))
        mask[y : y + sides[0], x : x + sides[1]] = True
    return mask


def writing(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask bool `[H, W]` of lines of signs 9 to 24 pixels high, in strokes of 2 to 4."""
    mask = np.zeros((height, width), bool)
    for _ in range(_number(rng, height, width, 2)):
        high = rng.uniform(9, 24)
        thick = np.clip(high * rng.uniform(0.12, 0.22), 2, 4)
        tilt = rng.normal(0, 0.12)
        right, down = (
            np.array([np.sin(tilt), np.cos(tilt)]),
            np.array([np.cos(tilt), -np.sin(tilt)]),
        )
        at = np.array([rng.uniform(0, max(1, height - high / 2)), rng.uniform(-0.2, 0.4) * width])
        for _ in range(rng.integers(3, 3 + max(2, int(width / high)))):
            if rng.uniform() > 0.15:  # else a space
                knots = rng.integers(0, 3, (rng.integers(3, 6), 2)) * (0.5 * high, 0.3 * high)
                points = at + knots[:, :1] * down + knots[:, 1:] * right
                for start, end in zip(points[:-1], points[1:], strict=True):
                    draw_line(mask, start, end, thick)
            at = at + 0.85 * high * right
    return mask


def _number(rng: np.random.Generator, height: int, width: int, most: int) -> int:
    """1 to `most` in a tile, as many times more as a larger image has tiles on a side."""
    return int(rng.integers(1, most + 1)) * max(1, round(np.sqrt(height * width) / _TILE))


DRAWN: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "scratches": scratches,
    "boxes": boxes,
    "writing": writing,
}
KINDS = ("freeform", *DRAWN)


def hole_masks(kind: str, count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Masks `[count, H, W]` uint8 of one of `KINDS`, 1 where pixels are missing.

    Of the kinds that are not freeform a hole covers 1 to 75 percent. Mask i depends on (seed, i), the
    size and the kind alone.

    Raises:
      ValueError: another kind.
    """
    one_of("hole_masks", "kind", kind, KINDS)
    if kind == "freeform":
        return freeform_masks(count, height, width, FREEFORM_AREA, seed)
    masks = np.zeros((count, height, width), bool)
    for i, mask in enumerate(masks):
        rng = np.random.default_rng([seed, i, KINDS.index(kind), height, width])
        for _ in range(100):  # a scratch may begin at the border and lead out at once
            mask[:] = DRAWN[kind](rng, height, width)
            if 0.01 <= mask.mean() <= 0.75:
                break
        else:
            raise ValueError(f"Images of {height} x {width} pixels are too small for {kind}.")
    return masks.astype(np.uint8)


@functools.lru_cache(maxsize=8)
def hole_bank(kinds: tuple[str, ...], count: int, seed: int, height: int, width: int) -> np.ndarray:
    """`count` masks of each kind, packed one per row, uint8 `[len(kinds) * count, ceil(H W / 8)]`."""
    masks = np.concatenate([hole_masks(kind, count, height, width, seed) for kind in kinds])
    bank = np.packbits(masks.reshape(len(masks), -1), axis=1)
    bank.flags.writeable = False
    return bank


@corruption
class InpaintHoles(Corruption):
    """Removes what photographs lose: each example has a hole of one of `kinds`, drawn evenly.

    The holes are of a bank that is made once on the host, each mirrored and moved around the borders
    at random, so that hardly one comes twice. Sizes are in pixels, whatever the image's size:
    scratches are 3 to 8 wide, boxes 6 to 32, writing is 9 to 24 high in strokes of 2 to 4; freeform
    strokes cover 5 to 30 percent.

    Attributes:
      kinds: of the holes: freeform, scratches, boxes, writing.
      fill: what x_T holds in the hole, one of FILLS.
      count: masks of each kind in the bank.
      seed: of the bank.
    """

    kinds: tuple[str, ...] = KINDS
    fill: str = "noise"
    count: int = 1000
    seed: int = 0

    def __post_init__(self):
        one_of("inpaint_holes", "fill", self.fill, FILLS)
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if not self.kinds:
            raise ValueError(f"inpaint_holes: kinds is empty: name some of {', '.join(KINDS)}.")
        for kind in self.kinds:
            one_of("inpaint_holes", "kinds", kind, KINDS)
        if self.count < 1:
            raise ValueError(f"inpaint_holes: count must be at least 1, but is {self.count}.")

    def mask(self, keys, height: int, width: int):
        """Masks `[B, H, W, 1]` float32 of keys `[B]`, 1 in the hole."""
        bank = hole_bank(self.kinds, self.count, self.seed, height, width)
        draw = random.CorruptDraw
        index = random.randint(keys, draw.CHOICE, len(bank))
        bits = jnp.unpackbits(jnp.asarray(bank)[index], axis=1, count=height * width)
        mask = bits.reshape(-1, height, width)
        for axis, move, mirror in (
            (1, draw.DOWN, draw.TURN_DOWN),
            (2, draw.ACROSS, draw.TURN_ACROSS),
        ):
            turned = random.uniform(keys, mirror)[:, None, None] < 0.5
            mask = jnp.where(turned, jnp.flip(mask, axis), mask)
            shift = random.randint(keys, move, mask.shape[axis])
            mask = jax.vmap(lambda m, s, axis=axis: jnp.roll(m, s, axis - 1))(mask, shift)
        return mask[..., None].astype(jnp.float32)

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        mask = self.mask(keys, *x0.shape[1:3]).astype(x0.dtype)
        return Corrupted(fill_hole(x0, mask, keys, self.fill), mask)

    def operator(self, mask):
        return InpaintMask(mask=mask)
