"""The table of settings: what comes from it, that every row refuses what it cannot be, what was meant."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tarfile
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from jax_bridges import settings
from jax_bridges.choices import choose
from jax_bridges.config import base_config
from jax_bridges.hints import suggest
from jax_bridges.samplers import SAMPLERS, knobs_of, make_sampler
from jax_bridges.schema import (
    ANYTHING,
    COUNT,
    NAMED,
    UNSET,
    Choice,
    Count,
    Each,
    Either,
    Kind,
    Number,
    Only,
    Setting,
    check_known,
    derived,
    number,
    values_of,
    whole,
)
from jax_bridges.settings import part_rows, rows
from jax_bridges.training.methods import METHODS
from jax_bridges.validation import check_given, validate

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests/golden/old.tar.xz"  # golden/old_make.py


# -- just outside, and just inside -----------------------------------------------------------------
def outside(values) -> list:
    """What a row cannot be, as near to what it can be as there is."""
    if isinstance(values, Number):
        kind, step = (int, 1) if values.whole else (float, 1e-9)
        limits = [
            None if values.least is None else values.least - step,
            values.above,
            None if values.most is None else values.most + step,
            values.below,
        ]
        # A ConfigDict makes numbers of a float's key floats, True too.
        return [*(kind(n) for n in limits if n is not None), "1", math.nan] + [
            True,
            0.5,
        ] * values.whole
    if isinstance(values, Choice):
        near = next(iter(values.table))
        return [f"{near}x", near.upper(), 1, *([] if values.named else [f"{near}:a=1"])]
    if isinstance(values, Each):
        of, good = outside(values.of), inside(values.of)
        found = [(good[0],) * ((values.count or 2) - 1) + (bad,) for bad in of] + [good[0]]
        found += [(good[0],) * (values.least - 1)] if values.least else []
        found += [(good[0],) * (values.count + 1)] if values.count else []
        return found + ([(good[0], good[0])] if values.unique else [])
    if isinstance(values, Either):
        return [bad for kind in values.kinds for bad in outside(kind) if not values.fits(bad)]
    if isinstance(values, Only):
        return [] if values.value is None else [f"{values.value}x"]
    if isinstance(values, Kind):
        return [1, None] if values.type is bool else [1, None, ("a",)]
    return [] if values is ANYTHING else ["text"]


def inside(values) -> list:
    """What a row can be, as near to what it cannot be as there is."""
    if isinstance(values, Number):
        step = 1 if values.whole else 1e-9
        limits = [
            values.least,
            None if values.above is None else values.above + step,
            values.most,
            None if values.below is None else values.below - step,
        ]
        return [n for n in limits if n is not None] or [-3]
    if isinstance(values, Choice):
        return [*values.table, *(f"{next(iter(values.table))}:a=1" for _ in range(values.named))]
    if isinstance(values, Each):
        return [(each,) * (values.count or 1) for each in inside(values.of)]
    if isinstance(values, Either):
        return [good for kind in values.kinds for good in inside(kind)]
    if isinstance(values, Only):
        return [values.value]
    if isinstance(values, Kind):
        return [True, False] if values.type is bool else ["", "text"]
    return [{}]


def sentence_of(function, *args) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 400 and said[-1] in ".?"
    return said


def put(key: str, value) -> ConfigDict:
    config = base_config()
    part = config
    for name in key.split(".")[:-1]:
        part = part[name]
    with part.ignore_type(), part.unlocked():
        part[key.split(".")[-1]] = value
    return config


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.key)
def test_a_row_refuses_what_lies_just_outside_it(row):
    """In one sentence, with key, value and what was expected; before anything else is looked at."""
    for bad in outside(row.values):
        said = sentence_of(settings.check, put(row.key, bad))
        assert said.startswith(f"{row.key} is {bad!r}: it must be {row.values.words}.")
    if row.key.endswith(".name") and row.key.partition(".")[0] in settings.PARTS:
        return  # other names bring other settings
    for good in inside(row.values):
        settings.check(put(row.key, good))
    assert row.values.fits(row.default) and row.meaning[-1] == "." and len(row.meaning) > 5


def owned() -> list:
    """(kind, name, row) of every setting of what is chosen by name."""
    return [(kind, name, row) for kind, name, own in settings.groups() for row in own]


@pytest.mark.parametrize("kind", [*settings.PARTS, "sampler", "solver"])
def test_settings_of_what_is_chosen_by_name_refuse_it_too(kind):
    found = [(name, row) for k, name, row in owned() if k == kind]
    assert len(found) > 9
    for name, row in found:
        for bad in outside(row.values):
            said = sentence_of(check_known, kind, name, [row], {row.key: bad})
            assert said.startswith(f"{name}.{row.key} is {bad!r}: it must be {row.values.words}.")
        for good in inside(row.values):
            check_known(kind, name, [row], {row.key: good})
        assert len(row.meaning) > 5 and row.meaning[-1] == ".", f"{name}.{row.key} says nothing"
        assert row.default in (None, UNSET) or row.values.fits(row.default)


def test_refusals_reach_those_who_use_the_parts():
    for wrong in (
        lambda: choose("bridge", settings.PARTS["bridge"], "i2sb", {"steps": 1.5}),
        lambda: settings.check(put("bridge.steps", 1.5)),
        lambda: validate(put("bridge.steps", 1.5)),
    ):
        assert ".steps is 1.5: it must be a whole number." in sentence_of(wrong)
    assert "has no setting 'betamax'" in sentence_of(validate, put("bridge.betamax", 1.0))
    assert "Did you mean 'beta_max'" in sentence_of(validate, put("bridge.betamax", 1.0))
    assert "has no setting 'z_channels'" in sentence_of(validate, put("network.z_channels", 3))
    said = sentence_of(make_sampler, "heun:chrun=None")
    assert "sampler 'heun' has no setting 'chrun'" in said and "Did you mean 'churn'" in said


# -- what comes from the table -----------------------------------------------------------------------
def test_the_base_configuration_is_that_of_older_runs():
    """Keys, their order, values and types: config.json of a run of a011160 is no other one today.

    But for the evaluation's batch and metrics, which may differ between two starts of a run, for keys that
    have come since, which `migrate` gives such a run, and for the one that migrated.
    """

    def known(now, then):
        both = {k: v for k, v in now.items() if k in then}
        return {k: known(v, then[k]) if isinstance(v, dict) else v for k, v in both.items()}

    with tarfile.open(OLD) as archive:
        old = archive.extractfile("./base.json").read().decode()
    config = base_config()
    assert config.evaluate.batch == config.train.batch == 32
    config.evaluate.batch = 64
    config.evaluate.metrics = ("psnr", "ssim", "fd_lite0")
    old = json.loads(old)
    assert old["evaluate"].pop("bootstrap") == 0
    assert (old["distill"]["steps"], config.distill.steps) == (125, 400)  # which are recorded
    config.distill.steps = 125
    now = known(json.loads(config.to_json()), old)
    assert json.dumps(now) == json.dumps(old)
    size = base_config()
    size.data.size = (32, 48)  # the one key of two types


def test_the_page_is_in_step():
    """If not: python -m jax_bridges.settings --format=md > docs/settings.md"""
    page = settings.as_markdown(rows(), list(settings.groups()))
    assert (ROOT / "docs/settings.md").read_text() == page
    for row in rows():
        assert f"| `{row.key}` |" in page


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["settings", *arguments])
    return settings.main(), *capsys.readouterr()


def test_the_command_prints_what_has_the_word(monkeypatch, capsys):
    code, everything, _ = run(monkeypatch, capsys)
    assert code == 0 and everything == settings.table_text()
    code, said, _ = run(monkeypatch, capsys, "learning_rate")
    rates = [row for row in rows() if row.key.endswith(".learning_rate")]
    assert code == 0 and said.count("learning_rate = ") == len(rates) > 6
    assert said.startswith("train.optimizer.learning_rate = 0.001  (a number above 0)\n    Peak of")
    _, said, _ = run(monkeypatch, capsys, "beta_max")
    assert "bridge i2sb, --config.bridge.name=i2sb:KEY=VALUE\n  beta_max = 0.3" in said
    _, said, _ = run(monkeypatch, capsys, "mirror")  # in what it means
    assert said.startswith("data.flip = True")
    code, said, error = run(monkeypatch, capsys, "train.lr")
    assert code == 1 and not said and "Did you mean train.optimizer.learning_rate?" in error


def test_a_method_brings_its_rows(monkeypatch):
    """Its own below its name, shared ones once; the configuration and the checks follow."""
    cbd = METHODS["cbd"]
    own = Setting("discriminators", 2, COUNT, "Third players.")
    toy = dataclasses.replace(cbd, name="toy", settings=(own, *cbd.settings))
    monkeypatch.setitem(METHODS, "toy", toy)
    keys = [row.key for row in rows()]
    assert len(keys) == len(set(keys)) and "distill.toy.gamma" in keys
    config = base_config()
    assert config.distill.toy.discriminators == 2 and "batch" not in config.distill.toy
    config.distill.method = "toy"
    validate(config)
    check_given(config, ["distill.batch", "distill.toy.discriminators"])
    with pytest.raises(ValueError, match="method toy does not read it: give distill.toy.steps"):
        check_given(config, ["distill.cbt.steps"])
    config.distill.toy.discriminators = 0
    assert "distill.toy.discriminators is 0" in sentence_of(validate, config)


def test_a_configuration_must_have_every_key_and_no_other():
    config = base_config()
    del config.train.optimizer.b1
    assert "lacks train.optimizer.b1" in sentence_of(validate, config)
    config = base_config()
    config.train.lr = 1e-4  # in a configuration file
    assert "no key train.lr. Did you mean train.optimizer.learning_rate?" in sentence_of(
        validate, config
    )
    config = base_config()
    config.bridge = {"steps": 100, "name": "i2bs"}
    assert "bridge.name is 'i2bs'" in sentence_of(validate, config)  # rather than its settings
    config = base_config()
    config.zero_shot.settings.ddnm = {"eta": 1.0}  # free inside
    config.network = {"name": "adm", "num_classes": 10, "channel_mult": [1, 2], "dtype": "bfloat16"}
    settings.check(config)


# -- what was meant ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "key, expected",
    [
        ("train.lr", ["train.optimizer.learning_rate"]),
        ("train.learning_rate", ["train.optimizer.learning_rate"]),
        ("distill.bridge_optimizer.lr", ["distill.bridge_optimizer.learning_rate"]),
        ("distill.nfe", ["distill.student_steps"]),
        ("evaluate.nfe", ["evaluate.teacher_nfe", "evaluate.student_nfe"]),
        ("train.batch_size", ["train.batch"]),
        ("trian.steps", ["train.steps"]),
        ("train.stepz", ["train.steps"]),
        ("train.epochs", ["train.steps"]),
        ("train.optimizer.beta1", ["train.optimizer.b1"]),
        ("data.resolution", ["data.size"]),
        ("image_size", ["data.size"]),
        ("evaluate.metric", ["evaluate.metrics"]),
        ("network.width", ["network.widths"]),
        ("distill.cbd.gama", ["distill.cbd.gamma"]),
        ("sed", ["seed", "evaluate.seed"]),
        ("checkpoint", ["teacher.checkpoint"]),
        ("frobnicate", []),
    ],
)
def test_what_was_meant(key, expected):
    assert suggest(key, [row.key for row in rows()]) == expected


def test_synonyms_are_of_keys_that_there_are():
    from jax_bridges.hints import SYNONYMS

    last = {row.key.rpartition(".")[2] for row in rows()}
    parts = {part for row in rows() for part in row.key.split(".")}
    assert {name for names in SYNONYMS.values() for name in names} <= last | parts


# -- how rows are made ------------------------------------------------------------------------------------
def test_rows_of_a_signature():
    class Base:
        """A base.

        Attributes:
          size: how large,
            in pixels.
        """

    @dataclasses.dataclass
    class Thing(Base):
        """A thing.

        Attributes:
          parts, order: of what it
            is made.
        """

        parts: tuple
        size: Count = 3
        order: tuple[int, ...] | None = None

    parts, size, order = derived(Thing)
    assert parts == Setting("parts", UNSET, Each(ANYTHING), "Of what it is made.")
    assert size == Setting("size", 3, COUNT, "How large, in pixels.")
    assert order.values == Either((Each(whole()), Only(None))) and order.meaning == parts.meaning

    def act(x: int, *, share: float = 0.5, callback: ConfigDict | None = None):
        """Acts.

        Args:
          x: of it.
        """

    def like(*, share: float):
        """As well.

        Args:
          share: of all.
        """

    assert derived(act, like=like) == (Setting("share", 0.5, number(), "Of all."),)
    assert [row.key for row in knobs_of(SAMPLERS["heun"])] == ["churn", "guidance", "clip"]
    assert "parts" in {row.key for row in part_rows("corruption", "mixture")}


@pytest.mark.parametrize(
    "annotation, good, bad",
    [
        (int, [0, -2], [0.5, True, "1", None]),
        (float, [1, 0.5], [True, "1", math.inf, None]),
        (bool, [True], [1, "True"]),
        (str, ["", "a"], [1, None]),
        (int | None, [1, None], [0.5]),
        (tuple[int, ...], [(), (1, 2), [1]], [(0.5,), 1, "12"]),
        (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, 2, 3)]),
        (float | tuple[float, float], [1.0, (1, 2)], [(1, 2, 3), "a"]),
        (Count, [1], [0]),
        (dict, [{}, 3], []),
    ],
)
def test_values_of_annotations(annotation, good, bad):
    values = values_of(annotation)
    assert all(map(values.fits, good)) and not any(map(values.fits, bad))


def test_words():
    assert whole(least=1).words == "a whole number of at least 1"
    assert number(least=0, below=1).words == "a number of at least 0 and below 1"
    assert number(above=0).words == "a number above 0" and number().words == "a number"
    assert number(least=0, most=1).words == "a number from 0 to 1"
    assert Each(COUNT, least=1).words == "a tuple of one or more, each a whole number of at least 1"
    assert (
        Each(Choice(("a", "b")), unique=True).words
        == "a tuple, each one of a, b, none of them twice"
    )
    assert Either((whole(), Only(None))).words == "a whole number, or None"
    assert NAMED.fits({}) and NAMED.fits(ConfigDict()) and not NAMED.fits("a")
    with pytest.raises(ValueError, match=r"k is \('a', 'bc'\).*Did you mean 'b'\?"):
        Setting("k", (), Each(Choice(("a", "b"))), "It.").check(("a", "bc"))
