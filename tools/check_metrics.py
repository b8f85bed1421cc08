"""Do FD-Lite0 and CA-Lite0 see what they should? `python -m tools.check_metrics PHOTOS`.

PHOTOS is a folder, or a .zip, of `train/WNID/*` and `val/WNID/*` (WNID: a WordNet id of ImageNet).
The val split, clean and corrupted by each task at rising strength, is measured against the train
split. FD-Lite0 must rise and CA-Lite0 fall from each strength to the next: the command says so, or
says where not and ends with code 1. It writes numbers only, never an image.

A row is written as soon as it is measured, and one that OUT.json already has is not measured twice:
start a stopped command again and it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions import make_corruption
from jax_bridges.data.decode import open_picture
from jax_bridges.data.errors import BadImage
from jax_bridges.data.images import read_images
from jax_bridges.data.walk import SUFFIXES
from jax_bridges.io.atomic import write_atomic
from jax_bridges.keys import example_keys
from jax_bridges.measured import markdown_table, measured_here
from jax_bridges.metrics.classes import imagenet_classes
from jax_bridges.metrics.frechet import Moments, frechet_distance
from jax_bridges.metrics.image import to_uint8
from jax_bridges.metrics.intervals import mean_estimate
from jax_bridges.metrics.lite0 import lite0_outputs

# Each task at rising strength: what is printed, and the settings of the corruption.
LADDERS = {
    "superres": [(f"bicubic, x{f}", {"kind": "bicubic", "factor": f}) for f in (2, 4, 8)],
    "jpeg": [(f"quality {q}", {"quality": q}) for q in (30, 10, 5)],
    "blur": [
        (f"Gaussian, std {s} of 9 taps", {"kind": "gauss", "taps": 9, "std": s})
        for s in (0.7, 1.5, 4.0)
    ],
    "denoise": [(f"noise {s}", {"std": s}) for s in (0.1, 0.25, 0.5)],
    "inpaint_center": [(f"side {s}", {"size": s, "fill": "zero"}) for s in (0.25, 0.5, 0.75)],
    "inpaint_freeform": [
        (f"{low}-{high} %", {"area": (low, high), "fill": "zero", "count": 512})
        for low, high in ((10, 20), (20, 30), (40, 50))
    ],
    "colorize": [("grey", {})],
}
SEED = 0  # of noise and masks


def read_split(photos: str | os.PathLike, split: str, per_class: int, size: int = 0):
    """The first `per_class` images by name of every class of a split.

    Args:
      photos: a folder, or a .zip, with SPLIT/WNID/FILE inside, at any depth.
      split: "train" or "val".
      per_class: images a class; a class with fewer is refused.
      size: pixels a side; 0: that of the first image.

    Returns:
      uint8 `[N, size, size, 3]`, ordered by class and name, and class numbers int `[N]`.

    Raises:
      FileNotFoundError, ValueError: no such folder or split, an unknown class, or a bad image.
    """
    classes, images, labels = imagenet_classes(), [], []
    for wnid, names, read in _classes(Path(photos), split):
        if wnid not in classes:
            raise ValueError(f"{photos}: {split}/{wnid} is no WordNet id of ImageNet's 1000.")
        if len(names) < per_class:
            raise ValueError(
                f"{photos}: {split}/{wnid} has {len(names)} images, not the {per_class} asked for: "
                "give --per-class a smaller number."
            )
        for name in names[:per_class]:
            file = read(name)
            try:
                size = size or _side(file)
                images += read_images((file,), (size, size), max_upscale=4.0)
            except BadImage as error:
                raise ValueError(f"{photos}: {name}: {error}.") from None
            labels.append(classes[wnid])
    if not images:
        raise ValueError(f"{photos}: there is no image under {split}/WNID/.")
    return np.stack(images), np.array(labels)


def _side(file: bytes) -> int:
    with open_picture(file) as picture:
        return min(picture.size)


def _classes(photos: Path, split: str) -> Iterator[tuple]:
    """(WNID, sorted names, function from name to bytes) of each class of the split."""
    if not photos.exists():
        raise FileNotFoundError(f"{photos}: no such folder or .zip of photographs.")
    if photos.is_dir():
        names = [p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.is_file()]
        read = partial(_read_file, photos)
    else:
        try:
            archive = zipfile.ZipFile(photos)
        except zipfile.BadZipFile:
            raise ValueError(f"{photos}: neither a folder nor a .zip archive.") from None
        names, read = archive.namelist(), archive.read
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if len(path.parts) >= 3 and path.parts[-3] == split and path.suffix.lower() in SUFFIXES:
            found.setdefault(path.parts[-2], []).append(name)
    for wnid, files in found.items():
        yield wnid, files, read


def _read_file(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def corrupted(images: np.ndarray, name: str, settings: dict, batch: int = 256) -> np.ndarray:
    """Images uint8 `[N, H, W, 3]` after a corruption, as a saved picture would hold them."""
    corruption = make_corruption(name, **settings)
    apply = jax.jit(
        lambda x, index: to_uint8(
            corruption(x / 127.5 - 1, example_keys(jax.random.key(SEED), index)).xT
        )
    )
    parts = []
    for start in range(0, len(images), batch):
        x = images[start : start + batch].astype(np.float32)
        parts.append(np.asarray(apply(x, jnp.arange(start, start + len(x), dtype=jnp.uint32))))
    return np.concatenate(parts)


def row_of(images: np.ndarray, labels: np.ndarray, reference: Moments) -> dict:
    """FD-Lite0 to the reference, and CA-Lite0 in percent with its 95% interval."""
    out = lite0_outputs(images)
    right = 100.0 * (out.logits.argmax(-1) == labels)
    return {
        "fd_lite0": frechet_distance(Moments.of(out.features), reference),
        "ca_lite0": float(right.mean()),
        "intervals": {"ca_lite0": mean_estimate(right).interval()},
    }


def failures(rows: list[dict]) -> list[str]:
    """Where a stronger corruption is not further from the reference, or not harder to classify."""
    clean = rows[0]
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows[1:]):
        ladder = [clean, *(row for row in rows if row["task"] == task)]
        for weak, strong in zip(ladder, ladder[1:], strict=False):
            for key, sign in (("fd_lite0", 1), ("ca_lite0", -1)):
                if sign * (strong[key] - weak[key]) <= 0:
                    lines.append(
                        f"{task}, {key}: {strong[key]:.4g} at {strong['strength']}, "
                        f"{weak[key]:.4g} at {weak['strength']}"
                    )
    return lines


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    head = ("Task", "Strength", "FD-Lite0 ↓", "CA-Lite0 ↑, %", "95% interval")
    cells = []
    for row in rows:
        low, high = row["intervals"]["ca_lite0"]
        numbers = (f"{row['fd_lite0']:.1f}", f"{row['ca_lite0']:.1f}", f"{low:.1f} to {high:.1f}")
        cells.append((row["task"], row["strength"], *numbers))
    return markdown_table(head, cells, head[:2])


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code is 1 where the order of strengths is not seen."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_metrics", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("photos", help="folder or .zip with train/WNID/* and val/WNID/*")
    parser.add_argument("--out", default="check.json", help="where the numbers go")
    parser.add_argument("--per-class", type=int, default=5, help="images a class of either split")
    parser.add_argument("--tasks", nargs="*", default=list(LADDERS), choices=list(LADDERS))
    args = parser.parse_args(argv)
    if args.per_class < 1:
        parser.error(f"--per-class is {args.per_class}: it must be at least 1.")
    out = Path(args.out)
    settings = {"per_class": args.per_class, "data": Path(args.photos).name, "seed": SEED}
    known = {}
    if out.exists():
        old = json.loads(out.read_text("utf-8-sig"))
        if old.get("settings") != settings:
            parser.error(f"{out} is of another measurement ({old.get('settings')}): move it away.")
        known = {(row["task"], row["strength"]): row for row in old["rows"]}

    jobs = [("-", "clean", None)]
    jobs += [(task, text, kwargs) for task in args.tasks for text, kwargs in LADDERS[task]]
    try:
        images, labels = read_split(args.photos, "val", args.per_class)
        train, _ = read_split(args.photos, "train", args.per_class, images.shape[1])
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    if len(train) != len(images):
        parser.exit(2, f"train has {len(train)} images and val {len(images)}: classes differ.\n")
    reference = None
    rows = []
    for task, text, kwargs in jobs:
        row = known.get((task, text))
        if row is None:
            if reference is None:
                reference = Moments.of(lite0_outputs(train).features)
            begin = time.perf_counter()
            pictures = images if kwargs is None else corrupted(images, task, kwargs)
            row = {"task": task, "strength": text, **row_of(pictures, labels, reference)}
            print(
                f"{task} {text}: FD-Lite0 {row['fd_lite0']:.1f}, CA-Lite0 {row['ca_lite0']:.1f} % "
                f"({time.perf_counter() - begin:.0f} s)",
                flush=True,
            )
        rows.append(row)
        others = [r for key, r in known.items() if key not in {(j[0], j[1]) for j in jobs}]
        _write(out, args, settings, images, rows + others)
    print(markdown(rows))
    lines = failures(rows)
    print("\n".join(["Not in order:", *lines]) if lines else "Every ladder is in order.")
    return 1 if lines else 0


def _write(out: Path, args, settings: dict, images: np.ndarray, rows: list[dict]) -> None:
    result = {
        "title": "FD-Lite0 and CA-Lite0 of the val split against the train split",
        "measured": {
            "images": len(images),
            "size": list(images.shape[1:3]),
            **measured_here("tools.check_metrics"),
            "command": f"python -m tools.check_metrics {Path(args.photos).name} "
            f"--per-class={args.per_class}",
        },
        "settings": settings,
        "rows": rows,
    }
    write_atomic(out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
