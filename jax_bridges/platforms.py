"""Which platform a program is made for: one answer, which every branch by platform asks for.

A program for an accelerator is lowered on a machine without one too (plans, tests); what it would
look like there must then be decided by the platform aimed at, not by the one at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_AIM: ContextVar[str | None] = ContextVar("AIM", default=None)
_NAMES = {"gpu": "cuda"}  # JAX's default_backend() says "gpu" for both makers'; lowering does not


def target() -> str:
    """The platform that is being traced for, as `lowering_platforms` calls it: "cpu", "cuda", "tpu", ..."""
    backend = jax.default_backend()
    return _AIM.get() or _NAMES.get(backend, backend)


@contextlib.contextmanager
def aim_at(platform: str) -> Iterator[None]:
    """Within, `target()` is `platform`.

    What `jax.jit` has traced before is not traced again: trace functions made within, or unjitted ones.
    """
    token = _AIM.set(platform)
    try:
        yield
    finally:
        _AIM.reset(token)
