"""Where a layer takes its parameters from: as they are, or gathered from the shards of several devices.

A network knows nothing of devices. Whoever spreads its parameters over several (training/parallel.py)
says here, while the network is traced, how a layer is to get a whole one. That happens after the cast
to the computation's dtype, so that bfloat16 travels, and inside of what `remat` repeats, so that no
whole network is kept for the backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from flax.linen import dtypes

from jax_bridges.typing import Array

_GATHER: ContextVar[Callable[[Array], Array] | None] = ContextVar("gather", default=None)


@contextlib.contextmanager
def gathering(gather: Callable[[Array], Array]) -> Iterator[None]:
    """Networks that are traced inside pass each large parameter through `gather` before its use."""
    token = _GATHER.set(gather)
    try:
        yield
    finally:
        _GATHER.reset(token)


def promote_dtype(inputs: Array, *params: Array | None, dtype: Any = None) -> list[Array | None]:
    """flax's `promote_dtype` of a layer's input and parameters, the latter whole on each device.

    For the attribute of that name of `nn.Conv` and `nn.Dense`.
    """
    whole = dtypes.promote_dtype(inputs, *params, dtype=dtype)
    gather = _GATHER.get()
    if gather is None:
        return whole
    return [whole[0], *(p if p is None else gather(p) for p in whole[1:])]
