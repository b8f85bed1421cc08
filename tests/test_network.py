"""What a step sends between chips, and the least time that takes: closed forms of single collectives."""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from jax_bridges.models.gather import gathering
from jax_bridges.planning.collectives import EVERYWHERE, GATHER, REDUCE, Marked, count_sent
from jax_bridges.planning.network import Network
from jax_bridges.planning.topology import read_topology

SIZE = 1e9  # bytes of a value
SHARDS, COPIES = ("fsdp",), ("data",)


def network(text: str, mesh: tuple[int, int], slices: int = 1) -> Network:
    """Chips row by row, slice by slice."""
    topology = read_topology(text, slices)
    places = np.indices(topology.grid).reshape(len(topology.grid), -1).T
    which = np.repeat(np.arange(slices), len(places))
    return Network(topology, np.tile(places, (slices, 1)), which, mesh)


def seconds(of: Network, *sent) -> float:
    return of.traffic(Counter({key: SIZE for key in sent})).seconds


# -- one slice -------------------------------------------------------------------------------------
def test_a_grid_gathers_as_fast_as_its_corner_hears():
    """Two links of 50 GB/s, and 63 of 64 shards to be heard."""
    one = network("v5e:8x8", (1, 64))
    assert seconds(one, (GATHER, SHARDS)) == pytest.approx(63 / 64 * SIZE / 100e9)
    # Beside a sum its links are busy both ways: the sum alone is a whole value in and out.
    assert seconds(one, (REDUCE, EVERYWHERE)) == pytest.approx(126 * SIZE / 224 / 50e9)
    both = seconds(one, (GATHER, SHARDS), (REDUCE, EVERYWHERE))
    assert both == pytest.approx((1 + 63 / 64) * SIZE / 100e9)


def test_a_torus_sums_as_fast_as_all_its_links_carry():
    """256 chips of v5e have 51.2 TB/s in all, Google's "all-reduce bandwidth": a sum is 2 x 255 values."""
    pod = network("v5e:16x16", (1, 256))
    assert seconds(pod, (REDUCE, EVERYWHERE)) == pytest.approx(2 * 255 * SIZE / 51.2e12)
    assert seconds(pod, (GATHER, SHARDS)) == pytest.approx(255 / 256 * SIZE / 200e9)


def test_three_dimensions():
    """A cube of v5p is a torus: six links of 100 GB/s; half of one is a grid, three at its corner."""
    assert seconds(network("v5p:4x4x4", (1, 64)), (GATHER, SHARDS)) == pytest.approx(
        63 / 64 * SIZE / 600e9
    )
    assert seconds(network("v5p:2x4x4", (1, 32)), (GATHER, SHARDS)) == pytest.approx(
        31 / 32 * SIZE / 300e9
    )


def test_rows_are_joined_by_one_link():
    """Of eight rows of eight the first chip of each hears 7 of 8 shards over the link to its neighbour."""
    rows = network("v5e:8x8", (8, 8))
    assert seconds(rows, (GATHER, SHARDS)) == pytest.approx(7 / 8 * SIZE / 50e9)
    assert seconds(rows, (GATHER, COPIES)) == pytest.approx(7 / 8 * SIZE / 50e9)  # columns too


def test_one_chip_hears_nothing():
    alone = network("v5e:1x1", (1, 1)).traffic(Counter({(REDUCE, EVERYWHERE): SIZE}))
    assert (alone.seconds, alone.gathered["ICI"], alone.reduced["ICI"]) == (0.0, 0.0, 0.0)
    assert network("v5e:4x4", (1, 16)).traffic(Counter()).seconds == 0.0


# -- several slices --------------------------------------------------------------------------------
@pytest.mark.parametrize("slices", [2, 4])
def test_slices_sum_over_the_data_centre(slices):
    """16 chips of 3.125 GB/s: a sum crosses to each of k slices 2 (k - 1) / k times; shards do not."""
    of = network("v5e:4x4", (slices, 16), slices)
    far = of.traffic(Counter({(GATHER, SHARDS): SIZE, (REDUCE, EVERYWHERE): SIZE}))
    share = 2 * (slices - 1) / slices * SIZE
    assert far.bound == "DCN" and far.seconds == pytest.approx(share / (16 * 3.125e9))
    assert far.gathered == pytest.approx({"ICI": 15 / 16 * SIZE, "DCN": 0.0})
    n = 16 * slices
    assert far.reduced["DCN"] == pytest.approx(share / 16)
    assert far.reduced["ICI"] == pytest.approx(2 * (n - 1) / n * SIZE - share / 16)


def test_shards_over_slices_cross_the_data_centre():
    """Each slice hears the other's half."""
    of = network("v5e:4x4", (1, 32), 2).traffic(Counter({(GATHER, SHARDS): SIZE}))
    assert of.bound == "DCN" and of.seconds == pytest.approx(SIZE / 2 / (16 * 3.125e9))
    assert of.gathered["DCN"] == pytest.approx(SIZE / 32)


# -- from a trace ----------------------------------------------------------------------------------
def sent_by(function, shards: int, *shapes) -> Counter:
    """What a function of parameters sends on eight devices, its layers' parameters by `gathering`."""
    parallel = Marked("fsdp", AbstractMesh((8 // shards, shards), ("data", "fsdp")), min_shard=1024)

    def gathered(*params):
        with gathering(parallel.whole, parallel.min_shard):
            return function(parallel.whole, *params)

    return count_sent(jax.make_jaxpr(gathered)(*shapes).jaxpr)


KERNEL = jax.ShapeDtypeStruct((64, 32), jnp.float32)
BIAS = jax.ShapeDtypeStruct((32,), jnp.float32)


def test_a_use_is_a_gather_and_a_gradient_a_sum():
    """A kernel in shards is gathered, a bias lies everywhere; both have gradients. In bfloat16 half."""

    def loss(whole, kernel, bias, dtype=jnp.float32):
        use = [whole(p.astype(dtype)).astype(jnp.float32) for p in (kernel, bias)]
        return jnp.sum(jnp.sin(use[0]) + use[1])

    for dtype, width in ((jnp.float32, 4), (jnp.bfloat16, 2)):
        of = sent_by(lambda whole, *p: jax.grad(loss, (1, 2))(whole, *p, dtype), 4, KERNEL, BIAS)
        assert of == {(GATHER, SHARDS): 2048 * width, (REDUCE, EVERYWHERE): (2048 + 32) * width}
    assert sent_by(loss, 4, KERNEL, BIAS) == {(GATHER, SHARDS): 8192}
    assert sent_by(loss, 1, KERNEL, BIAS) == {}


def test_what_remat_repeats_and_loops_turn_is_counted():
    def layer(whole):
        return jax.checkpoint(lambda kernel: jnp.sum(jnp.sin(jnp.sin(whole(kernel)))))

    twice = sent_by(lambda whole, k: jax.grad(layer(whole))(k), 4, KERNEL)
    assert twice == {(GATHER, SHARDS): 2 * 8192, (REDUCE, EVERYWHERE): 8192}

    def three(whole, kernel):
        def turn(total, _):
            return total + jnp.sum(whole(kernel)), None

        return jax.lax.scan(turn, 0.0, None, length=3)[0]

    assert sent_by(three, 4, KERNEL) == {(GATHER, SHARDS): 3 * 8192}

    def either(whole, kernel):
        more = lambda k: jnp.sum(whole(k)) + jnp.sum(whole(k))  # noqa: E731
        return jax.lax.cond(kernel[0, 0] > 0, more, lambda k: jnp.sum(whole(k)), kernel)

    assert sent_by(either, 4, KERNEL) == {(GATHER, SHARDS): 2 * 8192}
