"""Rows that PyTorch measures: the same on the same weights, eager and by `torch.compile`.

Of the two layouts in memory the faster one counts. JAX computes batches and weights on the CPU here.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jax_bridges.benchmark import median_seconds
from jax_bridges.benchmark_weights import random_inputs, random_params
from jax_bridges.import_torch.names import flax_to_torch
from jax_bridges.planning.abstract import abstract_params, abstract_run, call_flops, step_flops
from jax_bridges.planning.memory import GIB
from jax_bridges.stages.run import Run
from jax_bridges.training.parallel import Parallel
from tools.compare_torch import relative_difference

from . import LeftOut
from .jax_rows import output_path
from .problems import DTYPE, make_problem
from .teacher_batch import first_batch


def products(toy: bool, scratch: str) -> dict:
    """TFLOP/s of large square matrix products, as `benchmark.matmul_tflops` has JAX make them."""
    del scratch
    torch, device = _torch(toy)
    n, chain = (1024, 4) if device == "cpu" else (8192, 16)
    a = torch.randn(n, n, device=device, dtype=getattr(torch, DTYPE)) / n**0.5

    def product():
        x = a
        for _ in range(chain):
            x = x @ a
        _wait(device)

    return {"dtype": DTYPE, "tflops": 2 * n**3 * chain / median_seconds(product, 5) / 1e12}


def forward(toy: bool, scratch: str, images: int, compiled: bool = False) -> dict:
    """One call of ADM-256, and how far its output is from what JAX's row has kept."""
    _, device = _torch(toy)
    from tools.torch_unet import torch_forward

    run = _open(toy, images)
    net, system = run.system.teacher, run.system
    inputs = random_inputs(net, system.size, system.channels, run.config.evaluate.batch)
    make = functools.partial(torch_forward, net, _weights(toy), inputs, device)
    row, call, _ = _fastest(lambda **how: make(bfloat16=True, **how), device, compiled, repeats=10)
    output = call().cpu().numpy()
    del call
    row["remarks"] += _compare(output, make, output_path(scratch, images), row)
    return _finish(run, row, len(output), len(output) * call_flops(system))


def teacher(toy: bool, scratch: str, images: int, compiled: bool = False) -> dict:
    """One step of ADM-256's teacher: loss, gradient, AdamW and moving average."""
    del scratch
    _, device = _torch(toy)
    from .torch_step import make_step

    run = _open(toy, images)
    make = functools.partial(make_step, run, _weights(toy), first_batch(run), device, bfloat16=True)
    row, _, first = _fastest(make, device, compiled, repeats=5)
    flops = step_flops(run.config, "train", call_flops(run.system))
    found = _finish(run, row, run.config.train.batch, flops)
    return found | {name: float(value) for name, value in first.items()}


def _fastest(
    make: Callable, device: str, compiled: bool, repeats: int
) -> tuple[dict, Callable, Any]:
    """Times `make(layout=...)()` in both layouts, then in the faster one, compiled if asked for.

    Returns:
      What is common to all rows, the call whose time it is, and its first result.
    """
    from tools.torch_unet import LAYOUTS

    eager = {}
    for layout in LAYOUTS:
        _forget(device)
        eager[layout] = median_seconds(make(layout=layout), 3)
    layout = min(eager, key=eager.__getitem__)
    _forget(device)
    call = make(layout=layout, compiled=compiled)
    start = time.perf_counter()
    first = call()
    row = {"compile_seconds": time.perf_counter() - start, "seconds": median_seconds(call, repeats)}
    shown = ", ".join(f"{name} {1e3 * value:.4g} ms" for name, value in eager.items())
    row |= {"layout": layout, "eager_seconds": eager, "memory_gib": _peak_gib(device)}
    row |= {"memory_by": None if device == "cpu" else "allocator"}
    row["remarks"] = [f"{layout} (eager: {shown})"]
    return row, call, first


def _compare(output: np.ndarray, make: Callable, path: Path, row: dict) -> list[str]:
    """Puts the output's difference from JAX's, and what is due to bfloat16, into the row; remarks."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    exact = make()().cpu().numpy()
    row["rounding"] = relative_difference(exact, output)
    remarks = [f"by bfloat16 alone {row['rounding']:.2g}"]
    if not path.exists():
        return [*remarks, "not compared: JAX has left no output"]
    ours = np.load(path)
    if ours.shape != output.shape:
        return [*remarks, "not compared: JAX has left an output of another size"]
    row["difference"] = relative_difference(ours, output)
    row["difference_from_float32"] = relative_difference(ours, exact)
    return remarks


def _finish(run: Run, row: dict, images: int, flops: float) -> dict:
    rates = {"images_per_second": images / row["seconds"], "tflops": flops / row["seconds"] / 1e12}
    return {**row, "images": images, **rates}


def _torch(toy: bool):
    """PyTorch, told to be fast, and the device."""
    if importlib.util.find_spec("torch") is None:
        raise LeftOut("PyTorch is not installed: pip install 'jax_bridges[bench]'.")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not toy:
        raise LeftOut("PyTorch sees no GPU: install its CUDA build.")
    if device == "cpu":
        torch.set_num_threads(1)  # toy networks are too small for more
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")  # TF32, as JAX has it by default
    torch.backends.cudnn.allow_tf32 = True
    return torch, device


def _open(toy: bool, images: int) -> Run:
    return abstract_run(make_problem("adm256", toy, images), Parallel.create())


@functools.lru_cache(maxsize=1)
def _weights(toy: bool) -> dict[str, np.ndarray]:
    """The state dict of the weights that JAX's rows have."""
    run = _open(toy, 1)
    settings = {k: v for k, v in run.config.network.items() if k not in ("name", "dtype")}
    return flax_to_torch(random_params(abstract_params(run.system, "teacher")), settings)


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _forget(device: str) -> None:
    """Gives memory back and begins to count its peak anew."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: str) -> float | None:
    import torch

    return torch.cuda.max_memory_allocated() / GIB if device == "cuda" else None
