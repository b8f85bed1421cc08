"""What all samplers promise: budget, no recompilation, clipping, per-example keys, precision."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges import samplers
from jax_bridges.bridges import I2SB, VE, VP, Brownian, make_bridge
from jax_bridges.keys import example_keys
from jax_bridges.samplers import SAMPLERS, count_calls, make_sampler
from jax_bridges.times import padded, student_grid
from tests.support.gaussian import GaussianPair

LEAST = {
    "ancestral": 1,
    "sde_euler": 1,
    "ode_euler": 1,
    "ode_heun": 1,
    "dbim": 2,
    "dbim2": 2,
    "dbim3": 2,
    "dbmsolver": 2,
    "ecsi": 2,
    "heun": 5,
}
NOISE_FREE = {"ancestral"}  # do with a bridge that has no noise, too
KEYS = example_keys(jax.random.key(0), jnp.arange(4))
XT = jax.random.normal(jax.random.key(1), (4, 2, 2, 1))
NOISE = jax.random.normal(jax.random.key(2), (32, *XT.shape))
PAIR = GaussianPair()


def saved(draw):
    """Keys that hand out saved noise: quicker to compile than a generator."""
    return NOISE[draw]


def linear(xt, t, xT):
    return 0.7 * xt + 0.2 * xT


def test_every_sampler_is_tested_here():
    assert set(SAMPLERS) == set(LEAST)
    assert all(name == entry.name for name, entry in SAMPLERS.items())


@pytest.mark.smoke
@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("bridge", [VP(), I2SB.create()], ids=["vp", "i2sb"])
def test_the_budget_is_kept_and_the_denoiser_counts_it(name, bridge):
    entry = SAMPLERS[name]
    period = {"ode_heun": 2, "dbmsolver": 2, "heun": 3}.get(name, 1)
    for nfe in (LEAST[name], 12):
        stated = entry.calls(entry.grid(bridge, nfe))
        assert nfe - period < stated <= nfe  # one step more would exceed it
        counted = count_calls(linear)
        jax.jit(functools.partial(entry, counted, bridge, nfe=nfe, keys=saved))(XT)
        assert counted.calls() == stated


def test_heun_without_churn_has_its_own_budget():
    entry = SAMPLERS["heun"]
    counted = count_calls(linear)
    jax.jit(lambda x: entry(counted, VP(), x, 10, saved, churn=None))(XT)
    assert counted.calls() == 9 == entry.calls(entry.grid(VP(), 10, churn=None), churn=None)


def test_knobs_can_be_set_by_name():
    """As configurations write samplers; the budget follows the knobs."""
    for text, knobs in (
        ("dbim:eta=1", {"eta": 1}),
        ("heun:churn=None,guidance=0.5,clip=True", {"churn": None, "guidance": 0.5, "clip": True}),
    ):
        named, plain = make_sampler(text), SAMPLERS[text.partition(":")[0]]
        assert named.name == text and make_sampler(plain.name) is plain
        np.testing.assert_array_equal(named.grid(VP(), 7), plain.grid(VP(), 7, **knobs))
        assert named.calls(named.grid(VP(), 7)) == 7
        ours, theirs = named(linear, VP(), XT, 7, saved), plain(linear, VP(), XT, 7, saved, **knobs)
        np.testing.assert_array_equal(ours, theirs)
        assert np.abs(theirs - plain(linear, VP(), XT, 7, saved)).max() > 1e-3
    with pytest.raises(ValueError, match="'heun:churn=None' needs at least 3"):
        make_sampler("heun:churn=None").grid(VP(), 2)


@pytest.mark.parametrize(
    "text, words",
    [
        ("dbim3:order=2", "sampler 'dbim3' has no setting 'order': it takes clip"),
        ("dbim:eta", "settings are written NAME:KEY=VALUE"),
        (
            "heun:churn=1.0",
            "heun.churn is 1.0: it must be a number of at least 0 and below 1, or None",
        ),
    ],
)
def test_knobs_that_cannot_be_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        make_sampler(text)


def test_one_key_stands_for_one_an_image():
    one = SAMPLERS["ancestral"](linear, VP(), XT, 3, jax.random.key(0))
    np.testing.assert_array_equal(one, SAMPLERS["ancestral"](linear, VP(), XT, 3, KEYS))


def test_images_of_whole_numbers_are_refused():
    with pytest.raises(ValueError, match=r"xT is uint8, but images are floats in \[-1, 1\]"):
        SAMPLERS["ancestral"](linear, VP(), jnp.zeros((4, 2, 2, 1), jnp.uint8), 3, KEYS)


@pytest.mark.parametrize(
    "keys, words",
    [
        (jax.random.PRNGKey(0), "made by jax.random.key .not PRNGKey.: .*4 images; got uint32"),
        (None, "got NoneType"),
        (KEYS[:3], r"shape \(3,\) for 4 images"),
    ],
    ids=["legacy", "none", "too few"],
)
def test_wrong_keys_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        SAMPLERS["sde_euler"](linear, VP(), XT, 3, keys)


def test_the_student_is_called_once_a_time():
    counted = count_calls(lambda xt, t, xT, z: linear(xt, t, xT) + z)
    times = student_grid(VP(), 3)
    jax.jit(lambda x: samplers.sample_few_step(counted, VP(), x, times, saved))(XT)
    assert counted.calls() == 3


@pytest.mark.parametrize("name", LEAST)
def test_a_budget_below_the_minimum_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' needs at least {LEAST[name]} .*nfe = "):
        SAMPLERS[name](linear, VP(), XT, LEAST[name] - 1, KEYS)


def test_more_calls_than_table_entries_are_refused():
    bridge = I2SB.create(steps=10)
    for name in ("ancestral", "dbim3"):
        with pytest.raises(ValueError, match="10 steps"):
            SAMPLERS[name](linear, bridge, XT, 12, KEYS)


@pytest.mark.parametrize("name", sorted(set(LEAST) - NOISE_FREE))
def test_noise_free_bridges_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}'.*deterministic.*'ancestral'"):
        SAMPLERS[name](linear, make_bridge("i2sb", deterministic=True), XT, 6, KEYS)


def test_unknown_names_and_orders_are_refused():
    with pytest.raises(ValueError, match="Unknown sampler 'dbin'.*ancestral, dbim.*mean 'dbim'"):
        make_sampler("dbin")
    with pytest.raises(ValueError, match="order = 4"):
        samplers.sample_dbim_high_order(linear, VP(), XT, np.array([0.9, 0.1]), KEYS, order=4)


@pytest.mark.parametrize("name", LEAST)
def test_new_values_of_times_knobs_and_bridge_do_not_recompile(name):
    traces = []

    def denoise(xt, t, xT):
        traces.append(None)
        return linear(xt, t, xT)

    knobs = {
        "dbim": [{"eta": 0.1}, {"eta": 0.9}],
        "ecsi": [{"eta": 0.1}, {"eta": 0.9}],
        "heun": [{"churn": 0.2, "guidance": 1.0}, {"churn": 0.5, "guidance": 0.7}],
    }.get(name, [{}, {}])
    run = jax.jit(
        lambda bridge, times, kw: SAMPLERS[name].sample(denoise, bridge, XT, times, saved, **kw)
    )
    outputs = []
    for bridge, kw in zip((Brownian(epsilon=1.0), Brownian(epsilon=0.5)), knobs, strict=True):
        times = SAMPLERS[name].grid(bridge, 8)
        outputs.append(run(bridge, times, kw))
        if not outputs[1:]:
            first = len(traces)
            outputs.append(run(bridge, times * 0.9, kw))
    assert len(traces) == first
    assert not np.allclose(outputs[0], outputs[1]) and not np.allclose(outputs[0], outputs[2])


@pytest.mark.parametrize("name", LEAST)
def test_one_program_does_for_every_number_of_calls(name):
    """Of a padded grid the first times count, and nothing is called, drawn or ended behind them."""
    # Not pinned: the number of calls also says which draw the start is.
    traces, entry, bridge = [], SAMPLERS[name], make_bridge("resshift")

    def denoise(xt, t, xT):
        traces.append(None)
        return linear(xt, t, xT)

    counted = count_calls(denoise)
    run = jax.jit(
        lambda times, length: entry.sample(counted, bridge, XT, times, saved, length=length)
    )
    for nfe in (LEAST[name], 12):
        grid, before = entry.grid(bridge, nfe), counted.calls()
        padded_grid = padded(grid, 32)
        assert padded_grid[0].shape == (32,) and padded_grid[1] == len(grid)
        found = run(*padded_grid)
        assert counted.calls() - before == entry.calls(grid)
        plain = entry.sample(linear, bridge, XT, grid, saved)
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=2e-6)
        if nfe == LEAST[name]:
            first = len(traces)
    assert len(traces) == first


def test_a_part_of_the_times_has_no_path():
    times, length = padded(SAMPLERS["ancestral"].grid(VP(), 3))
    with pytest.raises(ValueError, match="give return_path or length, not both"):
        samplers.sample_ancestral(linear, VP(), XT, times, saved, length=length, return_path=True)


@pytest.mark.parametrize("name", LEAST)
def test_an_image_does_not_depend_on_its_batch(name):
    run = jax.jit(lambda x, k: SAMPLERS[name](linear, VP(), x, 6, k))
    whole = run(XT, KEYS)
    parts = jnp.concatenate([run(XT[:2], KEYS[:2]), run(XT[2:], KEYS[2:])])
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    # Two examples with the same source differ by their keys alone.
    twins = run(XT[:1].repeat(2, 0), KEYS[:2])
    assert np.abs(twins[0] - twins[1]).max() > 1e-3


@pytest.mark.parametrize("name", LEAST)
def test_clipping_is_of_every_prediction(name):
    def wild(xt, t, xT):
        return 3.0 * linear(xt, t, xT)

    run = jax.jit(
        lambda x: (
            SAMPLERS[name](wild, VP(), x, 6, saved, clip=True),
            SAMPLERS[name](lambda *a: jnp.clip(wild(*a), -1, 1), VP(), x, 6, saved),
            SAMPLERS[name](wild, VP(), x, 6, saved),
        )
    )
    clipped, by_hand, free = run(XT)
    np.testing.assert_array_equal(clipped, by_hand)
    assert np.abs(free - clipped).max() > 0.5


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("bridge", [VP(), VE()], ids=["vp", "ve"])
def test_float32_is_close_to_float64(name, bridge):
    """A tenth of a grey level of 255 over the range of 2, for as many calls as a teacher gets."""

    def run():
        noise = np.random.default_rng(0).standard_normal((200, *XT.shape))
        times = SAMPLERS[name].grid(bridge, 40)
        sample = SAMPLERS[name].sample
        denoise = PAIR.denoiser(bridge, True)
        return jax.jit(lambda x: sample(denoise, bridge, x, times, lambda k: jnp.asarray(noise)[k]))

    single = run()(XT)
    assert single.dtype == jnp.float32
    with jax.enable_x64(True):
        double = run()(jnp.asarray(np.asarray(XT), jnp.float64))
    assert double.dtype == jnp.float64
    assert np.abs(np.asarray(single) - np.asarray(double)).max() < 8e-4


@pytest.mark.parametrize("name", LEAST)
def test_bfloat16_images_stay_so_and_keep_precise_times(name):
    seen = []

    def denoise(xt, t, xT):
        seen.append((xt.dtype, t.dtype))
        return linear(xt, t, xT)

    x0 = jax.jit(lambda x: SAMPLERS[name](denoise, VP(), x, 6, saved))(XT.astype(jnp.bfloat16))
    assert x0.dtype == jnp.bfloat16 and bool(jnp.isfinite(x0).all())
    assert set(seen) == {(jnp.dtype("bfloat16"), jnp.dtype("float32"))}
