"""Pictures larger than the network: mask-shift, and a denoiser that works tile by tile."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Levels
from jax_bridges.corruptions import InpaintMask, LinearOperator
from jax_bridges.keys import fold
from jax_bridges.tiling import tile_starts
from jax_bridges.typing import Array
from jax_bridges.zero_shot.ddnm import iterate, renoise
from jax_bridges.zero_shot.steps import Steps, Travel


def tile_denoiser(
    denoise, tile: int | tuple[int, int], stride: int | tuple[int, int], batch: int | None = None
):
    """A denoiser for pictures of any size, at least a tile, out of one for tiles.

    In every call all tiles are denoised and blended with weights that fall linearly to a tile's
    border (Bar-Tal et al. 2023, arXiv 2302.08113, for x_0). Any solver and operator can use it.

    Args:
      denoise: `x0_hat = denoise(x_t, t)` of `[N, h, w, C]`, t a scalar; or a pair, see `steps.predict`.
      tile: side of a tile, or (h, w).
      stride: pixels from one tile to the next, likewise.
      batch: tiles (of each image) that go through the network at once; all by default. Fewer need
        less memory, also under differentiation, where each part is computed twice.
    """
    tile, stride = ((n, n) if isinstance(n, int) else n for n in (tile, stride))
    ramps = [np.minimum(np.arange(n) + 1, n - np.arange(n)).astype(np.float32) for n in tile]
    window = np.outer(*ramps)[..., None]

    def tiled(x: Array, t: Array) -> Array:
        images, channels, shape = x.shape[0], x.shape[3], (x.shape[0], *tile, x.shape[3])
        starts = [tile_starts(*a) for a in zip(x.shape[1:3], tile, stride, strict=True)]
        corners = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 2)
        weight = np.zeros((*x.shape[1:3], 1), np.float32)
        for i, j in corners:
            weight[i : i + tile[0], j : j + tile[1]] += window
        count = len(corners) if batch is None else min(batch, len(corners))
        missing = -len(corners) % count
        used = np.append(np.ones(len(corners)), np.zeros(missing)).reshape(-1, count)
        corners = np.concatenate([corners, corners[:1].repeat(missing, 0)]).reshape(-1, count, 2)

        def answers(places):
            cut = jax.vmap(lambda p: jax.lax.dynamic_slice(x, (0, p[0], p[1], 0), shape))(places)
            out = denoise(cut.reshape(-1, *tile, channels), t)
            return jax.tree.map(lambda a: a.reshape(count, images, *tile, channels), out)

        def part(total, item):
            places, share = item
            out = answers(places)

            def add(total, one):
                (i, j), use, out = one

                def put(total, out):
                    here = jax.lax.dynamic_slice(total, (0, i, j, 0), shape)
                    here = here + out * jnp.asarray(window, x.dtype) * use
                    return jax.lax.dynamic_update_slice(total, here, (0, i, j, 0))

                return jax.tree.map(put, total, out), None

            return jax.lax.scan(add, total, (places, share, out))[0], None

        total = jax.tree.map(
            lambda _: jnp.zeros_like(x), jax.eval_shape(answers, jnp.asarray(corners[0]))
        )
        items = (jnp.asarray(corners), jnp.asarray(used, x.dtype))
        if len(corners) > 1:
            total, _ = jax.lax.scan(jax.checkpoint(part), total, items)
        else:
            total, _ = part(total, jax.tree.map(lambda a: a[0], items))
        return jax.tree.map(lambda a: a / weight, total)

    return tiled


def solve_mask_shift(
    denoise,
    operator: LinearOperator,
    y: Array,
    sigma_y: float | Array,
    times: Levels,
    keys: Array,
    *,
    tile: int = 256,
    stride: int = 128,
    eta: float = 0.85,
    clip: bool = False,
    travel: Travel = (1, 1),
    feather: float = 1.0,
) -> Array:
    """DDNM for any picture size (Wang et al. 2023, arXiv 2303.00354; DDNM's hq_demo).

    Tiles are restored one after the other, row by row. In every step the part of a tile that earlier
    tiles have finished replaces xh, so that the new part is made to fit. Every tile starts from noise
    of its own; the official program starts the later ones from the last tile's result.

    What is replaced constrains a sampler less than it should, and with hard borders (feather = 0, as
    published) a seam remains. So old and new are mixed over a part of the overlap, with weights that
    are constant on the operator's blocks, which keeps A x = y.

    Args:
      operator: holes, block means, colour or a composition of them, whose A^+ A acts on tiles by
        themselves; blur and bicubic shrinking do not: use `tile_denoiser` with any solver there.
      sigma_y: taken for 0 whatever it is.
      tile, stride: multiples of the operator's factor; so must be the picture's sides.
      keys: `[B]`; tile number n uses `fold(keys, n)` as `solve_ddnm` does.
      feather: share of the overlap, next to the new part, over which old and new are mixed.
      others: see `ddnm.solve_ddnm`.

    Returns:
      x_0 `[B, H, W, C]`.
    """
    del sigma_y
    if not 0 <= feather <= 1:
        raise ValueError(f"feather is {feather}: it is a share of the overlap, 0 to 1.")
    image = operator.pinv(y)
    height, width = image.shape[1:3]
    corners = [
        (top, left)
        for top in tile_starts(height, tile, stride)
        for left in tile_starts(width, tile, stride)
    ]
    mask, factor, local = _local(operator, height, width)
    for corner in corners:
        if corner[0] % factor or corner[1] % factor or tile % factor:
            raise ValueError(
                f"A tile of {tile} pixels at {corner} cuts a block of {factor}: tile, stride and the "
                "picture's sides must be multiples of it."
            )

    def restore(canvas, item):
        top, left, number, shared = item

        def cut(a):
            return jax.lax.dynamic_slice(a, (0, top, left, 0), (a.shape[0], tile, tile, a.shape[3]))

        known, finished, here = cut(image), cut(canvas), local(cut(mask))
        above, beside = (_kept(n, tile, factor, feather, image.dtype) for n in shared)
        old = (1.0 - (1.0 - above[:, None]) * (1.0 - beside))[None, :, :, None]

        def rectify(x0: Array, e: Array, z: Array, step: Steps) -> Array:
            # The noise that finished pixels really have: with the predicted one their error would
            # stay in the state, and the rest would be made to fit something else.
            x = step.alpha * x0 + step.sigma * e
            e = e + old * ((x - step.alpha * finished) / step.sigma - e)
            xh = x0 - here.project(x0) + known
            return renoise(xh + old * (finished - xh), e, z, step, eta)

        x = iterate(denoise, known, times, fold(keys, number), rectify, clip, travel)
        return jax.lax.dynamic_update_slice(canvas, x, (0, top, left, 0)), None

    tops, lefts = np.asarray(corners).T
    shared = np.stack([_overlaps(tops, tile), _overlaps(lefts, tile)], 1)
    items = (tops, lefts, np.arange(len(corners)), shared)
    canvas, _ = jax.lax.scan(restore, jnp.zeros_like(image), items)
    return canvas


def _overlaps(starts: np.ndarray, tile: int) -> np.ndarray:
    """How many pixels of a tile the tiles before it along this axis have finished, `[tiles]`."""
    order = sorted(set(starts.tolist()))
    before = {s: (order[i - 1] + tile - s if i else 0) for i, s in enumerate(order)}
    return np.asarray([before[s] for s in starts.tolist()])


def _kept(shared: Array, tile: int, factor: int, feather: float, dtype) -> Array:
    """Weight of what is finished, `[tile]`: 1, falling to 0 where the new part begins."""
    block = (np.arange(tile) // factor + 0.5) * factor
    if feather == 0:
        return jnp.asarray(block < shared, dtype)
    ramp = jnp.clip((shared - block) / jnp.maximum(feather * shared, 1.0), 0.0, 1.0)
    return (ramp**2 * (3.0 - 2.0 * ramp)).astype(dtype)


def _local(operator: LinearOperator, height: int, width: int):
    """(mask of the whole picture, size of a block, mask of a tile -> the operator on that tile)."""
    hole = operator.hole(height, width)
    if hole is not None:
        return jnp.asarray(hole), 1, lambda m: InpaintMask(mask=m)
    if operator.block is not None:
        nothing = jnp.zeros((1, height, width, 1))
        return nothing, operator.block, lambda m: operator
    raise ValueError(
        f"mask-shift cannot cut {operator!r} into tiles: use tile_denoiser with another solver."
    )
