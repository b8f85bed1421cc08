"""What a step sends between devices, read from what JAX has traced of it: no backend is asked.

Under "fsdp" the compiler places the communication, but the program says where: a layer that uses a
parameter in shards makes it whole by two sharding constraints, and its gradient comes back through the
same two (`Parallel.whole`). Of those the compilers make, as `tests/test_parallel.py` and results/layouts.md
look at, an all-gather over "fsdp" and an all-reduce of the whole gradient over all devices, of which each
then keeps its shard. Under "pmap" the sums are in the program.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr, Literal
from jax.sharding import NamedSharding, PartitionSpec

from jax_bridges.planning.cost import inside
from jax_bridges.training.parallel import Parallel
from jax_bridges.typing import Array

GATHER, REDUCE = "gather", "reduce"
Axes = tuple[str, ...]
Sent = Counter[tuple[str, Axes]]
EVERYWHERE: Axes = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Marked(Parallel):
    """A `Parallel` whose programs also show the gradients of leaves that are whole everywhere.

    They are for `count_sent`, not to be run.
    """

    @classmethod
    def of(cls, parallel: Parallel) -> Marked:
        """The same devices in the same layout."""
        return cls(**{each.name: getattr(parallel, each.name) for each in dataclasses.fields(cls)})

    def whole(self, param: Array) -> Array:
        if self.shardings(param).spec:
            return super().whole(param)
        return _marked(self)(param)


def _marked(parallel: Parallel) -> Callable[[Array], Array]:
    """Identity, whose gradient is constrained twice to be whole: what `_pair` takes for a sum."""
    everywhere = NamedSharding(parallel.mesh, PartitionSpec())

    @jax.custom_vjp
    def mark(param: Array) -> Array:
        return param

    def back(_: None, grad: Array) -> tuple[Array]:
        for _ in range(2):
            grad = jax.lax.with_sharding_constraint(grad, everywhere)
        return (grad,)

    mark.defvjp(lambda param: (param, None), back)
    return mark


def count_sent(jaxpr: Jaxpr) -> Sent:
    """Bytes that a traced step gathers and reduces, `{(kind, mesh axes): bytes}`.

    A "gather" makes values whole of the shards of the devices along the axes, a "reduce" leaves each of
    them the sum of theirs. Bytes are those of the whole values, in the dtype they travel in.

    As `count_flops` does, it counts every turn of a `scan`, one of a `while_loop`, and of branches the
    dearest. Scalars of the losses are not counted.
    """
    sent: Sent = Counter()
    made: dict[Any, Any] = {}
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "sharding_constraint":
            source = eqn.invars[0]
            before = None if isinstance(source, Literal) else made.get(source)
            sent += _pair(before, eqn)
        elif name.startswith("psum") and "axes" in eqn.params:
            axes = tuple(axis for axis in eqn.params["axes"] if isinstance(axis, str))
            sent[REDUCE, axes] += sum(_bytes(value) for value in eqn.invars)
        elif name == "scan":
            sent += _times(count_sent(eqn.params["jaxpr"].jaxpr), eqn.params["length"])
        elif name == "cond":
            branches = [count_sent(branch.jaxpr) for branch in eqn.params["branches"]]
            sent += max(branches, key=lambda each: each.total())
        else:
            for inner in inside(eqn.params):
                sent += count_sent(inner)
        made.update((value, eqn) for value in eqn.outvars)
    return sent


def _times(sent: Sent, times: int) -> Sent:
    return Counter({key: times * size for key, size in sent.items()})


def _bytes(value: Any) -> int:
    return value.aval.size * value.aval.dtype.itemsize


def _pair(before: Any, eqn: Any) -> Sent:
    """What the second of two constraints asks for, after the first."""
    if before is None or before.primitive.name != "sharding_constraint":
        return Counter()
    source, end = (_axes(each.params["sharding"].spec) for each in (before, eqn))
    size = _bytes(eqn.invars[0])
    if not source:
        return Counter({(REDUCE, EVERYWHERE): size})
    return Counter({(GATHER, source): size} if not end else {})


def _axes(spec: PartitionSpec) -> Axes:
    named = [part if isinstance(part, tuple) else (part,) for part in spec if part is not None]
    return tuple(axis for axes in named for axis in axes)
