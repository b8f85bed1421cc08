"""The E-step of EM: one sample of the posterior for each observation, kept batch by batch.

A killed step goes on at the batch that it was at: each is a file of its own, WORKDIR/em/ROUND/START.npz,
until the whole is one, WORKDIR/em/ROUND.npz. What is kept is float16, and is read back even where it
was just made, so that a run that was stopped has the same numbers as one that was not.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges import hosts
from jax_bridges.bridges import Levels
from jax_bridges.command import time_left
from jax_bridges.corruptions import Corrupted, Corruption, InpaintMask, LinearOperator, Rows
from jax_bridges.data import Observations, first, operator_of, pad
from jax_bridges.io.atomic import write_atomic
from jax_bridges.io.bucket import remove_folder
from jax_bridges.keys import ONLY, Purpose, Stream, example_keys, fold, uniform
from jax_bridges.stages.run import Run, Stopped
from jax_bridges.stages.solving import Problem, map_solver
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree
from jax_bridges.zero_shot import Method, measure, sample_diffusion
from jax_bridges.zero_shot.gaussian import sample_posterior

HIDDEN = 0.1  # share of an observation's numbers that a validation has to predict
EVERY = 10.0  # seconds between two words on how far it is
LEAST_NOISE = 0.01  # sigma_y is taken for no less where a system is solved

Sample = Callable[[PyTree, PyTree, Array], PyTree]


def posterior_sampler(
    run: Run, corruption: Corruption, sigma_y: float, method: Method, hide: bool = False
) -> Sample:
    """`sample((params, knobs), batch, key)` of a batch of observations, by a prior.

    Args:
      method: solver with its settings.
      hide: of each observation's numbers a share HIDDEN is kept from the solver.

    Returns:
      A program that gives (x_0 `[B, H, W, C]` clipped to [-1, 1], sums of squares `[B]` of what it misses
      of y, over how many numbers `[B]`): of those that were measured, or that were hidden. Knobs are
      settings of the solver that may change without another compilation.
    """
    hidden = _hiding(run.key(Purpose.OBSERVE)) if hide else None

    def pose(params, batch, key) -> Problem:
        theta, knobs = params
        operator, y = _given(corruption, batch, hidden)
        keys = fold(example_keys(key, batch["number"]), Stream.SAMPLE)
        image = jax.eval_shape(operator.transpose, y)
        blank = jnp.zeros(image.shape, image.dtype)
        predict = run.system.denoiser(theta, Pair(blank, blank, None, keys))
        return Problem(lambda x, t: predict(x, t, x), operator, y, sigma_y, keys, knobs, batch)

    def finish(x, problem):
        return _checked(corruption, x, problem.told, hidden)

    return map_solver(run.parallel, method, pose, finish)


def network_sampler(
    run: Run, system: System, corruption: Corruption, levels: Levels, hide: bool = False
) -> Sample:
    """`sample((params, {}), batch, key)`, as of `posterior_sampler`, by a network that is told A^+ y.

    No gradient goes through it (DiffEM, arXiv 2510.12691).

    Args:
      system: of the network, on the noise levels of a diffusion.
    """
    hidden = _hiding(run.key(Purpose.OBSERVE)) if hide else None

    def sample(params, batch, key):
        operator, y = _given(corruption, batch, hidden)
        keys = fold(example_keys(key, batch["number"]), Stream.SAMPLE)
        x = sample_told(system, params[0], operator.pinv(y), levels, keys)
        return _checked(corruption, x, batch, hidden)

    return run.parallel.map(sample)


@dataclasses.dataclass(frozen=True)
class Observed(Corruption):
    """x_T = A^+ y of an observation of x_0, fresh at each call."""

    corruption: Corruption
    sigma_y: float

    def __call__(self, x0, keys):
        mask = self.corruption(x0, keys).mask
        operator = self.corruption.operator(mask)
        y = measure(operator, x0, self.sigma_y, fold(keys, Stream.MEASURE))
        return Corrupted(operator.pinv(y))


def sample_told(system: System, params: PyTree, xT: Array, levels: Levels, keys: Array) -> Array:
    """A sample of a conditional network's diffusion, `[B, H, W, C]`, told x_T."""
    predict = system.denoiser(params, Pair(xT, xT, None, keys))
    return sample_diffusion(lambda x, t: predict(x, t, xT), xT, levels, keys)


def _hiding(key: Array) -> Callable[[Mapping[str, Array]], Array]:
    """`hidden(batch) -> [B, h, w, 1]`, 1 where a number of y is hidden; fixed by the observation's number."""

    def hidden(batch: Mapping[str, Array]) -> Array:
        keys = fold(example_keys(key, batch["number"]), Stream.HIDE)
        height, width = batch["y"].shape[1:3]
        return (uniform(keys, ONLY, (height, width, 1)) < HIDDEN).astype(jnp.float32)

    return hidden


def _given(
    corruption: Corruption, batch: Mapping[str, Array], hidden: Callable | None
) -> tuple[LinearOperator, Array]:
    """(A, y) as whoever samples is given them."""
    operator, y = operator_of(corruption, batch), batch["y"]
    if hidden is None:
        return operator, y
    operator = Rows(operator=operator, mask=hidden(batch))
    return operator, jnp.where(operator.mask > 0, 0.0, y)


def _checked(
    corruption: Corruption, x: Array, batch: Mapping[str, Array], hidden: Callable | None
) -> tuple[Array, Array, Array]:
    """What a sampler of observations gives."""
    operator, shown = operator_of(corruption, batch), jnp.clip(x, -1.0, 1.0)
    if hidden is None:  # how well the solver explains y: a sample far outside the range does not
        return shown, *misfit(operator, x, batch["y"])
    # How good the answer is, which is shown clipped: else one image far outside would decide.
    return shown, *misfit(operator, shown, batch["y"], hidden(batch))


def gaussian_sampler(run: Run, corruption: Corruption, sigma_y: float) -> Sample:
    """`sample(prior, batch, key)`, as of `posterior_sampler`, of a `LowRank` prior."""

    def sample(prior, batch, key):
        operator, y = operator_of(corruption, batch), batch["y"]
        keys = fold(example_keys(key, batch["number"]), Stream.SAMPLE)
        x = sample_posterior(prior, operator, y, max(sigma_y, LEAST_NOISE), keys)
        return (jnp.clip(x, -1.0, 1.0), *misfit(operator, x, y))

    return run.parallel.map(sample)


def misfit(
    operator: LinearOperator, x: Array, y: Array, counts: Array | float = 1.0
) -> tuple[Array, Array]:
    """Sums of |A x - y|^2 `[B]` over what was measured and `counts`, and over how many numbers `[B]`."""
    if isinstance(operator, InpaintMask):
        counts = counts * (1.0 - operator.mask)
    counts = jnp.broadcast_to(jnp.asarray(counts, y.dtype), y.shape)
    axes = tuple(range(1, y.ndim))
    return jnp.sum(counts * (operator.forward(x) - y) ** 2, axes), jnp.sum(counts, axes)


def sample_all(
    run: Run, sample: Sample, params: PyTree, observed: Observations, key: Array, name: str = ""
) -> dict[str, Any]:
    """`sample` of all observations.

    Args:
      name: of the round's files; "": nothing is kept.

    Returns:
      x `[N, H, W, C]` float16, square and count `[N]` as of `posterior_sampler`, number `[N]` which images
      were observed, and the seconds that it took.

    Raises:
      Stopped: a signal came; what is done is kept.
    """
    home = run.workdir / "em"
    whole, parts = home / f"{name}.npz", home / name
    if name and whole.is_file():
        return _read(whole)
    size, found = run.config.evaluate.batch, []
    progress = _Progress(f"em: E-step of {name}" if name else "em: validation", len(observed))
    for start in range(0, len(observed), size):
        part = parts / f"{start:09d}.npz"
        if not (name and part.is_file()):
            if run.stop.is_set():
                kept = f"{start} of {len(observed)} observations are kept" if name else "not kept"
                raise Stopped(f"em: the E-step of {name or 'a validation'} stopped, {kept}")
            begin = time.perf_counter()
            count = min(size, len(observed) - start)
            batch = first(observed, count, start)
            x, square, counts = sample(params, pad(batch, size), key)
            made = {"x": np.asarray(x, np.float16), "square": square, "count": counts}
            made = {k: v[:count] for k, v in made.items()} | {"number": batch["number"]}
            made["seconds"] = np.array([time.perf_counter() - begin])
            progress(start + count, count)
            if not name:
                found.append(made)
                continue
            _write(part, made)
        found.append(_read(part))
    made = {k: np.concatenate([each[k] for each in found]) for k in found[0]}
    if name:
        _write(whole, made)
        if hosts.is_chief():
            remove_folder(parts)
    return made


class _Progress:
    """Says after the first batch, then now and then, and at the end, how far an E-step is."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._begin, self._said, self._made = time.perf_counter(), 0.0, 0

    def __call__(self, done: int, made: int) -> None:
        """`made` of the `done` observations were sampled just now, the others by this start or another."""
        self._made += made
        now = time.perf_counter()
        if hosts.is_chief() and (now - self._said > EVERY or done == self._total):
            self._said, rate = now, self._made / (now - self._begin)
            left = time_left((self._total - done) / rate)
            print(f"{self._what} {done}/{self._total}  {rate:.1f} img/s  {left}", flush=True)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """By the first host; returns when it is there for all."""
    if hosts.is_chief():
        file = io.BytesIO()
        named: dict[str, Any] = arrays  # else a type checker takes them for its other arguments
        np.savez(file, **named)
        write_atomic(path, file.getvalue())
    hosts.barrier(str(path.name))


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; ValueError that says what to delete where it is damaged."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise many kinds
        raise ValueError(
            f"{path} is damaged ({error}): delete it and start again; its observations are sampled anew."
        ) from None
