"""Peak memory of an evaluation: `python -m tools.evaluation_memory IMAGES [--size=64]`.

Generated images, the corrupted images themselves as the one row, PSNR, SSIM and FD-Lite0, in a
process of its own, so that two numbers of images can be compared.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from jax_bridges.config import base_config
from jax_bridges.stages.evaluate import evaluate
from jax_bridges.stages.jobs import source_job
from jax_bridges.stages.log import NoLog
from jax_bridges.stages.run import Run, StopSignal
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System


class Generated:
    """Smooth random images, made when they are asked for."""

    name = "generated"

    def __init__(self, images: int, size: int):
        self._images, self._size = images, size

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        coarse = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return {"x0": coarse.repeat(self._size // 8, 0).repeat(self._size // 8, 1)}


def main() -> None:
    """Prints the peak of the resident memory, in MiB, and the seconds."""
    parser = argparse.ArgumentParser(prog="python -m tools.evaluation_memory", description=__doc__)
    parser.add_argument("images", type=int)
    parser.add_argument("--size", type=int, default=64, help="pixels a side, a multiple of 8")
    flags = parser.parse_args()
    config = base_config()
    config.data.size, config.evaluate.images = flags.size, flags.images
    data = Generated(flags.images, flags.size)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            config, Path(folder), System.create(config), Parallel.create("auto", 1), data, data,
            NoLog(), StopSignal(),
        )  # fmt: skip
        begin = time.perf_counter()
        evaluate(run, [source_job(run)], "")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{flags.images} images: peak {peak:.0f} MiB, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
