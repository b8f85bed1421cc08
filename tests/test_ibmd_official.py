"""IBMD against the numbers of its official code, in float64 (golden/ibmd.npz, of golden/ibmd_make.py)."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import make_bridge
from jax_bridges.corruptions import keep_known
from jax_bridges.distillation import (
    bridge_net_loss,
    generator_loss,
    loss_point,
    roll_out_random,
    roll_out_renoised,
)
from jax_bridges.preconditioning import make_preconditioning, precondition
from jax_bridges.samplers import sample_few_step
from jax_bridges.samplers.few_step import DRAWS
from jax_bridges.times import student_grid, training_times
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player
from jax_bridges.training.steps import gradients, tilted
from tests.support.toy import optimizer_config, same

pytestmark = pytest.mark.usefixtures("float64")
DATA = np.load(Path(__file__).parent / "golden/ibmd.npz")
NAMES = ("W", "U", "Wz", "b", "k", "s")
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)  # noqa: E731


def get(key):
    """An array of float64; images `[..., C, H, W]` as ours, `[..., H, W, C]`."""
    value = DATA[key]
    return jnp.asarray(np.moveaxis(value, -3, -1) if value.ndim > 3 else value)


def params(system, player):
    keys = {name: f"{system}_p_{player}_{name}" for name in NAMES}
    return {name: jnp.asarray(DATA[key]) for name, key in keys.items() if key in DATA}


def grads_of(tag, prefix="grad"):
    keys = {name: f"{tag}_{prefix}_{name}" for name in NAMES}
    return {name: jnp.asarray(DATA[key]) for name, key in keys.items() if key in DATA}


def network(p):
    """F = W h + U x_T + Wz z + b + k tanh(h) + s sin(c / 250), of what a net has."""

    def apply(h, c, xT, z):
        out = h @ p["W"].T + p["b"] + p["k"] * jnp.tanh(h)
        out += p["s"] * jnp.sin(c / 250).reshape(-1, 1, 1, 1)
        out += xT @ p["U"].T if "U" in p else 0.0
        return out + (z @ p["Wz"].T if "Wz" in p else 0.0)

    return apply


class Case:
    """The bridge and scalings of a part of the file."""

    def __init__(self, kind):
        self.system = kind
        settings = {
            "sr": dict(name="i2sb", beta_max=0.3),
            "inp": dict(name="i2sb", beta_max=1.0, deterministic=True),
            "vp": dict(name="vp", beta_d=2.0, beta_min=0.1),
            "i2": dict(name="i2sb_ddbm", beta_max=1.0),
        }
        self.bridge = make_bridge(**settings[kind])
        self.scaling = make_preconditioning("bridge_karras" if kind == "vp" else "i2sb")

    def net(self, player, mask=None):
        p = params(self.system, player) if isinstance(player, str) else player
        denoise = precondition(network(p), self.bridge, self.scaling)
        if mask is None:
            return denoise
        return lambda xt, t, xT, *z: keep_known(denoise(xt, t, xT, *z), xT, mask)


def replay(z=None, noise=None, one_z=False):
    """Keys that give the saved z of each call and noise between calls, where there is one.

    In a loop's body, where a draw has no number yet, it is the first call's z.
    """

    def keys(draw):
        call, name = divmod(0 if isinstance(draw, jax.core.Tracer) else int(draw), 2)
        values = noise if name else z
        if values is None:
            return jnp.zeros(())
        if one_z and not name:
            assert call == 0
            return values
        return values[call] if call < len(values) else jnp.zeros(())

    assert DRAWS("z", 3) == 6 and DRAWS("noise", 3) == 7
    return keys


def same_grads(found, tag, prefix="grad"):
    expected = grads_of(tag, prefix)
    assert set(found) == set(expected)
    for name, value in expected.items():
        # A gradient that is a sum of what cancels is as good as what it is a sum of.
        scale = float(max(jnp.abs(v).max() for v in expected.values()))
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-10 * scale)


# -- (a) one step: super-resolution, JPEG ------------------------------------------------------------
SR = Case("sr")
LAST = jnp.ones(1)


def answered(case, gen, tag, mask=None):
    """x_0 by one call at T, of saved z."""
    xT, z = get(f"{tag}_x1"), get(f"{tag}_z")
    generate = case.net(gen, mask)
    return roll_out_random(generate, case.bridge, xT, LAST, replay(z[None]), jnp.int32(0)).x0


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


# -- (d) whole loops ----------------------------------------------------------------------------------
def player(system, name, optimizer):
    return Player.create(params(system, name), optimizer)


def after(player, tag, number=None):
    for name, value in player.items():
        expected = jnp.asarray(DATA[f"{tag}_{name}"])
        expected = expected if number is None else expected[number]
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


def test_two_iterations_with_i2sb():
    """AdamW; the release adds up the gradients of microbatches: ours is their mean, with as small an eps."""
    optimizer = make_optimizer(
        optimizer_config(
            name="adamw", learning_rate=float(get("traj_lr")), b2=0.999, eps=1e-8 / 2, weight_decay=0.0
        ), 10,
    )  # fmt: skip
    case = SR
    phi, gen = (player("traj", name, optimizer) for name in ("phi", "gen"))
    teacher, row = case.net(params("traj", "teacher")), 0

    def part(k):  # what a microbatch sees
        return {name: get(f"traj_{name}")[k] for name in ("x1", "z", "noise", "step")}

    def batch():
        nonlocal row
        # The k-th microbatch of ours has every second example.
        parts = [part(row), part(row + 1)]
        row += 2
        return jax.tree.map(lambda *a: jnp.stack(a, 1).reshape(-1, *a[0].shape[1:]), *parts)

    def made(generator, b):
        keys = replay(b["z"][None])
        return roll_out_random(
            case.net(generator), case.bridge, b["x1"], LAST, keys, jnp.int32(0)
        ).x0

    def loss_phi(p, b):
        at = dict(t=b["step"] / 999, noise=b["noise"], weight=1.0)
        return jnp.mean(
            bridge_net_loss(case.net(p), case.bridge, made(gen.params, b), b["x1"], **at)
        )

    def loss_gen(g, b):
        at = dict(t=b["step"] / 999, noise=b["noise"], weight=1.0, detach_xt=True)
        nets = (teacher, case.net(phi.params))
        return jnp.mean(generator_loss(*nets, case.bridge, made(g, b), b["x1"], **at))

    for k in range(2):
        for update in range(2):
            _, grads = gradients(loss_phi, phi.params, batch(), 2, same)
            phi = phi.update(grads, optimizer, jnp.int32(0), 0.99, warmup=False)
            after(phi.params, "traj_after_phi", 2 * k + update)
        _, grads = gradients(loss_gen, gen.params, batch(), 2, same)
        gen = gen.update(grads, optimizer, jnp.int32(0), 0.99, warmup=False)
        after(gen.params, "traj_after_gen", k)
    after(gen.ema, "traj_after_genema")


def test_two_iterations_with_ddbm():
    """RAdam; the mean of two microbatches, each at a call of its own."""
    optimizer = make_optimizer(
        optimizer_config(name="radam", learning_rate=float(get("vp_traj_lr")), b2=0.999), 10
    )
    case = Case("vp")
    phi, gen = (player("vp", name, optimizer) for name in ("phi", "gen"))
    teacher = case.net("teacher")
    times, later = jnp.asarray(student_grid(case.bridge, 2)), 0
    rows = []
    for row in range(12):
        call = int(get("vp_traj_call")[row])
        noise = get("vp_traj_roll_noise")[later] if call else None
        later += call
        xT = get("vp_traj_xT")[row // 2, 2 * (row % 2) : 2 * (row % 2) + 2]
        at = dict(
            t=training_times("uniform", case.bridge, get("vp_traj_u")[row]),
            noise=get("vp_traj_noise")[row],
        )
        rows.append((xT, call, get("vp_traj_z")[row], noise, at))

    def made(generator, walk, row):
        xT, call, z, noise, _ = row
        keys = replay(z, None if noise is None else noise[None], one_z=True)
        with jax.disable_jit():
            return roll_out_random(
                case.net(generator), case.bridge, xT, times, keys, jnp.int32(call),
                walk=case.net(walk), one_z=True,
            ).x0  # fmt: skip

    def loss_phi(p, row):
        xT, at = row[0], row[4]
        weight = case.scaling.weight(case.bridge, at["t"])
        x0 = made(gen.params, gen.params, row)
        return jnp.mean(bridge_net_loss(case.net(p), case.bridge, x0, xT, weight=weight, **at))

    def loss_gen(g, row):
        xT, at = row[0], row[4]
        weight = tilted(case.bridge, case.scaling.weight(case.bridge, at["t"]), 1.0, at["t"])
        x0 = made(g, gen.params, row)
        nets = (teacher, case.net(phi.params))
        return jnp.mean(generator_loss(*nets, case.bridge, x0, xT, weight=weight, **at))

    def mean_gradient(loss, p, first):
        values, grads = zip(
            *[jax.value_and_grad(loss)(p, rows[first + k]) for k in (0, 1)], strict=True
        )
        return values, jax.tree.map(lambda a, b: (a + b) / 2, *grads)

    row = 0
    for k in range(2):
        for update in range(2):
            values, grads = mean_gradient(loss_phi, phi.params, row)
            close(values[1] / 2, get("vp_traj_last_micro_loss")[row // 2])
            phi = phi.update(grads, optimizer, jnp.int32(0), 0.99, warmup=False)
            after(phi.params, "vp_traj_after_phi", 2 * k + update)
            row += 2
        values, grads = mean_gradient(loss_gen, gen.params, row)
        close(values[1] / 2, get("vp_traj_last_micro_loss")[row // 2])
        gen = gen.update(grads, optimizer, jnp.int32(0), 0.99, warmup=False)
        after(gen.params, "vp_traj_after_gen", k)
        row += 2
    after(gen.ema, "vp_traj_after_genema")
    after(phi.ema, "vp_traj_after_phiema")
