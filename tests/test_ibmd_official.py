"""IBMD against the numbers of its official code, in float64 (golden/ibmd.npz, of golden/ibmd_make.py)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.corruptions import keep_known
from jax_bridges.distillation import (
    bridge_net_loss,
    generator_loss,
    loss_point,
    roll_out_random,
    roll_out_renoised,
)
from jax_bridges.samplers import sample_few_step
from jax_bridges.times import student_grid, training_times
from jax_bridges.training.steps import tilted
from tests.support.ibmd_official import (
    DATA,
    SR,
    Case,
    answered,
    close,
    get,
    params,
    replay,
    same_grads,
)

pytestmark = pytest.mark.usefixtures("float64")

# -- (a) one step: super-resolution, JPEG ------------------------------------------------------------


def test_the_network_time_follows_float64():
    t = get("sr_gen_step") / 999
    scalings = SR.scaling.scalings(SR.bridge, t)
    np.testing.assert_allclose(scalings.c_noise, get("sr_gen_c_noise"), rtol=1e-14)
    t = get("i2_n2k1_gen_t")  # times between entries of the table
    scalings = Case("i2").scaling.scalings(Case("i2").bridge, t)
    np.testing.assert_allclose(scalings.c_noise, get("i2_n2k1_gen_c_noise"), rtol=1e-14)


def test_one_step_of_the_bridge_net():
    x0, xT = answered(SR, "gen", "sr_phi"), get("sr_phi_x1")
    close(x0, get("sr_phi_x0"))
    at = dict(t=get("sr_phi_step") / 999, noise=get("sr_phi_noise"))
    close(loss_point(SR.bridge, x0, xT, **at), get("sr_phi_xt"))

    def loss(phi):
        return jnp.mean(bridge_net_loss(SR.net(phi), SR.bridge, x0, xT, weight=1.0, **at))

    value, grads = jax.value_and_grad(loss)(params("sr", "phi"))
    close(value, get("sr_phi_loss"))
    same_grads(grads, "sr_phi")


@pytest.mark.parametrize("detach, tag", [(True, "sr_gen"), (False, "sr_att")])
def test_one_step_of_the_generator(detach, tag):
    """With x_t detached as released, and attached as in the paper: the same loss, other gradients."""
    xT = get("sr_gen_x1")
    at = dict(t=get("sr_gen_step") / 999, noise=get("sr_gen_noise"))
    teacher, phi = SR.net("teacher"), SR.net("phi")

    def of_x0(x0):
        args = (teacher, phi, SR.bridge, x0, xT)
        return jnp.mean(generator_loss(*args, weight=1.0, detach_xt=detach, **at))

    value, grads = jax.value_and_grad(lambda gen: of_x0(answered(SR, gen, "sr_gen")))(
        params("sr", "gen")
    )
    close(value, get(f"{tag}_loss"))
    same_grads(grads, tag)
    by_x0 = jax.grad(of_x0)(get("sr_gen_x0"))
    np.testing.assert_allclose(by_x0, get(f"{tag}_grad_x0"), rtol=1e-9, atol=1e-14)
    if detach:
        difference = get("sr_gen_x0_phi") - get("sr_gen_x0_teacher")
        np.testing.assert_allclose(by_x0, 2 / by_x0.size * difference, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("nfe", [1, 2])
def test_the_students_of_i2sb_sample_as_its_sampler_does(nfe):
    """The answer is the state at index 0, which keeps a little of what the last call saw."""
    tag = f"sr_test_nfe{nfe}"
    keys = replay(get(f"{tag}_z"), get(f"{tag}_noise"))
    times = jnp.asarray(student_grid(SR.bridge, nfe))
    with jax.disable_jit():
        found = sample_few_step(
            SR.net("gen"), SR.bridge, get("sr_gen_x1"), times, keys, ancestral=True
        )
        plain = sample_few_step(SR.net("gen"), SR.bridge, get("sr_gen_x1"), times, keys)
    close(found, get(f"{tag}_xs")[:, 0])
    if nfe == 1:
        close(plain, get(f"{tag}_px0")[:, 0])
        kept = SR.bridge.rho2(times - 1) / SR.bridge.rho2(times)  # 7e-4
        close(found, plain + kept * (get("sr_gen_x1") - plain))


# -- (b) inpainting with I2SB -------------------------------------------------------------------------
INP = Case("inp")


def inp_answer(gen, who):
    """The renoised roll-out: a chain of the average from another hole, then one call that is trained."""
    tag = f"inp_{who}"
    mask = get("inp_mask")
    clean, xT = get(f"{tag}_x0_clean"), get(f"{tag}_x1")
    close(xT, keep_known(get(f"{tag}_hole_noise"), clean, mask))
    again = keep_known(get(f"{tag}_chain_hole_noise"), clean, mask)
    times = jnp.asarray(student_grid(INP.bridge, 4))
    np.testing.assert_array_equal(INP.bridge.index(times), get(f"{tag}_grid")[:0:-1])
    nothing = replay(jnp.zeros((4, 1, 1, 1, 1)), jnp.zeros((4, 1, 1, 1, 1)))
    with jax.disable_jit():
        whole = sample_few_step(
            INP.net("genema", mask), INP.bridge, again, times, nothing, ancestral=True
        )
    close(whole, get(f"{tag}_chain_xs")[:, 0])
    which = jnp.argmax(INP.bridge.index(times)[:, None] == get(f"{tag}_n"), axis=0)
    noiseless = jnp.zeros_like(xT)
    made = roll_out_renoised(
        INP.net(gen, mask),
        INP.bridge,
        xT,
        times,
        lambda draw: jnp.zeros_like(xT),
        which,
        whole,
        noiseless,
    )
    close(made.x, get(f"{tag}_xn"))
    t = training_times("uniform", INP.bridge, get(f"{tag}_u"), below=made.t)
    np.testing.assert_array_equal(INP.bridge.index(t), get(f"{tag}_step"))
    return made, dict(t=t, noise=noiseless, given=(made.x, made.t)), xT, mask


def test_inpainting_of_the_bridge_net():
    made, at, xT, mask = inp_answer("gen", "phi")
    close(made.x0, get("inp_phi_x0"))
    close(loss_point(INP.bridge, made.x0, xT, **at), get("inp_phi_xt"))

    def loss(phi):
        return jnp.mean(
            bridge_net_loss(INP.net(phi, mask), INP.bridge, made.x0, xT, weight=1.0, **at)
        )

    value, grads = jax.value_and_grad(loss)(params("inp", "phi"))
    close(value, get("inp_phi_loss"))
    same_grads(grads, "inp_phi")


def test_inpainting_of_the_generator():
    """Attached, weighted by 10^(2 (1 - index / 1000)); the teacher's average there and back."""

    def losses(gen):
        made, at, xT, mask = inp_answer(gen, "gen")
        weight = tilted(INP.bridge, jnp.ones(4), 2.0, at["t"])
        teacher, phi = INP.net("teacher", mask), INP.net("phi", mask)
        return generator_loss(teacher, phi, INP.bridge, made.x0, xT, weight=weight, **at)

    made, at, xT, _ = inp_answer("gen", "gen")
    close(made.x0, get("inp_gen_x0"))
    close(loss_point(INP.bridge, made.x0, xT, **at), get("inp_gen_xt"))
    close(tilted(INP.bridge, jnp.ones(4), 2.0, at["t"]), get("inp_gen_weight_own"))
    close(losses(params("inp", "gen")), get("inp_gen_sq_teacher") - get("inp_gen_sq_phi"))
    with jax.disable_jit(False):
        value, grads = jax.value_and_grad(lambda gen: jnp.mean(losses(gen)))(params("inp", "gen"))
    close(value, get("inp_gen_loss"))
    same_grads(grads, "inp_gen")


@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_inpainting_samples(nfe):
    tag, mask = f"inp_test_nfe{nfe}", get("inp_mask")
    xT = keep_known(get(f"{tag}_hole_noise"), get("inp_gen_x1"), mask)
    times = jnp.asarray(student_grid(INP.bridge, nfe, 4))
    nothing = replay(jnp.zeros((4, 1, 1, 1, 1)), jnp.zeros((4, 1, 1, 1, 1)))
    with jax.disable_jit():
        found = sample_few_step(
            INP.net("genema", mask), INP.bridge, xT, times, nothing, ancestral=True
        )
    close(found, get(f"{tag}_xs")[:, 0])


# -- (c) DDBM's bridges -------------------------------------------------------------------------------
CALLS = [("vp", n, k) for n in (1, 2, 4) for k in range(n)]
CALLS += [("i2", 1, 0), ("i2", 2, 1), ("i2m", 4, 0), ("i2m", 4, 2), ("i2m", 4, 3)]


def ddbm_answer(case, gen, tag, mask):
    xT, call = get(f"{tag}_xT"), int(get(f"{tag}_call"))
    noise = get(f"{tag}_roll_noise") if call else None
    keys = replay(get(f"{tag}_z"), noise, one_z=True)
    n = int(tag.split("_n")[1][0])
    times = jnp.asarray(student_grid(case.bridge, n))
    with jax.disable_jit():
        return roll_out_random(
            case.net(gen, mask), case.bridge, xT, times, keys, jnp.int32(call),
            walk=case.net("gen", mask), one_z=True,
        )  # fmt: skip


@pytest.mark.parametrize("system, n, k", CALLS)
def test_ddbm(system, n, k):
    """x_t of the bridge, attached; lambda 1 / c_out^2, of the generator times 10^(1 - t)."""
    case, mask = Case(system[:2]), get("i2m_mask") if system == "i2m" else None
    tag = f"{system}_n{n}k{k}"
    close(case.bridge.index(student_grid(case.bridge, n)) if case.bridge.table else
          student_grid(case.bridge, n), case.bridge.index(get(f"{tag}_grid"))
          if case.bridge.table else get(f"{tag}_grid"))  # fmt: skip
    for who in ("phi", "gen"):
        at = dict(t=get(f"{tag}_{who}_t"), noise=get(f"{tag}_{who}_noise"))
        close(
            training_times("uniform", case.bridge, get(f"{tag}_{who}_u")), at["t"]
        ) if system == "vp" else 0
        weight, xT = case.scaling.weight(case.bridge, at["t"]), get(f"{tag}_{who}_xT")
        np.testing.assert_allclose(weight, get(f"{tag}_{who}_lambda"), rtol=1e-10)
        made = ddbm_answer(case, "gen", f"{tag}_{who}", mask)
        close(made.x, get(f"{tag}_{who}_x"))
        close(made.x0, get(f"{tag}_{who}_x0"))
        close(loss_point(case.bridge, made.x0, xT, **at), get(f"{tag}_{who}_xt"))
        if who == "phi":

            def loss(phi, made=made, at=at, xT=xT, weight=weight):
                net = case.net(phi, mask)
                return jnp.mean(bridge_net_loss(net, case.bridge, made.x0, xT, weight=weight, **at))
        else:

            def loss(gen, at=at, xT=xT, weight=weight):
                made = ddbm_answer(case, gen, f"{tag}_gen", mask)
                tilt = tilted(case.bridge, weight, 1.0, at["t"])
                if case.bridge.table:  # of t itself there: 0.1% from that of the entry
                    tilt = weight * 10.0 ** (1.0 - at["t"])
                nets = (case.net("teacher", mask), case.net("phi", mask))
                return jnp.mean(generator_loss(*nets, case.bridge, made.x0, xT, weight=tilt, **at))

        value, grads = jax.value_and_grad(loss)(params(case.system, who))
        close(value, get(f"{tag}_{who}_loss"))
        same_grads(grads, f"{tag}_{who}")


@pytest.mark.parametrize("tag", ["vp_test_n1", "vp_test_n2", "vp_test_n4", "i2m_test_n4"])
def test_ddbm_samples(tag):
    """One z for all calls; the answer is the last prediction, known pixels pasted."""
    case, mask = Case(tag[:2]), get("i2m_mask") if "i2m" in tag else None
    times = jnp.asarray(student_grid(case.bridge, int(tag[-1])))
    noise = get(f"{tag}_noise") if f"{tag}_noise" in DATA else None
    with jax.disable_jit():
        found = sample_few_step(
            case.net("gen", mask), case.bridge, get(f"{tag}_xT"), times,
            replay(get(f"{tag}_z"), noise, one_z=True), one_z=True,
        )  # fmt: skip
    close(found, get(f"{tag}_x0"))
