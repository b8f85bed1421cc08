"""What the tests against IBMD's official numbers share: golden/ibmd.npz, its toy network, its bridges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import make_bridge
from jax_bridges.corruptions import keep_known
from jax_bridges.distillation import roll_out_random
from jax_bridges.preconditioning import make_preconditioning, precondition
from jax_bridges.samplers.few_step import DRAWS
from tests.support import GOLDEN

DATA = np.load(GOLDEN / "ibmd.npz")
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


SR = Case("sr")
LAST = jnp.ones(1)


def answered(case, gen, tag, mask=None):
    """x_0 by one call at T, of saved z."""
    xT, z = get(f"{tag}_x1"), get(f"{tag}_z")
    generate = case.net(gen, mask)
    return roll_out_random(generate, case.bridge, xT, LAST, replay(z[None]), jnp.int32(0)).x0
