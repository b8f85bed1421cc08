"""Trees of parameters with all small leaves in one vector, for what is done to every number alike.

Most leaves of a network are small (biases, norms). An optimiser's update takes about a hundred instructions
a leaf, of a small network more than there and back through it, and on an accelerator a kernel or more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.typing import Array, PyTree


class Packed(NamedTuple):
    """A tree's large leaves, in its order, and the numbers of the others one after the other."""

    large: list[Array]
    small: Array


# The compiler would fuse what is done to a vector into each of its pieces, once more a piece.
_made = jax.lax.optimization_barrier


class Packing:
    """Between trees like one and `Packed` ones.

    Args:
      like: the tree, of arrays or shapes.
      limit: a leaf of fewer elements is small.
    """

    def __init__(self, like: PyTree, limit: int):
        leaves, self._tree = jax.tree.flatten(like)
        self._shapes = [leaf.shape for leaf in leaves]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        alike = len({leaf.dtype for leaf in leaves}) == 1  # as a vector's numbers are
        self._small = [alike and size < limit for size in self._sizes]

    def pack(self, tree: PyTree) -> PyTree:
        """`tree` with each part that is built like `like` packed: of an optimiser's state, the moments."""
        if sum(self._small) < 2:
            return tree

        def one(part: Any) -> Any:
            if jax.tree.structure(part) != self._tree:
                return part
            leaves = list(zip(jax.tree.leaves(part), self._small))
            small = [leaf.reshape(-1) for leaf, is_small in leaves if is_small]
            large = [leaf for leaf, is_small in leaves if not is_small]
            return Packed(large, _made(jnp.concatenate(small)))

        return jax.tree.map(one, tree, is_leaf=lambda x: jax.tree.structure(x) == self._tree)

    def unpack(self, tree: PyTree) -> PyTree:
        """The inverse of `pack`."""
        ends = np.cumsum([n for n, is_small in zip(self._sizes, self._small) if is_small])[:-1]

        def one(part: Any) -> Any:
            if not isinstance(part, Packed):
                return part
            small, large = iter(jnp.split(_made(part.small), ends)), iter(part.large)
            leaves = [
                next(small).reshape(shape) if is_small else next(large)
                for shape, is_small in zip(self._shapes, self._small)
            ]
            return jax.tree.unflatten(self._tree, leaves)

        return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, Packed))
