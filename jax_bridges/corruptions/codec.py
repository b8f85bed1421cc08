"""The arithmetic of a JPEG file: what libjpeg writes and reads back, to the bit, without the file.

Whole numbers throughout (ITU-T T.81, JFIF): colours in 16 binary digits, the cosine transform with
constants of 13, quantisation, the transform back, and colours of half the resolution enlarged by a
triangle. It is what the libraries behind cameras, browsers and Pillow do by default.
"""

import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions.jpeg import quantisation_tables

_COLOUR_BITS, _DCT_BITS, _EXTRA_BITS = 16, 13, 2


def _fixed(values, bits: int) -> np.ndarray:
    return np.floor(np.asarray(values) * 2**bits + 0.5).astype(np.int32)


def _transform() -> np.ndarray:
    """Eight times the orthonormal DCT-II over sqrt(8), int32 `[8, 8]` of `_DCT_BITS`, row u is frequency u.

    Its numbers are sums of twelve rounded constants, as the fast algorithm of Loeffler, Ligtenberg and
    Moschytz (1989) adds them up, and not rounded themselves. It rounds nothing in between, so that its
    result is this matrix's.
    """
    c = {
        k: int(_fixed(v, _DCT_BITS))
        for k, v in {
            "a": 0.298631336, "b": 0.390180644, "c": 0.541196100, "d": 0.765366865,
            "e": 0.899976223, "f": 1.175875602, "g": 1.501321110, "h": 1.847759065,
            "i": 1.961570560, "j": 2.053119869, "k": 2.562915447, "l": 3.072711026,
        }.items()
    }  # fmt: skip
    x = np.eye(8, dtype=np.int64)
    sums, differences = x[:4] + x[:3:-1], x[:4] - x[:3:-1]
    outer, inner = sums[0] - sums[3], sums[1] - sums[2]
    one = 1 << _DCT_BITS
    out = np.zeros((8, 8), np.int64)
    out[0], out[4] = one * sums.sum(0), one * (sums[0] + sums[3] - sums[1] - sums[2])
    out[2] = c["c"] * (outer + inner) + c["d"] * outer
    out[6] = c["c"] * (outer + inner) - c["h"] * inner
    d0, d1, d2, d3 = differences
    both = c["f"] * (d0 + d1 + d2 + d3)
    even, odd = both - c["i"] * (d1 + d3), both - c["b"] * (d0 + d2)
    near, far = -c["e"] * (d0 + d3), -c["k"] * (d1 + d2)
    out[7], out[1] = c["a"] * d3 + near + even, c["g"] * d0 + near + odd
    out[5], out[3] = c["j"] * d2 + far + odd, c["l"] * d1 + far + even
    return out.astype(np.int32)


DCT8 = _transform()


def _along(matrix: np.ndarray, x, axis: int, bits: int):
    """matrix [8, 8] times x along an axis of 8, over 2^bits, rounded."""
    # One multiplication after the other: there is no fast product of matrices of whole numbers.
    parts = [jnp.take(x, k, axis) for k in range(8)]
    rows = [
        sum(int(m) * part for m, part in zip(row, parts, strict=True) if m) + (1 << (bits - 1))
        for row in matrix
    ]
    return jnp.stack(rows, axis) >> bits


def steps(quality):
    """Luma and chroma steps int32 `[B, 8, 8]` at whole qualities `[B]` from 1 to 100."""
    quality = jnp.asarray(quality, jnp.int32)[:, None, None]
    return tuple(table.astype(jnp.int32) for table in quantisation_tables(quality, jnp))


def to_ycc(rgb):
    """int32 `[..., 3]` 0 to 255: red, green, blue to luma and two colours, all centred at 128 but luma."""
    luma = _fixed([0.299, 0.587, 0.114], _COLOUR_BITS)
    colours = _fixed([[0.16874, 0.33126, 0.5], [0.5, 0.41869, 0.08131]], _COLOUR_BITS)
    half = 1 << (_COLOUR_BITS - 1)
    r, g, b = (rgb[..., k] for k in range(3))
    y = (int(luma[0]) * r + int(luma[1]) * g + int(luma[2]) * b + half) >> _COLOUR_BITS
    # A little less than a half, so that white does not become 256.
    middle = (128 << _COLOUR_BITS) + half - 1
    cb = -int(colours[0, 0]) * r - int(colours[0, 1]) * g + int(colours[0, 2]) * b
    cr = int(colours[1, 0]) * r - int(colours[1, 1]) * g - int(colours[1, 2]) * b
    return jnp.stack([y, (cb + middle) >> _COLOUR_BITS, (cr + middle) >> _COLOUR_BITS], -1)


def to_rgb(ycc):
    """The way back of `to_ycc`, clipped to 0 to 255."""
    r_cr, b_cb, g_cb, g_cr = (
        int(_fixed(v, _COLOUR_BITS)) for v in (1.402, 1.772, 0.34414, 0.71414)
    )
    half = 1 << (_COLOUR_BITS - 1)
    y, cb, cr = ycc[..., 0], ycc[..., 1] - 128, ycc[..., 2] - 128
    r = y + ((r_cr * cr + half) >> _COLOUR_BITS)
    g = y + ((-g_cb * cb - g_cr * cr + half) >> _COLOUR_BITS)
    b = y + ((b_cb * cb + half) >> _COLOUR_BITS)
    return jnp.clip(jnp.stack([r, g, b], -1), 0, 255)


def quantise(planes, step):
    """int32 `[B, H, W, C]` 0 to 255 with their 8 x 8 blocks coarsened by steps `[B, 8, 8]`."""
    batch, height, width, channels = planes.shape
    x = (planes - 128).reshape(batch, height // 8, 8, width // 8, 8, channels)
    x = _along(DCT8, x, 4, _DCT_BITS - _EXTRA_BITS)
    x = _along(DCT8, x, 2, _DCT_BITS + _EXTRA_BITS)  # eight times the coefficients
    step = step[:, None, :, None, :, None]
    level = jnp.sign(x) * ((jnp.abs(x) + 4 * step) // (8 * step))
    x = _along(DCT8.T, level * step, 2, _DCT_BITS - _EXTRA_BITS)
    x = _along(DCT8.T, x, 4, _DCT_BITS + _EXTRA_BITS + 3)
    return jnp.clip(x + 128, 0, 255).reshape(planes.shape)


def halve(planes):
    """Means of 2 x 2 pixels, rounded up and down in turn along a row: int32 `[B, H/2, W/2, C]`."""
    batch, height, width, channels = planes.shape
    total = planes.reshape(batch, height // 2, 2, width // 2, 2, channels).sum((2, 4))
    return (total + 1 + jnp.arange(width // 2)[:, None] % 2) >> 2


def enlarge(planes):
    """Twice the size by a triangle, 3/4 of the nearest and 1/4 of the next: int32 `[B, 2H, 2W, C]`."""
    batch, height, width, channels = planes.shape
    up = jnp.concatenate([planes[:, :1], planes[:, :-1]], 1)
    down = jnp.concatenate([planes[:, 1:], planes[:, -1:]], 1)
    rows = jnp.stack([3 * planes + up, 3 * planes + down], 2)
    rows = rows.reshape(batch, 2 * height, width, channels)
    # Beyond an end lies its own value, 4 of 4 parts of it.
    left = jnp.concatenate([rows[:, :, :1], rows[:, :, :-1]], 2)
    right = jnp.concatenate([rows[:, :, 1:], rows[:, :, -1:]], 2)
    both = jnp.stack([3 * rows + left + 8, 3 * rows + right + 7], 3) >> 4
    return both.reshape(batch, 2 * height, 2 * width, channels)


def round_trip(rgb, quality, halved):
    """What is read back of files written at qualities `[B]`: int32 `[B, H, W, 3]`, 0 to 255, in and out.

    Args:
      halved: bool `[B]`, colours have half the resolution (4:2:0), else all of it (4:4:4).
    """
    height, width = rgb.shape[1:3]
    luma_step, chroma_step = steps(quality)
    rgb = jnp.pad(rgb, ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
    ycc = to_ycc(rgb)
    luma = quantise(ycc[..., :1], luma_step)[:, :height, :width]
    whole = quantise(ycc[..., 1:], chroma_step)[:, :height, :width]
    half = quantise(halve(ycc[..., 1:]), chroma_step)
    half = enlarge(half[:, : -(-height // 2), : -(-width // 2)])[:, :height, :width]
    chroma = jnp.where(jnp.asarray(halved)[:, None, None, None], half, whole)
    return to_rgb(jnp.concatenate([luma, chroma], -1))
