"""A trained model in one hand: `load(path)` gives its denoiser, and samples of it.

    model = load("runs/inpaint", "teacher")
    x0, xT, mask = model.examples(8)
    x0_hat = model.sample(xT, mask=mask, sampler="dbim", nfe=10)

Batches are of the size that it was trained at; `restoring.restorer.Restorer` takes pictures of any.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from ml_collections import ConfigDict

from jax_bridges.bridges import Bridge, Diffusion
from jax_bridges.choices import look_up
from jax_bridges.corruptions import Corrupted, keep_known
from jax_bridges.data import first, make_source
from jax_bridges.keys import Stream, example_keys, fold
from jax_bridges.packed import read_model
from jax_bridges.players import complete_recorded, is_teacher
from jax_bridges.samplers import make_sampler
from jax_bridges.stages.prior import complete_prior, is_prior
from jax_bridges.times import padded
from jax_bridges.training.methods import find_method, sample_student, student_times
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import AnyArray, Array, PyTree
from jax_bridges.zero_shot.diffusion import calls_of, sample_diffusion

_PRIOR_SAMPLERS = {"heun": 2, "ddim": 1}  # name -> order
_FURTHEST = 20.0  # from 0 that an x_T may be: beyond are numbers that were not divided by 127.5


class Trained:
    """A trained teacher, student or prior, as `load` gives it.

    Attributes:
      player: "teacher", "student", ... (players.py).
      config: its complete configuration.
      system: bridge, corruption, preconditioning and networks (training/system.py).
      params: averaged parameters of its network.
      size: (H, W) of its images; None: an import does not record it, and any that its network takes will do.
      prior: it is a diffusion prior, which knows no x_T.
    """

    def __init__(self, player: str, config: ConfigDict, params: PyTree, sized: bool, prior: bool):
        self.player, self.config, self.prior = player, config, prior
        self.system = System.create(config)
        self.size = self.system.size if sized else None
        self.params = jax.device_put(params)
        self._programs: dict[Any, Callable] = {}

    def __repr__(self) -> str:
        what = "prior" if self.prior else self.player
        bridge, network = type(self.bridge).__name__, type(self._network).__name__
        count = sum(a.size for a in jax.tree.leaves(self.params)) / 1e6
        size = "x".join(map(str, self.size)) if self.size else "any size"
        return (
            f"<{self.config.task} {what}: {bridge}, {network} of {count:.3g}M parameters, {size}>"
        )

    @property
    def bridge(self) -> Bridge:
        """The bridge that it was trained on (a prior's noise levels)."""
        return self.system.bridge

    @property
    def _network(self) -> Any:
        return self.system.teacher if is_teacher(self.player) else self.system.student

    # -- what it learned to undo ----------------------------------------------------------------------
    def corrupt(self, x0: AnyArray, seed: int = 0) -> Corrupted:
        """Clean images as this model's task corrupts them.

        Args:
          x0: `[B, H, W, 3]` in [-1, 1].
          seed: of masks and noise; those of image i depend on it and i alone.

        Returns:
          (xT, mask): `[B, H, W, 3]`, and `[B, H, W, 1]`, 1 in the hole, or None where there is no hole.

        Raises:
          ValueError: another shape or type; or a task of pairs, whose x_T are data.
        """
        x0 = self._images("x0", x0)
        if self.prior or self.system.corruption.paired:
            raise ValueError(
                "A prior corrupts nothing: use a corruption of jax_bridges.CORRUPTIONS."
                if self.prior
                else "This model has learned from pairs: its x_T are data, not made from x_0."
            )
        keys = fold(self._keys(len(x0), seed), Stream.CORRUPT)
        return self._program("corrupt", lambda: jax.jit(self.system.corruption))(x0, keys)

    def examples(self, count: int, split: str = "test") -> tuple[Array, Array, Array | None]:
        """Held-out images of its run, corrupted.

        Args:
          count: the first so many.
          split: "test", "validation" or "train".

        Returns:
          (x0, xT, mask): `[B, H, W, 3]` twice, in [-1, 1], and as `corrupt` gives it.

        Raises:
          ValueError, OSError: the data of its run are not there.
        """
        source = make_source(self.config.data, split)
        batch = jax.tree.map(jnp.asarray, first(source, min(count, len(source))))
        pair = self.system.prepare(batch, jax.random.key(0), augment=False)
        return pair.x0, pair.xT, pair.mask

    # -- its answers ----------------------------------------------------------------------------------
    def denoise(
        self,
        xt: AnyArray,
        t: AnyArray | float,
        xT: AnyArray | None = None,
        *,
        mask: AnyArray | None = None,
        label: AnyArray | int | None = None,
    ) -> Array:
        """The teacher's prediction of x_0 from one point of the bridge: one network call.

        It is the `denoise` that samplers and losses take: `SAMPLERS["dbim"](model.denoise, model.bridge, xT,
        nfe=10, keys=keys)`; with a hole, of `functools.partial(model.denoise, mask=mask)`.

        Args:
          xt: `[B, H, W, 3]`, images at time t (of a prior x_t = alpha_t x_0 + sigma_t noise).
          t: scalar or `[B]`, from `bridge.t_min` to `bridge.T`.
          xT: `[B, H, W, 3]`, the corrupted images; a prior takes none.
          mask: `[B or 1, H, W, 1]`, 1 in the hole; by default the hole of a task that has one alone.
          label: classes, one or `[B]`, of a network that has classes.

        Returns:
          x0_hat `[B, H, W, 3]`, not clipped; known pixels as they are in xT.

        Raises:
          ValueError: shapes that do not fit, something missing or too much; or this is a student.
        """
        if not is_teacher(self.player):
            raise ValueError(
                f"A {self.player} is a generator, no denoiser: use sample(), or the teacher, "
                'load(path, "teacher").'
            )
        xt = self._images("xt", xt)
        if (xT is None) != self.prior:
            raise ValueError(
                "A prior knows no x_T: leave xT out."
                if self.prior
                else "A bridge's denoiser needs the corrupted images: denoise(xt, t, xT)."
            )
        xT = xt if xT is None else self._images("xT", xT, like=xt)
        given = self._given(xT, mask, label, 0)
        t = jnp.asarray(t, jnp.float32)
        chex.assert_rank(t, {0, 1})

        def predict(params, xt, t, given):
            return self.system.denoiser(params, Pair(**given))(xt, t, given["xT"])

        return self._program("denoise", lambda: jax.jit(predict))(self.params, xt, t, given)

    def sample(
        self,
        xT: AnyArray | int,
        sampler: str | None = None,
        nfe: int | None = None,
        seed: int = 0,
        *,
        mask: AnyArray | None = None,
        label: AnyArray | int | None = None,
    ) -> Array:
        """Clean images for corrupted ones; of a prior, images from noise alone.

        Args:
          xT: `[B, H, W, 3]`, the corrupted images in [-1, 1]; of a prior how many images to draw.
          sampler: a name of `SAMPLERS` with its knobs, as "dbim" or "dbim:eta=1"; the run's own by default. A
            student has its own, and a prior "heun" (the default) and "ddim".
          nfe: network calls an image, at most; by default the most that it was evaluated with, of a prior 49.
          seed: another one, other answers; those to image i depend on it and i alone.
          mask, label: see `denoise`.

        Returns:
          x0_hat `[B, H, W, 3]`, clipped to [-1, 1]; known pixels as they are in xT.

        Raises:
          ValueError: as `denoise`; an unknown sampler, or calls that it cannot make.
        """
        if self.prior:
            return self._sample_prior(xT, sampler, nfe, seed, mask, label)
        xT = self._images("xT", xT)
        given = self._given(xT, mask, label, seed)
        evaluate, teacher = self.config.evaluate, is_teacher(self.player)
        if nfe is None:
            nfe = max(evaluate.teacher_nfe if teacher else evaluate.student_nfe)
        if not teacher:
            return self._sample_student(given, sampler, nfe)
        chosen = make_sampler(sampler or evaluate.sampler)
        times, length = padded(chosen.grid(self.bridge, nfe))

        def run(params, given, times, length):
            pair = Pair(**given)
            denoise, keys = self.system.denoiser(params, pair), pair.sampling_keys
            x0 = chosen.sample(denoise, self.bridge, pair.xT, times, keys, length=length)
            # Some end at t_min, with the noise that is left there on known pixels as well.
            whole = pair.mask is None or not self.system.keep_known
            return jnp.clip(x0 if whole else keep_known(x0, pair.xT, pair.mask), -1.0, 1.0)

        program = self._program(("sample", chosen.name), lambda: jax.jit(run))
        return program(self.params, given, times, length)

    def _sample_student(self, given: dict[str, Any], sampler: str | None, nfe: int) -> Array:
        distill = self.config.distill
        own = find_method(distill)[0].sampler
        if sampler not in (None, own):
            raise ValueError(
                f"A student has its own sampler, {own}: leave sampler={sampler!r} out, or take the teacher, "
                'load(path, "teacher").'
            )
        student_times(distill, self.bridge, nfe)  # refuses

        def run(params, given):
            pair = Pair(**given)
            keys = pair.sampling_keys
            return sample_student(self.system, distill, params, pair, nfe, keys, clip=True)

        return self._program(("student", nfe), lambda: jax.jit(run))(self.params, given)

    def _sample_prior(self, count, sampler, nfe, seed, mask, label) -> Array:
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(
                "A prior makes images from noise alone: sample(4) draws 4. Corrupted ones it restores by "
                "jax_bridges.PriorRestorer, or a solver of jax_bridges.SOLVERS."
            )
        if mask is not None:
            raise ValueError("A prior's samples have no hole: leave mask out.")
        if self.size is None:
            raise ValueError(
                "An import does not record the size of its images: load(path, size=256)."
            )
        order = look_up("sampler of a prior", _PRIOR_SAMPLERS, sampler or "heun")
        nfe = 49 if nfe is None else nfe
        levels = (nfe + 1) // 2 if order == 2 else nfe
        if levels < 2:
            raise ValueError(f"nfe = {nfe}: sampling a prior takes at least {calls_of(2, order)}.")
        assert isinstance(self.bridge, Diffusion)
        # From where nothing is left of an image, as far as the bridge's own levels go.
        visited = self.bridge.narrow_levels(levels, high=80.0)
        blank = jnp.zeros((int(count), *self.size, self.system.channels))
        given = self._given(blank, None, label, seed)

        def run(params, given, visited):
            pair = Pair(**given)
            predict = self.system.denoiser(params, pair)

            def denoise(x, t):
                return predict(x, t, x)

            keys = pair.sampling_keys
            x0 = sample_diffusion(denoise, pair.xT, visited, keys, order=order)
            return jnp.clip(x0, -1.0, 1.0)

        program = self._program(("prior", order), lambda: jax.jit(run))
        return program(self.params, given, visited)

    # -- what is asked of arguments ------------------------------------------------------------------
    def _program(self, name: Any, make: Callable[[], Callable]) -> Callable:
        if name not in self._programs:
            self._programs[name] = make()
        return self._programs[name]

    @staticmethod
    def _keys(count: int, seed: int) -> Array:
        return example_keys(jax.random.key(seed), jnp.arange(count))

    def _images(self, name: str, images: Any, like: Array | None = None) -> Array:
        """float32 `[B, H, W, 3]` of this model's size; ValueError in one sentence for anything else."""
        if not hasattr(images, "dtype") or not jnp.issubdtype(images.dtype, jnp.floating):
            kind = getattr(images, "dtype", type(images).__name__)
            raise ValueError(
                f"{name} must be an array of floats in [-1, 1], not {kind}: of uint8 images take "
                "images / 127.5 - 1."
            )
        sides = self.size or (None, None)
        expected = (None, *sides, self.system.channels) if like is None else like.shape
        words = ", ".join("BHW"[i] if n is None else str(n) for i, n in enumerate(expected))
        advice = (
            "; pictures of any size: jax_bridges.Restorer" if self.size and like is None else ""
        )
        with _one_sentence(f"{name} has the shape {images.shape}, expected is [{words}]{advice}."):
            chex.assert_shape(images, expected)
        if not isinstance(images, Tracer):
            far = float(np.abs(images).max()) if images.size else 0.0
            if not far <= _FURTHEST:
                raise ValueError(
                    f"{name} reaches {far:g}: images lie in [-1, 1]; of 0 to 255 take images / 127.5 - 1."
                )
        return jnp.asarray(images, jnp.float32)

    def _given(self, xT: Array, mask: Any, label: Any, seed: int) -> dict[str, Any]:
        """What makes a `Pair`."""
        count, sides = len(xT), xT.shape[1:3]
        classes = getattr(self._network, "num_classes", 0) or 0
        if (label is not None) != bool(classes):
            raise ValueError(
                f"The network has {classes} classes: give label."
                if classes
                else "The network has no classes: leave label out."
            )
        if label is not None:
            label = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (count,))
        mask, keys = self._mask(mask, count, sides), self._keys(count, seed)
        return {"x0": xT, "xT": xT, "mask": mask, "keys": keys, "label": label}

    def _mask(self, mask: Any, count: int, sides: tuple[int, ...]) -> Array | None:
        corruption = self.system.corruption
        if mask is None:
            box = corruption.hole_box(*sides) if not self.prior else None
            if box is None:
                if corruption.masks == "needed" and not self.prior:
                    raise ValueError(
                        f"This model fills holes: give mask, [B, {sides[0]}, {sides[1]}, 1], 1 in the hole."
                    )
                return None
            mask = np.zeros((1, *sides, 1), np.float32)
            mask[:, box[0] : box[2], box[1] : box[3]] = 1
        elif corruption.masks == "none":
            raise ValueError("This model restores whole images: leave mask out.")
        shape = getattr(mask, "shape", ())
        wrong = f"mask has the shape {shape}, expected is [{count}, {sides[0]}, {sides[1]}, 1]."
        with _one_sentence(wrong):
            chex.assert_shape(mask, ({1, count}, *sides, 1))
        return jnp.broadcast_to(jnp.asarray(mask, jnp.float32), (count, *sides, 1))


@contextlib.contextmanager
def _one_sentence(sentence: str) -> Iterator[None]:
    """Within, what chex asserts is said as a ValueError of one sentence."""
    try:
        yield
    except AssertionError:
        raise ValueError(sentence) from None


def load(
    path: str | os.PathLike, player: str | None = None, *, size: int | tuple[int, int] | None = None
) -> Trained:
    """A trained model: a run's teacher or student, a prior, an import, or one that ships.

    >>> import jax_bridges as jb, numpy as np
    >>> model = jb.load("photos:inpaint")  # the teacher that comes with the package
    >>> model
    <photos_inpaint teacher: Brownian, UNet of 1.86M parameters, 64x64>
    >>> x0 = np.zeros((1, 64, 64, 3), np.float32)
    >>> xT, mask = model.corrupt(x0)
    >>> model.sample(xT, sampler="dbim", nfe=2, mask=mask).shape
    (1, 64, 64, 3)

    Args:
      path: the folder of a run (of `jax_bridges.run`) or of an import (`python -m jax_bridges.import_torch`),
        a packed file, or the name of a model that comes with the package ("photos:inpaint").
      player: "teacher", "student", a comparison's student by its method ("ibmd"), each with "_best" for what
        `evaluate.best` has kept; by default the student, or the teacher where there is none.
      size: side or (H, W) of the images, of an import alone, which does not record it.

    Raises:
      FileNotFoundError: there is no such model.
      ValueError: one sentence.
    """
    recorded, params, player = read_model(path, player)
    sides = (size, size) if isinstance(size, int) else size
    if "data" in recorded and sides:
        raise ValueError(f"{path} records the size it was trained at: leave size out.")
    sized = "data" in recorded or sides is not None
    prior = is_teacher(player) and is_prior(
        recorded
    )  # a baseline may be a diffusion that is told x_T
    if not sized:  # the smallest that the network takes
        sides = (2 ** (len(recorded["network"]["channel_mult"]) - 1),) * 2
    config = (
        complete_prior(recorded, str(path), sides) if prior else complete_recorded(recorded, sides)
    )
    return Trained(player, config, params, sized, prior)
