"""Randomness with one key an example, and the ledger of what every key is for.

Keys form a tree. Each purpose is a number folded into the key above it, and noise is drawn at leaves
alone, so that no two purposes see the same bits:

    key(seed)
      Purpose                     base keys of a run (`Run.key`)
        an example's number       `example_keys`: in training the number of the draw, else of the image
          Stream                  `fold`; CALL also of a `shared_key`, below step, update and microbatch
            a draw                `AugmentDraw`, `CorruptDraw`, `CallDraw`, `ONLY`, or `StepDraws` of a loop

Pictures that a command restores have trees of their own, from the seed that it is given: the number of
a sample, then `PictureStream` (a bridge), or the draws of a solver (a prior).

Whoever needs randomness for something new takes a new member here, never a free number of a stream
that something else draws from. Numbers are part of what a seed means: they are not changed.

Results do not depend on batch size, on the number of devices or hosts, or on where a run was
interrupted. The exception is dropout in a teacher's training, which flax draws at once for all images
that a device sees: its masks follow from the first of them, and so from how a batch is laid out.

Numpy's generators are seeded by `HostStream` where they draw from the same images, and by a seed in the
settings where they are part of a task (banks of masks, sensing matrices) or of the data's order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.typing import Array

# `[B]` typed PRNG keys, one key for them all (then example i has `fold_in(key, i)`), or a function
# `draw -> noise` that replays saved noise.
Keys = Array | Callable[[int | Array], Array]


# -- the ledger ------------------------------------------------------------------------------------
@enum.unique
class Purpose(enum.IntEnum):
    """Of base keys of a run, `fold_in(key(seed), purpose)`."""

    INIT_TEACHER = 0  # first parameters
    INIT_STUDENT = 1
    EVALUATE = 2  # one for all rows of a table: they see the same corrupted images and noise
    WATCH = 3  # held-out images while a stage trains: the same every time
    OBSERVE = 4  # masks and noise of the observations that a prior is learnt from
    ROUNDS = (
        5  # samples of their posterior; the number of a round of EM follows, but for validation's
    )
    TRAIN_TEACHER = 100  # all that a stage's steps draw
    TRAIN_STUDENT = 101  # of each student of a comparison, too


@enum.unique
class Stream(enum.IntEnum):
    """Of one example, folded into its key."""

    AUGMENT = 0  # flips and rotations: AugmentDraw
    CORRUPT = 1  # what the corruption draws: CorruptDraw
    TIME = 2  # t of a loss: ONLY
    NOISE = 3  # of x_t in a loss: ONLY
    STUDENT = 4  # the student's calls in training: as sample_few_step
    COUPLE = 5  # the other end of a simulated pair (reflow, dsbm), or a path (cdsb): as its sampler
    CALL = 6  # which of the student's calls is trained: CallDraw
    DROPOUT = 7  # flax's, of the first example for all that a device sees
    RENOISE = 8  # of the point that a chain's x_0 is taken back to: ONLY
    REDRAW = 9  # of a hole that is filled anew: ONLY
    SAMPLE = 10  # evaluation: as the sampler; or SampleStream where y is measured first
    REAL = 11  # noise of x_t on the bridge to a real image: ONLY
    CHAIN = 12  # the calls that a renoised point comes from: as sample_few_step
    MEASURE = 13  # noise of an observation: ONLY
    HIDE = 14  # which of an observation's numbers are hidden, to be predicted: ONLY
    FURTHER = 16  # what is hidden besides, in Ambient Diffusion's loss: ONLY
    PROBE = 17  # direction of a divergence, in SURE-Score's loss: ONLY
    ANSWER = 20  # of a further answer to one x_T: its number, then as SAMPLE


@enum.unique
class AugmentDraw(enum.IntEnum):
    """Of Stream.AUGMENT."""

    FLIP = 0
    TURNS = 1


@enum.unique
class CorruptDraw(enum.IntEnum):
    """Of a corruption's keys; in a mixture part i has the stream i, and the choice the next one."""

    NOISE = 0  # of all pixels, or of those in a hole
    CHOICE = 1  # of a mask, or of a mixture's part
    DOWN = 2  # where a mask, or the grid of a codec, lies: rows
    ACROSS = 3  # columns
    TURN_DOWN = 4  # whether a mask is upside down
    TURN_ACROSS = 5  # or left is right
    STRENGTH = 6  # of noise
    QUALITY = 7  # of a codec
    SUBSAMPLING = 8  # of its colours
    WRITTEN = 9  # whether it is used


@enum.unique
class CallDraw(enum.IntEnum):
    """Of Stream.CALL."""

    IS_FIRST = 0
    LATER = 1


@enum.unique
class Masks(enum.IntEnum):
    """Of Stream.DROPOUT, where a generator makes several calls: a call's time follows."""

    TRAINED = 0
    BEFORE = 1


@enum.unique
class SampleStream(enum.IntEnum):
    """Of Stream.SAMPLE, of a prior's tasks, where a measurement is made and then solved for."""

    MEASURE = 0  # ONLY
    SOLVE = 1  # as the solver


@enum.unique
class FurtherStream(enum.IntEnum):
    """Of the keys of Ambient Diffusion's samplers; of MASKS the number of a mask follows."""

    MASKS = 0
    STEPS = 1  # as sample_ambient
    MASK = 2  # of one mask: CorruptDraw
    MORE = 3  # of one mask, what it hides besides: ONLY


@enum.unique
class ScaleStream(enum.IntEnum):
    """Of a hierarchical solver: as the solver that it uses twice."""

    COARSE = 0
    FINE = 1


@enum.unique
class PictureStream(enum.IntEnum):
    """Of one sample of a restored picture (restoring/models.py); a draw, a row and a column follow."""

    FILL = 0  # what x_T has in a hole: ONLY
    STEPS = 1  # as the sampler


ONLY = 0  # the draw of a stream that has one
# Of the key of a stage's first parameters: the key of its second player's. Flax folds hashes of the
# parameters' names, 32 bits long, into the former.
SECOND_PLAYER = 1
THIRD_PLAYER = 2
# In place of an example's number: the key of what all examples of a microbatch share (`shared_key`).
SHARED = 2**32 - 1
# In place of a draw's number of a sampler: noise of the weak answer (samplers/prior_guidance.py).
WEAKENED = 2**32 - 1
# In place of a sample's number, below the seed of a restored picture: noise of a simulated measurement.
SIMULATED = 2**32 - 1


@enum.unique
class HostStream(enum.IntEnum):
    """Of numpy's generators, seeded `[seed, stream]`; 0 is that of `default_rng(seed)` itself."""

    SUBSETS = 0  # images of a kernel distance
    BOOTSTRAP = 1  # images of a resample
    FOLDS = 2  # blocks of images that are left out together


class StepDraws:
    """Draws of a loop in a stream of its own: a few first, then so many a step, then the rest.

    `StepDraws("noise", "jump", first=("start",))` gives "start" 0, the noise of step k 1 + 2k and its
    jump 2 + 2k: a named draw is never that of a step.
    """

    def __init__(self, *each: str, first: tuple[str, ...] = ()):
        self._each, self._first = each, first

    def __call__(self, name: str, step: int | Array | None = None) -> int | Array:
        """The number of a draw: of a step (from 0; one, or `[B]`), or without one of the first."""
        if step is None:
            return self._first.index(name)
        return self.after(step) + self._each.index(name)

    def after(self, steps: int | Array) -> int | Array:
        """The number after those of `steps` steps: draws of a loop of so many that no step has."""
        return len(self._first) + len(self._each) * steps


# -- keys and draws --------------------------------------------------------------------------------
def example_keys(key: Array, index: Array) -> Array:
    """Keys `[B]` of the examples with global numbers `index` `[B]`."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def shared_key(key: Array, *numbers: int | Array) -> Array:
    """One key for all examples of a microbatch on all devices, `[1]`, of the key of the stage.

    Args:
      numbers: that of the step, of the update in it, and of the microbatch.
    """
    key = jax.random.fold_in(key, SHARED)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key[None]


def fold(keys: Array, number: int | Array) -> Array:
    """Folds one number, or `[B]`, into each of the `[B]` keys: an independent stream a purpose."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, 0 if jnp.ndim(number) else None))(keys, number)


def normal(keys: Keys, draw: int | Array, like: Array) -> Array:
    """Standard normal noise of the shape and dtype of `like` `[B, ...]`, draw number `draw` (one, or `[B]`).

    Raises:
      ValueError: keys that are none, or not one for each of the B examples.
    """
    if callable(keys):
        return jnp.asarray(keys(draw), like.dtype)
    keys = _one_each(keys, like.shape[0])
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(
        fold(keys, draw)
    )


def _one_each(keys: Array, count: int) -> Array:
    """`[count]` keys from as many or from one."""
    dtype: Any = getattr(keys, "dtype", None)
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(
            "keys must be made by jax.random.key (not PRNGKey): one key, or one for each of the "
            f"{count} images; got {getattr(keys, 'dtype', type(keys).__name__)}."
        )
    if keys.ndim == 0:
        return example_keys(keys, jnp.arange(count))
    if keys.shape != (count,):
        raise ValueError(
            f"keys has the shape {keys.shape} for {count} images: give one key, or one for each."
        )
    return keys


def uniform(keys: Array, draw: int | Array, shape: tuple[int, ...] = ()) -> Array:
    """`[B, *shape]` float32 numbers, uniform in [0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(fold(keys, draw))


def randint(keys: Array, draw: int | Array, high: int) -> Array:
    """`[B]` int32 numbers, uniform in 0 .. high - 1."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, high))(fold(keys, draw))


def host_generator(stream: HostStream, seed: int = 0) -> np.random.Generator:
    """Numpy's generator of a purpose."""
    return np.random.default_rng([seed, stream])
