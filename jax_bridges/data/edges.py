"""`edges`: photographs of a folder as x0, their edges by Canny's detector as xT.

Edges are black on white, like those of Edges2Handbags. They depend on the image alone, so the
Loader computes them once and keeps them with it.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy import ndimage

from jax_bridges.data.classes import class_count
from jax_bridges.data.files import open_folder
from jax_bridges.data.source import Source

LOW, HIGH = 0.1, 0.2  # usual thresholds for gray in [0, 1]; Sobel's response is 8 x the slope
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def canny(gray: np.ndarray, sigma: float, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """Edges one pixel wide (Canny, A Computational Approach to Edge Detection, PAMI 1986).

    Gaussian smoothing, Sobel gradient, suppression of what is not a maximum across the edge, and
    hysteresis: weak edges count where they are connected to strong ones. Pixels of the border are
    never edges; beyond it the image goes on as it ends.

    Args:
      gray: float `[H, W]`, in [0, 1].
      sigma: of the Gaussian, in pixels.
      low, high: magnitudes of Sobel's gradient of a weak and of a strong edge, 0 < low <= high.

    Returns:
      bool `[H, W]`.
    """
    smooth = ndimage.gaussian_filter(gray, sigma, mode="nearest")
    gi, gj = ndimage.sobel(smooth, axis=0), ndimage.sobel(smooth, axis=1)
    magnitude = np.sqrt(gi * gi + gj * gj)

    weak = magnitude >= low
    weak[[0, -1]] = weak[:, [0, -1]] = False
    i, j = np.nonzero(weak)
    gi, gj = gi[i, j], gj[i, j]
    # The gradient leaves the 3 x 3 neighbourhood between a side and a corner, at `slant` from the
    # side to the corner: the magnitude there is interpolated, ahead and behind.
    steep = np.abs(gi) > np.abs(gj)
    slant = np.minimum(np.abs(gi), np.abs(gj)) / np.maximum(np.abs(gi), np.abs(gj))
    si, sj = np.where(gi < 0, -1, 1), np.where(gj < 0, -1, 1)

    def beyond(k: int) -> np.ndarray:
        side = magnitude[i + k * si * steep, j + k * sj * ~steep]
        return slant * magnitude[i + k * si, j + k * sj] + (1 - slant) * side

    weak[i, j] = magnitude[i, j] >= np.maximum(beyond(1), beyond(-1))
    labels, count = ndimage.label(weak, np.ones((3, 3)))
    strong = np.zeros(count + 1, bool)
    strong[labels[weak & (magnitude >= high)]] = True
    return strong[labels]


def edge_map(image: np.ndarray, sigma: float) -> np.ndarray:
    """The edges of uint8 `[H, W, 3]`, black (0) on white (255), in the same shape."""
    edges = canny(image @ (LUMA / 255), sigma)
    return np.repeat(np.where(edges, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


class EdgeSource:
    """The images of another source with their edges as "xT"."""

    def __init__(self, photographs: Source, sigma: float):
        self.photographs, self.sigma = photographs, sigma
        self.name = photographs.name
        self.classes = class_count(photographs)

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        example = self.photographs[i]
        return {**example, "xT": edge_map(example["x0"], self.sigma)}


def open_edges(c: SimpleNamespace) -> EdgeSource:
    """Images below `c.path`, read as in `open_folder`, and their edges: {"x0", "xT"}.

    The edges are those of the image at its final size; `c.edge_sigma`, in pixels of that size,
    says how much is smoothed away first: more gives fewer, longer lines.
    """
    return EdgeSource(open_folder(c), c.edge_sigma)
