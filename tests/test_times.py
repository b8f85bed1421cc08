"""Training-time distributions and sampling grids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges import times
from jax_bridges.bridges import DDPM, I2SB, VE, VP, Brownian
from tests.support.official import ALL, SMOOTH, golden


def test_i2sb_steps_are_the_official_ones():
    want = golden("i2sb")
    counts = [int(k.removeprefix("steps_nfe")) for k in want if k.startswith("steps_nfe")]
    assert len(counts) >= 10
    for nfe in counts:
        np.testing.assert_array_equal(times.i2sb_steps(nfe), want[f"steps_nfe{nfe}"])
        grid = times.uniform_grid(I2SB.create(), nfe)
        np.testing.assert_array_equal(np.round(grid * 999), want[f"steps_nfe{nfe}"][::-1])


@pytest.mark.parametrize("tag", ["vp", "ve"])
def test_karras_and_dbim_grids_are_the_official_ones(tag):
    bridge = SMOOTH[tag]
    for n in (2, 5, 10, 40):
        want = golden(f"ddbm_{tag}")[f"karras_sigmas_n{n}"]
        np.testing.assert_allclose(times.karras_grid(bridge, n), want, rtol=1e-9)
    for n in (1, 3, 4, 9, 19):
        want = golden(f"dbim_{tag}")[f"ts_uniform_n{n}"]
        np.testing.assert_allclose(times.dbim_grid(bridge, n + 1), want, rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_grids_go_down_from_T_to_t_min(name, n):
    bridge = ALL[name]
    for make in (times.uniform_grid, times.angle_grid):
        grid = make(bridge, n)
        assert grid.shape == (n + 1,) and grid.dtype == np.float64
        assert grid[0] == bridge.T and np.all(np.diff(grid) < 0)
        assert abs(grid[-1] - bridge.t_min) < 1e-3  # the table's first entry is at 0
    if n > 1:
        karras = times.karras_grid(bridge, n)
        assert karras.shape == (n + 1,) and np.all(np.diff(karras) < 0) and karras[-1] == 0.0
        grid = times.dbim_grid(bridge, n)
        assert grid.shape == (n,) and np.all(np.diff(grid) < 0)
        assert bridge.T - 2e-3 < grid[0] < bridge.T and grid[-1] == pytest.approx(bridge.t_min)
        if bridge.t_min == 0:
            entries = karras * (bridge.steps - 1)
            np.testing.assert_allclose(entries, np.rint(entries), atol=1e-9)
            assert karras[0] == bridge.T
        else:
            assert bridge.T - 2e-3 < karras[0] < bridge.T
            assert karras[-2] == pytest.approx(bridge.t_min)


@pytest.mark.parametrize("name", SMOOTH)
def test_angle_grid_is_even_in_the_warped_angle(name):
    bridge = SMOOTH[name]
    for rho in (1.0, 3.0):
        steps = np.diff(np.asarray(bridge.angle(times.angle_grid(bridge, 30, rho))) ** (1 / rho))
        np.testing.assert_allclose(steps, steps.mean(), rtol=2e-3)


def test_angle_grid_can_be_made_while_tracing():
    got = jax.jit(lambda: jnp.asarray(times.angle_grid(VP(), 5)))()
    np.testing.assert_allclose(got, times.angle_grid(VP(), 5), rtol=1e-6)


def test_student_grid_is_a_part_of_the_trained_one():
    for bridge in (VP(), VE(), I2SB.create()):
        trained = times.student_grid(bridge, 4)
        assert (
            trained[0] == bridge.T and np.all(np.diff(trained) < 0) and trained[-1] > bridge.t_min
        )
        np.testing.assert_array_equal(trained, times.uniform_grid(bridge, 4)[:-1])
        np.testing.assert_array_equal(times.student_grid(bridge, 2, 4), trained[[0, 2]])
        np.testing.assert_array_equal(times.student_grid(bridge, 1, 4), trained[:1])
        np.testing.assert_array_equal(times.student_grid(bridge, 3, 4), trained[[0, 1, 2]])


def test_impossible_grids_are_refused():
    with pytest.raises(ValueError, match="1 to 999.*nfe = 1000"):
        times.uniform_grid(I2SB.create(), 1000)
    with pytest.raises(ValueError, match="at least one.*nfe = 0"):
        times.uniform_grid(VP(), 0)
    with pytest.raises(ValueError, match="at least one step; n = 0"):
        times.angle_grid(VP(), 0)
    with pytest.raises(ValueError, match="nfe >= 2; 1 was"):
        times.dbim_grid(VP(), 1)
    with pytest.raises(ValueError, match="1000 steps once; nfe = 1000"):
        times.dbim_grid(I2SB.create(), 1000)
    with pytest.raises(ValueError, match="at least 2 times; n = 1"):
        times.karras_grid(VP(), 1)
    with pytest.raises(ValueError, match="1 to 4 calls; nfe = 5.*student_steps"):
        times.student_grid(VP(), 5, 4)
    with pytest.raises(
        ValueError, match="Unknown distribution of training times 'normal'.*uniform"
    ):
        times.training_times("normal", VP(), jnp.zeros(1))


def test_uniform_times_cover_the_bridge():
    u = (jnp.arange(1000) + 0.5) / 1000
    t = times.training_times("uniform", VE(), u)
    assert float(t.min()) >= 0.002 and float(t.max()) <= 80.0
    assert float(t.mean()) == pytest.approx(40.001, rel=1e-5)
    assert float(t.var()) == pytest.approx(79.998**2 / 12, rel=1e-3)


@pytest.mark.parametrize("bridge", [I2SB.create(), DDPM.create()], ids=["i2sb", "ddpm"])
def test_uniform_times_of_a_table_are_its_entries_alike(bridge):
    t = times.training_times("uniform", bridge, (jnp.arange(5000) + 0.5) / 5000)
    np.testing.assert_array_equal(np.bincount(np.asarray(bridge.index(t))), np.full(1000, 5))
    # The largest float32 below one must still be an entry.
    last = times.training_times(
        "uniform", bridge, jnp.asarray([np.nextafter(np.float32(1), np.float32(0))])
    )
    assert int(bridge.index(last)[0]) == 999 and float(last[0]) <= 1.0
    for name in times.TRAINING_TIMES:
        t = times.training_times(name, bridge, jnp.linspace(0.01, 0.99, 99))
        np.testing.assert_array_equal(t, bridge.snap(t))
        assert float(t.min()) < float(t.max())


def test_times_towards_the_source_are_the_larger_of_two():
    u = (jnp.arange(10000) + 0.5) / 10000
    t = times.training_times("towards_source", VP(t_min=0.0), u)
    assert float(t.mean()) == pytest.approx(2 / 3, abs=1e-4)
    assert float((t < 0.5).mean()) == pytest.approx(0.25, abs=1e-3)


def test_even_levels_are_uniform_in_the_logarithm_of_the_noise():
    u = (jnp.arange(1000) + 0.5) / 1000
    for bridge in (Brownian(epsilon=0.15), VP(), VE()):
        t = jax.jit(lambda u, bridge=bridge: times.training_times("even_levels", bridge, u))(u)
        _, b, c = bridge.coefficients(t)
        expected = np.log(0.01) + np.asarray(u) * np.log(5.0 / 0.01)
        np.testing.assert_allclose(np.log(c / b), expected, atol=2e-3)
    still = Brownian(epsilon=0.0)
    with pytest.raises(ValueError, match="the bridge has no noise: take 'uniform'"):
        times.training_times("even_levels", still, u)
