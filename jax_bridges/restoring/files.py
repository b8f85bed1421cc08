"""Which pictures are restored into which files: decided and checked before anything is read."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax_bridges.data.walk import SUFFIXES, find_pictures, identity, stem_key
from jax_bridges.io.atomic import check_name, is_writable
from jax_bridges.restoring.holes import ALPHA, Box
from jax_bridges.restoring.pictures import JPEGS, check_suffix


@dataclasses.dataclass(frozen=True)
class Task:
    """One picture to restore: anything `read_picture` takes, its hole, and which sample is wanted."""

    picture: Any
    mask: Any = None
    boxes: Sequence[Box] = ()
    invert: bool = False
    sample: int = 0


@dataclasses.dataclass(frozen=True)
class Order:
    """A picture, its mask (None: it has none; "alpha"), the file to write, and what speaks against it."""

    source: Path
    mask: Path | str | None
    out: Path
    wrong: str = ""

    def beside(self, name: str) -> Path:
        """A further file of the same picture: NAME-2 of its own kind, or a sheet, NAME-grid.png."""
        return self.out.with_name(
            f"{self.out.stem}-{name}{self.out.suffix if name.isdigit() else '.png'}"
        )


def find_orders(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    mask: str | Path | None = None,
    extra: Sequence[str] = (),
    force: bool = False,
    quality: int | None = None,
    tell: Callable[[str], Any] = lambda text: print(text, file=sys.stderr, flush=True),
) -> list[Order]:
    """The pictures of files, folders and patterns, each with its mask and its place.

    Args:
      sources: pictures; folders, searched with their subfolders for names of pictures (`data.walk`);
        patterns such as "photos/**/*.jpg", for shells that do not expand them.
      out: a .png or .jpg for one picture; else a folder, which gets the subfolders of folders and of
        what a pattern's ** stands for.
      mask: one picture for all, a folder with a mask of the same name for each, or "alpha".
      extra: names of further files a picture (`Order.beside`).
      force: existing files may be overwritten; pictures and masks never are.
      quality: into a folder go JPEGs of this quality; None: PNGs.
      tell: is told what is left out.

    Raises:
      ValueError, OSError: in one sentence, whatever of this cannot be.
    """
    out = Path(out)
    given = [sources] if isinstance(sources, str | Path) else sources
    if mask not in (None, ALPHA) and not Path(mask).exists():
        raise ValueError(
            f"There is no {mask}: --mask is a picture, or a folder of masks, or alpha."
        )
    masks = None if mask is None else mask if mask == ALPHA else Path(mask)
    masks = _Masks(masks) if isinstance(masks, Path) and masks.is_dir() else masks
    seen: set[int] = set()
    found = [pair for each in given for pair in _find(Path(each), out, mask, tell)]
    found = [pair for pair in found if _first(pair[0], seen)]
    folders = [each for each in given if Path(each).is_dir()]
    one = len(found) == 1 and not folders
    if not one and (out.suffix.lower() in (".png", *JPEGS) or out.is_file()):
        if folders:
            raise ValueError(f"{folders[0]} is a folder, so {out} must be one too.")
        raise ValueError(f"There are {len(found)} pictures, so {out} must be a folder.")
    into = not one or os.path.isdir(out) or not out.suffix  # of a path too long too
    orders = []
    for source, below in found:
        place = out / below.with_suffix(".png" if quality is None else ".jpg") if into else out
        check_suffix(place, quality)
        try:
            own = masks.of(below) if isinstance(masks, _Masks) else masks
            orders.append(Order(source, own, place))
        except ValueError as error:
            if one:
                raise
            orders.append(Order(source, None, place, str(error).rstrip(".")))
    _check_places(orders, extra, force)
    return orders


def _find(source: Path, out: Path, mask: str | Path | None, tell) -> list[tuple[Path, Path]]:
    """The pictures that one IN stands for, each with its path below what is named."""
    known = ", ".join(sorted(SUFFIXES))
    if source.is_dir():
        inside = [out] if mask in (None, ALPHA) else [out, Path(mask)]
        found = find_pictures(source, [p for p in inside if identity(p) != identity(source)])
        if not found.pictures:
            raise ValueError(f"{source} holds no picture (names that end in {known}).")
        for remark in found.remarks():
            tell(f"note: {remark}")
        return [(path, path.relative_to(source)) for path in found.pictures]
    if source.exists():
        return [(source, Path(source.name))]
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), source.parts))
    if len(fixed) == len(source.parts):
        raise ValueError(f"There is no {source}: give a picture or a folder of pictures.")
    base = Path(*fixed)
    matches = sorted(map(Path, glob.glob(str(source), recursive=True)))
    # A pattern names what it wants; only what `**` or `*` finds by the way is no picture.
    pictures = [path for path in matches if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not pictures:
        raise ValueError(f"{source} matches no picture (names that end in {known}).")
    return [(path, path.relative_to(base)) for path in pictures]


def _first(path: Path, seen: set[int]) -> bool:
    """Whether a file, by whatever name, was not there before; it is then."""
    number = identity(path)
    if number is None:
        return True
    new = number not in seen
    seen.add(number)
    return new


class _Masks:
    """A folder of masks, each found by the name of its picture, whatever its suffix."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._by_stem: dict[str, list[Path]] = {}
        for path in find_pictures(folder, once=False).pictures:  # one file may be many masks
            self._by_stem.setdefault(stem_key(path, folder), []).append(path)

    def of(self, below: Path) -> Path:
        """The mask of the picture at this path below its folder; ValueError if there is not one."""
        stem = stem_key(below, Path())
        found = self._by_stem.get(stem, [])
        if len(found) == 1:
            return found[0]
        many = "no mask" if not found else f"{len(found)} masks"
        other = (s for s in self._by_stem if s.casefold() == stem.casefold() and s != stem)
        alike = "".join(f" ({each} differs in upper and lower case)" for each in other)
        raise ValueError(
            f"{self.folder} holds {many} for {below}: it must hold one of the same name{alike}."
        )


def _check_places(orders: list[Order], extra, force: bool) -> None:
    """Every file to be written once, and none that is read."""
    paths = (p for order in orders for p in (order.source, order.mask))
    read = {Path(p).resolve() for p in paths if p not in (None, ALPHA)}
    taken: dict[Path, Path] = {}
    for order in orders:
        for place in (order.out, *map(order.beside, extra)):
            check_name(place, order.source)
            key = place.resolve()
            if key in read:
                raise ValueError(
                    f"{place} is a picture or mask that is read: it is never overwritten; "
                    "give another OUT."
                )
            if key in taken:
                raise ValueError(
                    f"{taken[key]} and {order.source} would both become {place}: rename one."
                )
            taken[key] = order.source
            if place.is_dir():
                raise ValueError(f"{place} is a folder, where a picture is to be written.")
            if place.exists() and not force:
                raise ValueError(f"{place} exists already: give another OUT, or --force.")
        if not is_writable(order.out.parent):
            raise ValueError(f"{order.out.parent} cannot be written to: give another OUT.")
