"""Native crops a second, out of a folder of photographs: `python -m tools.crop_speed FOLDER [--size=64]`."""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

from jax_bridges.data import Loader, make_source

STEPS, BATCH = 100, (4, 256)


def main(arguments: list[str] | None = None) -> None:
    """Prints what the first crops took, with which pictures are decoded, and the speed from then on."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="with train/ and test/, or data.test_fraction splits it")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--cache-mb", type=int, default=2048)
    given = parser.parse_args(arguments)
    crops = STEPS * BATCH[0] * BATCH[1]
    for scale in (1.0, 0.5):
        config = SimpleNamespace(
            name="folder", path=given.folder, size=given.size, crop="random", crops=256,
            crop_scale=scale, cache_mb=given.cache_mb,
        )  # fmt: skip
        with Loader(make_source(config, "train"), BATCH).iterate() as batches:
            times = [(time.perf_counter(), time.process_time())]
            for _ in range(2):
                for _ in range(STEPS):
                    next(batches)
                times.append((time.perf_counter(), time.process_time()))
        (wall, cpu), (wall_2, cpu_2) = (
            (b[0] - a[0], b[1] - a[1]) for a, b in zip(times, times[1:], strict=False)
        )
        print(
            f"scale {scale:g}: first {crops} crops {wall:.1f} s ({cpu:.1f} s of CPU), then "
            f"{crops / wall_2:,.0f} a second, {cpu_2 / crops * 1e6:.1f} us of CPU each"
        )


if __name__ == "__main__":
    main()
