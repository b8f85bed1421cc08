"""Which pictures are restored into which files: decided and checked before anything is read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_bridges.data.walk import SUFFIXES, find_pictures, identity, stem_key
from jax_bridges.io.atomic import check_name, is_writable
from jax_bridges.restoring.holes import Box


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
    """A picture, its mask (or None), the PNG to write, and what speaks against it, if anything."""

    source: Path
    mask: Path | None
    out: Path
    wrong: str = ""

    def beside(self, name: str) -> Path:
        """A further PNG of the same picture: NAME-grid.png and the like."""
        return self.out.with_name(f"{self.out.stem}-{name}.png")


def find_orders(
    source: str | Path,
    out: str | Path,
    mask: str | Path | None = None,
    extra: list[str] | tuple[str, ...] = (),
    force: bool = False,
) -> list[Order]:
    """The pictures of a file or folder, each with its mask and its place.

    Args:
      source: a picture, or a folder, searched with its subfolders for names of pictures
        (`data.walk`; what is left out is said on stderr).
      out: a .png or a folder for a picture; a folder, which gets the same subfolders, for a folder.
      mask: one picture for all, or a folder with a mask of the same name for each.
      extra: names of further files a picture (`Order.beside`).
      force: existing files may be overwritten; pictures and masks never are.

    Raises:
      ValueError, OSError: in one sentence, whatever of this cannot be.
    """
    source, out = Path(source), Path(out)
    mask = None if mask is None else Path(mask)
    if not source.exists():
        raise ValueError(f"There is no {source}: give a picture or a folder of pictures.")
    if mask is not None and not mask.exists():
        raise ValueError(f"There is no {mask}: --mask is a picture, or a folder of masks.")
    if source.is_dir():
        orders = _folder(source, out, mask)
    else:
        if mask is not None and mask.is_dir():
            mask = _Masks(mask).of(Path(source.name))
        if out.suffix.lower() != ".png":
            if out.suffix and not out.is_dir():
                raise ValueError(
                    f"{out}: pictures are written as PNG, since a lossy file would change known "
                    "pixels; give a name that ends in .png, or a folder."
                )
            out = out / f"{source.stem}.png"
        orders = [Order(source, mask, out)]
    _check_places(orders, extra, force)
    return orders


def _folder(source: Path, out: Path, mask: Path | None) -> list[Order]:
    if out.suffix.lower() == ".png" or out.is_file():
        raise ValueError(f"{source} is a folder, so {out} must be one too.")
    inside = [out] if mask is None else [out, mask]
    found = find_pictures(source, [p for p in inside if identity(p) != identity(source)])
    if not found.pictures:
        known = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{source} holds no picture (names that end in {known}).")
    for remark in found.remarks():
        print(f"note: {remark}", file=sys.stderr, flush=True)
    masks = _Masks(mask) if mask is not None and mask.is_dir() else None
    orders = []
    for path in found.pictures:
        below = path.relative_to(source)
        place = out / below.with_suffix(".png")
        try:
            orders.append(Order(path, masks.of(below) if masks else mask, place))
        except ValueError as error:
            orders.append(Order(path, None, place, str(error).rstrip(".")))
    return orders


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
    read = {p.resolve() for order in orders for p in (order.source, order.mask) if p is not None}
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
