"""How fast a call and a gradient of an ADM are beside the same network in PyTorch, on this CPU.

    python -m tools.compare_torch --rounds=9                  # JAX and PyTorch of this Python
    python -m tools.compare_torch --jax-python=../other/bin/python --jax-tree=../before

Each framework has a process of its own, all on the same weights and images, and they take turns: what
else the machine does meets them alike. Printed are medians, and how fast JAX is relative to PyTorch in
each layout of memory (above 1: faster), the median over the rounds of the ratio in a round. On a machine
that is busy otherwise, --clock=cpu counts the seconds that all threads of a process have computed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
ADMS = {
    "8M": {"num_res_blocks": 1, "channel_mult": (1, 2, 3), "attention_ds": (4,)},
    "25M": {"num_res_blocks": 2, "channel_mult": (1, 2, 3, 4), "attention_ds": (4, 8)},
}
ADMS = {name: {"model_channels": 64, **settings} for name, settings in ADMS.items()}
WORK = ("forward", "gradient")  # of the mean square of the output, by the parameters
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest deviation of `theirs` from `ours`, relative to the largest value of `theirs`.

    Raises:
      ValueError: all values of `theirs` are 0, as of a network whose last layer is untrained: then
        agreement would say nothing.
    """
    largest = np.abs(theirs).max()
    if largest == 0:
        raise ValueError(
            "The network's output is 0 everywhere, which compares nothing: take trained or random "
            "weights (without teacher.checkpoint they are random)."
        )
    return float(np.abs(ours - theirs).max() / largest)


# Threads that wait for others would count as computing.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


# -- in a process of its own ---------------------------------------------------------------------
def jax_calls(adm: str, given: Path) -> dict[str, Callable[[], np.ndarray]]:
    """What each of WORK computes: the output `[B, H, W, C]`, and the gradient of one bias of it."""
    import jax

    from jax_bridges.models import make_network

    net, params = make_network("adm", **ADMS[adm]), {}
    for name, leaf in np.load(given / "flax.npz").items():
        *path, last = name.split("/")
        inner = params
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = jax.numpy.asarray(leaf)
    x, t = (jax.numpy.asarray(a) for a in np.load(given / "inputs.npz").values())

    def apply(params, x, t):
        return net.apply({"params": params}, x, t)

    forward = jax.jit(apply)
    gradient = jax.jit(jax.grad(lambda *args: jax.numpy.square(apply(*args)).mean()))
    return {
        "forward": lambda: np.asarray(forward(params, x, t)),
        "gradient": lambda: np.asarray(
            jax.block_until_ready(gradient(params, x, t))["out_2"]["bias"]
        ),
    }


def torch_calls(adm: str, given: Path, layout: str) -> dict[str, Callable[[], np.ndarray]]:
    """As `jax_calls`."""
    import torch

    from jax_bridges.models import ADM
    from tools.torch_unet import torch_images, torch_network

    weights = dict(np.load(given / "torch.npz"))
    model = torch_network(ADM(**ADMS[adm]), weights, layout=layout).train()
    x, t = np.load(given / "inputs.npz").values()
    x, t = torch_images(x, layout=layout), torch.tensor(t)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return model(x, t).movedim(1, 3).numpy()

    def gradient() -> np.ndarray:
        model.zero_grad(set_to_none=True)
        model(x, t).square().mean().backward()
        return model.out[2].bias.grad.numpy()

    return {"forward": forward, "gradient": gradient}


def worker(framework: str, adm: str, folder: str) -> None:
    """Does what its standard input names, one of WORK a line; answers with the seconds of CLOCKS."""
    given = Path(folder)
    if framework == "jax":
        calls = jax_calls(adm, given)
    else:
        calls = torch_calls(adm, given, framework)
    for what, call in calls.items():
        call()
        np.save(given / f"{framework}_{what}.npy", call())
    print("ready", flush=True)
    for line in sys.stdin:
        begin = [clock() for clock in CLOCKS.values()]
        calls[line.strip()]()
        spent = [clock() - b for clock, b in zip(CLOCKS.values(), begin, strict=True)]
        print(*spent, flush=True)


# -- the comparison ------------------------------------------------------------------------------
def make_inputs(adm: str, folder: Path, batch: int, size: int) -> float:
    """Writes random weights in both layouts and a batch of noise; how many million parameters there are."""
    import jax

    from jax_bridges.benchmark_weights import random_params
    from jax_bridges.import_torch.names import abstract_params, flax_to_torch

    params = random_params(abstract_params(ADMS[adm]))
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named: dict[str, Any] = {"/".join(part.key for part in path): leaf for path, leaf in leaves}
    np.savez(folder / "flax.npz", **named)
    theirs: dict[str, Any] = flax_to_torch(params, ADMS[adm])
    np.savez(folder / "torch.npz", **theirs)
    x = np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)
    np.savez(folder / "inputs.npz", x=x, t=np.linspace(1, 900, batch, dtype=np.float32))
    return sum(leaf.size for leaf in named.values()) / 1e6


def compare(adm: str, options: argparse.Namespace) -> None:
    """Prints the table of one network."""
    with tempfile.TemporaryDirectory() as folder:
        millions = make_inputs(adm, Path(folder), options.batch, options.size)
        workers = {}
        for name in ("jax", "NCHW", "channels_last"):
            ours = name == "jax"
            python = options.jax_python if ours else options.torch_python
            command = [python, __file__, "--worker", name, adm, folder]
            paths = os.pathsep.join(map(str, (options.jax_tree if ours else ROOT, ROOT)))
            workers[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", **THREADS},
            )  # fmt: skip
            if workers[name].stdout.readline() != "ready\n":
                raise RuntimeError(f"{name} has not begun: see above")

        def ask(name: str, what: str) -> float:
            print(what, file=workers[name].stdin, flush=True)
            spent = workers[name].stdout.readline().split()
            return float(spent[list(CLOCKS).index(options.clock)])

        print(f"{adm}: {millions:.1f}M parameters, {options.batch} images of {options.size} pixels")
        for what in WORK:
            rounds = [{name: ask(name, what) for name in workers} for _ in range(options.rounds)]
            text = f"  {what:9s}"
            for name in workers:
                text += f" {name} {1e3 * statistics.median(r[name] for r in rounds):.0f} ms,"
            for name in ("NCHW", "channels_last"):
                ratio = statistics.median(r[name] / r["jax"] for r in rounds)
                text += f" {ratio:.2f} of {name},"
            ours, theirs = (np.load(f"{folder}/{n}_{what}.npy") for n in ("jax", "NCHW"))
            print(f"{text} difference {relative_difference(ours, theirs):.1g}", flush=True)
        for process in workers.values():
            process.stdin.close()
            process.wait()


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] == ["--worker"]:
        return worker(*sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_torch", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--adm", default=",".join(ADMS), help="networks, with commas (%(default)s)")
    add("--batch", type=int, default=4, help="images (%(default)s)")
    add("--size", type=int, default=64, help="pixels a side (%(default)s)")
    add("--rounds", type=int, default=7, help="turns of each (%(default)s)")
    add("--clock", choices=CLOCKS, default="wall", help="what is counted (%(default)s)")
    add("--jax-python", default=sys.executable, help="the Python that has JAX (this one)")
    add("--jax-tree", default=ROOT, help="the folder whose jax_bridges is measured (this one)")
    add("--torch-python", default=sys.executable, help="the Python that has PyTorch (this one)")
    options = parser.parse_args()
    for adm in options.adm.split(","):
        compare(adm, options)


if __name__ == "__main__":
    main()
