"""`edges2handbags`: the pairs of pix2pix as their authors publish them, edges -> handbag.

    tar xf edges2handbags.tar.gz      # train/*.jpg (138,567 files) and val/*.jpg (200)
    data.name=edges2handbags data.path=edges2handbags data.size=64

A file holds a square of edges (xT) on the left and the photograph (x0) on the right. Other sets of
pix2pix that are made the same way, such as edges2shoes, can be read by giving their folder.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from jax_bridges.data.errors import BadImage
from jax_bridges.data.files import FileSource
from jax_bridges.data.images import check_upscale, read_rgb, resize
from jax_bridges.data.source import permutation

FOLDERS = {"train": "train", "test": "val"}
ORDER_SEED = 0


class HalvesSource(FileSource):
    """Files of two squares side by side: xT | x0."""

    def __init__(self, c: SimpleNamespace, folder: Path, files: dict[str, tuple[Path]]):
        super().__init__(c, folder, files)
        self.keys = ("x0", "xT")

    def _read(self, i: int) -> list[np.ndarray]:
        size, max_upscale = self._settings
        image = read_rgb(*self.paths[i])
        width, height = image.size
        if width != 2 * height:
            raise BadImage(f"{height}x{width} pixels are not two squares side by side")
        check_upscale((height, height), size, max_upscale)
        # Cut before resizing: the filter must not see the other half.
        edges = image.crop((0, 0, height, height))
        photograph = image.crop((height, 0, width, height))
        return resize([photograph, edges], size)


def open_edges2handbags(c: SimpleNamespace) -> HalvesSource:
    """Pairs of the folder `c.path`, which holds train/ and val/ (for test): {"x0", "xT"}.

    Both are resized alike, bicubic with antialiasing, as by DDBM (arXiv 2309.16948).

    Raises:
      FileNotFoundError: no such folder, or no .jpg files in it.
      ValueError: bad files under "refuse".
    """
    folder = Path(c.path or ".").expanduser() / FOLDERS[c.split]
    names = sorted(path.name for path in folder.glob("*.jpg"))
    if not names:
        raise FileNotFoundError(
            f"No .jpg files in {folder}: set data.path to the unpacked edges2handbags.tar.gz, the "
            "folder that holds train/ and val/."
        )
    order = permutation(len(names), ORDER_SEED)
    return HalvesSource(c, folder, {names[k]: (folder / names[k],) for k in order})
