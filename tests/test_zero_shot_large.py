"""Pictures larger than the network: tiles, seams, and hierarchical restoration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM
from jax_bridges.corruptions import (
    Blur,
    Canvas,
    Colorize,
    Identity,
    InpaintCenter,
    InpaintMask,
    Rows,
    SuperResolution,
)
from jax_bridges.restoring import seam_jump
from jax_bridges.zero_shot import (
    Refinement,
    coarsen,
    solve_ddnm,
    solve_hierarchical,
    solve_mask_shift,
    tile_denoiser,
    tile_starts,
)

PRIOR = DDPM.create()
POOL = SuperResolution(kind="pool", factor=4)


def keys_of(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def unused(x, t):
    return x


def test_tiles_cover_the_picture():
    assert tile_starts(300, 64, 32)[-1] == 236 and tile_starts(64, 64, 32) == [0]
    with pytest.raises(ValueError, match="do not cover"):
        tile_starts(32, 64, 32)
    with pytest.raises(ValueError, match="cuts a block"):
        y = jnp.zeros((1, 9, 9, 3))
        solve_mask_shift(unused, POOL, y, 0, PRIOR.levels(2), keys_of(1), tile=18, stride=9)
    with pytest.raises(ValueError, match="tile_denoiser"):
        y = jnp.zeros((1, 32, 32, 3))
        solve_mask_shift(unused, Blur(), y, 0, PRIOR.levels(2), keys_of(1), tile=16, stride=8)


def test_tile_denoiser_blends_to_the_denoiser_itself():
    def pointwise(x, t):
        return jnp.tanh(x) * (1 + t)

    x = jax.random.normal(jax.random.key(0), (2, 20, 28, 3))
    out = tile_denoiser(pointwise, 8, 5)(x, 0.5)
    np.testing.assert_allclose(out, pointwise(x, 0.5), atol=1e-6)


@pytest.mark.slow
def test_tiles_in_parts_are_the_same_and_so_is_the_gradient():
    """With the learned variance beside x_0, and tiles of two sides."""

    def denoise(x, t):
        x0 = jnp.tanh(x + 0.3 * jnp.roll(x, 1, 1)) * t
        return x0, 0.5 * x0

    def both(batch):
        def total(x):
            x0, fraction = tile_denoiser(denoise, (8, 6), (5, 4), batch)(x, 0.7)
            return jnp.sin(x0).sum() + (fraction**2).sum(), (x0, fraction)

        return jax.jit(jax.value_and_grad(total, has_aux=True))

    x = jax.random.normal(jax.random.key(0), (2, 20, 13, 3))
    whole, parts = both(None)(x), both(5)(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)
    (_, (x0, fraction)), _ = whole
    np.testing.assert_allclose(fraction, 0.5 * x0, atol=1e-6)


# -- seams -------------------------------------------------------------------------------------------

LENGTH, STRENGTH = 3.0, 0.1


def correlation(n):
    """Of a stationary field along one axis."""
    return np.exp(-np.abs(np.arange(n)[:, None] - np.arange(n)) / LENGTH)


def gaussian_denoiser(along_rows, along_columns, strength=1.0):
    """The exact denoiser of a Gaussian field with covariance strength x rows x columns."""
    (v1, rows), (v2, columns) = (np.linalg.eigh(m) for m in (along_rows, along_columns))
    variance = jnp.asarray(strength * np.outer(v1, v2)[None, :, :, None], jnp.float32)
    rows, columns = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)

    def denoise(x, t):
        alpha, sigma = PRIOR.alpha(t), PRIOR.sigma(t)
        x = jnp.einsum("hp,bhwc,wq->bpqc", rows, x, columns)
        x = x * variance * alpha / (variance * alpha**2 + sigma**2)
        return jnp.einsum("hp,bpqc,wq->bhwc", rows, x, columns)

    return denoise


def field_denoiser(height, width):
    return gaussian_denoiser(correlation(height), correlation(width), STRENGTH)


def fields(count, height, width, channels):
    """Draws of that field `[count, height, width, channels]`."""
    rows, columns = (np.linalg.cholesky(correlation(n)) for n in (height, width))
    white = np.random.default_rng(0).standard_normal((count, height, width, channels))
    x = np.sqrt(STRENGTH) * np.einsum("hp,bpqc,wq->bhwc", rows, white, columns, optimize=True)
    return jnp.asarray(x, jnp.float32)


def restored_in_tiles(kind, operator, x, tile, stride, nfe, **knobs):
    denoise, keys, levels = field_denoiser(tile, tile), keys_of(len(x)), PRIOR.levels(nfe)
    y = operator.forward(x)

    @jax.jit
    def run(y):
        if kind == "mask-shift":
            sizes = {"tile": tile, "stride": stride}
            return solve_mask_shift(denoise, operator, y, 0.0, levels, keys, **sizes, **knobs)
        tiled = tile_denoiser(denoise, tile, stride)
        return solve_ddnm(tiled, operator, y, 0.0, levels, keys)

    out = run(y)
    np.testing.assert_allclose(operator.forward(out), y, atol=1e-5)
    return np.asarray(out)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("mask-shift", "colour"),
        pytest.param("mask-shift", "hole", marks=SLOW),
        pytest.param("mask-shift", "pool", marks=SLOW),
        pytest.param("tile_denoiser", "colour", marks=SLOW),
    ],
)
def test_a_picture_of_512x300_has_no_visible_seams(kind, task):
    """The mean step between neighbours across tile borders is within 5% of the interior's.

    Borders are both the lines where a tile begins and those where one ends. Where the measurement
    itself has blocks, whose borders are visible in any sampled picture, interior steps are those at
    the other blocks.
    """
    height, width, tile, stride = 300, 512, 128, 64
    operator = {"colour": Colorize(), "hole": InpaintCenter(), "pool": POOL}[task]
    (out,) = restored_in_tiles(kind, operator, fields(1, height, width, 3), tile, stride, nfe=6)
    begins = [tile_starts(n, tile, stride)[1:] for n in (height, width)]
    ends = [[s + tile for s in tile_starts(n, tile, stride)[:-1]] for n in (height, width)]
    for borders in (begins, ends):
        jump = seam_jump(out, *borders)
        if task == "pool":
            inside = [sorted({*range(4, n, 4)} - {*b}) for n, b in zip(out.shape, borders)]
            jump = mean_step(out, borders) / mean_step(out, inside)
        np.testing.assert_allclose(jump, 1.0, atol=0.05)


def mean_step(image, lines):
    """Mean |difference| between neighbours across lines (rows, columns) of an image [H, W, C]."""
    steps = (np.abs(np.diff(image, axis=axis)).mean(-1) for axis in (0, 1))
    across = zip(steps, lines, (0, 1), strict=True)
    return np.concatenate([s.take(np.asarray(n) - 1, axis).ravel() for s, n, axis in across]).mean()


def test_mask_shift_with_hard_borders_leaves_a_seam_and_keeps_finished_pixels():
    """What the criterion above would say of tiles as published."""
    x = fields(16, 32, 64, 1)
    knobs = {"tile": 32, "stride": 16, "nfe": 10, "feather": 0.0}
    hard = restored_in_tiles("mask-shift", POOL, x, **knobs)
    first = restored_in_tiles("mask-shift", POOL, x[:, :, :32], **knobs)
    np.testing.assert_allclose(hard[:, :, :32], first, atol=1e-5)
    ends = [s + 32 for s in tile_starts(64, 32, 16)[:-1]]
    others = [n for n in range(4, 64, 4) if n not in ends]
    jumps = np.abs(np.diff(hard, axis=2)).mean((0, 1, 3))
    assert jumps[np.asarray(ends) - 1].mean() > 1.2 * jumps[np.asarray(others) - 1].mean()


# -- parts of operators ------------------------------------------------------------------------------

HOLE = np.zeros((1, 8, 8, 1), np.float32)
HOLE[:, 2:5, 1:7] = 1
GREY = Rows(operator=Colorize(), mask=HOLE)
# Only blocks that lie wholly in the hole count, so that the projectors commute.
_, _, WHOLE = coarsen(InpaintMask(mask=HOLE), jnp.zeros((1, 8, 8, 3)), 2)
PARTIAL = {
    "canvas": Canvas(operator=POOL, size=(4, 8), canvas=(7, 8)),
    "canvas blur": Canvas(operator=Blur(truncated=True), size=(8, 6), canvas=(8, 8)),
    "rows": GREY,
    "canvas rows": Canvas(operator=GREY, size=(8, 8), canvas=(10, 9)),
    "refinement": Refinement(operator=InpaintMask(mask=HOLE), use=WHOLE, factor=2),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_operators_on_parts_are_operators(name):
    """Adjoint, pseudo-inverse, projector, and functions of singular values, against the dense matrix."""
    operator = PARTIAL[name]
    height, width = getattr(operator, "canvas", (8, 8))
    with jax.enable_x64(True):
        n = height * width * 3
        x = jax.random.normal(jax.random.key(0), (1, height, width, 3))
        shape = jax.eval_shape(operator.forward, x).shape[1:]
        m = int(np.prod(shape))

        @jax.jit
        def all_of_it(x):
            a = operator.forward(jnp.eye(n).reshape(n, height, width, 3)).reshape(n, m).T
            units = jnp.eye(m).reshape(m, *shape)
            back, inverse = (f(units).reshape(m, n).T for f in (operator.transpose, operator.pinv))
            return a, back, inverse, operator.spectral_map(x, gain).ravel()

        def gain(s):
            return jnp.exp(-(s**2)) * (2.0 - (s > 0))

        a, back, inverse, mapped = map(np.asarray, all_of_it(x))
        np.testing.assert_allclose(back, a.T, atol=1e-12)
        np.testing.assert_allclose(inverse, np.linalg.pinv(a, rcond=1e-9), atol=1e-8)
        _, s, vt = np.linalg.svd(a)
        s = np.append(s, np.zeros(n - len(s)))
        s[s < 1e-9] = 0
        want = (vt.T * np.asarray(gain(s))) @ vt @ np.asarray(x).ravel()
        np.testing.assert_allclose(mapped, want, atol=1e-8)


def test_rows_of_a_blur_cannot_be_left_out():
    with pytest.raises(ValueError, match="rows are not orthogonal"):
        Rows(operator=Blur(), mask=HOLE)


# -- hierarchical restoration ------------------------------------------------------------------------


def test_the_coarse_task_is_that_of_the_block_means():
    x = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    mask = np.zeros((1, 16, 24, 1), np.float32)
    mask[:, 3:13, 5:20] = 1
    pool = SuperResolution(kind="pool", factor=2)
    for operator in (Identity(), Colorize(), POOL, InpaintMask(mask=mask), InpaintCenter()):
        coarse, y, use = coarsen(operator, operator.forward(x), 2)
        np.testing.assert_allclose(coarse.forward(pool.forward(x)), y, atol=1e-6)
        assert use.shape[1:3] == (8, 12)
    inside = np.asarray(coarsen(InpaintMask(mask=mask), x * (1 - mask), 2)[2])[0, ..., 0]
    assert inside.sum() == 4 * 7 and inside[2:6, 3:10].all()  # wholly missing blocks
    for operator, words in ((Blur(), "no counterpart"), (pool, "must divide 2")):
        with pytest.raises(ValueError, match=words):
            coarsen(operator, operator.forward(x), 2)
    with pytest.raises(ValueError, match="takes y for exact"):
        solve_hierarchical(unused, POOL, x, 0.1, PRIOR.levels(2), keys_of(2))


# (tiles alone, hierarchical, the picture as a whole): error of the mean of block means, relative to
# how far they lie from A^+ y. DDNM itself is not exact for correlated pixels: the last number.
FAR = {"pool": (0.347, 0.081, 0.073), "hole": (0.557, 0.332, 0.248)}


@pytest.mark.parametrize("task", ["pool", pytest.param("hole", marks=SLOW)])
def test_large_structures_are_nearer_to_the_exact_posterior(task, monkeypatch):
    """A Gaussian field whose correlation is longer than a tile, at 32x32 pixels in tiles of 8x8.

    DDNM is affine in its noises, so the mean of what it draws is what it gives without noise.
    """
    size, tile, factor, length = 32, 8, 4, 20.0
    for module in ("ddnm", "steps"):
        name = f"jax_bridges.zero_shot.{module}.normal"
        monkeypatch.setattr(name, lambda keys, draw, like: jnp.zeros_like(like))

    def correlated(n):
        return np.exp(-np.abs(np.arange(n)[:, None] - np.arange(n)) / length)

    along, means = correlated(size), np.kron(np.eye(size // factor), np.ones((1, factor)) / factor)
    fine = tile_denoiser(gaussian_denoiser(correlated(tile), correlated(tile)), tile, tile // 2)
    coarse = gaussian_denoiser(*[means @ along @ means.T] * 2)
    root = np.linalg.cholesky(along)
    white = np.random.default_rng(0).standard_normal((8, size, size, 1))
    x = np.einsum("hp,bpqc,wq->bhwc", root, white, root)

    operator = {"pool": SuperResolution(kind="pool", factor=16), "hole": InpaintCenter()}[task]
    units = jnp.eye(size**2).reshape(-1, size, size, 1)
    a = np.asarray(operator.forward(units)).reshape(size**2, -1).T
    a = a[np.abs(a).sum(1) > 0]
    prior = np.kron(along, along)
    gain = prior @ a.T @ np.linalg.inv(a @ prior @ a.T + 1e-9 * np.eye(len(a)))
    exact = (x.reshape(8, -1) @ a.T @ gain.T).reshape(x.shape)
    y = operator.forward(jnp.asarray(x, jnp.float32))
    levels, keys = PRIOR.levels(25), keys_of(8)

    def far(solve):
        out = jax.jit(solve)(y)
        np.testing.assert_allclose(operator.forward(out), y, atol=1e-5)
        gap, scale = (POOL.forward(jnp.asarray(v - exact)) for v in (out, operator.pinv(y)))
        return float(jnp.linalg.norm(gap.ravel()) / jnp.linalg.norm(scale.ravel()))

    found = (
        far(lambda y: solve_ddnm(fine, operator, y, 0.0, levels, keys)),
        far(
            lambda y: solve_hierarchical(
                fine,
                operator,
                y,
                0.0,
                levels,
                keys,
                factor=factor,
                least=(tile, tile),
                coarse_denoise=coarse,
            )  # fmt: skip
        ),
        far(lambda y: solve_ddnm(gaussian_denoiser(along, along), operator, y, 0.0, levels, keys)),
    )
    np.testing.assert_allclose(found, FAR[task], atol=0.03)
    assert found[1] < (0.25 if task == "pool" else 0.65) * found[0]
