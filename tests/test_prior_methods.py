"""Methods that learn a prior from observations alone: their steps by hand, masks, levels, keys, refusals."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jax_bridges.bridges import EDM
from jax_bridges.corrupted_losses import ambient_loss
from jax_bridges.corruptions import make_corruption
from jax_bridges.keys import ONLY, Stream, example_keys, fold, normal
from jax_bridges.losses import bridge_matching
from jax_bridges.times import level_time
from jax_bridges.training.methods import PRIOR_METHODS
from jax_bridges.training.methods.ambient import further, sampling_masks
from jax_bridges.training.methods.prior import Task, make_prior_step, observed_pair
from jax_bridges.training.methods.tweedie import levels_above
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player, State
from jax_bridges.training.steps import draw_times, time_weight
from tests.support.ledger import Ledger
from tests.support.priors import KEY, TASKS, observations, prior_system
from tests.support.toy import compiled, random_params, same

LIKE = jnp.zeros((64, 16, 16, 3))


@functools.cache
def one_step(name, steps=1):
    """A method's system, settings, what was observed, the player before, the state and numbers after."""
    system, config = prior_system(name)
    method, settings = PRIOR_METHODS[name], config.em.get(name)
    optimizer = make_optimizer(config.train.optimizer, 10)
    step = compiled(make_prior_step(method, system, config.train, settings, TASKS[name], optimizer))
    before = Player.create(random_params(system.teacher), optimizer)
    state, metrics = State.create(teacher=before), None
    for k in range(steps):
        state, metrics = step(state, None, observations(name, 4, 4 * k), KEY, same)
    return system, config, before, state, metrics


def parts(name):
    """What the losses of the first step see."""
    system, config, before, _, metrics = one_step(name)
    pair = observed_pair(system, observations(name, 4, 0), KEY)
    t = draw_times(system, config.train, pair)
    noise = normal(fold(pair.keys, Stream.NOISE), ONLY, pair.x0)
    denoise = system.denoiser(before.params, pair)
    return system, config, pair, denoise, t, noise, metrics["loss"]


def weight_of(system, config, t):
    return time_weight(system, config.train.weight, config.train.weight_max, t)


def test_a_step_of_ambient_diffusion_is_its_loss_on_fewer_pixels():
    system, config, pair, denoise, t, noise, found = parts("ambient")
    task = TASKS["ambient"]
    t = jnp.maximum(t, task.sigma_y)
    seen = further(pair.xT, config.em.ambient.delta, fold(pair.keys, Stream.FURTHER))
    assert 0 < float(seen.sum()) < float(pair.xT.sum())
    assert float(jnp.abs(pair.x0 * (1 - pair.xT)).max()) == 0.0  # turned alike
    want = ambient_loss(
        denoise, system.bridge, pair.x0, pair.xT, seen, t, noise, weight_of(system, config, t),
        task.sigma_y,
    )  # fmt: skip
    assert float(found) == pytest.approx(float(want.mean()), rel=1e-5)


def test_a_step_of_tweedie_by_hand():
    """Times below the noise of y are moved up to it."""
    system, config, pair, denoise, t, noise, found = parts("tweedie")
    assert float(t.min()) < 0.4
    t = jnp.maximum(t, 0.4)
    s = t.reshape(-1, 1, 1, 1)
    xt = pair.x0 + jnp.sqrt(jnp.maximum(s**2 - 0.16, 0)) * noise
    q = 0.16 / s**2
    answer = (1 - q) * denoise(xt, t, xt) + q * xt
    want = weight_of(system, config, t) * jnp.mean((answer - pair.x0) ** 2, (1, 2, 3))
    assert float(found) == pytest.approx(float(want.mean()), rel=1e-5)


def test_a_step_of_sure_score_by_hand():
    """By finite differences in float64; the score's part is 0 at step 0, and grows with the steps."""
    system, config, pair, denoise, t, noise, found = parts("sure")
    own, s2 = jnp.full(4, 0.4), 0.16
    probe = normal(fold(pair.keys, Stream.PROBE), ONLY, pair.x0)
    y, e = pair.x0, 1e-2
    h = denoise(y, own, y)
    up, down = (denoise(y + sign * e * probe, own, y) for sign in (1, -1))
    each = (h - y) ** 2 + s2 * (2 * probe * (up - down) / (2 * e) - 1)
    want = weight_of(system, config, own) * each.mean((1, 2, 3))
    assert float(found) == pytest.approx(float(want.mean()), rel=2e-3)
    loss = PRIOR_METHODS["sure"].make(system, config.train, config.em.sure, TASKS["sure"])
    at_first, at_last = (loss(denoise, pair, step) for step in (0, config.train.steps))
    matching = bridge_matching(denoise, system.bridge, h, y, t, noise, weight_of(system, config, t))
    np.testing.assert_allclose(at_last - at_first, matching, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", PRIOR_METHODS)
def test_it_learns_and_keeps_an_average(name):
    system, config, before, state, metrics = one_step(name, 2)
    after = state.players["teacher"]
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
    assert min(jax.tree.leaves(moved)) > 1e-4 and int(state.step) == 2
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    averaged = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after.params, after.ema)
    assert 0 < max(jax.tree.leaves(averaged)) < max(jax.tree.leaves(moved)) * 2


@pytest.mark.parametrize("name", PRIOR_METHODS)
def test_what_is_not_seen_plays_no_part(name):
    """x_0 is in no batch; what a mask hides of y could be anything."""
    system, config, *_ = one_step(name)
    batch = observations(name, 4, 0)
    assert "x0" not in batch
    if "mask" in batch:
        loss = PRIOR_METHODS[name].make(system, config.train, config.em[name], TASKS[name])
        pair = observed_pair(system, batch, KEY)
        junk = dataclasses.replace(pair, x0=pair.x0 + 9.0 * (1 - pair.xT))
        denoise = system.denoiser(random_params(system.teacher), pair)
        kept = [loss(denoise, p, 0) for p in (pair, junk)]
        np.testing.assert_array_equal(*kept)


def test_masks_of_the_sampler_have_the_law_of_training():
    """A share (1 - p)(1 - delta) is seen, all channels of a pixel alike, other ones of each image and mask."""
    task = Task(make_corruption("inpaint_random", share=0.6, exact=False), 0.0, (16, 16))
    settings = ConfigDict({"delta": 0.25, "masks": 2})
    seen = sampling_masks(LIKE, jax.random.split(jax.random.key(1), 64), settings, task)
    assert seen.shape == (2, 64, 16, 16, 3)
    np.testing.assert_array_equal(seen, jnp.broadcast_to(seen[..., :1], seen.shape))
    assert float(seen.mean()) == pytest.approx(0.4 * 0.75, abs=0.01)
    both = float((seen[0] * seen[1]).mean())
    assert both == pytest.approx(0.09, abs=0.01)


def test_levels_end_where_training_did():
    levels = EDM(T=10.0, t_min=0.01).levels(20)
    kept = levels_above(EDM(), levels, 0.4)
    assert kept.sigma[-1] == 0 and kept.alpha[-1] == 1 and kept.sigma[-2] >= 0.4
    assert len(kept.t) == 1 + int((levels.sigma >= 0.4).sum()) < 21
    for whole, same_ in zip(levels, levels_above(EDM(), levels, 0.0), strict=True):
        np.testing.assert_array_equal(whole, same_)
    assert level_time(EDM(), 0.4) == pytest.approx(0.4)


@pytest.mark.parametrize("name", PRIOR_METHODS)
def test_no_draw_is_made_twice(name, monkeypatch):
    """By a step, and by the samplers that a method has of its own."""
    system, config = prior_system(name)
    method, settings, task = PRIOR_METHODS[name], config.em.get(name), TASKS[name]
    loss = method.make(system, config.train, settings, task)
    batch = observations(name, 3, 0)

    def step(key):
        pair = observed_pair(system, batch, key)
        loss(lambda x, t, xT: x, pair, 0)

    Ledger().run(monkeypatch, step, KEY).check()
    if method.sample is None:
        return
    keys = example_keys(KEY, jnp.arange(2))
    levels = EDM().levels(3)
    settings = settings.copy_and_resolve_references()
    settings.masks = 2

    def sample(keys):
        method.sample(lambda x, t, seen: x, LIKE[:2], levels, keys, settings, task)

    Ledger().run(monkeypatch, sample, keys).check()


def test_what_cannot_be_learned_so_is_refused():
    hole = {"name": "inpaint_center", "fill": "zero"}

    def check(name, task, **changes):
        settings = ConfigDict({"masks": 1, "guidance": 0.0, **changes})
        PRIOR_METHODS[name].check(settings, Task(make_corruption(**task[0]), task[1], (16, 16)))

    random = {"name": "inpaint_random", "share": 0.6}
    check("ambient", (random, 0.02))
    check("ambient", ({"name": "inpaint_freeform", "fill": "zero"}, 0.0))
    for name in ("sure", "tweedie"):
        check(name, ({"name": "identity"}, 0.2))
    refused = {
        "learns from images that lack pixels, other ones in each, and InpaintCenter": ("ambient", hole, 0.0),
        "and Identity does not make such": ("ambient", {"name": "identity"}, 0.0),
        "has 'sure', which learns from whole images under noise": ("sure", random, 0.2),
        "has 'tweedie'.* with em.sigma_y 0: leave it out": ("tweedie", {"name": "identity"}, 0.0),
        "seen through Blur": ("tweedie", {"name": "blur"}, 0.2),
    }  # fmt: skip
    for message, (name, corruption, sigma_y) in refused.items():
        with pytest.raises(ValueError, match=message):
            check(name, (corruption, sigma_y))
    with pytest.raises(ValueError, match="em.ambient.guidance is 0.1 with em.ambient.masks 1"):
        check("ambient", (random, 0.0), guidance=0.1)
