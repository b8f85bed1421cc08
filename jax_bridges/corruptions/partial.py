"""Operators that see a part: of the image (`Canvas`), or of another operator's numbers (`Rows`)."""

import dataclasses

import chex
import jax
import jax.numpy as jnp

from jax_bridges.corruptions.base import Corrupted, LinearOperator


class _Partial(LinearOperator):
    """x_T is A^+ y."""

    def __call__(self, x0, keys=None):
        return Corrupted(self.pinv(self.forward(x0)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Canvas(_Partial):
    """`operator` on the upper left part of a larger image, of whose rest nothing is known.

    For pictures that are smaller than a network takes. With C the cut, C C^T = 1, so that
    (A C)^+ = C^T A^+ whatever A is, and the rest belongs to the null space.

    Attributes:
      operator: linear.
      size: (H, W) of the part that `operator` sees.
      canvas: (H, W) of the whole, at least as large.
    """

    operator: LinearOperator
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    canvas: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def forward(self, x):
        return self.operator.forward(self.cut(x))

    def transpose(self, y):
        return self._place(self.operator.transpose(y))

    def pinv(self, y):
        return self._place(self.operator.pinv(y))

    def row_norms2(self, y):
        return self.operator.row_norms2(y)

    def spectral_map(self, x, function):
        part = self.operator.spectral_map(self.cut(x), function)
        return (
            (function(jnp.zeros((), x.dtype)) * x).at[:, : self.size[0], : self.size[1]].set(part)
        )

    def singular_values(self, height, width, channels=3):
        return self.operator.singular_values(*self.size, channels)

    def cut(self, x):
        """The part `[B, H, W, C]` of a canvas that the operator sees."""
        return x[:, : self.size[0], : self.size[1]]

    def _place(self, x):
        down, right = (c - s for c, s in zip(self.canvas, self.size, strict=True))
        return jnp.pad(x, ((0, 0), (0, down), (0, right), (0, 0)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rows(_Partial):
    """`operator` without those of its numbers that are missing, e.g. scratches on a grey, small photograph.

    The rows of `operator` must be orthogonal (`orthogonal`): A^+ = A^T / diag(A A^T) then holds
    for any choice of them.

    Attributes:
      operator: linear.
      mask: broadcasts against y `[B, h, w, c]`; 1 where y is missing.
    """

    operator: LinearOperator
    mask: chex.Array

    def __post_init__(self):
        if isinstance(self.operator, LinearOperator) and not self.operator.orthogonal:
            raise ValueError(
                f"{type(self.operator).__name__} cannot do with a part of its numbers, because its rows "
                "are not orthogonal: of superres take kind 'pool', of a composition leave product out."
            )

    def forward(self, x):
        return self._kept(self.operator.forward(x))

    def transpose(self, y):
        return self.operator.transpose(self._kept(y))

    def pinv(self, y):
        return self.operator.pinv(self._kept(y))

    def row_norms2(self, y):
        return self._kept(self.operator.row_norms2(y))

    def _kept(self, y):
        return jnp.where(jnp.asarray(self.mask) > 0, 0, y)
