"""`diode_normals`: surface normals -> photograph, the outdoor part of DIODE, from its own files.

    tar xf train.tar.gz; tar xf train_normals.tar.gz        # and val.tar.gz, val_normals.tar.gz
    unzip data_list.zip                                     # which images have normals; optional
    data.name=diode_normals data.path=. data.size=256

All go into one folder: {train,val}/outdoor/scene_*/scan_*/*.png (photographs, 768 x 1024), beside
each *_normal.npy (float [768, 1024, 3], zero where nothing was measured), and
data_list/{train,val}_outdoor.csv, whose rows end in "Unavailable" where there are no normals.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from jax_bridges.data.errors import BadImage
from jax_bridges.data.files import FileSource
from jax_bridges.data.images import read_rgb
from jax_bridges.data.source import permutation

FOLDERS = {"train": "train", "test": "val"}
ORDER_SEED = 0


def normals_to_image(normals: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Normals as colours, resized without mixing pixels: uint8 `[*size, 3]`.

    The picture that DDBM (arXiv 2309.16948) was trained on: the least component of the map becomes
    0, a component larger by 2 becomes 255, and what was not measured becomes black.

    Args:
      normals: float `[H, W, 3]`, in [-1, 1], zero where nothing was measured.
      size: (height, width).

    Raises:
      BadImage: another shape, or values that are not finite.
    """
    if normals.ndim != 3 or normals.shape[2] != 3:
        raise BadImage(f"normals of shape {normals.shape} are not [H, W, 3]")
    # The upper left pixel of each cell, as OpenCV's INTER_NEAREST takes it.
    rows, columns = (np.arange(size[k]) * normals.shape[k] // size[k] for k in (0, 1))
    n = np.asarray(normals[rows][:, columns], np.float32)
    if not np.isfinite(n).all():
        raise BadImage("has normals that are not finite")
    n = n + (n.sum(-1, keepdims=True) == 0) * n.min()
    return (255 * np.clip((n - n.min()) / 2, 0, 1)).astype(np.uint8)


class NormalsSource(FileSource):
    """Photographs (x0) with the normals beside them (xT)."""

    def __init__(self, c: SimpleNamespace, folder: Path, files: dict[str, tuple[Path]]):
        super().__init__(c, folder, files)
        self.keys = ("x0", "xT")

    def _read(self, i: int) -> list[np.ndarray]:
        (path,), (size, _) = self.paths[i], self._settings
        image = read_rgb(path)
        try:
            normals = np.load(_normals_of(path), mmap_mode="r")  # a part of the rows is enough
        except Exception as error:  # NumPy raises a dozen types on damaged files
            raise BadImage(f"its normals cannot be read ({error})") from error
        if normals.shape[:2] != image.size[::-1]:
            raise BadImage(f"{image.size[::-1]} pixels, but normals of shape {normals.shape}")
        photograph = image.resize(size[::-1], Image.Resampling.BICUBIC)
        return [np.asarray(photograph), normals_to_image(normals, size)]


def open_diode_normals(c: SimpleNamespace) -> NormalsSource:
    """Outdoor pairs of the folder `c.path`, which holds train/ and val/ (for test): {"x0", "xT"}.

    The whole frame is resized to `c.size`, whatever its shape, as by DDBM. Images without normals
    are left out: those that the list of the authors calls unavailable, or, if the list is not
    there, those without a file, which a warning counts.

    Raises:
      FileNotFoundError: no such folder, or nothing usable in it; a file is missing that the list
        has.
      ValueError: bad files under "refuse".
    """
    root, part = Path(c.path or ".").expanduser(), FOLDERS[c.split]
    folder = root / part / "outdoor"
    paths = sorted(folder.glob("scene_*/scan_*/*.png"))
    if not paths:
        raise FileNotFoundError(
            f"No scene_*/scan_*/*.png in {folder}: set data.path to the folder into which {part}"
            f".tar.gz and {part}_normals.tar.gz of DIODE are unpacked."
        )
    unavailable = _unavailable(root, f"{part}_outdoor.csv")
    paths = [path for path in paths if path.name not in (unavailable or ())]
    usable = [path for path in paths if _normals_of(path).is_file()]
    if missing := len(paths) - len(usable):
        lonely = next(path for path in paths if not _normals_of(path).is_file())
        text = f"{missing} of {len(paths)} images in {folder} have no normals, such as {lonely}"
        if unavailable is not None or not usable:
            raise FileNotFoundError(f"{text}: unpack {part}_normals.tar.gz into the same folder.")
        warnings.warn(f"{text}. They are left out.", stacklevel=2)
    order = permutation(len(usable), ORDER_SEED)
    return NormalsSource(c, folder, {usable[k].stem: (usable[k],) for k in order})


def _normals_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_normal.npy")


def _unavailable(root: Path, name: str) -> set[str] | None:
    """The images that the list of the authors has without normals; None without list."""
    for path in (root / "data_list" / name, root / name):
        if path.is_file():
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = [row for row in csv.reader(file) if row]
            return {Path(row[0]).name for row in rows if row[-1].strip() == "Unavailable"}
    return None
