"""A^+ y of observations, taken for images."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions import Corruption
from jax_bridges.data.observations import Observations, operator_of


class Inverted:
    """A `Source` of {"x0": float32 [H, W, 3]}: the images of least norm that explain what was observed."""

    def __init__(self, observed: Observations, corruption: Corruption):
        """`corruption` is that of `observed`."""
        self.name = f"pseudo-inverse of {observed.name}"
        self._observed, self._corruption = observed, corruption

    def __len__(self) -> int:
        return len(self._observed)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        one = {key: jnp.asarray(value[None]) for key, value in self._observed[i].items()}
        x0 = operator_of(self._corruption, one).pinv(one["y"])
        return {"x0": np.asarray(x0[0], np.float32)}
