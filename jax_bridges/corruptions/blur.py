"""Blur: uniform, Gaussian and anisotropic; true convolutions, or the papers' defective operator."""

import functools
from typing import ClassVar

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

# Taps, and standard deviation down the rows and along the columns (DDRM, DDNM, I2SB).
PAPER_KERNELS = {"uniform": (9, (np.inf, np.inf)), "gauss": (5, (10, 10)), "aniso": (9, (1, 20))}


def blur_kernel(taps: int, std: float) -> np.ndarray:
    """exp(-x^2 / (2 std^2)) at the integers around 0, [taps], sum 1; flat for std = inf."""
    x = np.arange(taps) - taps // 2
    kernel = np.exp(-0.5 * (x / std) ** 2)
    return kernel / kernel.sum()


@functools.lru_cache(maxsize=64)
def blur_matrix(n: int, taps: int, std: float, legacy: bool = False) -> np.ndarray:
    """Matrix [n, n] that blurs one axis, zeros beyond the borders (float64).

    legacy: the last tap of an odd kernel is left out, so rows sum to 8/9 for 9 flat taps.
    """
    kernel = blur_kernel(taps, std)
    tap = np.arange(n) - np.arange(n)[:, None] + taps // 2
    last = taps // 2 * 2 if legacy else taps
    matrix = np.where((tap >= 0) & (tap < last), kernel[np.clip(tap, 0, taps - 1)], 0)
    matrix.flags.writeable = False
    return matrix


@functools.lru_cache(maxsize=64)
def blur_svd(n: int, taps: int, std: float, threshold: float, legacy: bool = False):
    """U [n, n], s [n], V [n, n] of `blur_matrix` = U diag(s) V^T; s below threshold set to 0."""
    u, s, vt = np.linalg.svd(blur_matrix(n, taps, std, legacy))
    return u, np.where(s < threshold, 0, s), vt.T


def blur_pinv(n: int, taps: int, std: float, threshold: float) -> np.ndarray:
    """Pseudo-inverse [n, n] of `blur_matrix` without its singular values below threshold.

    Those that float64 cannot tell from zero never count: 9 flat taps on 32 pixels have some.
    """
    u, s, v = blur_svd(n, taps, std, max(threshold, n * np.finfo(np.float64).eps))
    return (v * reciprocal(s)) @ u.T


def blur_truncated(n: int, taps: int, std: float, threshold: float) -> np.ndarray:
    """`blur_matrix` [n, n] without its singular values below threshold: what `blur_pinv` inverts."""
    u, s, v = blur_svd(n, taps, std, max(threshold, n * np.finfo(np.float64).eps))
    return (u * s) @ v.T


def reciprocal(s):
    """1 / s where s is not 0, else 0."""
    return np.where(s > 0, 1 / np.where(s > 0, s, 1), 0)


def legacy_spectrum(s_rows, s_columns, channels: int = 3, order=None) -> np.ndarray:
    """Multipliers [H, W, C] of the official operator in the bases U and V of `blur_svd`.

    The products of the 1-D singular values are sorted, largest first (`order` gives the flat
    position of each; default: a stable sort). Coefficients are laid out [sorted position, channel]
    but the official code repeats the whole list once per channel, so coefficient p of channel c
    is scaled by value (C p + c) mod H W of the list, not by value p. Tied values make the result
    depend on the sort. (DDRM, DDNM and I2SB corruption/blur.py.)
    """
    products = np.outer(s_rows, s_columns)
    if order is None:
        order = np.argsort(-products.ravel(), kind="stable")
    ranked = products.ravel()[order]
    spectrum = np.empty((products.size, channels))
    spectrum[order] = np.tile(ranked, channels).reshape(products.size, channels)
    return spectrum.reshape(*products.shape, channels)


def spectral(x, spectrum, source, target):
    """Takes x [B, H, W, C] into the source bases, scales it by spectrum [H, W, C], and out again.

    source and target are pairs (rows [H, H], columns [W, W]) of bases, one vector a column.
    """
    x = separable(source[0].T, x, source[1].T) * jnp.asarray(spectrum, x.dtype)
    return separable(target[0], x, target[1])


@corruption
class Blur(LinearOperator):
    """x_T is the image blurred by a separable kernel. No noise, no clipping, no hole.

    kind "uniform" (9 flat taps), "gauss" (5 taps, standard deviation 10) or "aniso" (9 taps, 1 down
    and 20 across); `taps` and `std` (a number, or one for each axis) replace the papers' values.
    x_T is blurred in [0, 1], where the zeros beyond the border are black, as I2SB does; the
    operators `forward`, `transpose`, `pinv` act on their argument as it is.

    `threshold`: `pinv` ignores singular values of the 1-D matrices below it, because 1 / s would
    drown the result in noise; with 0 it inverts whatever can be inverted. `forward` and `transpose`
    leave them out as well with truncated=True, so that A A^+ A = A: the operator of the zero-shot
    papers (DDRM, DDNM), whose tables are measured with y = A x of that A.

    legacy=True is NOT a blur: it is the operator that I2SB's blur checkpoints were trained on and
    DDRM's and DDNM's tables were measured with. It drops the last tap, zeroes 1-D singular values
    below `threshold` and assigns the others to the wrong coefficients (`legacy_spectrum`). Square
    images only. The official sort breaks its many ties arbitrarily, this one keeps their order:
    at 64 x 64 pixels x_T differs by up to 0.017 for that alone (1e-6 with the official order).

    Attributes:
      kind: uniform, gauss or aniso.
      taps: length of the kernel, in pixels; None: the kind's own.
      std: standard deviation of the kernel, in pixels, or one down and one across; None: the kind's own.
      legacy: I2SB's and DDRM's operator instead, see above.
      threshold: singular values below it are not inverted.
      truncated: `forward` leaves them out as well.
    """

    orthogonal: ClassVar[bool] = False
    kind: str = "gauss"
    taps: int | None = None
    std: float | tuple[float, float] | None = None
    legacy: bool = False
    threshold: float = 3e-2
    truncated: bool = False

    def __post_init__(self):
        one_of("blur", "kind", self.kind, tuple(PAPER_KERNELS))
        if isinstance(self.std, list):
            object.__setattr__(self, "std", tuple(self.std))
        taps, stds = self._kernel()
        if taps < 1 or taps % 2 == 0:
            raise ValueError(f"blur: taps must be odd and positive, but is {taps}.")
        if len(stds) != 2 or min(stds) <= 0:
            raise ValueError(f"blur: std must be one or two positive numbers, but is {self.std}.")

    def _kernel(self):
        taps, stds = PAPER_KERNELS[self.kind]
        if self.std is not None:
            stds = self.std if isinstance(self.std, tuple) else (self.std, self.std)
        return self.taps or taps, stds

    def __call__(self, x0, keys=None):
        if keys is not None:
            check_batch(x0, keys)
        return Corrupted(2 * self.forward((x0 + 1) / 2) - 1)

    def forward(self, x):
        """A x, [B, H, W, C] -> [B, H, W, C]."""
        if self.legacy:
            return self._legacy(x, "forward")
        return separable(*self._between(x, *self._matrix))

    def transpose(self, y):
        """A^T y, [B, H, W, C] -> [B, H, W, C]."""
        if self.legacy:
            return self._legacy(y, "transpose")
        rows, y, columns = self._between(y, *self._matrix)
        return separable(rows.T, y, columns.T)

    def pinv(self, y):
        """A^+ y, [B, H, W, C] -> [B, H, W, C]; small singular values count as 0."""
        if self.legacy:
            return self._legacy(y, "pinv")
        return separable(*self._between(y, blur_pinv, self.threshold))

    def spectral_map(self, x, function):
        """V f(s) V^T x (see `Corruption.spectral_map`), s as `pinv` has them: 0 below threshold."""
        if self.legacy:
            (_, v, spectrum) = self._legacy_operator(*x.shape[1:])
            return spectral(x, function(jnp.asarray(spectrum, x.dtype)), v, v)
        rows, columns = self._spectra(*x.shape[1:3])
        return separable_map(x, rows, columns, function)

    def singular_values(self, height, width, channels=3):
        if self.legacy:
            s = self._legacy_operator(height, width, channels)[2].ravel().astype(np.float32)
            return np.sort(s[s > 0])[::-1]
        (rows, _), (columns, _) = self._spectra(height, width)
        return outer_values(rows, columns, channels)

    @property
    def _matrix(self):
        return (blur_truncated, self.threshold) if self.truncated else (blur_matrix,)

    def _spectra(self, height, width):
        taps, stds = self._kernel()
        least = max(self.threshold, max(height, width) * np.finfo(np.float64).eps)
        pairs = zip((height, width), stds, strict=True)
        rows, columns = (blur_svd(n, taps, std, least)[1:] for n, std in pairs)
        return rows, columns

    def _between(self, x, matrix, *settings):
        taps, (down, across) = self._kernel()
        height, width = x.shape[1:3]
        return matrix(height, taps, down, *settings), x, matrix(width, taps, across, *settings)

    def _legacy_operator(self, height, width, channels):
        if height != width:
            raise ValueError(
                f"blur: legacy=True exists for square images only, not {height} x {width}."
            )
        return _legacy_operator(height, channels, *self._kernel(), self.threshold)

    def _legacy(self, x, action):
        u, v, spectrum = self._legacy_operator(*x.shape[1:])
        if action == "forward":
            return spectral(x, spectrum, v, u)
        return spectral(x, spectrum if action == "transpose" else reciprocal(spectrum), u, v)


@functools.lru_cache(maxsize=8)
def _legacy_operator(n, channels, taps, stds, threshold):
    (u1, s1, v1), (u2, s2, v2) = (blur_svd(n, taps, std, threshold, True) for std in stds)
    return (u1, u2), (v1, v2), legacy_spectrum(s1, s2, channels)
