"""TPUs that are not here: to compile for them on any machine, with their own compiler (libtpu).

`pip install 'jax_bridges[tpu]'` brings it; it compiles without a TPU, only running needs one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re

import jax

from jax_bridges.choices import look_up
from jax_bridges.typing import Device


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU.

    Attributes:
      name, config: libtpu's names of the chip, and of how its cores work together.
      gib: memory that its compiler lets a program have.
      tflops: dense bfloat16 at most, by Google's documentation.
      dimensions: of the network that joins the chips of a slice (ICI).
      ici: gigabytes (1e9) a second of one of its links, one way; a chip has two links a dimension.
      dcn: of a chip's share of the network between slices, one way; None where no rate is published.
    """

    name: str
    config: str
    gib: float
    tflops: float
    dimensions: int
    ici: float
    dcn: float | None


# Rates of links are of cloud.google.com/tpu/docs/{v5e,v5p,v6e}, read on 2026-11-27: both ways a chip has
# 400, 1200 and 800 GB/s over its 4, 6 and 4 ports; the data centre network has 6.4 and 25.6 Tb/s for 256
# chips of v5e and v6e, and 50 Gb/s a chip of v5p. v4's are of arXiv 2304.01433: six links of 50 GB/s.
CHIPS = {
    "v4": Chip("v4", "megacore", 30.75, 275, 3, 50.0, None),
    "v5e": Chip("v5e", "default", 15.75, 197, 2, 50.0, 3.125),
    "v5p": Chip("v5", "megachip_tccontrol", 95.74, 459, 3, 100.0, 6.25),
    "v6e": Chip("v6e", "default", 31.25, 918, 2, 100.0, 12.5),
}

# libtpu asks the machine's metadata server where it is, writes to stderr what it misses, and is one
# process's alone: where no TPU is held, several may compile.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips of one kind in a grid, `v5e:4x4`; `text` is the name as given, `slices` how many such grids."""

    text: str
    chip: Chip
    grid: tuple[int, ...]
    slices: int = 1

    @property
    def devices(self) -> int:
        """Number of chips; each is one device."""
        return math.prod(self.grid) * self.slices

    @property
    def rings(self) -> tuple[bool, ...]:
        """Of each axis, whether its ends are joined too.

        Two-dimensional ones are where they have a whole pod's 16 chips, three-dimensional ones in slices
        of whole cubes of 4 x 4 x 4 (cloud.google.com/tpu/docs, read on 2026-11-27).
        """
        if self.chip.dimensions == 2:
            return tuple(n == 16 for n in self.grid)
        return (all(n % 4 == 0 for n in self.grid),) * len(self.grid)


def read_topology(text: str, slices: int = 1) -> Topology:
    """A topology from its name.

    Args:
      text: `KIND:AxB`, for v4 and v5p `KIND:AxBxC`; KIND one of CHIPS.
      slices: so many of them, joined by the network of the data centre.

    Raises:
      ValueError: an unknown kind, or a grid that such chips do not form; several slices of chips
        whose rate between slices is not known.
    """
    kind, _, shape = text.partition(":")
    chip = look_up("kind of TPU", CHIPS, kind)
    if not re.fullmatch("x".join([r"[1-9]\d*"] * chip.dimensions), shape):
        example = "x".join(["4"] * chip.dimensions)
        raise ValueError(
            f"The topology '{text}' is not known: give the chips along {chip.dimensions} axes, as "
            f"in {kind}:{example}."
        )
    if slices > 1 and chip.dcn is None:
        raise ValueError(
            f"No rate is published of the network between slices of {kind}: plan one slice, or take "
            f"one of {', '.join(name for name, each in CHIPS.items() if each.dcn)}."
        )
    return Topology(text, chip, tuple(map(int, shape.split("x"))), slices)


def compile_only_devices(topology: Topology) -> list[Device]:
    """The devices of a TPU that is not here; JAX must not have been used before.

    Raises:
      ValueError: libtpu is not installed, or does not know such a topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "To compile for a TPU needs its compiler, libtpu: pip install 'jax_bridges[tpu]' (Linux "
            "on x86-64; no TPU is needed)."
        )
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # there is no TPU to be asked for
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    grid = (*topology.grid, 1, 1)[:3]
    host = tuple(min(n, most) for n, most in zip(grid, (2, 2, 1), strict=True))
    try:
        return topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{topology.chip.name}:{'x'.join(map(str, topology.grid))}",
            chip_config_name=topology.chip.config,
            chips_per_host_bounds=host,
            num_slices=topology.slices,
        ).devices
    except Exception as error:  # libtpu's own, of several kinds
        raise ValueError(
            f"libtpu knows no TPU '{topology.text}' ({' '.join(str(error).split())[:200]})."
        ) from error
