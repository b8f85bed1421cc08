"""Blind restoration: every example suffers one of several corruptions, picked at random."""

import jax.numpy as jnp

from jax_bridges import keys as random
from jax_bridges.corruptions.base import Corrupted, Corruption, check_batch, corruption


@corruption
class Mixture(Corruption):
    """Each example suffers one of `parts`, all equally likely (I2SB's mixture has nine).

    Every part corrupts the whole batch and each example keeps one result. Under vmap `lax.switch`
    would do the same, and a loop over the examples would give up their parallelism; all nine
    tasks together cost far less than one network call.

    The restorer is blind by default, so mask is None. With `with_mask=True` an example has the
    mask of its part, all ones where that part has none: nothing of x_T is then known to be right,
    and `keep_known` and masked losses treat the whole image as the hole.

    Attributes:
      parts: names, or pairs of a name and its settings; none: I2SB's nine tasks.
      with_mask: a network is told the hole, where there is one.
    """

    parts: tuple[Corruption, ...]
    with_mask: bool = False

    def __post_init__(self):
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("mixture: parts must name at least one corruption.")
        for part in self.parts:
            if not isinstance(part, Corruption) or part.paired:
                raise ValueError(f"mixture: {part!r} is not a corruption that x_T can be made by.")

    @property
    def chain(self):
        return self.parts

    @property
    def fills(self):
        return next((part.fills for part in self.parts if part.fills), None)

    @property
    def masks(self):
        return "possible" if self.fills and self.with_mask else "none"

    def choice(self, keys):
        """Which part [B] each example suffers."""
        own = random.fold(keys, len(self.parts))  # after the parts' streams
        return random.randint(own, random.CorruptDraw.CHOICE, len(self.parts))

    def __call__(self, x0, keys):
        check_batch(x0, keys)
        choice = self.choice(keys)[:, None, None, None]
        xT, mask = x0, jnp.ones((*x0.shape[:3], 1), x0.dtype)
        for i, part in enumerate(self.parts):
            one = part(x0, random.fold(keys, i))
            xT = jnp.where(choice == i, one.xT, xT)
            if one.mask is not None:
                mask = jnp.where(choice == i, one.mask, mask)
        return Corrupted(xT, mask if self.with_mask else None)
