"""Metrics of an image against its target: PSNR and SSIM, on what a saved picture would hold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_GUARD = 2.0**-10  # grey levels
_BEST_PSNR = 100.0  # dB


def to_uint8(x):
    """Images [...] in [-1, 1] to uint8: (x + 1) 127.5, clipped to [0, 255] and truncated.

    I2SB's rule (truncation, not rounding), with a thousandth of a grey level added first, so that
    uint8 images that were scaled to [-1, 1] come back as they were (in float32, 63 of the 256
    levels would otherwise fall by one). NaN becomes 0. uint8 input is returned as it is.

    Raises ValueError for integers other than uint8, whose range is not known.
    """
    x = jnp.asarray(x)
    if x.dtype == jnp.uint8:
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"Images must be uint8 or floats in [-1, 1], not {x.dtype}.")
    levels = jnp.clip((x.astype(jnp.float32) + 1) * 127.5 + _GUARD, 0, 255)
    return jnp.nan_to_num(levels).astype(jnp.uint8)


def _levels(x, y):
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(
            f"Images and targets must both be [B, H, W, C], not {x.shape} and {y.shape}."
        )
    return to_uint8(x).astype(jnp.float32), to_uint8(y).astype(jnp.float32)


@jax.jit
def psnr(x, y, mask=None):
    """Peak signal-to-noise ratio in dB, [B], of x against y, both [B, H, W, C].

    >>> import jax.numpy as jnp
    >>> y = jnp.zeros((2, 8, 8, 3))
    >>> [round(float(value), 2) for value in psnr(y + 2 * 10 / 255, y)]  # ten levels of 255
    [28.13, 28.13]

    20 log10(255) - 10 log10(mean squared difference), on uint8 levels (`to_uint8`; the data range
    is 255), at most 100 dB, which equal images get, so that a mean over images stays finite.
    With a mask [B or 1, H, W, 1] the mean is over the pixels where it is 1 (the hole); an example
    without such a pixel is NaN.
    """
    x, y = _levels(x, y)
    error = jnp.square(x - y)
    if mask is None:
        mse = error.mean((1, 2, 3))
    else:
        mask = jnp.broadcast_to(jnp.asarray(mask, jnp.float32), (*x.shape[:3], 1))
        mse = (error * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * x.shape[-1])
    best = 255.0**2 * 10 ** (-_BEST_PSNR / 10)
    return 10 * jnp.log10(255.0**2 / jnp.maximum(mse, best))


def _gaussian_rows(size: int, taps: int = 11, sigma: float = 1.5) -> np.ndarray:
    """[size - 10, size]: the matrix that blurs a line of pixels, at places wholly inside."""
    weights = np.exp(-0.5 * ((np.arange(taps) - taps // 2) / sigma) ** 2)
    rows = np.zeros((size - taps + 1, size), np.float32)
    for i in range(len(rows)):
        rows[i, i : i + taps] = weights / weights.sum()
    return rows


@jax.jit
def structural_similarity(x, y, data_range):
    """SSIM, [B], of float images x and y, both [B, H, W, C] with H, W >= 11, of any range.

    As `ssim`, without its quantisation. C1 and C2 grow with `data_range`, and the mean's term
    depends on where zero is: images in [-1, 1] have another SSIM than the same in [0, 1].
    """
    height, width = x.shape[1:3]
    if min(height, width) < 11:
        raise ValueError(f"SSIM needs images of 11 x 11 pixels or more, not {height} x {width}.")
    down, right = (_spans(size - 10) for size in (height, width))

    def of_block(corner):
        (top, first_row), (left, first_column) = corner
        size = (x.shape[0], down.size + 10, right.size + 10, x.shape[3])
        one, other = (jax.lax.dynamic_slice(v, (0, top, left, 0), size) for v in (x, y))
        new = (jnp.arange(down.size) >= first_row)[:, None] & (
            jnp.arange(right.size) >= first_column
        )
        return (_ssim_map(one, other, data_range) * new[None, :, :, None]).sum((1, 2, 3))

    if len(down.starts) == len(right.starts) == 1:
        return _ssim_map(x, y, data_range).mean((1, 2, 3))
    corners = [(d, r) for d in zip(*down[1:], strict=True) for r in zip(*right[1:], strict=True)]
    sums = jax.lax.map(of_block, jnp.array(corners))
    return sums.sum(0) / ((height - 10) * (width - 10) * x.shape[3])


class _Spans(NamedTuple):
    """Pieces of equal `size` of a line: where each starts, and its first place that no other before has."""

    size: int
    starts: list[int]
    firsts: list[int]


def _spans(length: int, most: int = 512) -> _Spans:
    """A line of `length` places in the fewest pieces of at most `most`, the last one moved back inside."""
    count = -(-length // most)
    size = -(-length // count)
    starts = [min(i * size, length - size) for i in range(count)]
    return _Spans(size, starts, [i * size - start for i, start in enumerate(starts)])


def _ssim_map(x, y, data_range):
    """The similarity of each window, [B, H - 10, W - 10, C]."""
    # The window is separable; two small dense products beat a grouped convolution on every device.
    maps = jnp.stack([x, y, x * x, y * y, x * y])
    rows, columns = (_gaussian_rows(size) for size in x.shape[1:3])
    maps = jnp.einsum("ph,sbhwc->sbpwc", rows, maps, precision="highest")
    maps = jnp.einsum("qw,sbpwc->sbpqc", columns, maps, precision="highest")
    mean_x, mean_y, square_x, square_y, product = maps
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (product - mean_x * mean_y) + c2)
    energy = mean_x**2 + mean_y**2
    return similarity / ((energy + c1) * (square_x + square_y - energy + c2))


@jax.jit
def ssim(x, y):
    """Structural similarity, [B], of x and y, both [B, H, W, C] with H, W >= 11.

    Wang et al. 2004, eq. 13, on uint8 levels / 255 (`to_uint8`; the data range is 1): Gaussian
    window of 11 x 11 and sigma 1.5, K1 = 0.01, K2 = 0.03, population (not sample) covariances,
    mean over channels and all windows that lie inside the image.

    Raises ValueError for images smaller than the window.
    """
    return structural_similarity(*(v / 255 for v in _levels(x, y)), 1.0)


def hole_crop(images, box: tuple[int, int, int, int], margin: int = 0):
    """The hole and `margin` pixels around it, cut from images [..., H, W, C] at their borders.

    `box` is (y0, x0, y1, x1), ends excluded, as `InpaintCenter.hole_box` gives it. The margin keeps
    the seam in view; beyond it, known pixels would only drown the difference.

    Raises ValueError for a box that is empty or leaves the image, and for a negative margin.
    """
    height, width = images.shape[-3:-1]
    y0, x0, y1, x1 = box
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width) or margin < 0:
        raise ValueError(
            f"The hole (y0, x0, y1, x1) = {tuple(box)} with margin {margin} must be a part of the "
            f"{height} x {width} image and the margin at least 0."
        )
    rows = slice(max(y0 - margin, 0), min(y1 + margin, height))
    columns = slice(max(x0 - margin, 0), min(x1 + margin, width))
    return images[..., rows, columns, :]
