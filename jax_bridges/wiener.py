"""A denoiser of photographs in closed form, which a network corrects: the preconditioning "wiener"."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge, expand
from jax_bridges.scalings import Preconditioning, Scalings
from jax_bridges.typing import Array

# Brightness, red to blue, green to purple: orthonormal, and all but independent in photographs.
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
_EXACT = (
    jax.lax.Precision.HIGHEST
)  # of products; by default an accelerator rounds what goes into them


def cosines(n: int) -> np.ndarray:
    """Orthonormal cosine transform [n, n] (DCT-II): row k has k / (2 n) cycles a pixel."""
    rows = np.arange(n)
    matrix = np.sqrt(2 / n) * np.cos(np.pi / n * np.outer(rows, rows + 0.5))
    matrix[0] /= np.sqrt(2)
    return matrix


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Wiener(Preconditioning):
    """What a network adds to the best denoiser of a Gaussian scale mixture, for diffusion priors.

    `x0_hat = m + W (x_t - alpha m) + c_out F`. W is Wiener's filter, `alpha lambda / (alpha^2 lambda +
    sigma^2)` in the basis of cosines, for the power spectrum `lambda(f) = s strength / (corner^2 +
    f^2)^(exponent / 2)` that photographs have, averaged over the scales s, which tell calm images from
    busy ones, with their probabilities given x_t (for brightness and both colours apart; Portilla et al.
    2003, "Image denoising using scale mixtures of Gaussians"). So a network that says nothing denoises
    already, and hardly touches what is flat; a small one that must predict x_0 or the noise itself takes
    thousands of steps to get there. c_out is about the root mean square of what is left.

    Attributes:
      mean: of each channel, as are all of these by default of the tiles of the data `earth`; the spectrum
        of brightness is much alike elsewhere.
      strength: of the spectra of brightness, red to blue, and green to purple.
      exponent: of the same spectra.
      corner: of the same spectra, in cycles a pixel.
      scales: the values of s.
      shares: their probabilities.
    """

    mean: tuple[float, ...] = (-0.3, -0.3, -0.45)
    strength: tuple[float, ...] = (1.3e-3, 5.3e-7, 9.4e-7)
    exponent: tuple[float, ...] = (2.5, 4.5, 3.5)
    corner: tuple[float, ...] = (0.0083, 0.022, 0.018)
    scales: tuple[float, ...] = (0.0625, 0.25, 1.0, 4.0)
    shares: tuple[float, ...] = (0.1, 0.45, 0.3, 0.15)

    def spectra(self, height: int, width: int) -> Array:
        """lambda, the variance of every coefficient for every scale, `[S, H, W, 3]`; the mean has none."""
        rows, columns = (np.arange(n) / (2 * n) for n in (height, width))
        f2 = (rows[:, None] ** 2 + columns**2)[..., None]
        strength, exponent, corner = map(jnp.asarray, (self.strength, self.exponent, self.corner))
        power = strength / (corner**2 + f2) ** (exponent / 2)
        scales = jnp.asarray(self.scales).reshape(-1, 1, 1, 1)
        return jnp.where(f2 > 0, scales, 1.0) * power

    def skip(self, bridge: Bridge, xt: Array, t: Array, c_skip: Array | None = None) -> Array:
        """The filter's answer, `[B, H, W, 3]`, at times t `[B]`; there is no c_skip."""
        del c_skip
        alpha, sigma = (expand(v, xt) for v in (bridge.alpha(t), bridge.sigma(t)))
        rows, columns = (jnp.asarray(cosines(n), xt.dtype) for n in xt.shape[1:3])
        colours, mean = jnp.asarray(_COLOURS, xt.dtype), jnp.asarray(self.mean, xt.dtype)
        x = jnp.einsum(
            "kh,lw,jc,bhwc->bklj", rows, columns, colours, xt - alpha * mean, precision=_EXACT
        )
        power = self.spectra(*xt.shape[1:3]).astype(xt.dtype)[:, None]
        variance = alpha**2 * power + sigma**2  # of x, [S, B, H, W, 3]
        fit = -0.5 * (x**2 / variance + jnp.log(variance)).sum((2, 3))
        odds = fit + jnp.log(jnp.asarray(self.shares, xt.dtype))[:, None, None]
        odds = jax.nn.softmax(odds, axis=0)[:, :, None, None]
        gain = (odds * alpha * power / variance).sum(0)
        return mean + jnp.einsum(
            "kh,lw,jc,bklj->bhwc", rows, columns, colours, gain * x, precision=_EXACT
        )

    def scalings(self, bridge: Bridge, t: Array) -> Scalings:
        """Scalings at times t `[B]`, but c_skip, which `skip` replaces; network time `250 ln(sigma / alpha)`.

        Raises ValueError for a bridge between images.
        """
        if not bridge.prior:
            raise ValueError(
                "The preconditioning 'wiener' is for diffusion priors (bridge ddpm or edm): a bridge's x_T "
                "says more than a spectrum does."
            )
        t = jnp.asarray(t)
        alpha2, sigma2 = (v[..., None, None] ** 2 for v in (bridge.alpha(t), bridge.sigma(t)))
        power = self.spectra(32, 32).reshape(len(self.scales), -1)
        shares = jnp.asarray(self.shares)

        def mean(values):  # over scales and coefficients
            return jnp.matmul(values.mean(-1), shares, precision=_EXACT)

        left = mean(power * sigma2 / (alpha2 * power + sigma2))
        scale = mean(power) + jnp.mean(jnp.square(jnp.asarray(self.mean)))
        alpha2, sigma2 = alpha2[..., 0, 0], sigma2[..., 0, 0]
        c_in = jax.lax.rsqrt(alpha2 * scale + sigma2)
        return Scalings(
            c_in, jnp.zeros_like(c_in), jnp.sqrt(left), 125.0 * jnp.log(sigma2 / alpha2)
        )

    def weight(self, bridge: Bridge, t: Array, xT: Array | None = None) -> Array:
        """`1 / c_out^2`."""
        return 1.0 / self.scalings(bridge, t).c_out ** 2
