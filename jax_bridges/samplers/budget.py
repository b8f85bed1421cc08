"""A sampler with what it costs: the grid for a budget of network calls, and their count."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.bridges import Bridge
from jax_bridges.keys import Keys
from jax_bridges.typing import AnyArray, Array, Denoiser


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A sampler that knows its own grid.

    Attributes:
      sample: `sample(denoise, bridge, xT, times, keys, **knobs) -> x0`.
      steps: `steps(nfe, **knobs)`, the `n` of the largest grid within the budget.
      make_grid: `make_grid(bridge, n)`, descending times.
      count: `count(times, **knobs)`, network calls of a sample on these times.
      least: `least(**knobs)`, the smallest budget.
      name: its name in `SAMPLERS`.
    """

    name: str
    sample: Callable[..., Any]
    make_grid: Callable[[Bridge, int], np.ndarray]
    steps: Callable[..., int] = lambda nfe, **_: nfe
    count: Callable[..., int] = lambda times, **_: len(times) - 1
    least: Callable[..., int] = lambda **_: 1

    def grid(self, bridge: Bridge, nfe: int, **knobs) -> np.ndarray:
        """The largest grid within `nfe` calls; ValueError below the structural minimum."""
        least = self.least(**knobs)
        if nfe < least:
            raise ValueError(
                f"The sampler '{self.name}' needs at least {least} network calls an image; "
                f"nfe = {nfe} was asked for."
            )
        return self.make_grid(bridge, self.steps(nfe, **knobs))

    def fixed(self, name: str, **knobs) -> Sampler:
        """This sampler with some knobs set for good, under another name."""
        parts = ("sample", "steps", "count", "least")
        bound = {part: functools.partial(getattr(self, part), **knobs) for part in parts}
        return dataclasses.replace(self, name=name, **bound)

    def calls(self, times: AnyArray, **knobs) -> int:
        """Exact number of network calls an image on these times."""
        return self.count(times, **knobs)

    def why_not(self, bridge: Bridge, nfe: int) -> str:
        """Why it cannot do `nfe` calls on this bridge; "" if it can. Nothing is computed."""

        def sample(xT: Array) -> Array:
            def zeros(draw):
                return jnp.zeros_like(xT)

            times = self.grid(bridge, nfe)
            return self.sample(lambda xt, t, xT: xt, bridge, xT, times, zeros)

        try:
            jax.eval_shape(sample, jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32))
        except ValueError as error:
            return str(error)
        return ""

    def __call__(
        self, denoise: Denoiser, bridge: Bridge, xT: Array, nfe: int, keys: Keys, **knobs
    ) -> Array:
        """Samples x_0 `[B, H, W, C]` with at most `nfe` calls of `denoise`.

        The grid is made on the host, so the bridge must be concrete, not traced.
        """
        return self.sample(denoise, bridge, xT, self.grid(bridge, nfe, **knobs), keys, **knobs)


class CallCounter:
    """Wraps a denoiser and counts how often it really runs, also inside `jit` and `scan`.

    `counter = CallCounter(denoise)`; use it as the denoiser; read `counter.calls()`.
    """

    def __init__(self, denoise: Callable[..., Array]):
        self._denoise = denoise
        self._calls = 0

    def __call__(self, *inputs) -> Array:
        jax.debug.callback(self._add)
        return self._denoise(*inputs)

    def _add(self) -> None:
        self._calls += 1

    def calls(self) -> int:
        """Runs so far; waits for what is still on its way."""
        jax.effects_barrier()
        return self._calls


count_calls = CallCounter
