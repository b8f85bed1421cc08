"""The network that joins a slice's chips (ICI) and several slices (DCN): the least time a step's bytes take.

Whatever the routes, what a set of chips must hear from the others has to come in over the links that lead
into the set, and what the others must hear from it has to go out. Tried are every chip, every part of a
slice that a plane cuts off, and every slice; and all chips, and all slices, together. The slowest of these
bounds the step from below, if all links were busy all the time in both directions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jax_bridges.planning.collectives import EVERYWHERE, GATHER, REDUCE, Axes, Sent
from jax_bridges.planning.topology import Topology
from jax_bridges.typing import Device


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a step sends.

    Attributes:
      gathered, reduced: bytes that a chip receives on average, `{"ICI": bytes, "DCN": bytes}`: shards of
        parameters, and parts of sums of gradients.
      seconds: that this takes at least; 0.0 where nothing is sent.
      bound: the link that takes that long, "ICI" or "DCN".
    """

    gathered: dict[str, float]
    reduced: dict[str, float]
    seconds: float
    bound: str


@dataclasses.dataclass(frozen=True)
class Network:
    """Chips with their places, in the order of a mesh.

    Attributes:
      topology: what they are, and their links.
      places: `[N, D]` along the axes of the grid.
      slices: `[N]` which slice each is in.
      mesh: the mesh's shape, `(data, fsdp)`.
    """

    topology: Topology
    places: np.ndarray
    slices: np.ndarray
    mesh: tuple[int, int]

    @classmethod
    def create(
        cls, topology: Topology, devices: Sequence[Device], shape: tuple[int, int]
    ) -> Network:
        """Of a mesh's devices, flat; they say where they are."""
        axes = len(topology.grid)
        places = np.array([device.coords[:axes] for device in devices])
        slices = np.array([getattr(device, "slice_index", None) or 0 for device in devices])
        return cls(topology, places, slices, shape)

    # -- who sends to whom -----------------------------------------------------------------------
    def groups(self, axes: Axes) -> np.ndarray:
        """`[N]` number of the group in which each chip shares a collective along these mesh axes."""
        place = np.indices(self.mesh)
        whole = [np.zeros_like(p) if name in axes else p for name, p in zip(EVERYWHERE, place)]
        return (whole[0] * self.mesh[1] + whole[1]).reshape(-1)

    def _counts(self, axes: Axes, chips: np.ndarray) -> tuple[np.ndarray, int]:
        """Members of each group among `chips` (a mask), and of each group in all."""
        groups = self.groups(axes)
        sizes = np.bincount(groups)
        return np.bincount(groups[chips], minlength=len(sizes))[sizes > 0], int(sizes.max())

    def crossing(self, sent: Sent, chips: np.ndarray) -> tuple[float, float]:
        """Bytes that must come into these chips from the others, and go out of them."""
        into = out = 0.0
        for (kind, axes), size in sent.items():
            inside, n = self._counts(axes, chips)
            cut = inside[(inside > 0) & (inside < n)]
            # A shard each: the others' are to be heard, and ours told.
            others, ours = size * np.sum(n - cut) / n, size * np.sum(cut) / n
            into += others if kind == GATHER else others + ours
            out += ours if kind == GATHER else others + ours
        return into, out

    def received(self, sent: Sent, parts: np.ndarray) -> float:
        """Bytes that all parts together (`[N]`, the part of each chip) must hear from other parts."""
        total = 0.0
        for (kind, axes), size in sent.items():
            pairs = np.unique(np.stack([self.groups(axes), parts]), axis=1)
            among = np.bincount(pairs[0])
            hops = np.sum(among[among > 0] - 1)
            total += size * hops * (2 if kind == REDUCE else 1)  # a sum is scattered, then gathered
        return total

    # -- links -------------------------------------------------------------------------------------
    def _doors(self, chips: np.ndarray) -> float:
        """Bytes a second over all links that lead into these chips, as many as lead out."""
        topology = self.topology
        inside = {(s, *p) for s, p in zip(self.slices[chips], map(tuple, self.places[chips]))}
        links = 0
        for slice_, *place in inside:
            for axis, (n, ring) in enumerate(zip(topology.grid, topology.rings, strict=True)):
                for step in (-1, 1):
                    at = place[axis] + step
                    if ring or 0 <= at < n:
                        next_ = (slice_, *place[:axis], at % n, *place[axis + 1 :])
                        links += next_ not in inside
        rate = links * topology.chip.ici
        if topology.slices > 1:
            rate += len(inside) * (topology.chip.dcn or 0.0)
        return 1e9 * rate

    def _cuts(self) -> Iterator[tuple[str, np.ndarray]]:
        """Sets of chips, with the link that leads into them."""
        number = np.arange(len(self.places))
        yield from (("ICI", number == k) for k in number)
        for one in range(self.topology.slices):
            here = self.slices == one
            for axis, n in enumerate(self.topology.grid):
                yield from (("ICI", here & (self.places[:, axis] <= k)) for k in range(n - 1))
            if self.topology.slices > 1:
                yield "DCN", here

    def traffic(self, sent: Sent) -> Traffic:
        """What a step that sends this costs."""
        number = np.arange(len(self.places))
        loads = [(link, max(self.crossing(sent, chips)), [chips]) for link, chips in self._cuts()]
        for link, parts in (("ICI", number), ("DCN", self.slices)):
            each = [parts == part for part in np.unique(parts)]
            loads.append((link, self.received(sent, parts), each))
        bounds = [(size / sum(map(self._doors, each)), link) for link, size, each in loads if size]
        seconds, bound = max(bounds, default=(0.0, "ICI"))

        def of(gathers: bool) -> dict[str, float]:
            part: Any = {k: size for k, size in sent.items() if (k[0] == GATHER) == gathers}
            all_, far = (self.received(part, by) / len(number) for by in (number, self.slices))
            return {"ICI": all_ - far, "DCN": far}

        return Traffic(of(True), of(False), seconds, bound)
