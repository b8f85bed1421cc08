"""What a student's bridge net has not noticed of its answers: `python -m tools.bridge_net_lag RUN`.

    python -m tools.bridge_net_lag runs/inpaint [--images=256] [--split=validation]

IBMD pulls the student by `x0_phi - x0*` at points x_t of its own answers x_0. Means over images, pixels (of
the hole) and times, in hundredths of the half of [-1, 1]; red, green, blue:

- off: `x_0 - truth`, how far the answers of a call are off in colour;
- teacher's, bridge net's: what each would add to x_0, `x0* - x_0` and `x0_phi - x_0`. A bridge net that knows
  the answers has 0. Where it has what the teacher has, it has noticed nothing, and nothing pulls.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges import load
from jax_bridges.command import Parser, run_command
from jax_bridges.keys import example_keys
from jax_bridges.measured import markdown_table
from jax_bridges.players import open_player
from jax_bridges.samplers import sample_few_step
from jax_bridges.trained import Trained
from jax_bridges.training.methods.ibmd import IBMD
from jax_bridges.training.methods.ibmd_answers import mark, moves
from jax_bridges.training.system import Pair
from jax_bridges.typing import Array, PyTree

TIMES = (0.3, 0.5, 0.7, 0.9, 0.97)  # of T, at which both networks are asked


def read_bridge_net(run: Path, student: Trained) -> PyTree:
    """Its averaged weights; ValueError where the student was not taught by one."""
    if student.config.distill.method != "ibmd":
        raise ValueError(
            f"{run} has a student by {student.config.distill.method}: only ibmd has a bridge net."
        )
    init = student.system.init
    shapes = jax.eval_shape(lambda key: init(key, "bridge_net"), jax.random.key(0))
    checkpoints, _ = open_player(run, "student")
    with checkpoints:
        return checkpoints.restore_ema({"bridge_net": shapes})["bridge_net"]


def lags(run: Path, images: int, split: str) -> list[dict[str, Any]]:
    """A row a call: its number, and the means `off`, `teacher`, `bridge_net`, float `[3]` each."""
    if images < 1:
        raise ValueError(f"--images={images}: it must be at least 1.")
    student = load(run, "student")
    own, system = student.config.distill, student.system
    teacher = load(student.config.teacher.checkpoint or run, "teacher")
    phi, bridge = read_bridge_net(run, student), system.bridge
    x0, xT, mask = student.examples(images, split)
    counts = jnp.ones_like(x0[..., :1]) if mask is None else mask
    keys = example_keys(jax.random.key(0), jnp.arange(len(x0)))
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    times = IBMD.grid(bridge, own.student_steps, own)

    def mean(x: Array) -> Array:
        return jnp.sum(counts * x, axis=(0, 1, 2)) / jnp.sum(counts)

    def both(made: Array, pair: Pair, call: Array, t: Array) -> tuple[Array, Array]:
        """What teacher and bridge net would add to a call's answers, `[3]` each."""
        told = mark(own, jnp.broadcast_to(call, len(made)))
        t = jnp.broadcast_to(t, len(made))
        xt = bridge.sample(made, pair.xT, t, noise)
        by_teacher = teacher.system.denoiser(teacher.params, pair)
        by_net = system.denoiser(phi, pair, "bridge_net", mark=told)
        return mean(by_teacher(xt, t, pair.xT) - made), mean(by_net(xt, t, pair.xT) - made)

    def answers(pair: Pair) -> Array:
        """Of each call, `[N, B, H, W, C]`."""
        generate = system.generator(student.params, pair)
        inputs = generate, bridge, pair.xT, times, pair.keys
        return sample_few_step(*inputs, length=None, return_path=True, **moves(own))[1]

    arrays, rows = (x0, xT, mask, keys), []
    compiled = jax.jit(lambda *arrays: answers(Pair(*arrays)))
    ask = jax.jit(lambda made, call, t, *arrays: both(made, Pair(*arrays), call, t))
    for call, made in enumerate(compiled(*arrays)):
        left = np.mean([ask(made, call, np.float32(t * bridge.T), *arrays) for t in TIMES], axis=0)
        rows.append({"call": call + 1, "off": np.asarray(mean(made - x0))})
        rows[-1] |= dict(zip(("teacher", "bridge_net"), left, strict=True))
    return rows


def main(args: argparse.Namespace) -> None:
    """Prints the table."""

    def told(values: np.ndarray) -> str:
        return ", ".join(f"{100 * value:+.1f}" for value in values)

    rows = [
        [row["call"], *(told(row[name]) for name in ("off", "teacher", "bridge_net"))]
        for row in lags(args.run, args.images, args.split)
    ]
    print(markdown_table(["call", "off", "teacher's", "bridge net's"], rows), flush=True)


if __name__ == "__main__":
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the work directory of a run with a student by ibmd")
    parser.add_argument("--images", type=int, default=256, help="the first so many of the split")
    parser.add_argument("--split", default="validation", choices=("validation", "test", "train"))
    raise SystemExit(run_command(lambda: main(parser.parse_args())))
