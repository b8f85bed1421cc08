"""How x_0 of an update is made: which call, from what it starts, and by whose parameters (IBMD app. B)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_bridges.corruptions import keep_known
from jax_bridges.distillation import Answer, roll_out_chain, roll_out_random, roll_out_renoised
from jax_bridges.keys import ONLY, CallDraw, Stream, fold, normal, randint, uniform
from jax_bridges.samplers import sample_few_step
from jax_bridges.times import student_grid
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, Generator


class Rolling(NamedTuple):
    """What the roll-outs are made of.

    generate, walk: the trained student, and the one whose calls lead to it; times: `[N]`; choice: keys of
    the call, of each example or, `for_all`, one; first_call: as the settings; how: see `moves`.
    """

    system: System
    pair: Pair
    generate: Generator
    walk: Generator
    times: Array
    choice: Array
    for_all: bool
    first_call: float
    how: dict[str, Any]

    @property
    def student(self) -> Array:
        """Keys of the student's calls."""
        return fold(self.pair.keys, Stream.STUDENT)

    def call(self) -> Array:
        """The trained call, 0 .. N - 1: `[B]`, or a scalar for all."""
        steps = len(self.times)
        later = randint(self.choice, CallDraw.LATER, max(steps - 1, 1)) + 1
        first = uniform(self.choice, CallDraw.IS_FIRST) < self.first_call
        call = jnp.where(first | (steps == 1), 0, later)
        return call[0] if self.for_all else call


def _by_one_of_them(rolling: Rolling, call: Array) -> tuple[Answer, Array]:
    r = rolling
    answer = roll_out_random(
        r.generate, r.system.bridge, r.pair.xT, r.times, r.student, call, walk=r.walk, **r.how
    )
    return answer, call


def _random(rolling: Rolling) -> tuple[Answer, Array]:
    return _by_one_of_them(rolling, rolling.call())


def _last(rolling: Rolling) -> tuple[Answer, Array]:
    return _by_one_of_them(rolling, jnp.full(rolling.pair.keys.shape, len(rolling.times) - 1))


def _chain(rolling: Rolling) -> tuple[Answer, Array]:
    r = rolling
    answer = roll_out_chain(r.generate, r.system.bridge, r.pair.xT, r.times, r.student, **r.how)
    return answer, jnp.full(r.pair.keys.shape, len(r.times) - 1)


def _renoised(rolling: Rolling) -> tuple[Answer, Array]:
    r, pair, call = rolling, rolling.pair, rolling.call()
    # The chain has noise of its own, in the hole too: its x_0 must say nothing about the trained call's.
    xT = pair.xT
    if r.system.corruption.fills == "noise" and pair.mask is not None:
        xT = keep_known(normal(fold(pair.keys, Stream.REDRAW), ONLY, xT), xT, pair.mask)

    def chain() -> Array:
        keys = fold(pair.keys, Stream.CHAIN)
        return sample_few_step(r.walk, r.system.bridge, xT, r.times, keys, **r.how)

    # The first call sees nothing of it.
    whole = jax.lax.cond(call > 0, chain, lambda: xT) if r.for_all else chain()
    noise = normal(fold(pair.keys, Stream.RENOISE), ONLY, xT)
    answer = roll_out_renoised(
        r.generate, r.system.bridge, pair.xT, r.times, r.student, call, whole, noise,
        one_z=r.how["one_z"],
    )  # fmt: skip
    return answer, call


# The answer, and by which call: `[B]`, or a scalar for all.
ROLL_OUTS = {"random": _random, "renoised": _renoised, "chain": _last, "chain_through": _chain}


def drawn(settings) -> bool:
    """Whether the trained call is drawn: else it is always the last."""
    return settings.roll_out in ("random", "renoised")


def told_calls(settings) -> int:
    """Of how many of the student's calls the bridge net is told (1: it is told nothing).

    One bridge net for the answers of all calls would match only their mixture: a blurred first call
    would be made up for by an over-dispersed last one.
    """
    return settings.student_steps if settings.bridge_net_sees_call and drawn(settings) else 1


def moves(settings) -> dict[str, bool]:
    """How the student goes from call to call, as `sample_few_step` takes it; older runs do not say it."""
    return {
        "one_z": settings.get("z_per", "call") == "chain",
        "ancestral": settings.get("ancestral", False),
    }


def make_answer(
    system: System, settings, pair: Pair, shared: Array, generate: Generator, walk: Generator
) -> tuple[Answer, Array]:
    """The answer for a microbatch, and the calls `[B]` that made it.

    Args:
      settings: of the method (`distill_settings`).
      shared: `[1]`, the key of what the microbatch shares (`keys.shared_key`).
      generate, walk: see `Rolling`.
    """
    n = settings.student_steps
    times = jnp.asarray(student_grid(system.bridge, n, n, settings.first_time), pair.xT.dtype)
    for_all = settings.call_per == "microbatch"
    choice = fold(shared if for_all else pair.keys, Stream.CALL)
    rolling = Rolling(
        system, pair, generate, walk, times, choice, for_all, settings.first_call, moves(settings)
    )
    answer, call = ROLL_OUTS[settings.roll_out](rolling)
    if settings.get("clamp", False):  # older runs do not say it
        answer = answer._replace(x0=clamped(answer.x0))
    return answer, jnp.broadcast_to(call, pair.keys.shape)


def clamped(x0: Array) -> Array:
    """x_0 within [-1, 1]; its gradient is that of x_0 itself, so that what lies beyond is pulled back.

    A student begins as its teacher, whose answers may lie a little beyond. Of an x_t far outside of what it
    has seen a teacher believes what is there, or more, and so does the bridge net: nothing pulls x_0 back.
    """
    return x0 + jax.lax.stop_gradient(jnp.clip(x0, -1.0, 1.0) - x0)


def mark(settings, call: Array) -> Array | None:
    """What the bridge net is told of each image: one number a call, 1 where it was this one; or nothing.

    The first call has none.
    """
    told = told_calls(settings)
    return jax.nn.one_hot(call - 1, told - 1) if told > 1 else None
