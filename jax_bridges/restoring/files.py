"""Which pictures are restored into which files: decided and checked before anything is read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax_bridges.data.images import SUFFIXES
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
    """A picture, its mask (or None), and the PNG to write."""

    source: Path
    mask: Path | None
    out: Path

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
      source: a picture, or a folder, searched with its subfolders for names of pictures.
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
            mask = _mask_of(Path(source.name), mask)
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
    inside = [out, mask] if mask is not None and mask.is_dir() else [out]
    skipped = [p.resolve() for p in inside if p.resolve() != source.resolve()]
    orders = []
    for folder, folders, names in os.walk(source, onerror=_unreadable):
        folders[:] = sorted(f for f in folders if (Path(folder) / f).resolve() not in skipped)
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            if mask is not None and mask.is_file() and path.samefile(mask):
                continue
            below = path.relative_to(source)
            its_mask = _mask_of(below, mask) if mask is not None and mask.is_dir() else mask
            orders.append(Order(path, its_mask, out / below.with_suffix(".png")))
    if not orders:
        known = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{source} holds no picture (names that end in {known}).")
    return orders


def _unreadable(error: OSError) -> None:
    raise ValueError(f"{error.filename} may not be read ({error.strerror}).") from error


def _mask_of(below: Path, masks: Path) -> Path:
    """The mask of the same name, whatever its suffix."""
    folder = masks / below.parent
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [p for p in names if p.stem == below.stem and p.suffix.lower() in SUFFIXES]
    if len(found) != 1:
        many = "no mask" if not found else f"{len(found)} masks"
        raise ValueError(f"{masks} holds {many} for {below}: it must hold one of the same name.")
    return found[0]


def _check_places(orders: list[Order], extra, force: bool) -> None:
    """Every file to be written once, and none that is read."""
    read = {p.resolve() for order in orders for p in (order.source, order.mask) if p is not None}
    taken: dict[Path, Path] = {}
    for order in orders:
        for place in (order.out, *map(order.beside, extra)):
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
        parent = next(p for p in order.out.absolute().parents if p.exists())
        effective = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
        if not parent.is_dir() or not os.access(parent, os.W_OK, **effective):
            raise ValueError(f"{parent} cannot be written to: give another OUT.")
