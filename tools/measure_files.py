"""How well what a file has lost is restored: `python -m tools.measure_files PHOTOGRAPHS OUT.json`.

    python -m tools.measure_files HELD_OUT results/files_jpeg.json --tasks=jpeg --tiles=320
    python -m tools.measure_files HELD_OUT OUT.json --models=runs/photos_TASK,photos:TASK@10
    python -m tools.measure_files HELD_OUT OUT.json --tiles=0     # whole pictures instead of tiles

PHOTOGRAPHS is a folder that no model has learned from. Whole photographs are written as JPEG by Pillow and
read again, or get Gaussian noise and are rounded to 8 bits; of them native tiles of 64 pixels are cut, the
same as `tools.measure_holes` takes. For super-resolution the tiles themselves are shrunk (Pillow, bicubic).
Each is restored by each model (the word TASK in its name is jpeg, denoise or superres; NAME@CALLS: with so
many network calls) and, but for super-resolution, by the best of scikit-image's total variation, bilateral,
non-local means and wavelet filters, where it is installed: best is what has the highest mean PSNR on `--tune`
further tiles, which are not reported (of whole pictures: tiles of theirs, in its favour). A row says PSNR of
all values (`pooled`), how much that is above the file as it is (`gain`, with a 95% interval by the jackknife
over photographs), the mean over photographs (`by_picture`, and `picture_gain`), how much that is above the
classical row (`over_classical`); SSIM; FD-Lite0 of the tiles; seconds an image. Rows are written as they are
measured.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jax_bridges.data.crops import GridCrops
from jax_bridges.measured import measured_here
from jax_bridges.metrics import lite0_outputs
from tools.classical import best_classical
from tools.measure_holes import (
    TILE,
    Images,
    Rows,
    by_model,
    by_picture,
    errors_of,
    row,
    source_of,
    timed,
)

Answer = Callable[[Images], Images]


class Condition(NamedTuple):
    """What becomes of photographs.

    Attributes:
      name: for people.
      lose: what a photograph `[H, W, 3]` uint8 is in the file, of the same size; is told its number.
      factor: how many times smaller the file then is.
    """

    name: str
    lose: Callable[[np.ndarray, int], np.ndarray] = lambda image, number: image
    factor: int = 1


def as_jpeg(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """What a JPEG file of Pillow holds."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(file) as written:
        return np.asarray(written.convert("RGB"))


def noisy(image: np.ndarray, number: int, std: float) -> np.ndarray:
    """With Gaussian noise of a standard deviation in levels, in 8 bits."""
    noise = np.random.default_rng([11, number]).standard_normal(image.shape, np.float32)
    return np.rint(image + std * noise).clip(0, 255).astype(np.uint8)


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    """Bicubic; shrunk with antialiasing."""
    height, width = (round(n * factor) for n in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _jpeg(quality: int, subsampling: str) -> Condition:
    name = f"quality {quality}, {subsampling}"
    return Condition(name, lambda image, _: as_jpeg(image, quality, subsampling))


def _noise(std: int) -> Condition:
    return Condition(f"noise of {std}", lambda image, number: noisy(image, number, std))


TASKS = {
    # The last two have lost less than photos:jpeg has seen.
    "jpeg": [_jpeg(q, colours) for q in (10, 20, 40, 75, 90) for colours in ("4:2:0", "4:4:4")],
    "denoise": [_noise(std) for std in (15, 25, 50)],
    "superres": [Condition(f"{factor} times", factor=factor) for factor in (2, 4)],
}
CLASSICAL = "scikit-image"
AS_IT_IS = {"jpeg": "the file", "denoise": "the file", "superres": "bicubic"}


class _Lost:
    """Photographs after a condition, in place of `data.files.FileSource`."""

    def __init__(self, pictures: Any, condition: Condition):
        self.name, self.classes, self._pictures = pictures.name, pictures.classes, pictures
        self._lose = condition.lose
        self.sizes = pictures.sizes

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return {"x0": self._lose(np.asarray(self._pictures[number]["x0"]), number)}


def cut(pictures: Any, condition: Condition, tiles: int) -> tuple[Images, np.ndarray]:
    """Native tiles, or whole pictures where `tiles` is 0, after a condition; and each one's photograph.

    Whole pictures lose what is left over of the factors' largest multiple.
    """
    lost: Any = _Lost(pictures, condition)
    if tiles:
        grid = GridCrops(lost, (TILE, TILE), cache_mb=1024)
        count = min(tiles, len(grid))
        return [np.array(grid[i]["x0"]) for i in range(count)], grid.blocks[:count]
    sizes = [[n // 4 * 4 for n in size] for size in pictures.sizes()]
    return [lost[i]["x0"][:h, :w] for i, (h, w) in enumerate(sizes)], np.arange(len(sizes))


def cut_both(
    pictures: Any, condition: Condition, tiles: int, tune: int
) -> tuple[Images, np.ndarray, Images]:
    """What `cut` gives, and `tune` tiles that the classical row is chosen by: others, or the pictures' own."""
    images, owner = cut(pictures, condition, tiles and tiles + tune)
    if tiles and tune:
        return images[:-tune], owner[:-tune], images[-tune:]
    return images, owner, cut(pictures, condition, tune)[0] if tune else []


def above(key: str, errors: np.ndarray, base: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """The gain of `by_picture` over other answers, with its interval, under names that begin with `key`."""
    gain = by_picture(errors, owner).minus(by_picture(base, owner))
    low, high = gain.interval()
    return {key: gain.value, f"{key}_low": low, f"{key}_high": high}


@functools.cache
def model(name: str, factor: int) -> Answer:
    """A model's answers, as `restore` gives them, which enlarges `factor` times."""
    fill = by_model(name, factor if factor > 1 else None)
    return lambda images: fill(images, [None] * len(images))


def enlarged(images: Images, factor: int) -> Images:
    """As they are shown: bicubic."""
    return [resized(image, factor) for image in images] if factor > 1 else images


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints and writes each row."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.measure_files", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("photographs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default="photos:TASK", help="NAME@CALLS, with commas")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--tiles", type=int, default=320, help="0: whole pictures")
    parser.add_argument(
        "--tune", type=int, default=64, help="tiles that the classical row is chosen by"
    )
    parser.add_argument("--no-fd", action="store_true", help="FD-Lite0 takes most of the time")
    parser.add_argument("--no-classical", action="store_true", help="nothing of scikit-image")
    flags = parser.parse_args(arguments)
    chosen = flags.tasks.split(",")
    if unknown := [task for task in chosen if task not in TASKS]:
        parser.error(f"--tasks={unknown[0]}: there are {', '.join(TASKS)}")
    classical = not flags.no_classical and importlib.util.find_spec("skimage") is not None
    if not classical and not flags.no_classical:
        print("scikit-image is not installed: its rows are left out")
    about = {"measured": measured_here("tools.measure_files")}
    pictures = source_of(flags.photographs).pictures
    tune = flags.tune if classical else 0
    true, owner, tuning = cut_both(pictures, Condition(""), flags.tiles, tune)
    everywhere = [np.ones(image.shape[:2], bool) for image in true]
    of_sets = flags.tiles and not flags.no_fd
    reference = lite0_outputs(np.stack(true)).features if of_sets else None
    about |= {"images": len(true), "photographs": len(np.unique(owner))}
    rows = Rows(flags.out, about, ("task", "condition", "method"))
    for task, condition in ((name, each) for name in chosen for each in TASKS[name]):
        factor = condition.factor
        files, _, lost = cut_both(pictures, condition, flags.tiles, tune)
        methods: dict[str, Answer] = {AS_IT_IS[task]: functools.partial(enlarged, factor=factor)}
        if factor > 1:
            files = [resized(image, 1 / factor) for image in files]
        elif tune:
            name, by = best_classical(lost, tuning)
            methods[f"{CLASSICAL} {name}"] = by
        for name in filter(None, flags.models.replace("TASK", task).split(",")):
            methods[name] = model(name, factor)
        base, rival = np.empty(0), None
        for name, answer in methods.items():
            answers, spent = timed(answer, files)
            errors = errors_of(true, answers, everywhere)
            base = errors if name == AS_IT_IS[task] else base
            said = row(true, answers, everywhere, owner, reference, base)
            said |= above("picture_gain", errors, base, owner)
            if rival is not None:
                said |= above("over_classical", errors, rival, owner)
            rival = errors if name.startswith(CLASSICAL) else rival
            which = {"task": task, "condition": condition.name, "method": name}
            rows.add(which | said | {"seconds": spent})
    print(rows.table())


if __name__ == "__main__":
    main()
