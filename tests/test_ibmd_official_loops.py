"""IBMD's whole loops against those of its official code, in float64 (golden/ibmd.npz)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.distillation import (
    bridge_net_loss,
    generator_loss,
    roll_out_random,
)
from jax_bridges.times import student_grid, training_times
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.state import Player
from jax_bridges.training.steps import gradients, tilted
from tests.support.ibmd_official import (
    DATA,
    LAST,
    SR,
    Case,
    close,
    get,
    params,
    replay,
)
from tests.support.toy import optimizer_config, same

pytestmark = pytest.mark.usefixtures("float64")


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
