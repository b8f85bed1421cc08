"""`folder` and `pairs`: images in folders, checked at the start, never skipped in silence.

The order of the examples and their split depend on each name alone (a hash of the path below the
folder, without suffix): adding or removing files moves no other file from one split to the other,
and the first n examples are spread over all subfolders. Which files a folder holds, `walk.py` says:
each once, whatever links lead to it, so that no image is for training and for test.

What happens to bad files (`data.on_bad_file`):

- "refuse": the first thing that happens is an error that lists them.
- "skip": they are left out at the start, with a warning that counts and lists them.

Up to `FULL_CHECK` files are decoded once to find out (in threads, a few seconds); beyond that only
headers are read. A file that turns bad later, or whose damage no header shows, is met while the
run goes on: "refuse" raises, "skip" warns once and puts the next good example in its place, so that
an example is still a function of its number and the files, and a run can still be repeated.
"""

from __future__ import annotations

import abc
import hashlib
import os
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from jax_bridges.data.classes import labels_of, read_classes
from jax_bridges.data.decode import open_picture
from jax_bridges.data.errors import BadImage
from jax_bridges.data.images import check_header, check_whole, read_images, read_whole
from jax_bridges.data.walk import (
    SUFFIXES,
    Found,
    find_pictures,
    identity,
    listed,
    same_form,
    stem_key,
)

FULL_CHECK = 10_000
TRAIN_FOLDERS, TEST_FOLDERS = ("train",), ("test", "val", "validation")


class SkippingSource(abc.ABC):
    """A source over items that may turn out bad while the run goes on (see the module).

    `classes` is the number of classes where `keys` has "label".
    """

    classes = 0

    def __init__(self, name: str, length: int, keys: tuple[str, ...], on_bad_file: str):
        self.name, self.keys, self.on_bad_file = name, keys, on_bad_file
        self._length = length
        self._warned: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"{self.name} has {n} examples, there is no number {i}")
        for k in range(i % n, i % n + n):
            try:
                return dict(zip(self.keys, self._read(k % n), strict=True))
            except BadImage as bad:
                text = f"{self.name}: bad image {self.describe(k % n)}: {bad}."
                if self.on_bad_file == "refuse":
                    raise ValueError(
                        f"{text} Mend or remove it, or set data.on_bad_file='skip'."
                    ) from bad
                self._warn_once(k % n, f"{text} The next one is used in its place.")
        raise ValueError(f"{self.name}: all of the {n} images are bad.")

    def _warn_once(self, k: int, text: str) -> None:
        with self._lock:
            known = k in self._warned
            self._warned.add(k)
        if not known:
            warnings.warn(text, stacklevel=3)

    @abc.abstractmethod
    def describe(self, i: int) -> str:
        """The name of example i, as messages give it."""

    @abc.abstractmethod
    def _read(self, i: int) -> list[Any]:
        """The arrays of example i in the order of `keys`; BadImage if it cannot be used."""


class FileSource(SkippingSource):
    """Examples made of one file (x0) or two (x0, xT); `names[i]` and `paths[i]` are those of i,
    `labels[i]` its class, where there are classes.

    They are of `c.size`, or, where crops are to be cut out of them (`c.crop`), whole pictures.
    """

    def __init__(
        self,
        c: SimpleNamespace,
        folder: Path,
        files: dict[str, tuple[Path, ...]],
        classes: dict[str, int] | None = None,
    ):
        """Checks the files (see the module), leaves bad ones out, and cuts to `c.max_images`.

        With `classes`, from `read_classes`, the sub-folder in a file's name is its label.
        """
        name = f"{c.name}-{c.split} ({folder})"
        self._settings = (c.size, c.max_upscale)
        whole = c.crop != "center"
        self._decode = read_whole if whole else read_images
        look = check_whole if whole else check_header
        names = [*files]
        labels = None if classes is None else labels_of(names, classes, folder)
        if c.max_images:
            names = _good(name, names, files, look, c)[: c.max_images]
        check = self._decode if len(names) <= FULL_CHECK else look
        names = _good(name, names, files, check, c)
        if not names:
            raise ValueError(
                f"{name}: no usable image is left for {c.split}: add images, change data.test_fraction, or "
                "sort them into sub-folders train/ and test/."
            )
        keys = ("x0", "xT")[: len(files[names[0]])]
        if classes is not None:
            keys, self.classes = (*keys, "label"), len(classes)
        super().__init__(name, len(names), keys, c.on_bad_file)
        self.names = names
        self.paths = [files[name] for name in names]
        self.labels = None if labels is None else [labels[name] for name in names]

    def describe(self, i: int) -> str:
        """The file's name."""
        return self.names[i]

    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of the clean picture of each example, as its file's header tells."""

        def size(paths: tuple[Path, ...]) -> tuple[int, int]:
            with open_picture(paths[0]) as picture:
                return picture.size

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            return list(pool.map(size, self.paths))

    def _read(self, i: int) -> list[Any]:
        images = self._decode(self.paths[i], *self._settings)
        return images if self.labels is None else [*images, self.labels[i]]


def open_folder(c: SimpleNamespace) -> FileSource:
    """Images of any kind below `c.path`: {"x0"}, and {"label"} with `c.classes`.

    Subfolders train/ and test/ (or val/, validation/), where present, are the splits; otherwise
    `c.test_fraction` of the images is for test. See `images.to_rgb` for what becomes of odd modes.

    Raises:
      FileNotFoundError: no such folder, or no images in it.
      ValueError: bad files under "refuse"; a split without images; see also `classes.py`.
    """
    root = _root("path", c.path)
    base, own = _split_folder(root, c.split)
    found = _images(base)
    _check_splits(root, found)
    files = {str(path.relative_to(base)): (path,) for path in found.pictures}
    return FileSource(c, base, _of_split(c, files, own, {}), _classes(c, root))


def open_pairs(c: SimpleNamespace) -> FileSource:
    """Two folders of matching images: {"x0"} from `c.path`, {"xT"} from `c.path_xT`.

    With `c.classes` the sub-folder of x0 is the "label".

    Files match by their path below the folder without suffix ("a/7.png" and "a/7.jpg"). Sizes are
    free, also within a pair: the same part of both frames is cut out and resized. Splits as in
    `open_folder`, with train/ and test/ in both folders or in neither.

    Raises:
      FileNotFoundError: no such folder, or no images in it.
      ValueError: no pair at all; names without partner or bad files under "refuse"; two files
        with the same name but for the suffix.
    """
    bases, own = [], []
    for key in ("path", "path_xT"):
        base, is_own = _split_folder(_root(key, getattr(c, key)), c.split)
        bases.append(base)
        own.append(is_own)
    if own[0] != own[1]:
        raise ValueError(f"Only one of {c.path} and {c.path_xT} has train/ and test/ subfolders.")
    found = [_images(base, once=False) for base in bases]  # pairs, not files, count once
    _check_splits(_root("path", c.path), found[0])
    clean, corrupt = map(_by_stem, found)
    lonely = [sorted(clean.keys() - corrupt.keys()), sorted(corrupt.keys() - clean.keys())]
    common = sorted(clean.keys() & corrupt.keys())
    if any(lonely):
        sides = zip(lonely, bases, reversed(bases), strict=True)
        text = f"{len(common)} pairs match by name; " + "; ".join(
            f"{len(names)} of {here} without partner in {there}: {listed(names)}"
            for names, here, there in sides
            if names
        )
        text += _case(lonely)
        if not common or c.on_bad_file == "refuse":
            raise ValueError(
                f"{text}. Files match by path without suffix; remove or rename these"
                + (", or set data.on_bad_file='skip'." if common else ".")
            )
        warnings.warn(f"{text}. These are skipped.", stacklevel=2)
    files, sharing = {name: (clean[name], corrupt[name]) for name in common}, {}
    if found[0].linked:
        files, sharing = _each_pair_once(files)
    classes = _classes(c, _root("path", c.path))
    return FileSource(c, bases[0], _of_split(c, files, own[0], sharing), classes)


def _root(key: str, path: str) -> Path:
    if not path:
        raise ValueError(f"data.{key} is empty: set it to the folder of images.")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"data.{key} = {path} is not a folder.")
    return root


def _split_folder(root: Path, split: str) -> tuple[Path, bool]:
    """The folder to look in, and whether it holds this split alone."""
    train, test = _split_folders(root)
    chosen, other = (train, test) if split == "train" else (test, train)
    if chosen is not None:
        return chosen, True
    if other is None:
        return root, False
    raise ValueError(
        f"{root} has {other.name}/ but no {split}/: add that subfolder, or move the images up "
        "so that data.test_fraction splits them."
    )


def _split_folders(root: Path) -> list[Path | None]:
    """Those of train and of test, None where there is none."""
    return [
        next((root / name for name in names if (root / name).is_dir()), None)
        for names in (TRAIN_FOLDERS, TEST_FOLDERS)
    ]


def _classes(c: SimpleNamespace, root: Path) -> dict[str, int] | None:
    """Numbers of the classes, the same for both splits."""
    folders = [folder for folder in _split_folders(root) if folder is not None]
    return read_classes(c.classes, folders or [root])


def _images(base: Path, once: bool = True) -> Found:
    """All image files below a folder; what else lies there is named in a warning."""
    found = find_pictures(base, once=once)
    if not found.pictures:
        raise FileNotFoundError(
            f"No images below {base} (looked for {' '.join(sorted(SUFFIXES))})."
        )
    for remark in found.remarks():
        warnings.warn(remark, stacklevel=3)
    return found


def _check_splits(root: Path, found: Found) -> None:
    """Refuses images of a split's own folder that are, by a link, those of the other split as well."""
    others = [folder for folder in _split_folders(root) if folder not in (None, found.base)]
    if not others or not found.linked or found.base == root:
        return
    shared = find_pictures(others[0]).seen & found.linked.keys()
    if shared:
        names = listed(sorted(str(found.linked[own].relative_to(found.base)) for own in shared))
        raise ValueError(
            f"{len(shared)} images are in {found.base} and, by links, in {others[0]} as well, so the "
            f"test would be of training images: {names}; keep each in one of the two."
        )


def _by_stem(found: Found) -> dict[str, Path]:
    stems: dict[str, Path] = {}
    for path in found.pictures:
        stem = stem_key(path, found.base)
        if stem in stems:
            raise ValueError(f"{stems[stem]} and {path.name} have the same name: which is it?")
        stems[stem] = path
    return stems


def _each_pair_once(files: dict[str, tuple[Path, Path]]) -> tuple[dict, dict[str, str]]:
    """The pairs that are not, by links, the same two files as one before.

    Also returns, for pairs that share their x0 with one before, the name of that one.
    """
    kept, sharing, pairs, cleans = {}, {}, set(), {}
    for name, paths in files.items():
        pair = tuple(map(identity, paths))
        if None not in pair:
            if pair in pairs:
                continue
            pairs.add(pair)
            if (first := cleans.setdefault(pair[0], name)) != name:
                sharing[name] = first
        kept[name] = paths
    if len(kept) < len(files):
        again = [name for name in files if name not in kept]
        text = f"{len(again)} pairs are links to others and are left out: {listed(again)}."
        warnings.warn(text, stacklevel=3)
    return kept, sharing


def _case(lonely: list[list[str]]) -> str:
    """Says so, where names without partner differ in upper and lower case alone."""
    here = {name.casefold(): name for name in lonely[0]}
    alike = [(here[n.casefold()], n) for n in lonely[1] if n.casefold() in here]
    if not alike:
        return ""
    return f" ({len(alike)} differ in upper and lower case alone, such as {' and '.join(alike[0])})"


def _of_split(
    c: SimpleNamespace, files: dict, own_folder: bool, sharing: Mapping[str, str]
) -> dict:
    """The files of the split, in the order of the hash of their names.

    Names in `sharing` go to the split of the name that it gives: both are of one image.
    """

    def number(name: str) -> int:
        stem = same_form(Path(os.path.splitext(name)[0]).as_posix())
        return int.from_bytes(hashlib.blake2b(stem.encode("utf-8", "surrogateescape")).digest())

    bound = int(c.test_fraction * 2**32)
    chosen = []
    for name in files:
        hashed = number(name)
        # The low bits split, the high bits sort.
        is_test = number(sharing.get(name, name)) % 2**32 < bound
        if own_folder or is_test == (c.split == "test"):
            chosen.append((hashed, name))
    return {name: files[name] for _, name in sorted(chosen)}


def _good(name: str, names: list[str], files: dict, check, c: SimpleNamespace) -> list[str]:
    """The names whose files pass `check`; the others are listed in an error or a warning."""

    def reason(key: str) -> str | None:
        try:
            check(files[key], c.size, c.max_upscale)
        except BadImage as bad:
            return str(bad)
        return None

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        reasons = dict(zip(names, pool.map(reason, names), strict=True))
    bad = [f"{key}: {why}" for key, why in sorted(reasons.items()) if why]
    if bad:
        text = f"{name}: {len(bad)} of {len(names)} are bad: {listed(bad, '; ')}."
        if c.on_bad_file == "refuse":
            raise ValueError(f"{text} Mend or remove them, or set data.on_bad_file='skip'.")
        warnings.warn(f"{text} They are skipped.", stacklevel=4)
    return [key for key in names if reasons[key] is None]
