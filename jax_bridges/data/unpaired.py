"""Unpaired training data: the two sides of a paired set, each x_0 with the x_T of another example."""

from __future__ import annotations

import numpy as np

from jax_bridges.data.source import Source, permutation

ORDER_SEED = 1


class Unpaired:
    """`source` with its x_T dealt out anew: fixed, every x_T once, none to its own x_0."""

    def __init__(self, source: Source):
        """Raises ValueError unless the source is paired and has two examples at least."""
        if "xT" not in source[0] or len(source) < 2:
            raise ValueError(
                f"data.unpaired needs both sides, x_0 and x_T: {source.name} has no x_T to mix."
            )
        self.source, self.name = source, f"{source.name}-unpaired"
        order = permutation(len(source), ORDER_SEED)
        self._partner = np.empty_like(order)
        self._partner[order] = np.roll(order, 1)  # one cycle through all: nobody is his own partner

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {**self.source[i], "xT": self.source[int(self._partner[i])]["xT"]}

    def __getattr__(self, name: str):
        return getattr(self.source, name)  # number of classes, size
