"""What every corruption shares: its result, its base class, known pixels and checks."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple, TypeVar, dataclass_transform

import chex
import jax
import jax.numpy as jnp
import numpy as np


class Corrupted(NamedTuple):
    """xT [B, H, W, C] and mask [B, H, W, 1], 1 where pixels are missing; None without a hole."""

    xT: chex.Array
    mask: chex.Array | None = None


class Corruption(abc.ABC):
    """x_0 -> x_T. Subclasses are `@corruption` dataclasses: frozen, hashable and leafless pytrees.

    An instance may therefore be closed over, passed to a jitted function as it is, or be a static
    argument. What whoever uses one must know of it beyond that, it says itself:

    Attributes:
      linear: it is a `LinearOperator`.
      paired: x_T comes with the data and cannot be computed.
      holes_alone: A blackens pixels and does nothing else.
      noisy: x_T is a measurement with noise of standard deviation `noise`.
      greys: it takes the colour away.
      raster: pixels of a grid that it lays over the image; 1: none.
      enlarges: how many pixels of x, along an axis, are one of y.
      interpolates: x_T has the pixels of y interpolated (bicubic), not repeated.
      shrinks: the filter that makes y of x, bicubic or pool, where it does that and adds no noise.
      averages: side of the blocks whose means are all that it measures; 0: it measures other things.
    """

    linear: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    holes_alone: ClassVar[bool] = False
    noisy: ClassVar[bool] = False
    greys: ClassVar[bool] = False
    raster: ClassVar[int] = 1
    noise: ClassVar[float] = 0.0
    enlarges: ClassVar[int] = 1
    interpolates: ClassVar[bool] = False
    shrinks: ClassVar[str | None] = None
    averages: ClassVar[int] = 0

    @abc.abstractmethod
    def __call__(self, x0, keys) -> Corrupted:
        """Corrupts x0 [B, H, W, C] in [-1, 1] with keys [B], one typed PRNG key per example.

        Draws are those of `jax_bridges.keys.CorruptDraw`. Whoever uses the same keys for something
        else folds a stream of its own into them first.
        """

    def hole_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        """The hole (y0, x0, y1, x1), ends excluded, where it is one fixed rectangle; else None."""
        return None

    @property
    def chain(self) -> tuple["Corruption", ...]:
        """The corruptions that it is made of."""
        return (self,)

    @property
    def fills(self) -> str | None:
        """What x_T holds in the hole (`inpaint.FILLS`); None: it makes none."""
        return getattr(self, "fill", None)

    @property
    def enlargements(self) -> tuple[int, ...]:
        """How often a small picture may be enlarged to become an x_T; 1: it has its final size."""
        return tuple(sorted({1, self.enlarges}))

    @property
    def qualities(self) -> tuple[int, int] | None:
        """Least and largest quality of the JPEG files that it makes; None: it makes none, or does more."""
        return None

    @property
    def masks(self) -> str:
        """Whether its hole must be known to undo it: "needed", "possible" or "none"."""
        return "needed" if self.fills else "none"

    @property
    def block(self) -> int | None:
        """Side of the blocks on which A^+ A acts by itself, so that tiles of whole blocks can be cut out of
        an image; None: there are none."""
        return None

    @property
    def orthogonal(self) -> bool:
        """Whether the rows of A are orthogonal, as far as its kind tells: A A^T is diagonal."""
        return True

    def hole(self, height: int, width: int) -> chex.Array | None:
        """The mask [B or 1, H, W, 1], 1 in the hole, of one whose `holes_alone`; else None."""
        return None

    def operator(self, mask) -> "LinearOperator":
        """A as a linear operator, for images whose mask [B, H, W, 1] is known.

        Raises:
          ValueError: it is none.
        """
        raise ValueError(f"{type(self).__name__} is no linear operator, whatever the mask.")


class LinearOperator(Corruption):
    """A corruption whose x_T comes of y = A x_0: A, A^T and A^+ on [B, H, W, C] images.

    A = U diag(s) V^T has its singular values as well, and functions of them.
    """

    linear: ClassVar[bool] = True

    @property
    def chain(self) -> tuple["LinearOperator", ...]:
        return (self,)

    @abc.abstractmethod
    def forward(self, x: chex.Array, /) -> chex.Array:
        """A x of x [B, H, W, C]: y [B, h, w, c]."""

    @abc.abstractmethod
    def transpose(self, y: chex.Array, /) -> chex.Array:
        """A^T y."""

    @abc.abstractmethod
    def pinv(self, y: chex.Array, /) -> chex.Array:
        """A^+ y, the x of least norm among those with the least |A x - y|."""

    def operator(self, mask) -> "LinearOperator":
        """Itself: it knows its hole."""
        return self

    def row_norms2(self, y):
        """The diagonal of A A^T, shaped like y, of an operator whose A A^T is diagonal."""
        return self.forward(self.transpose(jnp.ones_like(y)))

    def spectral_map(self, x, function):
        """V f(s) V^T x, [B, H, W, C] -> [B, H, W, C], without U, V or s ever being formed.

        `function` takes an array of singular values, 0 in the null space, and may close over traced
        scalars. Here for operators with orthogonal rows, A A^T = diag(d):
        f(0) x + A^T (f(sqrt d) - f(0)) / d A x. Others override it.
        """
        y = self.forward(x)
        d = self.row_norms2(y)
        some, none = jnp.where(d > 0, d, 1), function(jnp.zeros((), x.dtype))
        return none * x + self.transpose(
            jnp.where(d > 0, (function(jnp.sqrt(some)) - none) / some, 0) * y
        )

    def project(self, x):
        """A^+ A x: the part of x [B, H, W, C] that y = A x determines; x minus it is the null space's."""
        return self.pinv(self.forward(x))

    def singular_values(self, height: int, width: int, channels: int = 3) -> np.ndarray:
        """All that are not zero for images of this size, descending, float32 [rank]."""
        y = self.forward(jnp.zeros((1, height, width, channels)))
        s = np.sqrt(np.asarray(self.row_norms2(y))).ravel()
        return np.sort(s[s > 0])[::-1]


_C = TypeVar("_C", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def corruption(cls: _C) -> _C:
    """Class decorator: a frozen dataclass (keyword fields) that jax treats as static."""
    return jax.tree_util.register_static(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


def keep_known(x0_hat, xT, mask):
    """x0_hat [B, H, W, C] in the hole and xT elsewhere; x0_hat itself where mask is None.

    I2SB sec. 4 and DBIM put the pixels that are known back after every network call.
    """
    if mask is None:
        return x0_hat
    chex.assert_equal_shape([x0_hat, xT])
    return jnp.where(mask > 0, x0_hat, xT)


def check_batch(x0, keys):
    """Refuses anything but images [B, H, W, C] with one typed key per example [B].

    A function that replays saved noise (see `jax_bridges.keys.Keys`) passes too.
    """
    chex.assert_rank(x0, 4)
    if callable(keys):
        return
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"keys must be typed PRNG keys, one per example, but have dtype {keys.dtype}: "
            "make them with jax.random.split(jax.random.key(seed), batch_size)."
        )
    if keys.shape != x0.shape[:1]:
        raise ValueError(
            f"keys must have shape {x0.shape[:1]}, one per example, but have shape {keys.shape}."
        )


def check_noise(what: str, std: float) -> None:
    """Refuses a standard deviation of noise that images in [-1, 1] cannot have.

    Papers give it for images in [0, 1] or of 255 levels; the latter is beyond any doubt.

    Args:
      what: its name, for the message.

    Raises:
      ValueError: it is negative, no number, or above 2, which is white minus black.
    """
    if not 0 <= std <= 2:
        hint = f" ({std:g} of 255 is {std / 127.5:.3g})" if 2 < std <= 255 else ""
        raise ValueError(
            f"{what} is {std:g}: noise is in units of images in [-1, 1], so it lies between 0 and 2{hint}."
        )


def separable(left, x, right):
    """left [h, H] @ x [B, H, W, C] @ right [w, W]^T for every image and channel: [B, h, w, C].

    Full precision, as a TPU or a GPU would otherwise round the inputs to about three digits.
    """
    left, right = (jnp.asarray(np.asarray(m), x.dtype) for m in (left, right))
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("hH,bHwc->bhwc", left, x, precision=exact)
    return jnp.einsum("wW,bhWc->bhwc", right, x, precision=exact)


def separable_map(x, rows, columns, function):
    """V f(s) V^T x for A = A_rows (x) A_columns: rows and columns are pairs (s [n], V [n, n])."""
    (s1, v1), (s2, v2) = rows, columns
    gains = function(jnp.asarray(np.outer(s1, s2)[..., None], x.dtype))
    x = separable(v1.T, x, v2.T) * gains
    return separable(v1, x, v2)


def outer_values(s1, s2, channels: int) -> np.ndarray:
    """The products of s1 and s2 that are not zero, once a channel, descending."""
    s = np.repeat(np.outer(s1, s2).ravel(), channels).astype(np.float32)
    return np.sort(s[s > 0])[::-1]


def one_of(owner: str, field: str, value, known) -> None:
    """ValueError unless value is one of known."""
    if value not in known:
        raise ValueError(
            f"{owner}: {field}={value!r} is unknown; it is one of {', '.join(map(repr, known))}."
        )
