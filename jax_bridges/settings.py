"""Every setting: key, default, what it may be, what it means.

    python -m jax_bridges.settings learning_rate
    python -m jax_bridges.settings --format=md > docs/settings.md

The table is made of the rows below and of those that parts bring: data, metrics, optimisers, every method
of distillation (`Method.settings`), and the constructors of bridges, corruptions and their like. From it
come the base configuration (`config.base_config`), the checks of values (`check`), --helpfull and
docs/settings.md.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from jax_bridges.bridges import BRIDGES
from jax_bridges.command import Parser, run_command
from jax_bridges.corruptions import CORRUPTIONS
from jax_bridges.data import source
from jax_bridges.hints import suggest
from jax_bridges.metrics import METRICS, measure
from jax_bridges.models import DTYPES, INPUTS, MODELS
from jax_bridges.preconditioning import PRECONDITIONINGS
from jax_bridges.samplers import GUIDANCE, SAMPLERS, knobs_of
from jax_bridges.schema import (
    COUNT,
    FLAG,
    NAMED,
    TEXT,
    Choice,
    Each,
    Setting,
    check_known,
    derived,
    number,
    under,
    whole,
)
from jax_bridges.settings_text import as_markdown, as_text
from jax_bridges.training import optimizers, steps
from jax_bridges.training.couplings import MODES
from jax_bridges.training.methods import BASELINES, METHODS, PAIR_METHODS, PRIOR_METHODS
from jax_bridges.training.methods.pairs import PAIR_SHARED
from jax_bridges.training.parallel import MODES as PARALLEL_MODES
from jax_bridges.training.settings import (
    BATCH,
    EMA,
    MAX_SKIPPED,
    MICROBATCHES,
    placed,
)
from jax_bridges.zero_shot import SOLVERS, settings_of

# Parts of a configuration that are a name and its settings: what they are, and what there is.
PARTS = {
    "corruption": CORRUPTIONS, "bridge": BRIDGES, "preconditioning": PRECONDITIONINGS, "network": MODELS,
}  # fmt: skip

_NFE, _SOLVERS = Each(COUNT, least=1), Each(Choice(SOLVERS), unique=True)
_PRIOR_METHODS = ("pinv", "ddnm", "ddnm_plus", "ddrm", "pigdm", "dps", "repaint")
_NATURAL = whole(least=0)
SEED = whole(least=0, below=2**32)
S = Setting


# -- the table ------------------------------------------------------------------------------------
# fmt: off
def rows() -> tuple[Setting, ...]:
    """The rows of the base configuration, in its order: centre inpainting of 32x32 pieces of the Earth."""
    return (
        S("task", "inpaint", TEXT, "Names the run; runs/TASK is the default work directory."),
        S("seed", 0, SEED, "Of initial weights, data order, corruptions, noise."),
        S("seeds", (), Each(SEED, unique=True), "Of several runs in one folder, a sub-folder each, whose "
                "rows are averaged (--seeds=3: seed and the next two); (): one run, of seed."),
        S("seeds_of", "all", Choice(("all", "distill")), "What they redraw: all that is trained, or the "
                "distillation alone, from one teacher."),

        *under("data", source.SETTINGS),
        S("data.flip", True, FLAG, "Random mirror image, shared by the pair."),
        S("data.rotate", False, FLAG, "Random quarter turns, shared by the pair, for views from above."),

        *_part("corruption", "What makes x_T.", name="inpaint_center", fill="zero"),
        S("keep_known", True, FLAG, "Known pixels are returned unchanged; the loss counts the hole alone."),
        *_part("bridge", "Between x_0 and x_T.", name="i2sb", beta_max=0.3),
        *_part("preconditioning", "Scalings around the network; with none a small one lets less of the noise "
               "pass that a skip brings to its answer.", name="none"),
        *_part("network", "Of teacher and bridge net; the generator's adds an input for z.", name="unet",
               widths=(32, 64, 64), blocks=1, patch=2, attention=(), heads=4, groups=8, dropout=0.0,
               conditional=True, dtype="float32"),

        S("teacher.checkpoint", "", TEXT, "WORKDIR of an import or a run, or a model that ships "
          "(photos:inpaint): take its teacher, train none."),
        S("teacher.init", "", TEXT, "WORKDIR of an import or a run, or a model that ships: the training "
          "starts from its teacher."),
        S("train.mode", "bridge", Choice(MODES), "bridge: bridge matching on the data's pairs (augmented "
                "where network.conditional); reflow: on pairs (x_T, ODE(x_T)) of teacher.init; dsbm: "
                "Schroedinger bridge between x_0 and x_T, pairs or not."),
        S("train.rounds", 1, COUNT, "dsbm: to x_0 and to x_T in turn, in equal parts of the steps; odd."),
        S("train.simulation_steps", 10, COUNT, "reflow, dsbm: network calls that make a pair."),
        S("train.steps", 1500, COUNT, "Updates."),
        *under("train", (BATCH, MICROBATCHES, steps.TIMES, steps.WEIGHT, steps.WEIGHT_MAX, steps.HOLE_MEAN,
                EMA, MAX_SKIPPED), weight="inverse_sigma"),
        *under("train.optimizer", optimizers.SETTINGS),

        S("distill.method", "ibmd", Choice(METHODS), "How; the others have a part of their own below."),
        *_methods(),

        S("evaluate.split", "test", Choice(source.HELD_OUT), "Which held-out images; validation (earth) for "
                "what is chosen by looking, so that nothing is tuned on test images."),
        S("evaluate.seed", -1, whole(least=-1, below=2**32), "Of their corruptions and of the noise of "
                "sampling, the same for all of seeds; -1: seed."),
        S("evaluate.images", 256, COUNT, "Held-out images."),
        S("evaluate.batch", 32, COUNT, "Images at a time, over all devices; as many as of a training step "
                "share its kernels on a GPU."),
        S("evaluate.sampler", "ancestral", Choice(SAMPLERS, named=True), "Of the teacher; with knobs: "
                "\"dbim:eta=1\", \"heun:churn=None\"."),
        S("evaluate.teacher_nfe", (1, 10, 100), _NFE, "Network calls an image of the teacher."),
        S("evaluate.student_nfe", (1, 2, 4), _NFE, "Of the student, distill.student_steps at most."),
        S("evaluate.pictures", 12, COUNT, "Images in the picture and in the report's slider."),
        S("evaluate.margin", 2, _NATURAL, "Pixels around the hole that its own metrics include."),
        *under("evaluate", measure.SETTINGS),
        S("evaluate.every", 0, _NATURAL, "Steps of a stage between two looks at held-out images: loss of the "
                "teacher, metrics at the fewest network calls, a picture; 0: none."),
        S("evaluate.every_images", 64, whole(least=2), "Images of a look: of the split validation where "
                "there is one (earth), else of the held-out ones."),
        S("evaluate.best", "none", Choice(("none", "loss", *METRICS)), "Keep each stage's best weights by "
                "this number of a look, and evaluate those; students are distilled from the teacher's last."),
        S("evaluate.published", "", TEXT, "Task of published.csv whose rows stand beside ours."),
        S("evaluate.published_data", "", TEXT, "What our images are, in its words: you vouch for it."),

        S("compare.students", (), Each(Choice(METHODS), unique=True), "Methods of distillation to "
                "compare (configs/compare.py); none: one student, by distill.method."),
        S("compare.baselines", (), Each(Choice(PAIR_METHODS), unique=True), "Models of other kinds, "
                "trained on the same pairs without a teacher; those that do not suit the task are left out, "
                "with the reason."),
        S("compare.equal", "updates", Choice(("updates", "seconds")), "What each gets alike. updates: a "
                "student distill.steps, a baseline the network calls of the teacher's training; seconds of "
                "this machine: a student those of the first one, a baseline the teacher's."),
        S("compare.samplers", ("ancestral", "dbim", "dbim2", "dbim3", "heun"),
                Each(Choice(SAMPLERS, named=True), unique=True), "Of the teacher."),
        S("compare.teacher_nfe", (1, 2, 5, 10, 20, 100), Each(COUNT), "Its network calls an image; "
                "students: evaluate.student_nfe."),
        S("compare.prior", "", TEXT, "WORKDIR of a diffusion prior (configs/zero_shot.py, --as=adm) of the "
                "same size: its rows as well."),
        S("compare.prior_methods", _PRIOR_METHODS, _SOLVERS, "Its solvers; those that do not suit the task "
                "are spared."),
        S("compare.prior_nfe", 50, whole(least=2), "Noise levels they visit, where the prior's run does not "
                "say."),

        *_pair_methods(),

        S("zero_shot.tasks", {}, NAMED, "What one diffusion prior restores, without teacher and student: "
                "name -> {operator: a linear corruption, sigma_y: noise of y in units of [-1, 1], and "
                "perhaps published: a task of published.csv}; none: a bridge run."),
        S("zero_shot.methods", (*_PRIOR_METHODS, "ilvr", "sdedit"), _SOLVERS, "Solvers; a task is spared "
                "those that do not apply."),
        S("zero_shot.nfe", 50, COUNT, "Noise levels that a method visits."),
        S("zero_shot.classifier", "", TEXT, "File of OpenAI's classifier of noisy images, which guides to "
                "the data's labels."),
        S("zero_shot.classifier_scale", 1.0, number(), "Of its guidance; 1: Bayes' rule."),
        S("zero_shot.settings", {
            "ddrm": {"nfe": 20},  # as published
            "dps": {"scale": 1.0},
            "repaint": {"nfe": 40, "travel": (10, 2)},
            "sdedit": {"nfe": 25, "start": 0.5},
        }, NAMED, "Method -> its solver's settings."),

        S("em.operator", {}, NAMED, "A linear corruption through which alone the training images are seen "
                "(configs/em.py); {}: they are seen as they are."),
        S("em.sigma_y", 0.0, number(least=0), "Noise of those observations, in units of [-1, 1]."),
        S("em.init", "clean", Choice(("clean", "gaussian", "pinv")), "The first prior: of em.clean clean "
                "images, a Gaussian fitted by EM, or of A^+ y."),
        S("em.clean", 50, COUNT, "Clean images of init clean, the first of the training images."),
        S("em.rounds", 4, COUNT, "Each a sample of the posterior for each observation, then train.steps "
                "updates on the samples."),
        S("em.reset_rounds", 1, _NATURAL, "The last so many rounds are of all observations, from fresh "
                "weights."),
        S("em.observations", 512, COUNT, "Observations of each other round, drawn anew."),
        S("em.learn_from", "samples", Choice(("samples", "measured")), "What an M-step learns: all pixels of "
                "the samples, or, of masked images, those alone that were measured."),
        S("em.method", "mmps", Choice(("mmps", "dps", "bridge")), "What samples the posterior; bridge: a "
                "network that is told A^+ y, after a first round of mmps."),
        S("em.settings", {"mmps": {"nfe": 20}, "dps": {"nfe": 100}, "bridge": {"nfe": 20}}, NAMED,
                "Method -> its solver's settings."),
        S("em.scale_grid", (0.3, 1.0, 3.0, 10.0, 30.0), Each(number(above=0), least=1), "dps: scales, of "
                "which each round takes one."),
        S("em.tune", 64, COUNT, "dps: observations by which it is chosen."),
        S("em.validation", 128, _NATURAL, "Training images whose observations are held out: a tenth of their "
                "numbers is predicted from the others; 0: the last round is kept, not the best."),
        *_baselines(),

        S("parallel.mode", "auto", Choice(PARALLEL_MODES), "pmap: replicated; fsdp: sharded."),
        S("parallel.fsdp", 1, COUNT, "Devices over which large leaves are sharded."),
        S("parallel.device_gib", 0.0, number(least=0), "GiB of memory of a device; 0: as it says itself."),
        S("profile.first", 10, _NATURAL, "Steps of this start before a recording, in WORKDIR/profile."),
        S("profile.steps", 0, _NATURAL, "Steps of each stage that are recorded; 0: none."),
        S("log_every", 50, COUNT, "Steps between lines of metrics.jsonl."),
        S("checkpoint_every", 250, COUNT, "Steps between checkpoints."),
        S("checkpoints_kept", 2, COUNT, "Checkpoints of each stage, the newest."),
        S("pictures_every", 0, _NATURAL, "Steps between pictures of a stage; 0: at its end."),
    )
# fmt: on


def part_rows(part: str, name: str) -> tuple[Setting, ...]:
    """What `name`, a key of PARTS[part], takes besides its name: by its constructor."""
    found = derived(PARTS[part][name])
    if part != "network":
        return found
    return tuple(  # the student's input is its method's; in a configuration types are names
        Setting(row.key, "float32", Choice(DTYPES), row.meaning) if "dtype" in row.key else row
        for row in found
        if row.key not in INPUTS
    )


def _part(part: str, meaning: str, **defaults: Any) -> tuple[Setting, ...]:
    """The rows of a part in the base configuration: its name, and those settings that are said there."""
    name = Setting("name", defaults["name"], Choice(PARTS[part]), meaning)
    known = {row.key: row for row in (name, *part_rows(part, defaults["name"]))}
    return under(part, (known[key] for key in defaults), **defaults)


def _methods() -> Iterable[Setting]:
    """What the methods of distillation read: shared rows once, others where their method has them."""
    told: dict[str, Setting] = {}
    for name, method in METHODS.items():
        for row in placed(name, method.settings):
            told.setdefault(row.key, row)
    return told.values()


# fmt: off
_BASELINES = (
    S("em.baselines", (), Each(Choice(BASELINES), unique=True), "Other priors in the table: upper, of clean "
            "images; pinv, of A^+ y; ambient, sure and tweedie, of y by losses of their own."),
    S("em.baseline_steps", 0, _NATURAL, "Updates of each of them; 0: as many as the "
            "rounds make of one set of weights."),
)
# fmt: on


def _baselines() -> Iterable[Setting]:
    """What stands beside the rounds of EM, and what each of it reads."""
    yield from _BASELINES
    for name, method in PRIOR_METHODS.items():
        yield from under(f"em.{name}", method.settings)


def _pair_methods() -> Iterable[Setting]:
    """What the baselines of a comparison read: shared rows once, others where their method has them."""
    yield from under("baselines", PAIR_SHARED)
    for name, method in PAIR_METHODS.items():
        yield from under(f"baselines.{name}", method.settings)


# -- a configuration against the table -------------------------------------------------------------
def check(config: Any) -> None:
    """Refuses keys that there are not, and values that cannot be.

    Args:
      config: a whole configuration, nested as `config.base_config()`.

    Raises:
      ValueError: one sentence that names the key, what it is and what is expected.
    """
    table = {row.key: row for row in rows()}
    found = dict(flatten(config, [key for key, row in table.items() if row.values is NAMED]))
    for key, row in table.items():
        part, _, name = key.partition(".")
        if part in PARTS and name == "name" and key in found:
            row.check(found[key])
            takes = {k.partition(".")[2]: v for k, v in found.items() if k.startswith(f"{part}.")}
            del takes["name"]
            check_known(part, found[key], part_rows(part, found[key]), takes, part)
        elif key in found and part not in PARTS:
            row.check(found[key])
        elif part not in PARTS or name == "name":
            raise ValueError(f"The configuration lacks {key}: make it from config.base_config().")
    for key in found:
        if key not in table and key.partition(".")[0] not in PARTS:
            raise ValueError(unknown_key(key))


def flatten(config: Any, whole: Iterable[str] = (), prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a nested dict or ConfigDict; the keys in `whole` are not taken apart."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if hasattr(value, "items") and key not in whole:
            yield from flatten(value, whole, f"{key}.")
        else:
            yield key, value


def unknown_key(key: str) -> str:
    """The sentence that refuses a key of a configuration: what may have been meant, where to look."""
    part, _, setting = key.partition(".")
    owners = [n for n in PARTS.get(part, ()) if setting in {r.key for r in part_rows(part, n)}]
    if owners:
        return (
            f"The configuration says nothing of {key}: give it with the name, as "
            f"--config.{part}.name={owners[0]}:{setting}=VALUE."
        )
    keys = [row.key for row in rows()]
    sections = dict.fromkeys(key.rpartition(".")[0] for key in keys if "." in key)
    *others, last = suggest(key, [*keys, *sections]) or [""]
    close = f"{', '.join(others)} or {last}" if others else last
    hint = f"Did you mean {close}? " if close else ""
    return f"The configuration has no key {key}. {hint}`python -m jax_bridges.settings` lists them."


def refused_text(key: str, text: str) -> str:
    """The sentence that refuses `--config.KEY=TEXT`, which is no value of the key's type."""
    own = [under(part, part_rows(part, name)) for part in PARTS for name in PARTS[part]]
    for row in itertools.chain(rows(), *own):
        if row.key == key:
            return f"{key} is {text!r}: it must be {row.values.words}."
    give = f"{key}.name=NAME" if key in PARTS else f"{key}.KEY=VALUE"
    return f"{key} is a group of settings, not {text!r}: give --config.{give}."


# -- for people -----------------------------------------------------------------------------------
def groups() -> Iterator[tuple[str, str, tuple[Setting, ...]]]:
    """(kind, name, rows) of everything that is chosen by name and brings settings of its own."""
    for part, table in PARTS.items():
        for name in table:
            yield part, name, part_rows(part, name)
    for name, entry in SAMPLERS.items():
        yield "sampler", name, knobs_of(entry)
    yield "guidance", "pg", GUIDANCE
    for name, solver in SOLVERS.items():
        yield "solver", name, settings_of(solver)


def table_text() -> str:
    """The whole table, as --helpfull has it."""
    return as_text(rows(), list(groups()))


def _found(word: str, where: str) -> tuple[list[Setting], list[tuple]]:
    """The rows, and the groups of rows, that have the word in their "key" or "meaning"."""

    def kept(some: Iterable[Setting]) -> list[Setting]:
        return [row for row in some if word.lower() in getattr(row, where).lower()]

    groups_kept = [(kind, name, kept(own)) for kind, name, own in groups()]
    return kept(rows()), [group for group in groups_kept if group[2]]


def main() -> int:
    """Prints the table, or the rows that match; the exit status."""

    def work() -> None:
        parser = Parser(
            prog="python -m jax_bridges.settings", description=(__doc__ or "").split("\n")[0]
        )
        parser.add_argument(
            "word", nargs="?", default="", help="in their key, or in what they mean"
        )
        parser.add_argument("--format", choices=("text", "md"), default="text")
        options = parser.parse_args()
        base, parts = _found(options.word, "key")
        if not base and not parts:
            base, parts = _found(options.word, "meaning")
        if not base and not parts:
            raise ValueError(unknown_key(options.word))
        print({"text": as_text, "md": as_markdown}[options.format](base, parts), end="")

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
