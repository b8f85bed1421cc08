"""One step, two ways to spread it; the only file with collectives and shardings.

"pmap": the state is replicated, each device takes a slice of the batch, gradients meet in one `pmean`.
"fsdp": `jit` over a (data, fsdp) mesh; large leaves of the state are sharded over "fsdp" (ZeRO) and the
compiler places the communication. One device is the 1 x 1 mesh. In neither is there a device axis in
the state, so a checkpoint of one is a checkpoint of the other.

On several hosts (hosts.py) both work on global arrays over all devices. Each host puts its own
share of a batch on its own devices; pmap is then written as the `jit(shard_map(...))` that it has been
since jax 0.8, as `jax.pmap` itself would hand each host a private state that orbax cannot save.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_bridges.models.gather import WHOLE, gathering
from jax_bridges.typing import Array, PyTree

MODES = ("auto", "pmap", "fsdp")


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How the work is spread.

    Attributes:
      mode: "pmap" or "fsdp".
      mesh: ("data", "fsdp") mesh of all devices; under pmap its second axis has length 1.
      min_shard: leaves with fewer elements are replicated, not sharded.
      hosts: number of processes the devices belong to; the mesh is ordered by them.
      reason: why this mode was taken, for people to read.
    """

    mode: str
    mesh: Mesh
    min_shard: int = WHOLE
    hosts: int = 1
    reason: str = ""

    @classmethod
    def create(cls, mode: str = "auto", fsdp: int = 1, devices: list | None = None) -> Parallel:
        """Lays a mesh over the devices.

        Args:
          mode: "auto" takes pmap on several devices unless the state is to be sharded.
          fsdp: over how many devices large leaves are sharded; must divide their number.
          devices: all by default.

        Raises:
          ValueError: an unknown mode, or a number of shards that does not fit.
        """
        devices = jax.devices() if devices is None else devices
        # By host, so that each host's share of a batch is one piece; else in JAX's own order.
        devices = sorted(devices, key=lambda device: device.process_index)
        hosts = len({device.process_index for device in devices})
        if mode not in MODES:
            raise ValueError(f"parallel.mode is '{mode}': choose one of {', '.join(MODES)}.")
        reason = "parallel.mode says so"
        if mode == "auto":
            mode, reason = _choose(len(devices), hosts, fsdp)
        if mode == "pmap" and fsdp != 1:
            raise ValueError(
                "parallel.mode 'pmap' replicates the state: set parallel.fsdp to 1, or mode to 'fsdp'."
            )
        if fsdp < 1 or len(devices) % fsdp:
            raise ValueError(f"parallel.fsdp is {fsdp}: it must divide the {len(devices)} devices.")
        mesh = Mesh(np.asarray(devices).reshape(-1, fsdp), ("data", "fsdp"))
        return cls(mode, mesh, hosts=hosts, reason=reason)

    @property
    def devices(self) -> int:
        """Number of devices; a batch must be divisible by it."""
        return self.mesh.size

    def _named(self, *spec: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    @property
    def _axes(self) -> Any:
        """The mesh axes over which a batch is split."""
        return ("data", "fsdp")

    def shardings(self, tree: PyTree) -> PyTree:
        """Shardings for a state given as arrays or shapes: the largest axis that "fsdp" divides."""
        shards = self.mesh.shape["fsdp"]

        def rule(leaf: Any) -> NamedSharding:
            if shards == 1 or np.prod(leaf.shape) < self.min_shard:
                return self._named()
            fitting = [(n, -i) for i, n in enumerate(leaf.shape) if n % shards == 0]
            if not fitting:
                return self._named()
            axis = -max(fitting)[1]
            return self._named(*(None,) * axis, "fsdp")

        return jax.tree.map(rule, tree)

    def placed(self, shapes: PyTree) -> PyTree:
        """The shapes, each with the sharding it will have."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.shardings(shapes),
        )

    def whole(self, param: Array) -> Array:
        """A parameter as a layer uses it (ZeRO-3): gathered from its shards, its gradient summed into them.

        Left alone, the compiler would rather split the activations of some layers by their channels,
        and go to and fro between both layouts.
        """
        shards = self.shardings(param)
        if not shards.spec:
            return param
        # Both ways through the shards: the gradient comes back through the same two constraints.
        param = jax.lax.with_sharding_constraint(param, shards)
        return jax.lax.with_sharding_constraint(param, self._named())

    def init(self, make: Callable[..., PyTree], *args: Any) -> PyTree:
        """`make(*args)`, each leaf born where it belongs: no device ever holds the whole state."""
        shapes = jax.eval_shape(make, *args)
        return jax.jit(make, out_shardings=self.shardings(shapes))(*args)

    def share(self, batch: PyTree, axis: int = 0) -> PyTree:
        """This host's piece of a batch that every host has as a whole: what `put` takes."""
        if self.hosts == 1:
            return batch

        def cut(a: np.ndarray) -> np.ndarray:
            size = a.shape[axis] // self.hosts
            piece = slice(jax.process_index() * size, (jax.process_index() + 1) * size)
            return a[(slice(None),) * axis + (piece,)]

        return jax.tree.map(cut, batch)

    def put(self, batch: PyTree, axis: int = 0) -> PyTree:
        """This host's share of a batch, numpy arrays, on the devices, split along `axis`."""
        if self.hosts > 1:
            sharding = self._named(*(None,) * axis, self._axes)
            make = jax.make_array_from_process_local_data
            return jax.tree.map(lambda a: make(sharding, np.asarray(a)), batch)
        if self.mode == "pmap":
            n = self.devices

            def split(a: np.ndarray) -> np.ndarray:
                shape = (*a.shape[:axis], n, a.shape[axis] // n, *a.shape[axis + 1 :])
                return np.moveaxis(np.asarray(a).reshape(shape), axis, 0)

            sharding = NamedSharding(
                Mesh(self.mesh.devices.reshape(-1), ("data",)), PartitionSpec("data")
            )
            return jax.device_put(jax.tree.map(split, batch), sharding)
        return jax.device_put(batch, self._named(*(None,) * axis, self._axes))

    def step(self, step: Callable, batch_axis: int = 0) -> Callable:
        """Wraps `step(state, frozen, batch, key, mean)` into `run(state, frozen, batch, key)`.

        The state is donated. `batch` comes from `put` with the same `batch_axis`.
        """
        if self.mode == "pmap":
            mean = partial(jax.lax.pmean, axis_name="data")

            def local(state, frozen, batch, key):
                state, metrics = step(state, frozen, batch, key, mean)
                # Metrics of local losses have been averaged with the gradients: equal on all devices.
                return state, metrics

            if self.hosts > 1:
                split = PartitionSpec(*(None,) * batch_axis, self._axes)
                everywhere = PartitionSpec()
                return jax.jit(
                    self._replicas(local, (everywhere, everywhere, split, everywhere), everywhere),
                    donate_argnums=0,
                )
            return jax.pmap(
                local, axis_name="data", in_axes=(None, None, 0, None), out_axes=None,
                devices=list(self.mesh.devices.reshape(-1)), donate_argnums=0,
            )  # fmt: skip

        gathered = self.gathered(step)

        @partial(jax.jit, donate_argnums=0)
        def run(state, frozen, batch, key):
            state, metrics = gathered(state, frozen, batch, key, lambda tree: tree)
            if self.devices == 1:
                return state, metrics
            return jax.lax.with_sharding_constraint(state, self.shardings(state)), metrics

        return run

    def _replicas(self, function: Callable, inputs: Any, outputs: Any) -> Callable:
        """`pmap` over the devices of several hosts: the function sees its device's piece alone."""
        # Unchecked as pmap is: the gradient of a local loss stays local until `pmean` averages it.
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )

    def gathered(self, function: Callable) -> Callable:
        """`function` of arrays, to be jitted, with networks whose parameters may be in shards."""

        def inside(*args: Any) -> PyTree:
            with gathering(self.whole, self.min_shard):
                return function(*args)

        return inside

    def map(self, function: Callable[[PyTree, PyTree, Array], PyTree]) -> Callable:
        """Wraps `function(params, batch, key) -> arrays [B, ...]` for sampling: a batch in, numpy out.

        The batch is split over the devices along its first axis; params and key go to all of them.
        Of several hosts each gives the whole batch, computes its share, and gets all results in the
        order of the batch.
        """
        if self.mode == "fsdp":
            function = self.gathered(function)
        if self.hosts > 1:
            split, everywhere = PartitionSpec(self._axes), PartitionSpec()
            if self.mode == "pmap":
                function = self._replicas(function, (everywhere, split, everywhere), split)
            gathered = jax.jit(function, out_shardings=self._named())

            def mapped(params, batch, key):
                out = gathered(params, self.put(self.share(batch)), key)
                return jax.tree.map(np.asarray, out)

            return mapped
        if self.mode == "pmap":
            # One argument that is a tuple: where the leaves of three arguments happen to be three (no
            # params, a batch of two), pmap of jax 0.10.2 gives each leaf the axis of one argument.
            run = jax.pmap(
                lambda args: function(*args),
                axis_name="data",
                in_axes=((None, 0, None),),
                devices=list(self.mesh.devices.reshape(-1)),
            )

            def mapped(params, batch, key):
                out = run((params, self.put(batch), key))
                return jax.tree.map(lambda a: np.asarray(a).reshape(-1, *a.shape[2:]), out)

            return mapped
        jitted = jax.jit(function)

        def mapped(params, batch, key):
            return jax.tree.map(np.asarray, jitted(params, self.put(batch), key))

        return mapped


def _choose(devices: int, hosts: int, fsdp: int) -> tuple[str, str]:
    """The mode for "auto", and why."""
    if fsdp > 1:
        return "fsdp", f"parallel.fsdp = {fsdp} shards the state"
    if devices == 1:
        return "fsdp", "one device"
    if hosts > 1:
        return "fsdp", f"one program over {hosts} hosts"
    return "pmap", "several devices of one host, each with a whole state"
