"""Compressed sensing: a few random projections of the image, by Walsh-Hadamard or block by block."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions.base import (
    Corrupted,
    LinearOperator,
    check_batch,
    corruption,
    separable,
)


@functools.lru_cache(maxsize=16)
def hadamard(n: int) -> np.ndarray:
    """Orthonormal Hadamard matrix [n, n], n a power of 2, in natural (Sylvester) order."""
    bits = np.arange(n)
    matrix = 1.0 - 2.0 * (np.bitwise_count(bits[:, None] & bits) % 2)
    return matrix / np.sqrt(n)


def walsh_hadamard(x):
    """Orthonormal Walsh-Hadamard transform of x [B, N, C] along N, natural order; its own inverse.

    H_N is the Kronecker product of two Hadamard matrices of about sqrt(N) rows: two small dense
    products, which compile and run faster than log N passes of butterflies.

    Raises ValueError unless N is a power of 2.
    """
    batch, n, channels = x.shape
    if n < 1 or n & (n - 1):
        raise ValueError(f"A Walsh-Hadamard transform needs a power of 2 numbers, not {n}.")
    rows = 2 ** ((n.bit_length() - 1) // 2)
    x = x.reshape(batch, rows, n // rows, channels)
    return separable(hadamard(rows), x, hadamard(n // rows)).reshape(batch, n, channels)


def check_ratio(owner: str, ratio: float) -> None:
    """ValueError unless 0 < ratio <= 1."""
    if not 0 < ratio <= 1:
        raise ValueError(f"{owner}: ratio must be a share in (0, 1], but is {ratio}.")


def count_kept(owner: str, ratio: float, among: int) -> int:
    """ratio times `among`, rounded down; ValueError if that is 0."""
    count = math.floor(ratio * among + 1e-6)  # 0.29 times 100 is a little below 29
    if not count:
        raise ValueError(f"{owner}: ratio {ratio} of {among} numbers leaves nothing to measure.")
    return count


class _Sensing(LinearOperator):
    """x_T is A^+ y, the image that the measurements alone give."""

    def __call__(self, x0, keys=None):
        if keys is not None:
            check_batch(x0, keys)
        return Corrupted(self.pinv(self.forward(x0)))


@corruption
class WalshHadamard(_Sensing):
    """Keeps a random share `ratio` of every channel's Walsh-Hadamard coefficients (DDNM, cs_walshhadamard).

    The image is flattened row by row; H W must be a power of 2. The coefficients that are kept are
    the first of a random permutation, drawn from `seed` or given as `order`, the same for all
    channels. floor(ratio C H W) numbers are measured, coefficient by coefficient, so that the last one
    may be there for some channels only (the official code takes C H W // round(1 / ratio), the same
    for 1/2, 1/4, 1/10, but a half for 0.4 and 0.6, and all for 0.7). y [B, H, W, C] holds them at
    their places and 0 elsewhere; all singular values are 1.

    Attributes:
      ratio: share of the coefficients that is kept.
      seed: of the permutation.
      order: the permutation itself; None: drawn from the seed.
    """

    ratio: float = 0.25
    seed: int = 0
    order: tuple[int, ...] | None = None

    def __post_init__(self):
        check_ratio("walsh_hadamard", self.ratio)
        if self.order is not None:
            object.__setattr__(self, "order", tuple(int(i) for i in self.order))
            if sorted(self.order) != list(range(len(self.order))):
                raise ValueError("walsh_hadamard: order must be a permutation of 0, 1, ...")

    def permutation(self, pixels: int) -> np.ndarray:
        """Coefficients [pixels] in the order in which they are measured."""
        if self.order is None:
            return np.random.default_rng(self.seed).permutation(pixels)
        if len(self.order) != pixels:
            raise ValueError(
                f"walsh_hadamard: order has {len(self.order)} entries, the image {pixels} pixels."
            )
        return np.asarray(self.order)

    def measured(self, height: int, width: int, channels: int) -> np.ndarray:
        """[1, H, W, C] float32, 1 where a coefficient is measured."""
        pixels = height * width
        kept = np.zeros((pixels, channels), np.float32)
        count = count_kept("walsh_hadamard", self.ratio, channels * pixels)
        in_order = (np.arange(pixels * channels) < count).reshape(pixels, channels)
        kept[self.permutation(pixels)] = in_order
        return kept.reshape(1, height, width, channels)

    def transform(self, x):
        """All coefficients [B, H, W, C] of x; its own inverse."""
        return walsh_hadamard(x.reshape(x.shape[0], -1, x.shape[-1])).reshape(x.shape)

    def forward(self, x):
        """Coefficients [B, H, W, C] of x, 0 where they are not measured."""
        return self.transform(x) * jnp.asarray(self.measured(*x.shape[1:]), x.dtype)

    def transpose(self, y):
        """[B, H, W, C] -> [B, H, W, C]; what y holds at places that are not measured is ignored."""
        return self.transform(y * jnp.asarray(self.measured(*y.shape[1:]), y.dtype))

    pinv = transpose

    def row_norms2(self, y):
        return jnp.asarray(self.measured(*y.shape[1:]), y.dtype)


@functools.lru_cache(maxsize=8)
def sensing_matrix(ratio: float, block: int, seed: int = 0) -> np.ndarray:
    """Random orthonormal rows [floor(ratio block^2), block^2], float64.

    Rows of the right singular vectors of a Gaussian matrix, as in DDNM: a Haar-random basis. Here by
    QR with the signs of its diagonal, which draws from the same law.
    """
    n = block * block
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    matrix = (q * np.sign(np.diag(r))).T[: count_kept("block_sensing", ratio, n)].copy()
    matrix.flags.writeable = False
    return matrix


def sense_blocks(x, matrix, block: int):
    """matrix [M, block^2] times every block of every channel: [B, H, W, C] -> [B, h, w, M, C]."""
    batch, height, width, channels = x.shape
    if height % block or width % block:
        raise ValueError(
            f"block_sensing: {height} x {width} images do not divide into blocks of {block}."
        )
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *x.shape[1:4:2], block * block, channels)
    return jnp.einsum(
        "mn,bhwnc->bhwmc", jnp.asarray(matrix, x.dtype), x, precision=jax.lax.Precision.HIGHEST
    )


def unsense_blocks(y, matrix, block: int):
    """The transpose of `sense_blocks`: [B, h, w, M, C] -> [B, H, W, C]."""
    batch, rows, columns, _, channels = y.shape
    x = jnp.einsum(
        "mn,bhwmc->bhwnc", jnp.asarray(matrix, y.dtype), y, precision=jax.lax.Precision.HIGHEST
    )
    x = x.reshape(batch, rows, columns, block, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * block, columns * block, channels)


@corruption
class BlockSensing(_Sensing):
    """Measures floor(ratio block^2) random projections of every block of every channel (DDNM, cs_blockbased).

    y is [B, H / block, W / block, M, C]; the rows are orthonormal, so A^+ = A^T and s = 1.

    Attributes:
      ratio: share of numbers that is measured.
      block: side of a block, in pixels.
      seed: of the projections.
    """

    ratio: float = 0.25
    block: int = 32
    seed: int = 0

    def __post_init__(self):
        check_ratio("block_sensing", self.ratio)
        if self.block < 1:
            raise ValueError(f"block_sensing: block must be at least 1, but is {self.block}.")
        count_kept("block_sensing", self.ratio, self.block**2)

    @property
    def matrix(self) -> np.ndarray:
        """[M, block^2] orthonormal rows."""
        return sensing_matrix(self.ratio, self.block, self.seed)

    def forward(self, x):
        return sense_blocks(x, self.matrix, self.block)

    def transpose(self, y):
        return unsense_blocks(y, self.matrix, self.block)

    pinv = transpose

    def row_norms2(self, y):
        return jnp.ones_like(y)
