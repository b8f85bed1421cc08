"""The samplers step by step against the official code, replaying its noise (float64).

`golden/samplers_*.npz` were made by running I2SB, DDBM and DBIM with the denoiser
`x0_hat = 0.7 x + 0.2 x_T`, and end to end with a toy network. Their images are `[B, C, H, W]`,
which no sampler can tell.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges import samplers
from jax_bridges.bridges import I2SB, VE, VP, I2SBinDDBM
from jax_bridges.preconditioning import BridgeKarras, I2SBScaling, precondition
from jax_bridges.times import dbim_grid, i2sb_steps, karras_grid

pytestmark = pytest.mark.usefixtures("float64")

GOLDEN = Path(__file__).parent / "golden"
BRIDGES = {
    "vp": VP(),
    "ve": VE(),
    "ve20": VE(t_min=0.0005, T=20.0),
    "i2sb": I2SBinDDBM.create(beta_max=1.0),
}


def load(name: str) -> dict:
    with np.load(GOLDEN / f"samplers_{name}.npz") as file:
        return dict(file)


I2SB_CASES, HEUN, DBIM = load("i2sb"), load("heun"), load("dbim")


def linear(xt, t, xT):
    """The denoiser of the official runs."""
    return 0.7 * xt + 0.2 * xT


def toy_network(x, c_noise, xT, z):
    """The network of the official end-to-end runs."""
    shift = jnp.sin(c_noise / 250.0).reshape(-1, 1, 1, 1)
    return 0.3 * x + 0.1 * xT + 0.01 * shift


def toy_denoiser(tag: str):
    scaling = I2SBScaling() if tag == "i2sb" else BridgeKarras()
    return precondition(toy_network, BRIDGES[tag], scaling)


def replay(noise, index=lambda draw: draw):
    """Keys that hand out saved noise: number `index(draw)` of it."""
    saved = jnp.zeros((1, 1, 1, 1, 1)) if noise is None else jnp.asarray(noise)
    return lambda draw: saved[index(draw)]


def assert_relative(got, want, tolerance=1e-8):
    """Largest error over largest value: the coarse runs of the official code reach 2e4."""
    assert got.shape == want.shape
    assert np.max(np.abs(got - want)) <= tolerance * np.max(np.abs(want))


# -- I2SB ------------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("case", sorted(k[:-3] for k in I2SB_CASES if k.endswith("_xs")))
def test_ancestral_is_i2sbs_sampler(case):
    tag, nfe, kind, *mask = case.split("_")
    nfe = int(nfe.removeprefix("nfe"))
    bridge = I2SB.create(beta_max={"b03": 0.3, "b10": 1.0}[tag], deterministic=kind == "ode")

    def call_order(draw):
        """Noise was saved as drawn: none for the last step, known pixels' after the step's."""
        if not mask:
            return jnp.minimum(draw // 2, nfe - 2)
        return jnp.minimum(draw, 2 * nfe - 2)

    keys = replay(I2SB_CASES.get(f"{case}_noise"), call_order)
    x0, path = jax.jit(
        lambda x1: samplers.sample_ancestral(
            linear,
            bridge,
            x1,
            i2sb_steps(nfe)[::-1] / 999,
            keys,
            return_path=True,
            redraw_mask=I2SB_CASES["mask"] if mask else None,
        )
    )(I2SB_CASES["x1"])
    want = np.moveaxis(I2SB_CASES[f"{case}_xs"], 1, 0)[::-1]  # saved with time going up
    assert_relative(path, want, 1e-12)
    assert_relative(x0, want[-1], 1e-12)


# -- DDBM ------------------------------------------------------------------------------------------


def steps_only(path, churn: bool):
    """Drops Heun's predictions, which the official path leaves out, but for the last of all."""
    period = 3 if churn else 2
    predicted = period - 2
    keep = [k for k in range(len(path)) if k % period != predicted or k == len(path) - 1]
    return path[np.array(keep)]


@pytest.mark.parametrize(
    "case", sorted(k[:-5] for k in HEUN if k.endswith("_path") and "e2e" not in k)
)
def test_heun_is_ddbms_sampler(case):
    tag, n, s, w = case.split("_")
    churn, guidance = float(s[1:]), float(w[1:])
    times = HEUN[f"{tag}_{n}_sigmas"]
    x0, path = jax.jit(
        lambda xT, churn, guidance: samplers.sample_heun(
            linear,
            BRIDGES[tag],
            xT,
            times,
            replay(HEUN.get(f"{case}_noise")),
            churn=churn,
            guidance=guidance,
            return_path=True,
        )
    )(HEUN["xT"], churn or None, guidance)
    assert len(path) == HEUN[f"{case}_nfe"]
    want = HEUN[f"{case}_path"][1:]
    got = steps_only(path, bool(churn))
    assert got.shape == want.shape
    for k in range(len(want)):
        assert_relative(got[k], want[k])
    assert_relative(x0, want[-1])


@pytest.mark.parametrize("case", ["vp_n40_s0.33_w1.0", "ve_n40_s0.0_w0.5"])
def test_heun_over_forty_steps(case):
    tag, n, s, w = case.split("_")
    x0 = jax.jit(
        lambda xT: samplers.sample_heun(
            linear,
            BRIDGES[tag],
            xT,
            karras_grid(BRIDGES[tag], 40),
            replay(HEUN.get(f"{case}_noise")),
            churn=float(s[1:]) or None,
            guidance=float(w[1:]),
        )
    )(HEUN["xT"])
    assert_relative(x0, HEUN[f"{case}_final"])


@pytest.mark.parametrize("tag", ["vp", "ve", "ve20"])
def test_heun_end_to_end(tag):
    bridge = BRIDGES[tag]
    x0, path = jax.jit(
        lambda xT: samplers.sample_heun(
            toy_denoiser(tag),
            bridge,
            xT,
            karras_grid(bridge, 5),
            replay(HEUN[f"{tag}_e2e_noise"]),
            clip=True,
            return_path=True,
        )
    )(HEUN["xT"])
    assert len(path) == HEUN[f"{tag}_e2e_nfe"] == 14
    # The official driver clamps what it hands out.
    assert_relative(steps_only(np.clip(path, -1, 1), True), HEUN[f"{tag}_e2e_path"][1:])
    assert_relative(np.clip(x0, -1, 1), HEUN[f"{tag}_e2e_final"])


# -- DBIM ------------------------------------------------------------------------------------------


def dbim(name: str):
    """`eta0.5` or `order3` as a sampler."""
    if name.startswith("eta"):
        return lambda *args, **knobs: samplers.sample_dbim(*args, eta=float(name[3:]), **knobs)
    order = int(name.removeprefix("order"))
    return lambda *args, **knobs: samplers.sample_dbim_high_order(*args, order=order, **knobs)


@pytest.mark.smoke
@pytest.mark.parametrize("case", sorted(k[:-5] for k in DBIM if k.endswith("_path")))
def test_dbim_is_the_official_sampler(case):
    tag, n, name, *masked = case.split("_")
    mask = DBIM["mask"]

    def denoise(xt, t, xT):
        x0_hat = linear(xt, t, xT)
        return mask * x0_hat + (1 - mask) * xT if masked else x0_hat

    noise = DBIM[f"{case}_noise"]
    keys = replay(noise, lambda draw: jnp.minimum(draw, len(noise) - 1))
    x0, path = jax.jit(
        lambda xT: dbim(name)(
            denoise, BRIDGES[tag], xT, DBIM[f"{tag}_{n}_ts"], keys, return_path=True
        )
    )(DBIM["xT"])
    want = DBIM[f"{case}_path"]
    assert len(path) == DBIM[f"{case}_nfe"]
    for k in range(len(want)):
        assert_relative(path[k], want[k])
    assert_relative(x0, want[-1])


@pytest.mark.parametrize("tag", ["vp", "ve", "i2sb"])
@pytest.mark.parametrize("kind", ["dbim", "dbim_high_order", "heun"])
def test_dbim_end_to_end(tag, kind):
    bridge, case = BRIDGES[tag], f"{tag}_e2e_{kind}"
    nfe = int(DBIM[f"{case}_nfe"])
    if kind == "heun":
        sample, times = samplers.sample_heun, karras_grid(bridge, (nfe + 1) // 3)
        assert samplers.heun_calls(times) == nfe
    else:
        sample, times = dbim("eta0.5" if kind == "dbim" else "order3"), dbim_grid(bridge, nfe)
    noise = DBIM[f"{case}_noise"]
    # Its copy of Heun draws noise at every call, used or not.
    keys = replay(noise, lambda k: 3 * k if kind == "heun" else jnp.minimum(k, len(noise) - 1))
    x0 = jax.jit(lambda xT: sample(toy_denoiser(tag), bridge, xT, times, keys, clip=True))(
        DBIM["xT"]
    )
    assert_relative(np.clip(x0, -1, 1), DBIM[f"{case}_final"])
