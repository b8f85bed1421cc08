"""The rounds of EM: an E-step, an M-step, what they are checked by, and which one is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jax_bridges import hosts
from jax_bridges.acts.em_checks import choose_scale, health
from jax_bridges.bridges import Diffusion, Levels
from jax_bridges.checkpoints import whole_steps
from jax_bridges.corruptions import make_corruption
from jax_bridges.data import Estimates, Observations, first, operator_of
from jax_bridges.data.source import Source, permutation
from jax_bridges.io.atomic import write_atomic
from jax_bridges.io.bucket import copy_folder
from jax_bridges.keys import Purpose
from jax_bridges.players import TRAIN
from jax_bridges.stages.e_step import (
    Observed,
    gaussian_sampler,
    network_sampler,
    posterior_sampler,
    sample_all,
)
from jax_bridges.stages.run import Run, Stage, train_stage
from jax_bridges.stages.train import train
from jax_bridges.training.system import System
from jax_bridges.typing import Array, PyTree
from jax_bridges.zero_shot import Method, gaussian, make_method

NETWORK, PRIOR = "bridge", "prior"  # a method of em.method; the prior that it ends with
RANK, FITS = 64, 8  # of the first Gaussian, and rounds of its own EM


@dataclasses.dataclass(frozen=True)
class Parts:
    """Which training images are seen how: `clean` as they are, the others through the corruption alone."""

    clean: Source | None
    validation: Observations
    observed: Observations
    truth: Callable[[], Source]  # x_0 of `observed`, for the upper bound alone


def split(run: Run) -> Parts:
    """The training data, in its order: clean images, then validation, then the rest.

    Raises:
      ValueError: there are not enough of them.
    """
    config, source = run.config.em, run.train_data
    clean = config.clean if config.init == "clean" else 0
    start = clean + config.validation
    if len(source) <= start:
        raise ValueError(
            f"{source.name} has {len(source)} images, and em.clean and em.validation take {start} of them: "
            "none are left to learn from. Lower these, or take more data."
        )
    corruption, key = make_corruption(**config.operator), run.key(Purpose.OBSERVE)

    def observe(begin: int, end: int) -> Observations:
        return Observations(source, corruption, config.sigma_y, key, np.arange(begin, end))

    def read(begin: int, end: int) -> Estimates:
        return Estimates(f"{source.name}, clean", first(source, end - begin, begin)["x0"])

    images = whole(read(0, clean), config.learn_from) if clean else None
    truth = partial(read, start, len(source))
    return Parts(images, observe(clean, start), observe(start, len(source)), truth)


class Rounds:
    """All rounds of a run; `run()` goes on where an earlier start stopped.

    Attributes:
      done: what is known of each finished round, in order.
      params: averaged parameters by round.
    """

    def __init__(self, run: Run, parts: Parts, steps: dict[bool, MStep]):
        """`steps`: the M-step of a prior (False), and of a network that is told A^+ y (True)."""
        self._run, self._config, self._parts, self._steps = run, run.config.em, parts, steps
        self._file = run.workdir / "em" / "rounds.json"
        self._corruption = make_corruption(**self._config.operator)
        self._programs: dict[str, Callable] = {}
        self.done: list[dict[str, Any]] = _read_rounds(self._file)
        self.params: dict[int, PyTree] = {}

    @property
    def method(self) -> Method:
        """How the posterior is sampled."""
        return e_step_method(self._run)

    def run(self) -> None:
        """Rounds 0 (the first prior, where it is a network) to `em.rounds`."""
        config, theta = self._config, None
        if config.init != "gaussian":
            theta = self._train(0, self._first_images, None)
            self._report(0, theta, {})
        for k in range(1, config.rounds + 1):
            fresh = k > config.rounds - config.reset_rounds
            chosen = np.arange(len(self._parts.observed))
            if not fresh and config.observations < len(chosen):
                chosen = permutation(len(chosen), self._run.config.seed, k)[: config.observations]
            observed = self._parts.observed.at(chosen)
            made, told = self._e_step(k, theta, observed)
            self.samples = Estimates(f"samples of round {k}", made["x"], self._measured(observed))
            inherits = not fresh and theta is not None and self.told(k) == self.told(k - 1)
            theta = self._train(k, lambda: self.samples, theta if inherits else None)
            told["seconds_e_step"] = float(made["seconds"].sum())
            self._report(k, theta, told)

    def told(self, k: int) -> bool:
        """Whether the network of round k is told A^+ y."""
        return self._config.method == NETWORK and k >= 1

    def best(self) -> int:
        """The round of the highest validation; without one the last."""
        last = self._config.rounds
        scored = [row for row in self.done if row["validation_psnr"] is not None]
        scored = [row for row in scored if self.told(row["round"]) == self.told(last)]
        if not scored:
            return last
        return max(scored, key=lambda row: row["validation_psnr"])["round"]

    def keep_best(self) -> dict[str, PyTree]:
        """Makes the best prior the run's teacher; parameters by name of a prior that is no round's.

        Where the rounds' networks are told A^+ y there is such a one: trained on samples of all
        observations by the best round's.
        """
        best, others = self.best(), {}
        name = stage_name(best)
        if self.told(best):
            key = self._run.key(Purpose.ROUNDS, self._config.rounds + 1)
            place = self._program("network"), (self.params[best], {}), self._parts.observed, key
            made = sample_all(self._run, *place, "last")
            all_of_them = self._measured(self._parts.observed)
            images, name = Estimates("the last samples", made["x"], all_of_them), stage_name(PRIOR)
            its = self._steps[False]
            stage = stage_of(its.stage, name, self._config.rounds + 1, lambda: images)
            others[PRIOR] = train_stage(its.run, stage, lambda state, step: None)
        home = self._run.workdir / "checkpoints"
        if hosts.is_chief() and not whole_steps(home / TRAIN):
            copy_folder(home / name, home / TRAIN)
        hosts.barrier("the best round")
        return others

    # -- E -------------------------------------------------------------------------------------------
    def _e_step(self, k: int, theta: PyTree, observed: Observations) -> tuple[dict, dict]:
        """(arrays of `sample_all`, what is known of them)."""
        name, key = f"round-{k}", self._run.key(Purpose.ROUNDS, k)
        told: dict[str, Any] = {}
        if self.told(k - 1):
            place = self._program("network"), (theta, {}), observed, key
            made = sample_all(self._run, *place, name)
        elif theta is None:
            prior = self._fit_gaussian()
            made = sample_all(self._run, self._program("gaussian"), prior, observed, key, name)
        else:
            knobs = self._knobs(k, theta)
            told |= knobs
            params = (theta, {n: np.float32(v) for n, v in knobs.items()})
            made = sample_all(self._run, self._program("posterior"), params, observed, key, name)
        told["misfit"] = root_mean(made)
        told["spread"] = float(np.asarray(made["x"], np.float32).std())
        before = next(
            (row["spread"] for row in self.done if row["round"] == k - 1 and "spread" in row), None
        )
        for warning in health(self._config.sigma_y, told, before):
            print(f"em: round {k}: {warning}", flush=True)
        return made, told

    def _knobs(self, k: int, theta: PyTree) -> dict[str, float]:
        """What is chosen anew each round: the scale of dps, on `em.tune` observations."""
        known = next((row for row in self.done if row["round"] == k), None)
        if self._config.method != "dps":
            return {}
        if known is not None:
            return {"scale": known["scale"]}
        observed = self._parts.observed.at(
            np.arange(min(self._config.tune, len(self._parts.observed)))
        )
        key, found = self._run.key(Purpose.ROUNDS), {}
        for scale in self._config.scale_grid:
            params = (theta, {"scale": np.float32(scale)})
            made = sample_all(self._run, self._program("posterior"), params, observed, key)
            found[scale] = root_mean(made) ** 2
        return {"scale": choose_scale(found, self._config.sigma_y)}

    def _fit_gaussian(self) -> gaussian.LowRank:
        """EM of a Gaussian of low rank, from N(0, 1), on as many observations as a round has."""
        count = min(self._config.observations, len(self._parts.observed))
        observed = self._parts.observed.at(np.arange(count))
        shape = (*self._run.system.size, self._run.system.channels)
        prior = gaussian.standard(shape, min(RANK, count - 1))
        for fit in range(FITS):
            key = jax.random.fold_in(self._run.key(Purpose.ROUNDS), fit)
            made = sample_all(self._run, self._program("gaussian"), prior, observed, key)
            prior = gaussian.fit(np.asarray(made["x"], np.float32), RANK)
        return prior

    def _program(self, name: str) -> Callable:
        if name not in self._programs:
            told = self._run, self._corruption, self._config.sigma_y
            system, levels = self._steps[self.told(1)].run.system, network_levels(self._run)
            network = self._run, system, self._corruption, levels
            make = {
                "gaussian": lambda: gaussian_sampler(*told),
                "posterior": lambda: posterior_sampler(*told, self.method),
                "validation": lambda: posterior_sampler(*told, self.method, hide=True),
                "network": lambda: network_sampler(*network),
                "network validation": lambda: network_sampler(*network, hide=True),
            }
            self._programs[name] = make[name]()
        return self._programs[name]

    # -- M -------------------------------------------------------------------------------------------
    def _measured(self, observed: Observations) -> np.ndarray | None:
        """`[N, H, W, 1]`, 1 at pixels that were measured, if `em.learn_from` says that they alone count.

        A mask says nothing of its image, so of exact samples the prior that explains any share of the pixels
        best is the one that explains all. But what an earlier prior made up is no target again: its error
        does not pass to the next round by its share of the pixels.
        """
        if self._config.learn_from == "samples":
            return None
        return 1.0 - np.asarray(first(observed, len(observed))["mask"], np.float32)

    def _first_images(self) -> Source:
        if self._config.init == "clean":
            assert self._parts.clean is not None
            return self._parts.clean
        images = pseudo_inverses(self._corruption, self._parts.observed)
        return whole(images, self._config.learn_from)

    def _train(self, k: int, data: Callable[[], Source], theta: PyTree) -> PyTree:
        its = self._steps[self.told(k)]
        stage = stage_of(its.stage, stage_name(k), k, data, theta)
        self.params[k] = train_stage(its.run, stage, lambda state, step: None)
        return self.params[k]

    def _report(self, k: int, theta: PyTree, told: dict[str, Any]) -> None:
        """Writes a round down, once."""
        if any(row["round"] == k for row in self.done):
            return
        told = {"round": k, **told, "validation_psnr": self._validate(k, theta)}
        self.done.append(told)
        if hosts.is_chief():
            write_atomic(self._file, (json.dumps(self.done, indent=1) + "\n").encode())
        hosts.barrier(f"round {k}")
        numbers = {n: v for n, v in told.items() if n != "round" and v is not None}
        self._run.log.write("em", k, **numbers)
        print(
            f"em: round {k}  " + "  ".join(f"{n} {v:.4g}" for n, v in numbers.items()), flush=True
        )

    def _validate(self, k: int, theta: PyTree) -> float | None:
        """PSNR (dB) of numbers that were measured and hidden; None where there is none."""
        if not (self._config.validation and self._corruption_is_orthogonal()):
            return None
        knobs = {}
        if self._config.method == "dps":
            scales = [row["scale"] for row in self.done if "scale" in row]
            knobs = {"scale": np.float32(scales[-1] if scales else self._config.scale_grid[-1])}
        program = self._program("network validation" if self.told(k) else "validation")
        key = self._run.key(Purpose.ROUNDS)
        made = sample_all(self._run, program, (theta, knobs), self._parts.validation, key)
        return float(10 * np.log10(4 / root_mean(made) ** 2))

    def _corruption_is_orthogonal(self) -> bool:
        operator = self._corruption.operator(np.zeros((1, *self._run.system.size, 1)))
        return operator.orthogonal


# -- pieces --------------------------------------------------------------------------------------------
def whole(images: Estimates, learn_from: str) -> Estimates:
    """The images as an M-step by `em.learn_from` is fed: all pixels of these count, and it may be told so."""
    return images.counting() if learn_from == "measured" else images


def stage_name(k: int | str) -> str:
    """Of a round's M-step: its folder under checkpoints/."""
    return f"em_{k}"


def e_step_method(run: Run) -> Method:
    """The solver of `em.method` with its settings; mmps where that is a network, for its first round."""
    config = run.config.em
    name = "mmps" if config.method == NETWORK else config.method
    own = dict(config.settings.get(name, {}))
    return make_method(name, run.system.bridge, own, run.config.zero_shot.nfe)


def network_levels(run: Run) -> Levels:
    """Noise levels of samples of a network that is told A^+ y."""
    assert isinstance(run.system.bridge, Diffusion)  # else `validate` refuses
    own = run.config.em.settings.get(NETWORK, {})
    return run.system.bridge.narrow_levels(own.get("nfe", 20))


def told_run(run: Run) -> Run:
    """The run whose teacher is told A^+ y of fresh observations of what it is trained on.

    Of the stored y the samples are that network's own answers: it would learn what it says already.
    """
    config = run.config.copy_and_resolve_references()
    config.network.conditional = True
    corruption = Observed(make_corruption(**config.em.operator), config.em.sigma_y)
    system = dataclasses.replace(System.create(config), corruption=corruption)
    return dataclasses.replace(run, config=config, system=system, programs={})


@dataclasses.dataclass
class MStep:
    """The training of a round: the run that it belongs to, and its stage, see `stage_of`."""

    run: Run
    stage: Stage

    @classmethod
    def of(cls, run: Run) -> MStep:
        """That of the run's own teacher."""
        return cls(run, make_stage(run))


def make_stage(run: Run) -> Stage:
    """The M-step: the training of a teacher, that may begin at given parameters; see `stage_of`."""
    base = train(run)

    def make_state(key: Array, frozen: PyTree, start: PyTree = None):
        del frozen
        return base.make_state(key, start)

    return dataclasses.replace(base, make_state=make_state, frozen=None)


def stage_of(
    stage: Stage, name: str, number: int, data: Callable[[], Source], start: PyTree = None
) -> Stage:
    """A stage like `stage` on these images, with a new optimiser; from `start`, or from fresh parameters."""
    return dataclasses.replace(
        stage, name=name, number=number, data=lambda run: data(),
        raw=None if start is None else lambda: start,
    )  # fmt: skip


def pseudo_inverses(corruption, observed: Observations) -> Estimates:
    """A^+ y of all observations."""
    batch = first(observed, len(observed))
    images = jax.jit(lambda batch: operator_of(corruption, batch).pinv(batch["y"]))(batch)
    return Estimates(f"A^+ y of {observed.name}", np.clip(np.asarray(images), -1, 1))


def root_mean(made: dict[str, np.ndarray]) -> float:
    """Of |A x - y|, over all numbers that count."""
    return float(np.sqrt(made["square"].sum() / max(made["count"].sum(), 1)))


def _read_rounds(path) -> list[dict[str, Any]]:
    """What is known of finished rounds; a file that is no such list is a ValueError."""
    if not path.is_file():
        return []
    try:
        rounds = json.loads(path.read_text())
        return sorted(rounds, key=lambda row: row["round"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): delete it and start again; what is finished is checked anew."
        ) from None
