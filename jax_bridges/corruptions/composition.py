"""Several linear operators one after the other, e.g. an old photograph: holes, no colour, low resolution."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions.base import (
    Corrupted,
    LinearOperator,
    check_batch,
    corruption,
)


@corruption
class Composition(LinearOperator):
    """A = A_n ... A_2 A_1 of the linear `parts`, the first of which acts first (DDNM, section 3.3).

    A pseudo-inverse is not the product of the parts' ones. Where the rows of A are orthogonal, which
    holes, grey and block means keep, A^+ = A^T / diag(A A^T) exactly; other compositions have
    `forward` and `transpose` alone and raise ValueError for the rest. With product=True `pinv` is
    A_1^+ A_2^+ ... A_n^+ as published: then A A^+ A = A only up to blocks cut by a hole.

    Attributes:
      parts: names, or pairs of a name and its settings, of linear corruptions.
      product: `pinv` is the product of the parts' ones.
    """

    parts: tuple[LinearOperator, ...]
    product: bool = False

    def __post_init__(self):
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("composition: parts must name at least one corruption.")
        for part in self.parts:
            if not getattr(part, "linear", False):
                raise ValueError(f"composition: {part!r} is no linear operator.")

    @property
    def chain(self):
        return self.parts

    @property
    def noisy(self):
        return any(part.noisy for part in self.parts)

    @property
    def noise(self):
        return sum(part.noise for part in self.parts)

    @property
    def greys(self):
        return any(part.greys for part in self.parts)

    @property
    def enlarges(self):
        return math.prod(part.enlarges for part in self.parts)

    @property
    def block(self):
        blocks = [part.block for part in self.parts if part.block is not None]
        return math.prod(blocks) if len(blocks) == len(self.parts) else None

    @property
    def orthogonal(self):
        return not self.product and all(part.orthogonal for part in self.parts)

    def __call__(self, x0, keys=None):
        if keys is not None:
            check_batch(x0, keys)
        return Corrupted(self.pinv(self.forward(x0)))

    def forward(self, x):
        for part in self.parts:
            x = part.forward(x)
        return x

    def transpose(self, y):
        for part in reversed(self.parts):
            y = part.transpose(y)
        return y

    def pinv(self, y):
        if self.product:
            for part in reversed(self.parts):
                y = part.pinv(y)
            return y
        d = self.row_norms2(y)
        return self.transpose(jnp.where(d > 0, y / jnp.where(d > 0, d, 1), 0))

    def row_norms2(self, y):
        """diag(A A^T), shaped like y; ValueError where A A^T has other entries."""
        with jax.ensure_compile_time_eval():
            # A random vector tells a diagonal from any other matrix, but for a set of measure zero.
            one = (1, *y.shape[1:])
            probe = jnp.asarray(np.random.default_rng(0).standard_normal(one), jnp.float32)
            d = self.forward(self.transpose(jnp.ones(one)))
            both = self.forward(self.transpose(probe))
            if not jnp.allclose(both, d * probe, atol=1e-4 * float(jnp.max(jnp.abs(d)))):
                raise ValueError(
                    "composition: the rows of "
                    + " then ".join(type(part).__name__ for part in self.parts)
                    + " are not orthogonal, so its pseudo-inverse has no closed form: use "
                    "product=True, or a solver that needs the transpose only (dps)."
                )
        return jnp.asarray(d, y.dtype)
