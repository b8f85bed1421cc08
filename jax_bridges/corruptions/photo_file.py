"""What a photograph loses on its way into a file: pixels, clean light, and what JPEG throws away."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from jax_bridges import keys as random
from jax_bridges.corruptions.base import (
    Corrupted,
    Corruption,
    check_batch,
    check_noise,
    corruption,
    one_of,
    separable,
)
from jax_bridges.corruptions.codec import round_trip
from jax_bridges.corruptions.superres import SuperResolution, bicubic_enlarge

SUBSAMPLINGS = ("drawn", "4:4:4", "4:2:0")
PHASES = ("random", "corner")
_UNIT = 16  # pixels after which JPEG with colours of half the resolution begins anew


@corruption
class PhotoFile(Corruption):
    """x_T is what a file holds: x_0 shrunk, noisy, in 8 bits, as JPEG, all drawn for each example.

    In this order: shrunk by one of `factors` (bicubic, antialiased, as `SuperResolution`), Gaussian noise,
    clipped and rounded to 8 bits, for a share of the examples written as JPEG and read again, to the bit
    as libjpeg does it, and enlarged to x_0's size again (bicubic interpolation, 8 bits). No hole, no
    gradient: x_T is of whole steps.

    JPEG's blocks begin anywhere in x_T, as in a piece that was cut out of a photograph: beyond x_0 the
    codec sees its mirror image. With phase "corner" x_0 is the whole file, as long as nothing is shrunk.

    Attributes:
      factors: how much smaller the file's sides are, drawn evenly.
      noise: least and largest standard deviation of the noise, in units of [-1, 1], drawn evenly.
      quality: least and largest of the file as JPEG, 1 to 100, drawn evenly.
      written: share of the examples that are JPEG; 0: none.
      subsampling: of colours: 4:4:4 (all of them), 4:2:0 (half the resolution), or drawn of both.
      phase: where JPEG's blocks begin, random or corner.
    """

    factors: tuple[int, ...] = (1,)
    noise: tuple[float, float] = (0.0, 0.0)
    quality: tuple[int, int] = (5, 50)
    written: float = 1.0
    subsampling: str = "drawn"
    phase: str = "random"
    interpolates: ClassVar[bool] = True

    def __post_init__(self):
        for field in ("factors", "noise", "quality"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        one_of("photo_file", "subsampling", self.subsampling, SUBSAMPLINGS)
        one_of("photo_file", "phase", self.phase, PHASES)
        if not self.factors or min(self.factors) < 1:
            raise ValueError(f"photo_file: factors must be of at least 1, but are {self.factors}.")
        for field in ("noise", "quality"):
            pair = getattr(self, field)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(
                    f"photo_file: {field} must be a least and a largest, but is {pair}."
                )
        for std in self.noise:
            check_noise("photo_file: noise", std)
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ValueError(f"photo_file: quality must be 1 to 100, but is {self.quality}.")
        if not 0 <= self.written <= 1:
            raise ValueError(f"photo_file: written must be a share, but is {self.written}.")

    @property
    def raster(self):
        blocks = self.written and self.phase == "corner" and self.factors == (1,)
        return _UNIT if blocks else 1

    @property
    def enlarges(self):
        return max(self.factors)

    @property
    def shrinks(self):
        return "bicubic" if self.enlarges > 1 and not self.noise[1] else None

    @property
    def enlargements(self):
        return tuple(sorted({1, *self.factors}))

    @property
    def qualities(self):
        alone = self.factors == (1,) and not self.noise[1] and self.written == 1
        return self.quality if alone else None

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        if x0.shape[-1] != 3:
            raise ValueError(f"photo_file: images must have 3 channels, but have {x0.shape[-1]}.")
        if len(self.factors) == 1:
            return Corrupted(_to_float(self._file(x0, keys, self.factors[0]), x0.dtype))
        own = random.fold(keys, len(self.factors))  # after the factors' streams
        choice = random.randint(own, random.CorruptDraw.CHOICE, len(self.factors))
        files = [self._file(x0, random.fold(keys, i), f) for i, f in enumerate(self.factors)]
        file = jnp.stack(files, 1)[jnp.arange(len(x0)), choice]
        return Corrupted(_to_float(file, x0.dtype))

    def _file(self, x0, keys, factor: int):
        """Bytes int32 `[B, H, W, 3]` of files whose sides are `factor` times smaller, enlarged again."""
        draw = random.CorruptDraw
        small = SuperResolution(factor=factor).forward(x0) if factor > 1 else x0
        if self.noise[1]:
            low, high = self.noise
            std = low + (high - low) * random.uniform(keys, draw.STRENGTH)
            small = small + std[:, None, None, None] * random.normal(keys, draw.NOISE, small)
        stored = _to_bytes(small)
        if self.written:
            as_jpeg = random.uniform(keys, draw.WRITTEN) < self.written
            stored = jnp.where(as_jpeg[:, None, None, None], self._jpeg(stored, keys), stored)
        if factor == 1:
            return stored
        rows, columns = (bicubic_enlarge(n, factor) for n in x0.shape[1:3])
        return _to_bytes(separable(rows, _to_float(stored, x0.dtype), columns))

    def _jpeg(self, stored, keys):
        """Bytes int32 `[B, h, w, 3]` after JPEG of each one's quality, colours and place of the blocks."""
        draw = random.CorruptDraw
        low, high = self.quality
        quality = low + random.randint(keys, draw.QUALITY, high - low + 1)
        halved = {
            "drawn": random.randint(keys, draw.SUBSAMPLING, 2) == 1,
            "4:2:0": jnp.ones(len(stored), bool),
            "4:4:4": jnp.zeros(len(stored), bool),
        }[self.subsampling]
        if self.phase == "corner":
            return round_trip(stored, quality, halved)
        height, width = stored.shape[1:3]
        # Around x_0 there is room for a part of a block before it, and for what fills the last one.
        sides = [-(-(n + _UNIT - 1) // _UNIT) * _UNIT for n in (height, width)]
        around = [(_UNIT - 1, side - n) for side, n in zip(sides, (height, width), strict=True)]
        wide = jnp.pad(stored, ((0, 0), *around, (0, 0)), mode="symmetric")
        before = [random.randint(keys, place, _UNIT) for place in (draw.DOWN, draw.ACROSS)]

        def piece(one, y, x):
            return jax.lax.dynamic_slice(one, (_UNIT - 1 - y, _UNIT - 1 - x, 0), (*sides, 3))

        def back(one, y, x):
            return jax.lax.dynamic_slice(one, (y, x, 0), (height, width, 3))

        file = round_trip(jax.vmap(piece)(wide, *before), quality, halved)
        return jax.vmap(back)(file, *before)


def _to_bytes(x):
    return jnp.round(jnp.clip((x + 1) * 127.5, 0, 255)).astype(jnp.int32)


def _to_float(stored, dtype):
    return stored.astype(dtype) / 127.5 - 1
