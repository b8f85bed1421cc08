"""`arrays`: images that are numpy arrays already, in an .npz file.

    np.savez("images.npz", image=x0, source=xT)  # uint8 [N, H, W, 3], or [N, H, W] for gray
    data.name=arrays data.path=images.npz data.xT_key=source

A folder with train.npz and test.npz has its own split; of one file `data.test_fraction` is for test,
in a fixed random order. Sizes other than `data.size` are cut and resized as files are (images.py).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from jax_bridges.data.errors import BadImage
from jax_bridges.data.images import check_upscale, resize
from jax_bridges.data.source import split_order


class ArraySource:
    """Examples `order[i]` of arrays `[N, H, W, 3]` by key ("x0", "xT"), and of labels `[N]`."""

    def __init__(
        self,
        name: str,
        images: dict[str, np.ndarray],
        labels: np.ndarray | None,
        order: np.ndarray,
        size: tuple[int, int],
        classes: int = 0,
    ):
        self.name, self.order, self.size, self.classes = name, order, size, classes
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        row = int(self.order[i])
        views = [array[row] for array in self._images.values()]
        if any(view.shape[:2] != self.size for view in views):
            views = resize([Image.fromarray(view) for view in views], self.size)
        example = dict(zip(self._images, views, strict=True))
        return example if self._labels is None else {**example, "label": self._labels[row]}


def open_arrays(c: SimpleNamespace) -> ArraySource:
    """Images of the array `c.image_key`: {"x0"}, and of `c.xT_key`, if given: {"xT"}.

    The array `c.label_key`, if given, holds class numbers `[N]` from 0 on: the {"label"}.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no .npz; an array that is missing, of another type or shape than images have, or of
        another length than x0; images that are too small; a split without images.
    """
    path, own = _file(c.path, c.split)
    images, labels = _read(path, c)
    classes = 0 if labels is None else int(labels.max()) + 1
    if own and labels is not None:  # the number of classes is that of both files
        other = _read(_file(c.path, "test" if c.split == "train" else "train")[0], c)[1]
        assert other is not None  # `_read` refuses a file without the labels asked for
        classes = max(classes, int(other.max()) + 1)
    order = split_order(len(images["x0"]), c, own)
    if len(order) == 0:
        raise ValueError(f"{path} leaves no images for {c.split}: see data.test_fraction.")
    return ArraySource(f"{c.name}-{c.split} ({path})", images, labels, order, c.size, classes)


def _file(path: str, split: str) -> tuple[Path, bool]:
    """The file to read, and whether it holds this split alone."""
    if not path:
        raise ValueError("data.path is empty: set it to the .npz file of images.")
    place = Path(path).expanduser()
    own = place.is_dir()
    file = place / f"{split}.npz" if own else place
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no {file}: data.path is an .npz file, or a folder with train.npz and test.npz."
        )
    return file, own


def _read(path: Path, c: SimpleNamespace) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Images `[N, H, W, 3]` by "x0" and "xT", and labels `[N]`, all checked."""
    wanted = {"x0": ("image_key", c.image_key), "xT": ("xT_key", c.xT_key)}
    wanted["label"] = ("label_key", c.label_key)
    try:
        with zipfile.ZipFile(path) as file:
            there = sorted(name.removesuffix(".npy") for name in file.namelist())
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[name] for key, (_, name) in wanted.items() if name in there}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz file of plain arrays ({error})."
        ) from None
    for key, (setting, name) in wanted.items():
        if name and key not in found:
            raise ValueError(
                f"{path} has no array '{name}' (data.{setting}); it holds {', '.join(there)}."
            )
    labels = found.pop("label", None)
    images = {key: _checked(f"{path}: '{wanted[key][1]}'", a, c) for key, a in found.items()}
    count = len(images["x0"])
    if len(images.get("xT", images["x0"])) != count:
        raise ValueError(
            f"{path}: '{c.xT_key}' has {len(images['xT'])} images and '{c.image_key}' {count}: they "
            "must be as many."
        )
    if labels is None:
        return images, None
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            f"{path}: '{c.label_key}' is {labels.dtype} {list(labels.shape)}: labels are whole numbers "
            f"from 0 on, one for each of the {count} images."
        )
    return images, labels.astype(np.int32)


def _advice(array: np.ndarray) -> str:
    """What to save instead of an array of another type."""
    kind, top = array.dtype.kind, array.max(initial=0) if array.dtype.kind in "biufc" else 0
    if kind == "b":
        return "of masks save 255 * x.astype(np.uint8)"
    if kind in "iu" and 0 <= array.min(initial=0) and top <= 255:
        return "its numbers lie between 0 and 255, so save x.astype(np.uint8)"
    if kind == "u" and array.dtype.itemsize == 2:
        return (
            f"of 16 bits, up to {top} here, save np.round(x / w * 255).astype(np.uint8), where w is the "
            "number that means white (65535, 4095 of 12-bit cameras, ...)"
        )
    if kind in "iu":
        return (
            "say which number is black (b) and which white (w), and save "
            "np.clip(np.round((x - b) / (w - b) * 255), 0, 255).astype(np.uint8)"
        )
    return (
        "of floats in [-1, 1] save np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8), of "
        "floats in [0, 1] np.clip(np.round(x * 255), 0, 255).astype(np.uint8)"
    )


def _checked(name: str, array: np.ndarray, c: SimpleNamespace) -> np.ndarray:
    """The array as uint8 `[N, H, W, 3]`."""
    if array.dtype != np.uint8:
        raise ValueError(f"{name} is {array.dtype}, but images are uint8: {_advice(array)}.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"{name} has the shape {list(array.shape)}: images are [N, H, W, 3], or [N, H, W] for gray."
        )
    try:
        check_upscale(array.shape[1:3], c.size, c.max_upscale)
    except BadImage as bad:
        raise ValueError(f"{name}: {bad}.") from None
    return np.broadcast_to(array, (*array.shape[:3], 3))
