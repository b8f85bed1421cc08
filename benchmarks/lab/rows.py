"""The rows of the GPU benchmark, the most important first: what each measures, and how long it may take."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
      name: in the file of results and on the command line.
      what: in the table.
      worker: rows that follow each other with the same worker share a process: "main", "jax", "torch".
      work: "MODULE:FUNCTION", called as `function(toy=..., scratch=..., **settings) -> dict`.
      settings: of the function.
      expected: seconds, compiling included; with less time left the row is not begun.
      limit: seconds after which it is cut.
    """

    name: str
    what: str
    worker: str
    work: str
    settings: dict[str, Any]
    expected: float
    limit: float


def _jax(function: str, **settings: Any) -> tuple[str, str, dict]:
    return "jax", f"benchmarks.lab.jax_rows:{function}", settings


def _torch(function: str, **settings: Any) -> tuple[str, str, dict]:
    return "torch", f"benchmarks.lab.torch_rows:{function}", settings


_MAIN = ("main", "benchmarks.lab.main_job:main_job", {})
_8, _32 = {"images": 8}, {"images": 32}
_TEACHER = {"stage": "train", "problem": "adm256"}

# What PyTorch compiles stands last where it repeats a comparison that is there without it.
ROWS = [
    Row(*row)
    for row in (
        ("main_job", "main job, end to end, toy size", *_MAIN, 45, 150),
        ("products_jax", "matrix products, JAX", *_jax("products"), 15, 60),
        ("forward_8_jax", "ADM-256 forward, JAX", *_jax("forward", **_8), 25, 100),
        ("forward_32_jax", "ADM-256 forward, JAX", *_jax("forward", **_32), 20, 100),
        ("products_torch", "matrix products, PyTorch", *_torch("products"), 15, 60),
        ("forward_8_torch", "ADM-256 forward, PyTorch eager", *_torch("forward", **_8), 10, 60),
        ("forward_32_torch", "ADM-256 forward, PyTorch eager", *_torch("forward", **_32), 10, 60),
        (
            "forward_8_torch_compiled", "ADM-256 forward, torch.compile",
            *_torch("forward", **_8, compiled=True), 45, 150,
        ),
        ("teacher_torch", "ADM-256 teacher step, PyTorch eager", *_torch("teacher", **_8), 15, 90),
        ("teacher_jax", "ADM-256 teacher step, JAX", *_jax("step", **_TEACHER, **_8), 60, 200),
        (
            "teacher_remat_jax", "ADM-256 teacher step, remat, JAX",
            *_jax("step", **_TEACHER, **_8, remat=True), 50, 180,
        ),
        (
            "ibmd_jax", "ADM-256 IBMD step, remat, JAX",
            *_jax("step", stage="distill", problem="adm256", **_8, remat=True), 70, 220,
        ),
        (
            "unet64_teacher_jax", "64-pixel UNet teacher step, JAX",
            *_jax("step", stage="train", problem="unet64", images=256), 30, 100,
        ),
        (
            "unet64_ibmd_jax", "64-pixel UNet IBMD step, JAX",
            *_jax("step", stage="distill", problem="unet64", images=128), 40, 120,
        ),
        (
            "forward_32_torch_compiled", "ADM-256 forward, torch.compile",
            *_torch("forward", **_32, compiled=True), 45, 150,
        ),
        (
            "teacher_torch_compiled", "ADM-256 teacher step, torch.compile",
            *_torch("teacher", **_8, compiled=True), 70, 220,
        ),
    )
]  # fmt: skip
