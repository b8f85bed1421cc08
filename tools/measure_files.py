"""How well what a file has lost is restored: `python -m tools.measure_files PHOTOGRAPHS OUT.json`.

    python -m tools.measure_files HELD_OUT results/files_jpeg.json --tasks=jpeg
    python -m tools.measure_files HELD_OUT OUT.json --models=runs/photos_TASK,photos:TASK@10
    python -m tools.measure_files HELD_OUT OUT.json --side=0     # whole photographs
    python -m tools.measure_files UNSEEN OUT.json --tasks=jpeg --narrow=0.3,0  # how that is chosen

PHOTOGRAPHS is a folder that no model has learned from. Of each the middle `--side` x `--side` pixels become
a file: JPEG by Pillow, Gaussian noise in 8 bits, or shrunk (Pillow, bicubic, antialiased), some then as JPEG.
It is restored by each model (the word TASK in its name is jpeg, denoise or superres; NAME@CALLS: with so many
network calls), of a JPEG also from its pixels alone, as if they came as PNG, and by a classical method. Of
small files that is bicubic interpolation, changed so that it shrinks to the file; of others the best of
scikit-image's total variation, bilateral, non-local means and wavelet filters, where it is installed: best is
what has the highest mean PSNR on the middles of these very images, in its favour. A row says PSNR of all
values (`pooled`), how much that is above the file as it is (`gain`, with a 95% interval by the jackknife over
photographs), the mean over photographs (`by_picture`, and `picture_gain`), how much that is above the
classical row (`over_classical`); SSIM; FD-Lite0 of all tiles of 64 pixels; seconds a file. Rows are written
as they are measured.
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

from jax_bridges.measured import measured_here
from jax_bridges.metrics import fd_lite0, lite0_outputs
from jax_bridges.restoring import jpeg_steps
from jax_bridges.restoring.pictures import read_picture
from jax_bridges.restoring.shrunk import agree
from tools.classical import best_classical
from tools.measure_holes import (
    TILE,
    Images,
    Rows,
    by_model,
    by_picture,
    errors_of,
    read,
    row,
    timed,
)

Answer = Callable[[list[Any]], Images]
CHOSEN_BY = 128  # pixels a side of the middles that the classical row is chosen by


class Condition(NamedTuple):
    """What becomes of photographs.

    Attributes:
      name: for people.
      file: what a photograph `[H, W, 3]` uint8 is then, a file's bytes or pixels; is told its number.
      factor: how many times smaller that is.
      jpeg: it is one.
    """

    name: str
    file: Callable[[np.ndarray, int], Any]
    factor: int = 1
    jpeg: bool = False


def as_jpeg(image: np.ndarray, quality: int, subsampling: str) -> bytes:
    """A JPEG file by Pillow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def pixels(file: bytes | np.ndarray) -> np.ndarray:
    """What it shows, `[H, W, 3]` uint8."""
    return file if isinstance(file, np.ndarray) else read_picture(file).pixels


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
    return Condition(name, lambda image, _: as_jpeg(image, quality, subsampling), jpeg=True)


def _noise(std: int) -> Condition:
    return Condition(f"noise of {std}", lambda image, number: noisy(image, number, std))


def _shrunk(factor: int) -> Condition:
    return Condition(f"{factor} times", lambda image, _: resized(image, 1 / factor), factor)


def _shrunk_jpeg(factor: int, quality: int) -> Condition:
    name = f"{factor} times, quality {quality}"
    return Condition(
        name, lambda image, _: as_jpeg(resized(image, 1 / factor), quality, "4:2:0"), factor, True
    )


TASKS = {
    "jpeg": [_jpeg(q, colours) for q in (10, 20, 40, 75, 90) for colours in ("4:2:0", "4:4:4")],
    "denoise": [_noise(std) for std in (15, 25, 50)],
    "superres": [_shrunk(2), _shrunk(4), _shrunk_jpeg(2, 75), _shrunk_jpeg(4, 75)],
}
CLASSICAL, BACK_PROJECTED = "scikit-image", "bicubic, back-projected"
AS_IT_IS = {"jpeg": "the file", "denoise": "the file", "superres": "bicubic"}


def middle(image: np.ndarray, side: int) -> np.ndarray:
    """The middle of a photograph in whole tiles, of at most `side` pixels; 0: nearly all of it."""
    height, width = (min(n, side or n) // TILE * TILE for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def tiles(images: Images) -> np.ndarray:
    """`[N, 64, 64, 3]`: all that they consist of."""
    return np.concatenate([
        image.reshape(image.shape[0] // TILE, TILE, -1, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
        for image in images
    ])  # fmt: skip


def above(key: str, errors: np.ndarray, base: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """The gain of `by_picture` over other answers, with its interval, under names that begin with `key`."""
    gain = by_picture(errors, owner).minus(by_picture(base, owner))
    low, high = gain.interval()
    return {key: gain.value, f"{key}_low": low, f"{key}_high": high}


@functools.cache
def model(name: str, factor: int) -> Answer:
    """A model's answers, as `restore` gives them, which enlarges `factor` times."""
    fill = by_model(name, factor if factor > 1 else None)
    return lambda files: fill(files, [None] * len(files))


def shown(files: list[Any], factor: int) -> Images:
    """As they are; enlarged by bicubic interpolation."""
    images = [pixels(file) for file in files]
    return [resized(image, factor) for image in images] if factor > 1 else images


def back_projected(files: list[Any], factor: int) -> Images:
    """Enlarged by bicubic interpolation, and changed so that it shrinks to what the file says."""
    answers = []
    for file in files:
        small = read_picture(file)
        large = small.enlarged(factor, interpolated=True)
        agreed = agree(large.to_float(), small, "bicubic")
        answers.append(large.compose(agreed, None, colours=True).pixels)
    return answers


def of_pixels(answer: Answer, files: list[Any]) -> Images:
    """An answer that is given pixels in place of files."""
    return answer([pixels(file) for file in files])


def classical(condition: Condition, images: Images) -> dict[str, Answer]:
    """The best filter, by the middles of these very images, in its favour."""
    true = [middle(image, CHOSEN_BY) for image in images]
    name, by = best_classical([pixels(condition.file(x, i)) for i, x in enumerate(true)], true)
    return {f"{CLASSICAL} {name}": functools.partial(of_pixels, by)}


def numbers(text: str) -> tuple[float, float]:
    """NARROW,EVEN."""
    first, second = map(float, text.split(","))
    return first, second


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
    parser.add_argument("--side", type=int, default=384, help="0: whole photographs")
    own = (jpeg_steps.NARROW, jpeg_steps.EVEN)
    parser.add_argument(
        "--narrow", type=numbers, default=own, help=f"jpeg_steps.py's NARROW,EVEN {own}"
    )
    parser.add_argument("--no-fd", action="store_true", help="FD-Lite0 takes its time")
    parser.add_argument("--no-classical", action="store_true", help="nothing of scikit-image")
    flags = parser.parse_args(arguments)
    jpeg_steps.NARROW, jpeg_steps.EVEN = flags.narrow
    chosen = flags.tasks.split(",")
    if unknown := [task for task in chosen if task not in TASKS]:
        parser.error(f"--tasks={unknown[0]}: there are {', '.join(TASKS)}")
    filters = not flags.no_classical and importlib.util.find_spec("skimage") is not None
    if not filters and not flags.no_classical:
        print("scikit-image is not installed: its rows are left out")
    true = [middle(image, flags.side) for image in read(flags.photographs, 0)[0]]
    owner = np.arange(len(true))
    everywhere = [np.ones(image.shape[:2], bool) for image in true]
    reference = None if flags.no_fd else lite0_outputs(tiles(true)).features
    about = {"measured": measured_here("tools.measure_files"), "photographs": len(true)}
    about |= {"tiles": len(tiles(true))}
    rows = Rows(flags.out, about, ("task", "condition", "method"))
    for task, condition in ((name, each) for name in chosen for each in TASKS[name]):
        factor = condition.factor
        files = [condition.file(image, number) for number, image in enumerate(true)]
        methods: dict[str, Answer] = {AS_IT_IS[task]: functools.partial(shown, factor=factor)}
        if factor > 1:
            methods[BACK_PROJECTED] = functools.partial(back_projected, factor=factor)
        elif filters:
            methods |= classical(condition, true)
        for name in filter(None, flags.models.replace("TASK", task).split(",")):
            methods[name] = by = model(name, factor)
            if condition.jpeg:
                methods[f"{name}, pixels alone"] = functools.partial(of_pixels, by)
        base, rival = np.empty(0), None
        for name, answer in methods.items():
            answers, spent = timed(answer, files)
            errors = errors_of(true, answers, everywhere)
            base = errors if name == AS_IT_IS[task] else base
            said = row(true, answers, everywhere, owner, None, base)
            if reference is not None:
                said["fd_lite0"] = fd_lite0(lite0_outputs(tiles(answers)).features, reference)
            said |= above("picture_gain", errors, base, owner)
            if rival is not None:
                said |= above("over_classical", errors, rival, owner)
            rival = errors if name.startswith((CLASSICAL, BACK_PROJECTED)) else rival
            which = {"task": task, "condition": condition.name, "method": name}
            rows.add(which | said | {"seconds": spent})
    print(rows.table())


if __name__ == "__main__":
    main()
