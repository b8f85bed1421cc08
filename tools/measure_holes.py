"""How well holes of photographs are filled: `python -m tools.measure_holes PHOTOGRAPHS OUT.json`.

    python -m tools.measure_holes HELD_OUT results/holes.json --models=photos:inpaint,teacher.safetensors@1
    python -m tools.measure_holes HELD_OUT OUT.json --tiles=0           # whole pictures instead of tiles

PHOTOGRAPHS is a folder that no model has learned from. Holes of every kind of `--kinds` are cut out of native
tiles of 64 pixels, or of whole pictures, and filled by each model (NAME@CALLS: with so many network calls),
by the biharmonic equation and, where they are installed, by scikit-image's solver of it (pictures alone;
of tiles ours is the same to 1e-3) and by OpenCV's method of Telea. A row says, of the pixels of the holes:
PSNR of all of them (`pooled`), how much that is above the biharmonic answer (`gain`, with a 95% interval by
the jackknife over photographs), its mean over photographs (`by_picture`) and over holes (`mean`); SSIM,
with what is around them; FD-Lite0 of the tiles; seconds an image. Rows are written as they are measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from jax_bridges.corruptions import hole_masks, smooth_fill
from jax_bridges.data import make_source
from jax_bridges.io.atomic import write_atomic
from jax_bridges.measured import markdown_table, measured_here
from jax_bridges.metrics import fd_lite0, folds_of, lite0_outputs, ssim
from jax_bridges.metrics.intervals import Estimate, set_estimate
from jax_bridges.restore import Restorer
from jax_bridges.restoring.files import Task

SEED, TILE = 11, 64
Images = list[np.ndarray]
Method = Callable[[Images, Any], Images]


def source_of(folder: str) -> Any:
    """The tiles of a folder's photographs, and `.pictures`, all or nearly all of them."""
    settings = SimpleNamespace(
        name="folder", path=folder, size=TILE, crop="grid", max_images=0, cache_mb=1024,
        test_fraction=0.999,
    )  # fmt: skip
    return make_source(settings, "test")


def read(folder: str, tiles: int) -> tuple[Images, np.ndarray]:
    """uint8 tiles, or whole pictures where `tiles` is 0, and the photograph that each is of."""
    source = source_of(folder)
    if tiles:
        count = min(tiles, len(source))
        images = [np.array(source[i]["x0"]) for i in range(count)]
        return images, np.asarray(source.blocks[:count])
    pictures = source.pictures
    return [np.array(pictures[i]["x0"]) for i in range(len(pictures))], np.arange(len(pictures))


def by_model(name: str, enlarge: int | None = None) -> Method:
    """A model's answer, as `restore` gives it; holes are None where it fills none."""
    path, _, calls = name.partition("@")
    restorer = Restorer(path, nfe=int(calls) if calls else None, enlarge=enlarge)

    def fill(images: Images, holes: Sequence[np.ndarray | None]) -> Images:
        tasks = [Task(image, hole, (), False, 0) for image, hole in zip(images, holes, strict=True)]
        found = dict(restorer.many(tasks, SEED))
        return [found[i].pixels for i in range(len(images))]

    return fill


def biharmonic(images: Images, holes: Images) -> Images:
    """Of the library, 64 images of one size at a time."""
    solve, filled = jax.jit(smooth_fill), []
    for start in range(0, len(images), 64):
        part = slice(start, start + 64)
        some = {image.shape for image in images[part]}
        batches = [part] if len(some) == 1 else [slice(i, i + 1) for i in range(len(images))[part]]
        for batch in batches:
            x = np.stack(images[batch]).astype(np.float32) / 127.5 - 1
            u = solve(x, np.stack(holes[batch])[..., None].astype(np.float32))
            filled += list(np.rint((np.asarray(u) + 1) * 127.5).clip(0, 255).astype(np.uint8))
    return filled


def skimage_biharmonic(images: Images, holes: Images) -> Images:
    """scikit-image's, hole by hole."""
    from skimage.restoration import inpaint_biharmonic  # pyright: ignore[reportMissingImports]

    def one(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        filled = inpaint_biharmonic(image, hole, split_into_regions=True, channel_axis=-1)
        return np.rint(255 * filled).clip(0, 255).astype(np.uint8)

    return [one(*pair) for pair in zip(images, holes, strict=True)]


def telea(images: Images, holes: Images) -> Images:
    """OpenCV's, with its usual radius of 3."""
    import cv2  # pyright: ignore[reportMissingImports]

    return [
        cv2.inpaint(np.ascontiguousarray(image), hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        for image, hole in zip(images, holes, strict=True)
    ]


def squared_error(a: np.ndarray, b: np.ndarray, hole: np.ndarray) -> tuple[float, int]:
    """Sum over the hole's values, and how many there are; of levels / 255."""
    gap = (a.astype(np.float64) - b)[hole] / 255
    return float((gap**2).sum()), gap.size


def decibels(share: np.ndarray | float) -> float:
    """Mean PSNR of mean squared errors; at most 60 dB each, finer than 8 bits."""
    return float(np.mean(-10 * np.log10(np.maximum(share, 1e-6))))


def errors_of(truth: Images, filled: Images, holes: Images) -> np.ndarray:
    """`[2, N]`: `squared_error` of each image."""
    triples = zip(filled, truth, holes, strict=True)
    return np.array([squared_error(*three) for three in triples]).T


def pooled(errors: np.ndarray, owner: np.ndarray) -> Estimate:
    """PSNR of all values of `errors_of`, and without each photograph."""

    def of(picks: np.ndarray | None) -> float:
        sums, counts = errors if picks is None else errors[:, picks]
        return decibels(sums.sum() / counts.sum())

    return set_estimate(of, folds_of(owner, len(owner)))


def by_picture(errors: np.ndarray, owner: np.ndarray) -> Estimate:
    """Mean over photographs of the PSNR of `errors_of`, and without each."""
    names = np.unique(owner)
    sums, counts = np.stack([errors[:, owner == name].sum(1) for name in names], axis=1)
    share, folds = sums / counts, folds_of(names, len(names))
    return set_estimate(lambda picks: decibels(share if picks is None else share[picks]), folds)


def row(
    truth: Images, filled: Images, holes: Images, owner: np.ndarray, reference, base: np.ndarray
) -> dict:
    """What is said of one method.

    Args:
      reference: features of true tiles, or None.
      base: errors of the answer that it is compared with.
    """
    errors = errors_of(truth, filled, holes)
    sums, counts = errors
    gain = pooled(errors, owner).minus(pooled(base, owner))
    low, high = gain.interval()
    said = {
        "pooled": decibels(sums.sum() / counts.sum()),
        "gain": gain.value,
        "low": low,
        "high": high,
        "by_picture": by_picture(errors, owner).value,
        "mean": decibels(sums / counts),
    }
    values = [ssim(a[None], b[None])[0] for a, b in zip(filled, truth, strict=True)]
    said["ssim"] = float(np.mean(values))
    if reference is not None:
        said["fd_lite0"] = fd_lite0(lite0_outputs(np.stack(filled)).features, reference)
    return said


class Rows:
    """What was measured, in OUT.json from the first row on.

    Args:
      about: what the file says besides.
      named: keys whose values say what a row is of.
    """

    def __init__(self, out: Path, about: dict[str, Any], named: tuple[str, ...]):
        self._out, self._about, self._named = out, about, named
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Prints and writes it."""
        self._rows.append(row)
        text = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
        print(f"{', '.join(row[name] for name in self._named)}: {text}", flush=True)
        whole = self._about | {"rows": self._rows}
        write_atomic(self._out, (json.dumps(whole, indent=1) + "\n").encode())

    def table(self) -> str:
        """All of them; empty cells where a row does not say something."""
        head = list(dict.fromkeys(key for row in self._rows for key in row))
        cells = [
            [f"{v:.4g}" if isinstance(v := row.get(key, ""), float) else v for key in head]
            for row in self._rows
        ]
        return markdown_table(head, cells, self._named)


def timed(answer: Callable[..., Images], *images: Images) -> tuple[Images, float]:
    """Answers, and the seconds of each, without what compiling takes."""
    answer(*(some[:1] for some in images))
    begin = time.perf_counter()
    found = answer(*images)
    return found, (time.perf_counter() - begin) / len(found)


def main(arguments: list[str] | None = None) -> None:
    """Measures, and prints and writes each row."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.measure_holes", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("photographs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", default="photos:inpaint", help="NAME@CALLS, with commas")
    parser.add_argument("--kinds", default="scratches,writing,boxes,freeform")
    parser.add_argument("--tiles", type=int, default=2000, help="0: whole pictures")
    parser.add_argument("--no-fd", action="store_true", help="FD-Lite0 takes most of the time")
    flags = parser.parse_args(arguments)
    methods: dict[str, Method] = {"biharmonic": biharmonic}
    if importlib.util.find_spec("skimage") and not flags.tiles:
        methods["skimage biharmonic"] = skimage_biharmonic
    if importlib.util.find_spec("cv2"):
        methods["telea"] = telea
    methods |= {name: by_model(name) for name in flags.models.split(",") if name}
    images, owner = read(flags.photographs, flags.tiles)
    of_sets = flags.tiles and not flags.no_fd
    reference = lite0_outputs(np.stack(images)).features if of_sets else None
    about = {"measured": measured_here("tools.measure_holes"), "images": len(images)}
    rows, base = Rows(flags.out, about, ("kind", "method")), np.empty(0)
    for kind in flags.kinds.split(","):
        if flags.tiles:
            holes = list(hole_masks(kind, len(images), TILE, TILE, SEED) > 0)
        else:
            sizes = [image.shape for image in images]
            holes = [hole_masks(kind, 1, height, width, SEED)[0] > 0 for height, width, _ in sizes]
        cut = [
            np.where(hole[..., None], np.uint8(128), image)
            for image, hole in zip(images, holes, strict=True)
        ]
        for name, fill in methods.items():
            filled, spent = timed(fill, cut, holes)
            if name == "biharmonic":
                base = errors_of(images, filled, holes)
            said = row(images, filled, holes, owner, reference, base)
            rows.add({"kind": kind, "method": name, **said, "seconds": spent})
    print(rows.table())


if __name__ == "__main__":
    main()
