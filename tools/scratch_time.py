"""What four answers for a scratch cost: `python -m tools.scratch_time MODEL PICTURE [--megapixels=12]`.

The picture is enlarged to so many pixels, and a scratch as wide as a stroke on the page, across a quarter
of it, is filled four times, in memory: no file is read or written in the time that is measured. A model
that fills no holes restores the whole picture once, to one of so many pixels.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from PIL import Image, ImageDraw

from jax_bridges.restoring.files import Task
from jax_bridges.restoring.pictures import Picture
from jax_bridges.restoring.restorer import Restorer


def main() -> None:
    """Prints CPU seconds of all threads, seconds, tiles, and the peak of the resident memory."""
    parser = argparse.ArgumentParser(prog="python -m tools.scratch_time", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("picture")
    parser.add_argument("--megapixels", type=float, default=12.0)
    flags = parser.parse_args()
    restorer = Restorer(flags.model)
    restorer.warm_up()
    with Image.open(flags.picture) as image:
        scale = (flags.megapixels * 1e6 / (image.width * image.height)) ** 0.5 / restorer.enlarge
        large = image.convert("RGB").resize(
            (round(image.width * scale), round(image.height * scale))
        )
    width, height = large.size
    mask = Image.new("L", large.size)
    line = [(0.3 * width, 0.3 * height), (0.55 * width, 0.45 * height)]
    ImageDraw.Draw(mask).line(line, fill=255, width=round(width / 143))
    picture, tiles = Picture(np.asarray(large)), []
    fills = restorer.model.masks != "none"
    hole = np.asarray(mask) > 0 if fills else None
    begin, used = time.perf_counter(), time.process_time()
    answers = restorer.many(
        [Task(picture, hole, sample=i) for i in range(4 if fills else 1)], progress=tiles.append
    )
    for _ in answers:
        pass
    used, spent = time.process_time() - used, time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{width}x{height}: {used:.1f} CPU seconds, {spent:.1f} s, {sum(tiles)} tiles, "
        f"peak {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
