"""How tests are compiled changes nothing: the cache that they share gives what compiling gives."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jax_bridges.training.methods.ibmd import make_ibmd_step
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.state import Player, State
from tests.support.compiler import count_hits
from tests.support.games import UPDATES, batch, make_system, moved
from tests.support.toy import leaves_equal, optimizer_config, pointwise, random_params


@pytest.fixture
def empty_cache(tmp_path):
    """A folder of its own, into which every program goes, however quickly it was compiled."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (str(tmp_path), 0)):
        jax.config.update(name, value)
    reset_cache()
    jax.clear_caches()  # what is at hand would not be written
    yield tmp_path
    for name, value in zip(names, before):
        jax.config.update(name, value)
    reset_cache()


def three_steps_of_ibmd() -> State:
    """All numbers of the state, which the step is given to overwrite."""
    config, system = make_system()
    system = pointwise(system, width=8)
    adam = make_optimizer(optimizer_config(learning_rate=1e-3), 10)
    nets = {"generator": system.student, "bridge_net": system.networks["bridge_net"]}
    start = {name: random_params(net, seed=2) for name, net in nets.items()}
    parallel = Parallel.create("fsdp", 1, jax.devices()[:1])
    state = parallel.init(
        lambda start: State.create(**{n: Player.create(p, adam) for n, p in start.items()}), start
    )
    step = parallel.step(make_ibmd_step(system, config.distill, adam, adam), 1)
    for k in range(3):
        group = parallel.put(batch(k, UPDATES + 1), 1)
        state, _ = step(state, random_params(system.teacher), group, jax.random.key(1))
    assert moved(state, start) > 1e-3
    return jax.tree.map(np.asarray, state)


def test_cold_and_warm_give_the_same_bits(empty_cache):
    """Compiled, then read back by a process that has forgotten it."""
    hits = count_hits()
    cold = three_steps_of_ibmd()
    assert len(list(empty_cache.iterdir())) > 3 and not hits
    jax.clear_caches()
    leaves_equal(cold, three_steps_of_ibmd())
    assert hits
