"""The smoothest continuation of an image into its hole: biharmonic interpolation (Damelin & Hoang 2018).

In the hole `L^2 u = 0`, where L is the Laplacian of the grid of pixels, each joined to its four
neighbours: the u of least `|L u|^2` among those that have the known pixels. That is what scikit-image's
`inpaint_biharmonic` solves by sparse factorisation, one hole after the other. Here conjugate gradients
solve it for all images of a batch at once, preconditioned by a multigrid cycle, which makes the number of
iterations all but independent of a hole's width.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

_SWEEPS = 4  # of the smoother, before and after a coarser grid's correction
_COARSEST = 4  # pixels of the shorter side, where the coarsening ends
_TOLERANCE = 2e-4  # of the largest error that is left, in units of the image
_MOST = 60  # iterations; a handful are needed


def _laplacian(u):
    """L u [B, H, W, C]; no flow across the border."""
    p = jnp.pad(u, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return p[:, :-2, 1:-1] + p[:, 2:, 1:-1] + p[:, 1:-1, :-2] + p[:, 1:-1, 2:] - 4 * u


def _biharmonic(u, hole):
    return hole * _laplacian(_laplacian(u))


def _chebyshev(steps: int, low: float, high: float) -> list[float]:
    """Steps of Richardson's iteration that damp all eigenvalues in [low, high] alike."""
    angles = np.pi * (np.arange(steps) + 0.5) / steps
    return [float(w) for w in 2 / (high + low + (high - low) * np.cos(angles))]


# L's eigenvalues lie in [-8, 0]; those of L^2 from 4 on are the business of this grid, not of a coarser one.
_STEPS = _chebyshev(_SWEEPS, 4.0, 64.0)


def _refine(x, shape):
    """Linear interpolation of [B, h, w, C] to twice the resolution, cut to `shape`, (H, W)."""
    for axis in (1, 2):
        n = x.shape[axis]
        ends = jnp.pad(x, [(int(a == axis),) * 2 for a in range(4)], mode="edge")
        before, after = (jax.lax.slice_in_dim(ends, k, k + n, axis=axis) for k in (0, 2))
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
    return x[:, : shape[0], : shape[1]]


def _halves(x, axis, beyond):
    """Every other row or column from the first on, and from the second on; `beyond` where one lacks."""
    odd = x.shape[axis] % 2
    x = jnp.pad(x, [(0, odd * (a == axis)) for a in range(4)], constant_values=beyond)
    n = x.shape[axis]
    return tuple(jax.lax.slice_in_dim(x, k, n, 2, axis) for k in (0, 1))


def _coarsen(x):
    """The transpose of `_refine`."""
    for axis in (1, 2):
        first, second = _halves(x, axis, 0)
        n = first.shape[axis]
        cut = jax.lax.slice_in_dim
        after = jnp.concatenate(
            [cut(first, 1, n, axis=axis), cut(second, n - 1, n, axis=axis)], axis
        )
        before = jnp.concatenate(
            [cut(first, 0, 1, axis=axis), cut(second, 0, n - 1, axis=axis)], axis
        )
        x = 0.75 * (first + second) + 0.25 * (after + before)
    return x


def _blocks(x, beyond=0):
    """Sums of blocks of 2x2 pixels, [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), C]."""
    for axis in (1, 2):
        first, second = _halves(x, axis, beyond)
        x = first + second
    return x


def _grids(hole):
    """The hole on every grid, the finest first: a coarse pixel is in it if all that it covers are."""
    holes = [hole]
    while min(holes[-1].shape[1:3]) > _COARSEST:
        holes.append((_blocks(1 - holes[-1], beyond=1) == 0).astype(hole.dtype))
    return holes


def _cycle(holes, r):
    """About `A^-1 r` in the hole, A = L^2 there: a V-cycle, as symmetric as A is."""
    hole, *coarser = holes

    def smooth(u, steps):
        # A loop: written out, its steps would be fused into one another, each many times.
        def body(u, step):
            return u + step * (r - _biharmonic(u, hole)), None

        return jax.lax.scan(body, u, jnp.asarray(steps, r.dtype))[0]

    u = smooth(jnp.zeros_like(r), _STEPS)
    if coarser:
        # Of a grid twice as coarse L is a quarter, and a pixel's area four times as large: A is a quarter.
        rest = 4 * coarser[0] * _coarsen(r - _biharmonic(u, hole))
        u = u + hole * _refine(_cycle(coarser, rest), r.shape[1:3])
    return smooth(u, _STEPS[::-1])


def _start(x, known):
    """x with the holes filled roughly: by the means of ever larger blocks, interpolated."""
    if min(x.shape[1:3]) <= 1:
        mean = jnp.sum(known * x, (1, 2), keepdims=True)
        mean = mean / jnp.maximum(jnp.sum(known, (1, 2), keepdims=True), 1)
        return jnp.where(known > 0, x, mean)
    count = _blocks(known)
    coarse = _start(_blocks(known * x) / jnp.maximum(count, 1), (count > 0).astype(x.dtype))
    return jnp.where(known > 0, x, _refine(coarse, x.shape[1:3]))


def _solve(holes, b):
    """`A^-1 b` by conjugate gradients, to about _TOLERANCE."""

    def dot(a, b):
        return jnp.sum(a * b, (1, 2), keepdims=True)

    def ratio(a, b):  # of an image that is done both are 0
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    def going(state):
        # What the cycle makes of the residual is about the error.
        return (jnp.max(jnp.abs(state[3])) > _TOLERANCE) & (state[-1] < _MOST)

    def iterate(state):
        u, r, p, z, rz, count = state
        q = _biharmonic(p, holes[0])
        size = ratio(rz, dot(p, q))
        u, r = u + size * p, r - size * q
        z = _cycle(holes, r)
        new = dot(r, z)
        return u, r, z + ratio(new, rz) * p, z, new, count + 1

    z = _cycle(holes, b)
    state = (jnp.zeros_like(b), b, z, z, dot(b, z), 0)
    return jax.lax.while_loop(going, iterate, state)[0]


def smooth_fill(x: chex.Array, mask: chex.Array) -> chex.Array:
    """x with its holes filled by biharmonic interpolation, within what the known pixels hold of a channel.

    Differentiable by x; what x holds in the hole is not looked at. Where nothing is known, all is 0.

    Args:
      x: [B, H, W, C] floats.
      mask: [B or 1, H, W, 1], 1 in the hole.

    Returns:
      [B, H, W, C], within 1e-3 of the solution for images in [-1, 1].
    """
    hole = jnp.broadcast_to(mask > 0, (*x.shape[:3], 1))
    x = jnp.where(hole, 0, x)
    holes = _grids(hole.astype(x.dtype))
    start = _start(x, 1 - holes[0])
    rest = jax.lax.custom_linear_solve(
        lambda u: _biharmonic(holes[0] * u, holes[0]) + (1 - holes[0]) * u,
        -_biharmonic(start, holes[0]),
        lambda _, b: _solve(holes, holes[0] * b) + (1 - holes[0]) * b,
        symmetric=True,
    )
    low = jnp.min(jnp.where(hole, jnp.inf, x), (1, 2), keepdims=True)
    high = jnp.max(jnp.where(hole, -jnp.inf, x), (1, 2), keepdims=True)
    some = jnp.isfinite(low)
    inside = jnp.clip(start + rest, jnp.where(some, low, 0), jnp.where(some, high, 0))
    return jnp.where(hole, inside, x)
