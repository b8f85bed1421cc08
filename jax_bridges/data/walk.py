"""Which pictures a folder holds: one walk for training and for restoring.

Hidden files and folders (.thumbnails, .DS_Store) are left out. Links are followed, and a file or
folder counts once, by device and inode, whatever names lead to it: else a link to a parent folder
would multiply the data, and a picture could be for training and for test. Of several names that
which needs no link counts, then the first in order; so no link that is added changes a name.
Names are ordered, and compared with those of other folders, in one Unicode form (`name_key`).
"""

from __future__ import annotations

import dataclasses
import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

# What is looked for in folders. Pillow knows more suffixes, but not all of those are photographs.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jp2 .png .webp .avif .bmp .gif .tif .tiff .tga".split()
    + ".ppm .pgm .pbm .pnm".split()
)
LISTED = 10  # names that an error or a warning shows


@dataclasses.dataclass(frozen=True)
class Found:
    """What `find_pictures` found below `base`, in order of `name_key`.

    Attributes:
      pictures: files by whose suffix they are pictures; links whose target is gone are among them.
      other: files of other suffixes, and what is no file at all (pipes, devices).
      again: further names (links, hard ones too) of files and folders that are there already.
      linked: the pictures that have, or may have, other names, by `identity`.
      seen: `identity` of all folders and pictures.
    """

    base: Path
    pictures: list[Path]
    other: list[Path]
    again: list[Path]
    linked: dict[int, Path]
    seen: set[int]

    def remarks(self) -> list[str]:
        """What was not taken for a picture of its own, in a sentence each."""
        said = []
        if self.other:
            said.append(f"{len(self.other)} files have no image suffix: {self._list(self.other)}.")
        if self.again:
            names = self._list(self.again)
            said.append(f"{len(self.again)} links lead to what is there already: {names}.")
        return [f"{self.base}: {text}" for text in said]

    def _list(self, paths: list[Path]) -> str:
        return listed([str(path.relative_to(self.base)) for path in paths])


def find_pictures(base: Path, leave_out: Iterable[Path] = (), once: bool = True) -> Found:
    """All pictures below a folder, by suffix.

    Args:
      leave_out: folders that are not looked into, and pictures that are not taken.
      once: a file or folder counts once; else by each of its names, but for links to a folder that
        holds them.

    Raises:
      ValueError: a folder may not be read.
    """
    walk = _Walk(base, once, {i for i in map(identity, leave_out) if i is not None})
    walk.enter(base, frozenset(), base.is_symlink())
    while walk.links:  # only now: what lies there without a link comes first
        links, walk.links = sorted(walk.links, key=lambda link: name_key(link[0], base)), []
        for path, above in links:
            walk.meet(path, above, linked=True)

    def ordered(paths: list[Path]) -> list[Path]:
        return sorted(paths, key=lambda path: name_key(path, base))

    pictures, other, again = map(ordered, (walk.pictures, walk.other, walk.again))
    return Found(base, pictures, other, again, walk.linked, walk.seen)


class _Walk:
    """What was found so far; `links` are still to be followed, each with the folders above it."""

    def __init__(self, base: Path, once: bool, left_out: set[int]):
        self.base, self.once, self.left_out = base, once, left_out
        self.seen: set[int] = set()
        self.pictures: list[Path] = []
        self.other: list[Path] = []
        self.again: list[Path] = []
        self.linked: dict[int, Path] = {}
        self.links: list[tuple[Path, frozenset[int]]] = []

    def enter(self, folder: Path, above: frozenset[int], linked: bool) -> None:
        """Looks into a folder; `above` are the folders that hold it; `linked`: a link led to it."""
        own = identity(folder)
        if own is not None:
            self.seen.add(own)
            above = above | {own}
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"{folder} may not be read ({error.strerror}).") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if entry.is_symlink():
                self.links.append((path, above))
            else:
                self.meet(path, above, linked)

    def meet(self, path: Path, above: frozenset[int], linked: bool) -> None:
        """Takes what lies at a path, which is followed if it is a link."""
        is_picture = path.suffix.lower() in SUFFIXES
        try:
            found = os.stat(path)
        except OSError:  # a link to nothing or to itself: whoever reads it says so
            (self.pictures if is_picture else self.other).append(path)
            return
        own = _number(found)
        if own in self.left_out:
            return
        is_folder = stat.S_ISDIR(found.st_mode)
        if not is_folder and not (is_picture and stat.S_ISREG(found.st_mode)):
            self.other.append(path)
        elif own in (self.seen if self.once else above):
            self.again.append(path)
        elif is_folder:
            self.enter(path, above, linked)
        else:
            self.pictures.append(path)
            if own is not None:
                self.seen.add(own)
            if own is not None and (linked or found.st_nlink > 1):
                self.linked[own] = path


def identity(path: Path) -> int | None:
    """One number for a file or folder, whatever its name; None if there is none, or no way to tell."""
    try:
        return _number(os.stat(path))
    except OSError:
        return None


def _number(found: os.stat_result) -> int | None:
    return found.st_dev << 64 | found.st_ino if found.st_ino else None


def same_form(name: str) -> str:
    """A name as it looks: composed (NFC), as Linux and Windows have it and a Mac does not."""
    return unicodedata.normalize("NFC", name)


def name_key(path: Path, base: Path) -> tuple[str, ...]:
    """The parts of the path below `base`, each in one Unicode form: by these, names are ordered."""
    return tuple(same_form(part) for part in path.relative_to(base).parts)


def stem_key(path: Path, base: Path) -> str:
    """The path below `base` without suffix, in one Unicode form: by it, names match."""
    return same_form(os.path.splitext(path.relative_to(base).as_posix())[0])


def listed(names: list[str], between: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = len(names) - LISTED
    return between.join(names[:LISTED]) + (f"{between}and {more} more" if more > 0 else "")
