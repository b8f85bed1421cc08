"""Rows that JAX measures: matrix products, network calls, and steps of training."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from jax_bridges.benchmark import matmul_tflops, time_forward, time_step
from jax_bridges.benchmark_weights import place_random
from jax_bridges.planning.abstract import abstract_run, call_flops
from jax_bridges.planning.memory import GIB
from jax_bridges.stages.distill import distill
from jax_bridges.stages.run import Run
from jax_bridges.stages.train import train
from jax_bridges.training.parallel import Parallel
from jax_bridges.validation import validate

from . import LeftOut
from .problems import DTYPE, make_problem


def products(toy: bool, scratch: str) -> dict:
    """TFLOP/s of large square matrix products: what shares refer to."""
    del scratch
    _need_gpu(toy)
    return {"dtype": DTYPE, "tflops": matmul_tflops(DTYPE)}


def forward(toy: bool, scratch: str, images: int) -> dict:
    """One call of ADM-256; its output is kept for PyTorch's rows."""
    run = open_run("adm256", toy, images)
    before = peak_bytes()
    row, output = time_forward(run, place_random(run, "teacher"), repeats=10)
    path = output_path(scratch, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, output)
    return finish(run, row, before)


def step(
    toy: bool, scratch: str, problem: str, stage: str, images: int, remat: bool = False
) -> dict:
    """One step of the stage "train" or "distill", with the loss and gradient's norm of the first."""
    del scratch
    run = open_run(problem, toy, images, remat)
    before = peak_bytes()
    if stage == "train":  # keeps no parameters but the state's, which are a copy
        row = time_step(run, train(run), place_random(run, "teacher"), repeats=5)
    else:
        params = place_random(run, "teacher")
        row = time_step(run, distill(run, params), params, repeats=3)
    return finish(run, row, before)


def open_run(problem: str, toy: bool, images: int, remat: bool = False) -> Run:
    """A run of a problem on one GPU; at toy size on whatever there is."""
    _need_gpu(toy)
    config = make_problem(problem, toy, images, remat)
    parallel = Parallel.create(devices=jax.devices()[:1])
    validate(config, parallel.devices)
    return abstract_run(config, parallel)


def finish(run: Run, row: dict, before: int | None) -> dict:
    """A row of the record from one of the benchmark.

    Args:
      before: `peak_bytes` before it was measured.
    """
    flops = row["calls"] * call_flops(run.system)
    peak = peak_bytes()
    # The allocator's peak is the process's: it is this row's if this row has raised it.
    if peak is not None and before is not None and peak > before:
        memory, by = peak, "allocator"
    else:
        memory, by = row.get("memory"), "compiler"
    return {
        "images": row["images"],
        "seconds": row["seconds"],
        "images_per_second": row["images"] / row["seconds"],
        "tflops": flops / row["seconds"] / 1e12,
        "compile_seconds": row["compile"],
        "memory_gib": None if memory is None else memory / GIB,
        "memory_by": None if memory is None else by,
        **{key: row[key] for key in ("loss", "gradient_norm") if key in row},
    }


def peak_bytes() -> int | None:
    """The most that the device has held since the process began, if it says so."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def output_path(scratch: str, images: int) -> Path:
    """Where JAX's output of a call on so many images is, for PyTorch's to be compared with."""
    return Path(scratch) / "outputs" / f"adm256_{images}.npy"


def _need_gpu(toy: bool) -> None:
    platform = jax.devices()[0].platform
    if not toy and platform != "gpu":
        raise LeftOut(
            f"JAX sees no GPU (its platform is {platform}): pip install 'jax_bridges[cuda]'."
        )
