"""Two folders of images, compared: `python -m jax_bridges.measure A/ B/ --metrics=psnr,fd_lite0,lpips,fid`.

    python -m jax_bridges.measure restored/ targets/ --metrics=psnr,lpips,fd_lite0 --protocol=i2sb
    python -m jax_bridges.measure restored/ imagenet256.npz --metrics=fid

A holds the images to be judged, B their targets, or statistics of many images (.npz, for the FID). PSNR,
SSIM and LPIPS compare the image of A with that of B of the same name, whatever its suffix; distances of sets
compare as many images of each. All have 95% intervals, for images that are strangers to each other.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_bridges.command import Parser, keep_compiled, run_command
from jax_bridges.config import base_config
from jax_bridges.data.errors import BadImage
from jax_bridges.data.images import read_rgb
from jax_bridges.data.walk import find_pictures, listed, stem_key
from jax_bridges.metrics import METRICS, PROTOCOLS, Measure, check_metrics, load_statistics
from jax_bridges.report import Row
from jax_bridges.report.table import few_images, format_value

PART = 256  # images at a time
PART_PIXELS = 2**25  # of large ones, so many pixels, which are a few batches of a feature network


def measure_folders(images: Path, targets: Path, config: Any) -> tuple[dict, dict]:
    """What `Measure` says of the images of a folder.

    Args:
      images: folder, with sub-folders.
      targets: folder of their targets, or statistics (.npz).
      config: `config.evaluate`; its reference is set from `targets`.

    Returns:
      ({"images": N, metric -> value, "intervals": metric -> (low, high)}, how it was measured).

    Raises:
      ValueError, FileNotFoundError: in one sentence, a folder, image, pair or metric that will not do.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is no folder of images.")
    statistics = targets.suffix == ".npz"
    if not (targets.is_file() if statistics else targets.is_dir()):
        raise FileNotFoundError(f"{targets} is no folder of images, nor statistics (.npz).")
    config.reference = str(targets) if statistics else ""
    _check(config, statistics)
    single = [name for name in config.metrics if METRICS[name].each]
    pairs = _pairs(images, None if statistics else targets, single)
    if statistics:
        _check_count(config, len(pairs))
    measure = Measure(config)
    row = measure.begin()
    protocol = PROTOCOLS[config.protocol]
    for ours, theirs in _parts(pairs, protocol.batch):
        row.add(np.asarray(protocol.keep(jnp.asarray(ours))), theirs)
    return {"images": len(pairs), **row.values()}, measure.how()


def _check(config: Any, statistics: bool) -> None:
    for name, needed in {"cons": "the corruption", "diversity": "two answers to each"}.items():
        if name in config.metrics:
            raise ValueError(
                f"The metric '{name}' needs {needed}, which folders do not tell: leave it out."
            )
    check_metrics(config, labels=False)
    if statistics:
        needs = [
            n
            for n in config.metrics
            if METRICS[n].each or ((s := METRICS[n].of_set) and s.paired and n != "fid")
        ]
        if needs:
            raise ValueError(
                f"{' and '.join(needs)} compare with images, and {config.reference} holds statistics: give a "
                "folder of targets, or --metrics=fid."
            )


def _check_count(config: Any, images: int) -> None:
    count = load_statistics(config.reference).count
    if count not in (None, images) and not config.allow_unequal:
        raise ValueError(
            f"{config.reference} is of {count} images and {images} are to be judged, which biases the FID "
            "differently: give as many, or --allow-unequal."
        )


def _pairs(images: Path, targets: Path | None, single: list[str]) -> list[tuple[Path, Path | None]]:
    """Each image with its target: that of the same name where one metric compares one by one."""
    ours = _named(images)
    if targets is None:
        return [(path, None) for path in ours.values()]
    theirs = _named(targets)
    lonely = sorted(ours.keys() ^ theirs.keys())
    if lonely and single:
        raise ValueError(
            f"{' and '.join(single)} compare images of the same name, and {len(lonely)} are in one of "
            f"{images} and {targets} alone: {listed(lonely)}."
        )
    if len(ours) != len(theirs):
        raise ValueError(
            f"{images} has {len(ours)} images and {targets} {len(theirs)}: a distance falls with their "
            "number, so give as many of each."
        )
    return list(
        zip(ours.values(), theirs.values() if lonely else map(theirs.get, ours), strict=True)
    )


def _named(folder: Path) -> dict[str, Path]:
    # By each of its names: a link's may be that of its partner.
    found, names = find_pictures(folder, once=False).pictures, {}
    if not found:
        raise FileNotFoundError(f"There are no images below {folder}.")
    for path in found:
        first = names.setdefault(stem_key(path, folder), path)
        if first != path:
            raise ValueError(f"{first} and {path.name} have the same name: which is it?")
    return names


def _stacked(part: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    images, targets = map(np.stack, zip(*part))
    return images, targets


def _parts(
    pairs: list[tuple[Path, Path | None]], batch: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(images, targets), uint8 `[n, H, W, 3]`, of one size; without targets the images themselves.

    `batch`: so many at a time, as of `Protocol`; 0: as many as memory likes.
    """
    part: list[tuple[np.ndarray, np.ndarray]] = []
    for ours, theirs in pairs:
        image = _read(ours)
        target = image if theirs is None else _read(theirs)
        if image.shape != target.shape:
            sizes = ("{1}x{0}".format(*array.shape) for array in (image, target))
            raise ValueError("{} is {} and {} is {}: they must be of one size.".format(
                *(each for pair in zip((ours, theirs), sizes) for each in pair)
            ))  # fmt: skip
        most = batch or min(PART, max(1, PART_PIXELS // (image.shape[0] * image.shape[1])))
        if part and (len(part) == most or image.shape != part[0][0].shape):
            yield _stacked(part)
            part = []
        part.append((image, target))
    yield _stacked(part)


def _read(path: Path) -> np.ndarray:
    try:
        return np.asarray(read_rgb(path))
    except BadImage as bad:
        raise ValueError(f"{path}: {bad}.") from bad


def as_text(found: dict, how: dict[str, str]) -> str:
    """A line a metric, with its interval, and how it was measured."""
    metrics = {key: value for key, value in found.items() if key in METRICS}
    row = Row("A", "-", 0, found["images"], metrics=metrics)
    lines = []
    for key, value in metrics.items():
        metric = METRICS[key]
        text = f"{format_value([row], key, value)} {metric.unit}".rstrip()
        if key in found.get("intervals", {}):
            ends = (format_value([row], key, end) for end in found["intervals"][key])
            text += f"  (95% interval {' to '.join(ends)})"
        arrow = "↑" if metric.higher_is_better else "↓"
        lines.append(f"{metric.name + ' ' + arrow:<18}{text}")
    lines += [f"{'images':<18}{found['images']:,}"]
    lines += [f"{name:<18}{text}" for name, text in how.items()]
    return "\n".join(lines) + ("\n" + few_images([row], list(metrics))).rstrip()


def arguments() -> argparse.Namespace:
    """The flags."""
    default = base_config().evaluate
    parser = Parser(
        prog="python -m jax_bridges.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("images", type=Path, metavar="A", help="folder of the images to be judged")
    add("targets", type=Path, metavar="B", help="folder of their targets, or statistics (.npz)")
    add("--metrics", default=",".join(default.metrics), help=f"of {', '.join(METRICS)}")
    add(
        "--protocol",
        choices=list(PROTOCOLS),
        default=default.protocol,
        help="whose pixels and resizing",
    )
    add(
        "--weights",
        default="",
        help="folder of the feature networks' files; by default the usual caches",
    )
    add(
        "--folds", type=int, default=default.folds, help="as config.evaluate.folds; 0: no intervals"
    )
    add(
        "--allow-unequal",
        action="store_true",
        help="FID against statistics of another number of images",
    )
    add("--json", action="store_true", help="values as JSON, with all digits")
    return parser.parse_args()


def main() -> int:
    """The command; its exit code."""

    def work() -> None:
        flags = arguments()
        config = base_config().evaluate
        config.update(
            metrics=tuple(each.strip() for each in flags.metrics.split(",") if each.strip()),
            protocol=flags.protocol, weights=flags.weights, folds=flags.folds,
            allow_unequal=flags.allow_unequal,
        )  # fmt: skip
        keep_compiled()
        found, how = measure_folders(flags.images, flags.targets, config)
        print(json.dumps({**found, "how": how}, indent=1) if flags.json else as_text(found, how))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
