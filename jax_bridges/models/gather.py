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

# Leaves of fewer elements are on every device, whatever becomes of the larger ones.
WHOLE = 2**16

_GATHER: ContextVar[Callable[[Array], Array] | None] = ContextVar("gather", default=None)
_WHOLE: ContextVar[int] = ContextVar("whole", default=WHOLE)


@contextlib.contextmanager
def gathering(gather: Callable[[Array], Array], whole: int = WHOLE) -> Iterator[None]:
    """Networks that are traced inside pass each parameter through `gather` before its use.

    Args:
      gather: makes a whole parameter of its shards.
      whole: leaves of fewer elements are never in shards.
    """
    tokens = _GATHER.set(gather), _WHOLE.set(whole)
    try:
        yield
    finally:
        _GATHER.reset(tokens[0])
        _WHOLE.reset(tokens[1])


def never_sharded() -> int:
    """Leaves of fewer elements than this are whole on every device."""
    return _WHOLE.get()


def promote_dtype(inputs: Array, *params: Array | None, dtype: Any = None) -> list[Array | None]:
    """flax's `promote_dtype` of a layer's input and parameters, the latter whole on each device.

    For the attribute of that name of `nn.Conv` and `nn.Dense`.
    """
    whole = dtypes.promote_dtype(inputs, *params, dtype=dtype)
    gather = _GATHER.get()
    if gather is None:
        return whole
    return [whole[0], *(p if p is None else gather(p) for p in whole[1:])]
