"""What the page can do: open a picture, answer for it, hand an answer out. It knows no HTTP."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jax_bridges.data.errors import BadImage
from jax_bridges.restoring.files import Task
from jax_bridges.restoring.holes import ALPHA, check_box, split_alpha
from jax_bridges.restoring.notes import Note
from jax_bridges.restoring.pictures import Picture, check_jpeg, read_picture
from jax_bridges.restoring.restorer import Restorer

EXACT = 1_000_000  # pixels: what is shown of more is a JPEG; what is downloaded never is unless asked for
MOST_ANSWERS = 4  # of one question: each is held in memory, as large as the picture
_TABS = {"jpeg": "Undo JPEG", "denoise": "Remove noise"}  # by corruption


class Gone(LookupError):
    """What is asked for belongs to a picture that is no longer on the desk."""


@dataclasses.dataclass(frozen=True)
class Tab:
    """A task of the page, and who does it."""

    name: str
    verb: str
    restorer: Restorer

    def facts(self) -> dict[str, Any]:
        """What the page must know of it."""
        model = self.restorer.model
        facts = {
            "name": self.name,
            "verb": self.verb,
            "about": f"{self.restorer.path}: {model.text}.",
        }
        told = {"masks": model.masks, "enlarge": self.restorer.enlarge, "varies": model.varies}
        return facts | told


@dataclasses.dataclass
class _Opened:
    """The picture on the desk, by its key, and its answers so far by their numbers."""

    key: str
    name: str
    picture: Picture
    answers: dict[int, Picture] = dataclasses.field(default_factory=dict)


class Desk:
    """One picture at a time: opening another puts the one before away. Safe to use from many threads."""

    def __init__(self, restorers: Sequence[Restorer], most: int):
        """Makes tabs of the models; compiles nothing yet.

        Args:
          restorers: one a tab.
          most: pixels of a picture, before and after.
        """
        self.most, self.tabs = most, []
        for restorer in restorers:
            name, verb = _task(restorer)
            if any(tab.name == name for tab in self.tabs):
                name = f"{name} ({PurePosixPath(restorer.path).name})"
            self.tabs.append(Tab(name, verb, restorer))
        self._opened: _Opened | None = None
        self._work = threading.Lock()  # a model answers one question at a time

    def warm_up(self) -> None:
        """Compiles all models, while somebody looks for a picture."""
        for tab in self.tabs:
            with self._work:
                tab.restorer.warm_up()

    # -- one picture -----------------------------------------------------------------------------------
    def open(self, data: bytes, name: str) -> dict[str, Any]:
        """Puts a picture on the desk; what the page must know of it.

        Raises BadImage: it cannot be read, or is too large.
        """
        picture = read_picture(data)
        self._check(picture.size)
        return self._put(picture, PurePosixPath(name.replace("\\", "/")).stem or "picture")

    def keep(self, key: str, number: int) -> dict[str, Any]:
        """An answer becomes the picture; as `open`."""
        opened = self._get(key)
        return self._put(self._answer(opened, number), opened.name)

    def transparent(self, key: str) -> bytes:
        """Where the picture is not opaque, as a PNG of white on black; it stays what it is."""
        _, clear = split_alpha(self._get(key).picture, ALPHA)
        return Picture(clear[..., None].astype(np.uint8) * 255).to_png()

    def view(self, key: str) -> tuple[bytes, str]:
        """The picture for showing: the file's bytes and its type."""
        return _shown(self._get(key).picture)

    def _put(self, picture: Picture, name: str) -> dict[str, Any]:
        opened = self._opened = _Opened(secrets.token_urlsafe(8), name, picture)
        height, width = picture.size
        alpha = picture.alpha
        clear = alpha is not None and bool((alpha < np.iinfo(alpha.dtype).max).any())
        known = {"id": opened.key, "name": name, "width": width, "height": height}
        return known | {"transparent": clear}

    def _get(self, key: str) -> _Opened:
        opened = self._opened
        if opened is None or opened.key != key:
            raise Gone(
                "Another picture has been opened since, and one is kept at a time: open yours again."
            )
        return opened

    def _check(self, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self.most:
            raise BadImage(
                f"this would be {size[1]}x{size[0]}, {size[0] * size[1] / 1e6:.0f} megapixels, and the page "
                f"takes {self.most / 1e6:g} (--megapixels)"
            )

    # -- answers ---------------------------------------------------------------------------------------
    def answer(
        self,
        key: str,
        tab: int,
        painted: tuple[bytes, int, int] | None,
        first: int,
        count: int,
        tell: Callable[[dict[str, Any]], Any],
        opaque: bool = False,
    ) -> None:
        """Restores the picture `count` times.

        Args:
          painted: a PNG, white where the hole is, and where its left top corner lies in the picture.
          first: the first answer's number, which chooses its noise.
          tell: is told what happens, for the page: "doing" (what), "size" (width, height), "note", "tiles"
            (done since), "answer" (its number, and the "box" left, top, width, height outside which it is
            the picture). If it raises, nothing more is computed.
          opaque: answers are opaque where they fill the hole; else as transparent as the picture.

        Raises:
          BadImage, Gone, ValueError: one sentence.
        """
        opened = self._get(key)
        if not (0 <= tab < len(self.tabs) and 1 <= count <= MOST_ANSWERS and 0 <= first < 10**6):
            raise ValueError("The page asks for what there is not: open it again.")
        restorer = self.tabs[tab].restorer
        height, width = (n * restorer.enlarge for n in opened.picture.size)
        self._check((height, width))
        hole = None if painted is None else place(opened.picture.size, *painted)
        box = [0, 0, width, height] if hole is None else bounding_box(hole)
        numbers = range(first, first + count)
        picture = _opaque(opened.picture, hole) if opaque and hole is not None else opened.picture
        while not self._work.acquire(timeout=1.0):
            tell({"doing": "Waiting for the model"})
        try:
            tell({"doing": "Restoring", "size": [width, height]})
            opened.answers.clear()
            notes: dict[Note, None] = {}  # each once, whatever the number of answers
            tasks = [Task(picture, hole, sample=number) for number in numbers]
            done = restorer.many(
                tasks,
                progress=lambda tiles: tell({"tiles": tiles}),
                tell=lambda note: notes.setdefault(note) or None,
            )
            for number, restored in done:
                opened.answers[numbers[number]] = restored
                tell({"answer": numbers[number], "box": box})
                if lost := restored.jpeg_lacks:
                    text = f"its JPEG would lack {' and '.join(lost)}; the PNG keeps that"
                    notes.setdefault(Note(text))
            for note in notes:
                tell({"note": str(note)})
        finally:
            self._work.release()

    def part(self, key: str, number: int, box: Sequence[int]) -> tuple[bytes, str]:
        """An answer's part in a box (left, top, width, height) for showing, as `view`.

        Raises BadImage: the box is not inside the answer, or empty.
        """
        picture = self._answer(self._get(key), number)
        return _shown(picture, check_box(box, picture.size))

    def download(self, key: str, number: int, kind: str) -> tuple[bytes, str, str]:
        """An answer at full size: the file's bytes, its type and its name; kind: "png" or "jpg"."""
        opened = self._get(key)
        picture = self._answer(opened, number)
        if kind == "jpg":
            check_jpeg(picture.size)
            return picture.to_jpeg(), "image/jpeg", f"{opened.name}-restored.jpg"
        return picture.to_png(), "image/png", f"{opened.name}-restored.png"

    def _answer(self, opened: _Opened, number: int) -> Picture:
        if number not in opened.answers:
            raise Gone("Newer answers have taken the place of this one.")
        return opened.answers[number]


def place(size: tuple[int, int], data: bytes, left: int, top: int) -> np.ndarray:
    """The hole, bool `[H, W]`, of a part of it that was painted.

    Args:
      data: a picture of the part, white where the hole is.
      left, top: where its corner lies.

    Raises BadImage: it leaves the picture, is empty, or is the whole picture.
    """
    part = read_picture(data).pixels[..., 0] > 127
    height, width = part.shape
    if not (0 <= left <= size[1] - width and 0 <= top <= size[0] - height):
        raise BadImage("what is painted leaves the picture")
    if not part.any():
        raise BadImage("nothing is painted: paint over what is missing first")
    hole = np.zeros(size, bool)
    hole[top : top + height, left : left + width] = part
    if hole.all():
        raise BadImage("all is painted, so nothing is known to go on: erase some of it")
    return hole


def _opaque(picture: Picture, hole: np.ndarray) -> Picture:
    """The picture with nothing transparent in the hole; without alpha where none is left."""
    if picture.alpha is None:
        return picture
    top = np.iinfo(picture.alpha.dtype).max
    alpha = np.where(hole[..., None], top, picture.alpha).astype(picture.alpha.dtype)
    return dataclasses.replace(picture, alpha=alpha if (alpha < top).any() else None)


def bounding_box(hole: np.ndarray) -> list[int]:
    """[left, top, width, height] of the smallest box around a hole, bool `[H, W]`."""
    rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def _shown(picture: Picture, box: Sequence[int] | None = None) -> tuple[bytes, str]:
    """A picture, or its part in a box, as a browser shows it; exact where that is small."""
    pixels = picture.to_uint8()
    if box is not None:
        left, top, width, height = box
        pixels = pixels[top : top + height, left : left + width]
    if pixels.shape[0] * pixels.shape[1] <= EXACT:
        return Picture(pixels).to_png(), "image/png"
    return Picture(pixels).to_jpeg(), "image/jpeg"


def _task(restorer: Restorer) -> tuple[str, str]:
    """The name of a model's tab, and of the button that starts it."""
    model = restorer.model
    if model.masks == "needed":
        # One answer that is a mean: right for what is thin, smooth in what is wide.
        mean = model.varies_by_calls and not model.varies
        return ("Mend scratches", "Mend") if mean else ("Fill holes", "Fill the hole")
    if restorer.enlarge > 1:
        return f"Enlarge {restorer.enlarge} times", "Enlarge"
    corruption = model.recorded.get("corruption", {})
    kind = corruption.get("name", "")
    if kind == "photo_file":
        kind = "denoise" if max(corruption.get("noise", (0,))) else "jpeg"
    name = _TABS.get(kind, "Restore")
    return name, name
