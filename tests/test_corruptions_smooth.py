"""The biharmonic fill of holes (`smooth_fill`): closed forms, a sparse solve, holes of every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse
from scipy.sparse.linalg import spsolve

from jax_bridges.corruptions import make_corruption, smooth_fill
from jax_bridges.keys import example_keys

RNG = np.random.default_rng(0)


def laplacian(height, width):
    def of_path(n):
        ends = np.r_[-1.0, np.full(n - 2, -2.0), -1.0]
        return sparse.diags([ends, np.ones(n - 1), np.ones(n - 1)], [0, 1, -1])

    return sparse.kronsum(of_path(width), of_path(height)).tocsr()


def exact(image, hole):
    """`L^2 u = 0` in the hole by sparse LU, within the known values: what scikit-image computes."""
    L = laplacian(*hole.shape)
    square, inside = (L @ L).tocsr(), hole.ravel() > 0
    u = np.array(image, np.float64).reshape(-1, 3)
    low, high = u[~inside].min(0), u[~inside].max(0)
    known = square[inside][:, ~inside] @ u[~inside]
    u[inside] = np.clip(spsolve(square[inside][:, inside].tocsc(), -known), low, high)
    return u.reshape(image.shape)


def smooth_image(height, width):
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(7 * x + 3 * y), np.cos(9 * x * y), np.sin(5 * y - 2 * x)]
    return (np.stack(waves, -1) * 0.7 + 0.1 * RNG.standard_normal((height, width, 3))).clip(-1, 1)


HOLES = {
    "box": lambda m: m[8:24, 9:25].fill(1),
    "corner": lambda m: m[:20, 15:].fill(1),
    "most": lambda m: m[:, 5:].fill(1),
    "stripe": lambda m: m[:, 13:17].fill(1),
    "pixels": lambda m: np.copyto(m, RNG.random(m.shape) < 0.6),
    "several": lambda m: (m[2:9, 3:30].fill(1), m[20:31, :6].fill(1), m[15, 15:18].fill(1)),
}


@pytest.mark.parametrize("size", [(32, 32), (29, 35)])
def test_it_is_the_exact_solution_whatever_the_hole(size):
    masks = np.zeros((len(HOLES), *size), np.float32)
    for mask, cut in zip(masks, HOLES.values(), strict=True):
        cut(mask)
    images = np.stack([smooth_image(*size) for _ in masks])
    found = jax.jit(smooth_fill)(jnp.asarray(images, jnp.float32), masks[..., None])
    want = np.stack([exact(image, mask) for image, mask in zip(images, masks, strict=True)])
    np.testing.assert_allclose(found, want, atol=1e-3)  # of images in [-1, 1]
    known = masks == 0
    np.testing.assert_array_equal(np.asarray(found)[known], images[known].astype(np.float32))


@pytest.mark.slow
def test_a_cubic_is_continued_exactly_and_nothing_known_is_zero():
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    image = np.stack([x**3 - y, x * y**2, 0.5 * x**2 - y**2], -1)[None] / 2
    hole = np.zeros((1, 32, 32, 1), np.float32)
    hole[:, 8:22, 10:20] = 1
    hidden = np.where(hole > 0, 7.0, image).astype(np.float32)  # what lies there is not looked at
    np.testing.assert_allclose(smooth_fill(hidden, hole), image, atol=2e-4)
    np.testing.assert_array_equal(smooth_fill(hidden, np.ones_like(hole)), 0)


@pytest.mark.slow
def test_its_gradient_is_that_of_a_linear_map():
    hole = np.zeros((1, 16, 16, 1), np.float32)
    hole[:, 4:11, 5:12] = 1
    x, v, w = (jnp.asarray(RNG.uniform(-0.5, 0.5, (1, 16, 16, 1)), jnp.float32) for _ in range(3))
    x = x.at[:, 0, :2].set(jnp.asarray([-3.0, 3.0])[None, :, None])  # so that nothing is clipped
    filled, moved = jax.jvp(lambda x: smooth_fill(x, hole), (x,), (v,))
    gradient = jax.grad(lambda x: jnp.sum(w * smooth_fill(x, hole)))(x)
    np.testing.assert_allclose(jnp.sum(w * moved), jnp.sum(gradient * v), atol=1e-3)
    np.testing.assert_array_equal(gradient[:, 4:11, 5:12], 0)
    np.testing.assert_allclose(smooth_fill(x + v, hole) - filled, moved, atol=1e-3)


def test_it_is_a_fill_of_the_corruptions_and_no_operators():
    x0 = jnp.asarray(smooth_image(16, 16)[None], jnp.float32)
    keys = example_keys(jax.random.key(0), np.zeros(1, np.uint32))
    made = make_corruption("inpaint_center", fill="smooth")(x0, keys)
    np.testing.assert_allclose(made.xT[0], exact(x0[0], made.mask[0, ..., 0]), atol=1e-3)
    other = make_corruption("inpaint_center", fill="zero")
    corruption = make_corruption("inpaint_center", fill="smooth")
    np.testing.assert_array_equal(corruption.forward(x0), other.forward(x0))
