"""Training photographs out of an archive, into one small archive that goes to another machine.

    python -m tools.pack_photographs ../shared/data/photos_open.zip OUT.zip [--megabytes=40]

Of the archive's pictures those are taken that may train a model that is shipped, by their names
(`TRAIN`, and not `HELD_OUT`): files as they are, since writing a JPEG anew would add its artefacts to the
pictures that a restorer learns from. Where that is too much, the largest files are halved in size, which
removes them. Of all other pictures the middles go along, to measure on.

    python -m zipfile -e OUT.zip PHOTOGRAPHS
    data.name=folder data.path=PHOTOGRAPHS/photos data.crop=random data.size=64 data.cache_mb=2048
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path, PurePosixPath

from PIL import Image

from jax_bridges.data.walk import SUFFIXES
from jax_bridges.io.atomic import open_atomic

TRAIN = ("lomiri_", "elementary_")
HELD_OUT = (
    "lomiri_life_", "lomiri_friends_", "lomiri_picture_1a_", "elementary_lizard.",
    "elementary_jairo_alzate.", "elementary_barn_grafitti.", "elementary_paris_la_tour_eiffel.",
    "elementary_water_lily.", "elementary_mr__lee.",
)  # fmt: skip
ATTRIBUTION = "ATTRIBUTION.txt"


def is_for_training(name: str) -> bool:
    """Whether a picture of this file name may train a model that is shipped."""
    return name.startswith(TRAIN) and not name.startswith(HELD_OUT)


def halved(content: bytes) -> bytes:
    """A picture's file of half the size each way, as JPEG of quality 95 with all colours."""
    with Image.open(io.BytesIO(content)) as image:
        image = image.convert("RGB")
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=95, subsampling=0, optimize=True)
    return out.getvalue()


def middle(content: bytes, side: int) -> bytes:
    """The middle of a picture in its own pixels, side x side, as PNG."""
    with Image.open(io.BytesIO(content)) as image:
        left, top = (image.width - side) // 2, (image.height - side) // 2
        part = image.convert("RGB").crop((left, top, left + side, top + side))
    out = io.BytesIO()
    part.save(out, "PNG", optimize=True)
    return out.getvalue()


def select(archive: zipfile.ZipFile, side: int, most: int) -> dict[str, bytes]:
    """Files by name below OUT: train/, test/ (the middles of all others), the authors; `most` bytes in all.

    Raises:
      ValueError: nothing to train with.
    """
    files: dict[str, bytes] = {}
    for name in sorted(archive.namelist()):
        path = PurePosixPath(name)
        if path.name == ATTRIBUTION:
            files[ATTRIBUTION] = archive.read(name)
        elif path.suffix.lower() in SUFFIXES and is_for_training(path.name):
            files[f"photos/train/{path.name}"] = archive.read(name)
        elif path.suffix.lower() in SUFFIXES and side:
            files[f"photos/test/{path.stem}.png"] = middle(archive.read(name), side)
    train = [name for name in files if name.startswith("photos/train/")]
    if not train:
        raise ValueError(f"{archive.filename} has no pictures named {', '.join(TRAIN)}...")
    while sum(map(len, files.values())) > most:
        largest = max(train, key=lambda name: len(files[name]))
        files[largest] = halved(files[largest])
        print(f"halved {largest}")
    return files


def main(arguments: list[str] | None = None) -> None:
    """Writes the archive; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=40, help="at most, of 1e6 bytes")
    parser.add_argument(
        "--test", type=int, default=192, help="pixels of the held-out pieces; 0: none"
    )
    given = parser.parse_args(arguments)
    with zipfile.ZipFile(given.archive) as archive:  # 20 kB for the archive's own list
        files = select(archive, given.test, int(given.megabytes * 1e6) - 20_000)
    with open_atomic(given.out) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    train = sum(name.startswith("photos/train/") for name in files)
    print(f"{given.out}: {train} pictures to train, {len(files) - train - 1} pieces to test")


if __name__ == "__main__":
    main()
