"""JPEG: what the codec throws away, as array operations (no entropy coding, no files)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions.base import Corrupted, Corruption, check_batch, corruption

# Annex K of the JPEG standard (ITU-T T.81): quantisation steps at quality 50.
LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA = np.full((8, 8), 99)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# RGB -> Y, Cb, Cr with JFIF's coefficients cut to four digits, as DDRM and I2SB have it.
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
RGB = np.linalg.inv(YCBCR)

# Orthonormal DCT-II of 8 samples: row u is frequency u.
DCT = np.sqrt(2 / 8) * np.cos(np.pi / 8 * np.outer(np.arange(8), np.arange(8) + 0.5))
DCT[0] /= np.sqrt(2)

EXACT = jax.lax.Precision.HIGHEST


def quantisation_tables(quality, numpy: Any = np):
    """Luma and chroma steps [8, 8] at a quality of 1 to 100, as libjpeg's `jpeg_quality_scaling`.

    It is arithmetic of whole numbers: projects that divide 5000 as floats have other tables below 50,
    though not at the papers' 5 and 10.

    Args:
      quality: a whole number, or an array of such that broadcasts with [8, 8].
      numpy: jax.numpy for traced qualities.
    """
    scale = numpy.where(quality < 50, 5000 // numpy.maximum(quality, 1), 200 - 2 * quality)
    luma, chroma = (
        numpy.clip((numpy.asarray(table) * scale + 50) // 100, 1, 255) for table in (LUMA, CHROMA)
    )
    return luma, chroma


@corruption
class Jpeg(Corruption):
    """x_T is the image after JPEG at `quality` 1 to 100 (the papers use 5 and 10).

    As in DDRM and I2SB: no rounding to bytes before, chroma decimated by taking the top left
    of every 2 x 2 pixels and repeated back, and NO clipping after: x_T can leave [-1, 1]. Sides
    that are not multiples of 16 are padded with their last pixels, as a codec does. No hole.

    Rounding has no gradient, so d x_T / d x_0 is zero almost everywhere (finite, never NaN);
    `straight_through=True` passes gradients through the rounding as if it were the identity.

    Attributes:
      quality: of the file, 1 to 100.
      straight_through: gradients pass the rounding.
    """

    raster: ClassVar[int] = 16  # blocks are 8 pixels wide, 16 where colours are halved
    quality: int = 10
    straight_through: bool = False

    def __post_init__(self):
        if not 1 <= self.quality <= 100:
            raise ValueError(f"jpeg: quality must be 1 to 100, but is {self.quality}.")

    def __call__(self, x0, keys=None):
        if keys is not None:
            check_batch(x0, keys)
        if x0.shape[-1] != 3:
            raise ValueError(f"jpeg: images must have 3 channels, but have {x0.shape[-1]}.")
        height, width = x0.shape[1:3]
        x = jnp.pad(x0, ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
        # The codec's offsets of 128 cancel: luma is centred at 128 and chroma at 0 throughout.
        planes = _recolour((x + 1) * 127.5, YCBCR)
        luma_steps, chroma_steps = quantisation_tables(self.quality)
        luma = self._quantise(planes[..., :1] - 128, luma_steps) + 128
        chroma = self._quantise(planes[:, ::2, ::2, 1:], chroma_steps)
        chroma = jnp.repeat(jnp.repeat(chroma, 2, axis=1), 2, axis=2)
        out = _recolour(jnp.concatenate([luma, chroma], -1), RGB) / 127.5 - 1
        return Corrupted(out[:, :height, :width])

    def _quantise(self, planes, steps):
        """planes [B, H, W, C] with the DCT of their 8 x 8 blocks rounded to multiples of steps."""
        batch, height, width, channels = planes.shape
        dct, steps = jnp.asarray(DCT, planes.dtype), jnp.asarray(steps, planes.dtype)
        blocks = planes.reshape(batch, height // 8, 8, width // 8, 8, channels)
        levels = jnp.einsum("ui,byixjc,vj->byuxvc", dct, blocks, dct, precision=EXACT)
        levels = levels / steps[:, None, :, None]
        rounded = jnp.round(levels)
        if self.straight_through:
            rounded = levels + jax.lax.stop_gradient(rounded - levels)
        rounded = rounded * steps[:, None, :, None]
        blocks = jnp.einsum("ui,byuxvc,vj->byixjc", dct, rounded, dct, precision=EXACT)
        return blocks.reshape(planes.shape)


def _recolour(x, matrix):
    return jnp.einsum("...c,dc->...d", x, jnp.asarray(matrix, x.dtype), precision=EXACT)
