"""Super-resolution: the image is shrunk by bicubic filtering or by block means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions.base import (
    Corrupted,
    LinearOperator,
    check_batch,
    corruption,
    one_of,
    outer_values,
    separable,
    separable_map,
)


def cubic(x):
    """Keys' cubic convolution kernel with a = -1/2, supported on [-2, 2]."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_taps(n: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels int [n / factor, 4 factor] and taps [4 factor] of what one axis is shrunk to.

    Of row r these are the taps cubic(d / factor), normalised, at the pixels within 2 factor of the middle
    of its own `factor` pixels, d away from it, mirrored at the borders: MATLAB's antialiased imresize. For
    even factors it is I2SB's, DDNM's and DDRM's SRConv, which shifts the image by half a pixel for odd ones.
    """
    offset = np.arange(4 * factor) - 2 * factor  # from the first pixel past the middle
    to_middle = 0.5 if factor % 2 == 0 else 0.0
    taps = cubic((offset + to_middle) / factor)
    rows = np.arange(n // factor)
    pixels = (rows[:, None] * factor + factor // 2 + offset) % (2 * n)
    return np.minimum(pixels, 2 * n - 1 - pixels), taps / taps.sum()


@functools.lru_cache(maxsize=64)
def bicubic_matrix(n: int, factor: int) -> np.ndarray:
    """Matrix [n / factor, n] that shrinks one axis (float64, rows sum to 1), see `bicubic_taps`."""
    pixels, taps = bicubic_taps(n, factor)
    matrix = np.zeros((n // factor, n))
    np.add.at(matrix, (np.arange(n // factor)[:, None], pixels), taps)
    matrix.flags.writeable = False
    return matrix


@functools.lru_cache(maxsize=64)
def bicubic_enlarge(n: int, factor: int) -> np.ndarray:
    """Matrix [n, n / factor] of plain bicubic interpolation, mirrored at the borders (float64)."""
    small = n // factor
    centre = (np.arange(n)[:, None] + 0.5) / factor - 0.5
    pixels = np.floor(centre).astype(int) + np.arange(-1, 3)
    taps = cubic(centre - pixels)
    pixels %= 2 * small
    pixels = np.minimum(pixels, 2 * small - 1 - pixels)
    matrix = np.zeros((n, small))
    np.add.at(matrix, (np.arange(n)[:, None], pixels), taps / taps.sum(1, keepdims=True))
    matrix.flags.writeable = False
    return matrix


def low_pass(x, factor: int):
    """x [B, H, W, C] shrunk `factor` times and enlarged again, both bicubic: ILVR's phi_N.

    The shrinking is `SuperResolution`'s, the antialiased one of MATLAB and of DPS's Resizer.
    Raises ValueError unless both sides are multiples of factor.
    """
    small = SuperResolution(factor=factor).forward(x)
    rows, columns = (bicubic_enlarge(n, factor) for n in x.shape[1:3])
    return separable(rows, small, columns)


def bilinear(low, factor: int):
    """low [B, h, w, C] enlarged `factor` times, linearly between pixel centres; clamped at the borders."""
    batch, height, width, channels = low.shape
    shape = (batch, height * factor, width * factor, channels)
    return jax.image.resize(low, shape, "linear", antialias=False)


@functools.lru_cache(maxsize=64)
def bicubic_pinv(n: int, factor: int) -> np.ndarray:
    """Pseudo-inverse [n, n / factor] of `bicubic_matrix`; its singular values are tame, 0.25 for 8 times."""
    matrix = np.linalg.pinv(bicubic_matrix(n, factor))
    matrix.flags.writeable = False
    return matrix


@functools.lru_cache(maxsize=64)
def bicubic_spectrum(n: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """s [n] (0 in the null space) and V [n, n] of `bicubic_matrix` = U diag(s) V^T."""
    _, s, vt = np.linalg.svd(bicubic_matrix(n, factor))
    return np.append(s, np.zeros(n - len(s))), vt.T


@corruption
class SuperResolution(LinearOperator):
    """x_T is the image shrunk `factor` times and blown up again by repeating pixels.

    kind "bicubic" or "pool" (block means); the papers use factor 4. No noise, no clipping and no
    rounding, as in I2SB: bicubic x_T can leave [-1, 1]. There is no hole.

    Attributes:
      kind: bicubic, or pool (block means).
      factor: how much smaller each side becomes.
    """

    kind: str = "bicubic"
    factor: int = 4

    def __post_init__(self):
        one_of("superres", "kind", self.kind, ("bicubic", "pool"))
        if self.factor < 1:
            raise ValueError(f"superres: factor must be at least 1, but is {self.factor}.")

    @property
    def orthogonal(self):
        return self.kind == "pool"

    @property
    def enlarges(self):
        return self.factor

    @property
    def shrinks(self):
        return self.kind

    @property
    def averages(self):
        return self.factor if self.kind == "pool" else 0

    @property
    def block(self):
        return self.averages or None

    def __call__(self, x0, keys=None):
        if keys is not None:
            check_batch(x0, keys)
        return Corrupted(self._repeat(self.forward(x0)))

    def forward(self, x):
        """[B, H, W, C] -> [B, H / factor, W / factor, C]; ValueError if a side does not divide."""
        batch, height, width, channels = x.shape
        factor = self.factor
        if height % factor or width % factor:
            raise ValueError(
                f"superres: {height} x {width} images cannot be shrunk {factor} times: both sides "
                f"must be multiples of {factor}."
            )
        if self.kind == "bicubic":
            return separable(bicubic_matrix(height, factor), x, bicubic_matrix(width, factor))
        blocks = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
        return blocks.mean((2, 4))

    def transpose(self, y):
        """[B, h, w, C] -> [B, factor h, factor w, C]."""
        height, width = (n * self.factor for n in y.shape[1:3])
        if self.kind == "bicubic":
            rows, columns = (bicubic_matrix(n, self.factor).T for n in (height, width))
            return separable(rows, y, columns)
        return self._repeat(y) / self.factor**2

    def pinv(self, y):
        """[B, h, w, C] -> [B, factor h, factor w, C]."""
        height, width = (n * self.factor for n in y.shape[1:3])
        if self.kind == "bicubic":
            return separable(bicubic_pinv(height, self.factor), y, bicubic_pinv(width, self.factor))
        return self._repeat(y)

    def spectral_map(self, x, function):
        """V f(s) V^T x (see `Corruption.spectral_map`); pooling has the one singular value 1 / factor."""
        if self.kind == "pool":
            return super().spectral_map(x, function)
        rows, columns = (bicubic_spectrum(n, self.factor) for n in x.shape[1:3])
        return separable_map(x, rows, columns, function)

    def singular_values(self, height, width, channels=3):
        if self.kind == "pool":
            return super().singular_values(height, width, channels)
        rows, columns = (bicubic_spectrum(n, self.factor)[0] for n in (height, width))
        return outer_values(rows, columns, channels)

    def _repeat(self, y):
        return jnp.repeat(jnp.repeat(y, self.factor, axis=1), self.factor, axis=2)
