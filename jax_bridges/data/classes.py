"""Class numbers for class-conditional networks; in folders, the sub-folder of an image is its class.

A labelled source has `classes`, their number, and its examples a "label", an int32 from 0 on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jax_bridges.data.source import Source
from jax_bridges.data.walk import identity, same_form

SUBFOLDERS = "subfolders"


def class_count(source: Source) -> int:
    """How many classes the labels of a source are of; 0 where it has no labels."""
    return getattr(source, "classes", 0)


def read_classes(classes: str, bases: Iterable[Path]) -> dict[str, int] | None:
    """The number of each class, by the name of its sub-folder; None where there are no classes.

    Args:
      classes: `data.classes`. "subfolders": those that are there, numbered in sorted order, as the
        classes of ImageNet are by their WNIDs. Else a text file with all names, one a line, in the
        order of their numbers. "": none.
      bases: the folders whose sub-folders count: those of all splits, which number alike.

    Raises:
      FileNotFoundError: no such file; no sub-folder.
      ValueError: a name that comes twice in the file; a file that is empty or no text.
    """
    if not classes:
        return None
    if classes == SUBFOLDERS:
        bases = list(bases)
        names = sorted({name for base in bases for name in _subfolders(base)})
        if not names:
            raise FileNotFoundError(
                f"data.classes is '{SUBFOLDERS}', but there is none in "
                f"{' or '.join(map(str, bases))}: put the images of each class into a sub-folder."
            )
        return {name: number for number, name in enumerate(names)}
    path = Path(classes).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"data.classes = {classes} is no file: give '{SUBFOLDERS}', or a text file with the "
            "names of the sub-folders in the order of their class numbers."
        )
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # Windows' editors write a mark in front
        names = [same_form(line.strip()) for line in lines if line.strip()]
    except UnicodeDecodeError:
        names = []
    if not names:
        raise ValueError(
            f"data.classes = {classes} must be a text file (UTF-8) with a class name a line."
        )
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        twice = next(name for number, name in enumerate(names) if numbers[name] != number)
        raise ValueError(f"data.classes = {classes} has '{twice}' twice: a class has one number.")
    return numbers


def _subfolders(base: Path) -> list[str]:
    """The names of the sub-folders, in one Unicode form, without links back to where they lie."""
    above = {identity(folder) for folder in (base, *base.resolve().parents)}
    folders = [path for path in base.iterdir() if path.is_dir() and identity(path) not in above]
    return [same_form(path.name) for path in folders if not path.name.startswith(".")]


def labels_of(names: Iterable[str], classes: dict[str, int], base: Path) -> dict[str, np.int32]:
    """The label of each file by its path below `base`: the number of the first folder in it.

    Raises:
      ValueError: a file outside all sub-folders, or in one that is no class.
    """
    labels = {}
    for name in names:
        folder, *below = map(same_form, Path(name).parts)
        if not below:
            raise ValueError(
                f"{base / name} lies in no sub-folder, so it has no class: move it into that of "
                "its class, or set data.classes to ''."
            )
        if folder not in classes:
            raise ValueError(
                f"'{folder}', where {base / name} lies, is not among the {len(classes)} names in "
                "the file of data.classes: add it there, or move the folder away."
            )
        labels[name] = np.int32(classes[folder])
    return labels


def check_classes(num_classes: int, data_config: Any, *sources: Source) -> None:
    """Refuses data whose labels a class-conditional network cannot take.

    Args:
      num_classes: of the network; 0 if it is not class-conditional, which any data will do for.
      data_config: `config.data`.
      sources: those that were opened for it.

    Raises:
      ValueError: data without classes, or with more than the network; or with fewer, if they were
        numbered by the sub-folders that happened to be there.
    """
    for source in sources if num_classes else ():
        found = class_count(source)
        if not found:
            raise ValueError(
                f"The network has {num_classes} classes (network.num_classes), but {source.name} "
                f"has no labels: set data.classes to '{SUBFOLDERS}' or a file with their names "
                "(folder, pairs, edges), or data.label_key (tfds, arrays)."
            )
        if found > num_classes:
            raise ValueError(
                f"{source.name} has {found} classes, more than the network's {num_classes}: set "
                f"network.num_classes to {found}, or use data of the classes it was made for."
            )
        if found < num_classes and data_config.classes == SUBFOLDERS:
            raise ValueError(
                f"{source.name} has {found} sub-folders and the network {num_classes} classes, so "
                "their sorted order is not that of its classes: set data.classes to a file with "
                f"all {num_classes} names in order, or network.num_classes to {found}."
            )
