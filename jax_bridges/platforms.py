"""Which platform a program is made for: one answer, which every branch by platform asks for.

A program for an accelerator is lowered on a machine without one too (plans, exports, tests); what it
would look like there must then be decided by the platform aimed at, not by the one at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

from jax_bridges.typing import Device

_AIM: ContextVar[tuple[str, tuple[int, int]] | None] = ContextVar("AIM", default=None)
_NONE = (0, 0)


def target() -> str:
    """The platform that is being traced for, as `lowering_platforms` calls it: "cpu", "cuda", "tpu", ...

    "any" within `aim_at("any")`; else the one of JAX's default devices.
    """
    aim = _AIM.get()
    return _of(jax.devices()[0]) if aim is None else aim[0]


def compute_capability() -> tuple[int, int]:
    """(major, minor) of the NVIDIA GPU that is being traced for; (0, 0) of anything else."""
    aim = _AIM.get()
    if aim is not None:
        return aim[1]
    device = jax.devices()[0]
    if _of(device) != "cuda":
        return _NONE
    major, minor = str(device.compute_capability).split(".")
    return int(major), int(minor)


def platform_of(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> str:
    """The platform of a mesh's devices; that of `target()` if they are only pretended."""
    if isinstance(mesh, jax.sharding.AbstractMesh):
        return target()
    return _of(mesh.devices.flat[0])


def _of(device: Device) -> str:
    if device.platform != "gpu":
        return device.platform
    # JAX calls the GPUs of both makers "gpu", where it lowers it does not.
    return "cuda" if "cuda" in device.client.platform_version.lower() else "rocm"


def unroll_gradients(length: int) -> int:
    """`unroll` of a `lax.scan` of so many turns with gradients of networks in it: whole on a CPU alone.

    XLA's CPU backend runs the convolution gradients of a loop's body on a slow path, ten times slower;
    an accelerator compiles a loop's body once.
    """
    return length + 1 if target() == "cpu" else 1  # a loop of one turn stays one if unrolled by one


def packs_small_leaves() -> bool:
    """Whether an optimiser's update has all small leaves in one vector: everywhere but on a CPU.

    There each piece taken from the vector is a kernel more to compile, and no launch is saved.
    """
    return target() != "cpu"


@contextlib.contextmanager
def aim_at(platform: str, capability: tuple[int, int] = _NONE) -> Iterator[None]:
    """Within, and in this thread, `target()` is `platform`.

    What `jax.jit` has traced before is not traced again: trace functions made within, or unjitted ones.

    Args:
      platform: as of `target()`, or "any": a program that all platforms can run, as accelerators like it
        best (with loops).
      capability: of an NVIDIA GPU, without which no kernels are used that need a certain one.
    """
    token = _AIM.set((platform, capability))
    try:
        yield
    finally:
        _AIM.reset(token)
