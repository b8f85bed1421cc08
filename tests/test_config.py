"""Configurations: what is refused and in which words, what may change, that every file is sound."""

from __future__ import annotations

import io
import json
import re
import tokenize
from pathlib import Path

import pytest
from config_files import CONFIGS as FOLDER
from config_files import load
from ml_collections import ConfigDict

import jax_bridges.config
from jax_bridges.config import base_config, differences
from jax_bridges.training.system import System
from jax_bridges.validation import validate

CONFIGS = sorted(FOLDER.glob("*.py"))


def changed(**keys) -> ConfigDict:
    """The base with some keys changed; `a__b` stands for the key `a.b`."""
    config = base_config()
    config.unlock()
    for key, value in keys.items():
        path = key.split("__")
        part = config
        for name in path[:-1]:
            part = part[name]
        with part.ignore_type():
            part[path[-1]] = value
    return config


# What is changed, and words that the sentence must hold: the key and what to do.
REFUSALS = [
    *(
        ({key.replace(".", "__"): 0}, [key, "at least 1"])
        for key in (
            "train.steps", "train.batch", "train.microbatches", "distill.steps", "distill.batch",
            "distill.microbatches", "distill.bridge_updates", "distill.student_steps",
            "evaluate.images", "evaluate.batch", "evaluate.pictures", "log_every",
            "checkpoint_every", "checkpoints_kept",
        )
    ),
    (dict(log_every=-3), ["log_every is -3"]),
    (dict(corruption__name="inpaint_centre"), ["corruption", "Did you mean 'inpaint_center'?"]),
    (dict(bridge=ConfigDict({"name": "brownian", "epsilon": "abc"})), ["epsilon is 'abc'", "float"]),
    (dict(evaluate__student_nfe=(1.5,)), ["evaluate.student_nfe is (1.5,)", "whole numbers"]),
    (dict(compare__teacher_nfe=(0, 1)), ["compare.teacher_nfe", "at least 1"]),
    (dict(network__widths=("a",)), ["network.widths is ('a',)", "whole numbers"]),
    (dict(seed=2**32), ["seed is 4294967296", "below 2^32"]),
    (dict(train__optimizer__weight_decay=0.1), ["train.optimizer.weight_decay", "adamw"]),
    (dict(train__mode="reflow", teacher__init="x", network__conditional=False, keep_known=False, bridge__deterministic=True, network__dropout=0.1), ["network.dropout", "reflow"]),
    (dict(bridge__deterministic="false"), ["deterministic is 'false'", "True or False"]),
    (dict(bridge__steps=101), ["steps", "even"]),
    (dict(preconditioning__name="bridge_karras", preconditioning__sigma_data="x"), ["sigma_data", "float"]),
    (dict(bridge__name="i2bs"), ["bridge", "Did you mean 'i2sb'?"]),
    (dict(preconditioning__name="karras"), ["preconditioning", "bridge_karras"]),
    (dict(network__name="dit"), ["network", "unet"]),
    (dict(evaluate__sampler="euler"), ["sampler", "ancestral", "dbim"]),
    (dict(distill__method="dmd"), ["method of distillation", "ibmd"]),
    (dict(parallel__mode="ddp"), ["parallel mode", "auto, fsdp, pmap"]),
    (dict(distill__roll_out="full"), ["roll-out", "chain_through"]),
    (dict(train__times="late"), ["times", "towards_source"]),
    (dict(distill__times="late"), ["times", "towards_source"]),
    (dict(train__weight="snr"), ["loss weight", "native, one"]),
    (dict(distill__weight="snr"), ["loss weight", "native, one"]),
    (dict(distill__bridge_weight="snr"), ["loss weight", "native, one"]),
    (dict(train__optimizer__name="lion"), ["optimiser", "adam, adamw, radam"]),
    (dict(distill__optimizer__name="lion"), ["optimiser"]),
    (dict(distill__bridge_optimizer__name="lion"), ["optimiser"]),
    (dict(train__optimizer__schedule="step"), ["schedule", "constant, cosine, i2sb"]),
    (dict(train__batch=30, train__microbatches=4), ["train.batch is 30", "multiple of 4"]),
    (dict(distill__batch=30, distill__microbatches=4), ["distill.batch is 30", "multiple of 4"]),
    (dict(data__size=36), ["data.size is 36x36", "network.patch 2", "multiple of 8"]),
    (dict(data__size=(32, 36)), ["data.size is 32x36"]),
    (dict(network__widths=(64, 100)), ["network.widths has 100", "network.groups, 8"]),
    (
        dict(network__attention=(1,), network__heads=5),
        ["network.widths has 32", "network.heads, 5"],
    ),
    (
        dict(evaluate__student_nfe=(1, 8)),
        ["evaluate.student_nfe", "1 to 4", "distill.student_steps"],
    ),
    (dict(evaluate__student_nfe=(0, 1)), ["evaluate.student_nfe", "at least 1"]),
    (dict(evaluate__teacher_nfe=(1, 1000)), ["nfe = 1000"]),
    (
        dict(evaluate__sampler="dbim", evaluate__teacher_nfe=(1, 10)),
        ["'dbim' needs at least 2 network calls", "nfe = 1"],
    ),
    (dict(evaluate__teacher_nfe=()), ["evaluate.teacher_nfe"]),
    (dict(evaluate__student_nfe=()), ["evaluate.student_nfe"]),
    (dict(train__ema=1.0), ["train.ema is 1.0", "below 1"]),
    (dict(distill__bridge_ema=-0.1), ["distill.bridge_ema is -0.1"]),
    (dict(distill__z_channels=4), ["distill.z_channels is 4", "0", "3"]),
    (dict(bridge__betamax=1.0), ["bridge 'i2sb'", "betamax", "beta_max"]),
    (dict(data__rotate=True, data__size=(32, 48)), ["data.rotate", "square"]),
    *(
        ({key.replace(".", "__"): -1}, [f"{key} is -1", "at least 0"])
        for key in (
            "seed", "pictures_every", "profile.steps", "data.cache_mb", "evaluate.margin",
            "train.weight_max", "train.max_skipped", "distill.weight_max",
            "distill.bridge_weight_max", "distill.max_skipped", "train.optimizer.warmup",
            "distill.optimizer.clip", "distill.bridge_optimizer.eps",
        )
    ),
    (dict(train__optimizer__learning_rate=0.0), ["train.optimizer.learning_rate is 0.0"]),
    (dict(distill__bridge_optimizer__b2=1.0), ["distill.bridge_optimizer.b2 is 1.0", "below 1"]),
    (dict(network__patch=0), ["network.patch is 0", "at least 1"]),
    (dict(network__groups=0), ["network.groups is 0", "at least 1"]),
    (dict(network__widths=()), ["network.widths is empty"]),
    (dict(network__widths=(0, 8)), ["network.widths is (0, 8)"]),
    (dict(network__dropout=1.0), ["network.dropout is 1.0", "below 1"]),
    (dict(network__attention=(3,)), ["network.attention has 3", "0 to 2"]),
    (dict(bridge__beta_max=-1.0), ["i2sb: beta_max must be above 0", "-1.0"]),
    (dict(bridge__steps=1), ["i2sb: ", "at least 2"]),
    (dict(bridge={"name": "resshift", "last": 1.2}), ["resshift: ", "last <= 1", "1.2"]),
    (dict(bridge={"name": "goub", "lam": 0.0}), ["goub: lam must be above 0"]),
    (
        dict(bridge={"name": "brownian", "epsilon": 0.0}),
        ["bridge 'brownian' with epsilon=0.0 has no noise"],
    ),
    (dict(bridge={"name": "vp", "beta_d": -5.0}), ["'vp' with beta_d=-5.0", "not finite"]),
    (
        dict(preconditioning={"name": "bridge_karras", "sigma_data": 0.0}),
        ["'bridge_karras' with sigma_data=0.0 is not finite on the bridge 'i2sb'"],
    ),
    (dict(preconditioning={"name": "velocity"}), ["'velocity' needs a bridge with a slope"]),
    (
        dict(corruption={"name": "denoise", "std": 15.0}),
        ["denoise: std is 15: noise is in units of images in [-1, 1]", "15 of 255 is 0.118"],
    ),
    (
        dict(corruption={"name": "inpaint_freeform", "area": (0.1, 0.2)}),
        ["area is in percents", "give 10 and 20"],
    ),
    (dict(data__size="big"), ["data.size = big must be"]),
    (
        dict(evaluate__sampler="dbim", evaluate__teacher_nfe=(2,), bridge__deterministic=True),
        ["evaluate.teacher_nfe is (2,)", "'dbim' divides by the noise", "use 'ancestral'"],
    ),
    (dict(bridge={"name": "ve", "T": 0.001}), ["t_min 0.002", "T 0.001"]),
    (dict(evaluate__sampler="dbim:eta=2"), ["'dbim:eta=2'", "eta must be a number from 0 to 1"]),
    (dict(evaluate__sampler="heun:eta=1"), ["'heun' has no knob 'eta'", "churn, guidance, clip"]),
    (dict(compare__samplers=("dbim", "dbim")), ["compare.samplers", "each sampler once"]),
    (
        dict(distill__z_channels=0, corruption__fill="zero", distill__first_time=1.0),
        ["no randomness", "distill.z_channels", "corruption.fill"],
    ),
]  # fmt: skip


@pytest.mark.parametrize("keys, words", REFUSALS, ids=[str(keys) for keys, _ in REFUSALS])
def test_what_cannot_run_is_refused_in_one_sentence(keys, words):
    with pytest.raises(ValueError) as caught:
        validate(changed(**keys))
    sentence = str(caught.value)
    for word in words:
        assert word in sentence
    assert "\n" not in sentence and len(sentence) < 300
    assert sentence[-1] in ".?" or sentence.endswith("distill.student_steps")


def test_batches_must_divide_by_the_devices():
    validate(changed(), devices=8)
    with pytest.raises(ValueError, match=r"train.batch is 32.*multiple of 5 \(5 devices x 1 micro"):
        validate(changed(), devices=5)
    with pytest.raises(ValueError, match="evaluate.batch is 60.*8 devices"):
        validate(changed(evaluate__batch=60), devices=8)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        dict(data__size=(32, 48)),
        dict(distill__z_channels=0, corruption__fill="noise", distill__first_time=1.0),
        dict(distill__z_channels=0),  # the first call's noise is enough
        dict(network__attention=(0, 1)),
        dict(evaluate__sampler="dbim", evaluate__teacher_nfe=(2, 10)),
        dict(evaluate__sampler="heun:churn=None,clip=True", evaluate__teacher_nfe=(3, 10)),
        dict(bridge={"name": "vp"}, preconditioning={"name": "bridge_karras"}),
        dict(bridge={"name": "goub"}, distill__method="cbd"),
    ],
    ids=str,
)
def test_what_can_run_is_accepted(keys):
    validate(changed(**keys))


def test_differences_names_changed_keys_but_not_free_ones():
    def flat(config):
        return json.loads(config.to_json_best_effort())

    old = flat(base_config())
    assert differences(old, old) == []
    free = changed(
        evaluate__images=3, evaluate__teacher_nfe=(5,), parallel__mode="pmap", parallel__fsdp=4,
        log_every=7, checkpoint_every=9, checkpoints_kept=5, pictures_every=11, data__cache_mb=1,
        profile__steps=5,
    )  # fmt: skip
    assert differences(old, flat(free)) == []
    new = flat(changed(train__steps=7, network__widths=(8, 16), data__size=(32, 48)))
    del new["seed"]
    new["bridge"]["steps"] = 500
    assert differences(old, new) == [
        "bridge.steps: (absent) -> 500",
        "data.size: 32 -> [32, 48]",
        "network.widths: [32, 64, 64] -> [8, 16]",
        "seed: 0 -> (absent)",
        f"train.steps: {base_config().train.steps} -> 7",
    ]
    # A tuple that has been through JSON is a list and no difference.
    assert differences({"a": {"b": (1, 2)}}, {"a": {"b": [1, 2]}}) == []


def variants(path: Path) -> list[str]:
    """ "" and the names in the module's VARIANTS, if it has such a table."""
    return ["", *getattr(load(path.stem), "VARIANTS", {})]


@pytest.mark.parametrize(
    "path, variant",
    [(path, variant) for path in CONFIGS for variant in variants(path)],
    ids=lambda v: v.stem if isinstance(v, Path) else v or "default",
)
def test_every_file_in_configs_builds_and_validates(path, variant):
    config = load(path.stem).get_config(variant)
    validate(config)
    System.create(config)
    assert set(config) == set(base_config())
    json.loads(config.to_json_best_effort())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_an_unknown_variant_is_refused(path):
    with pytest.raises(ValueError, match="no-such-variant"):
        load(path.stem).get_config("no-such-variant")


def test_there_are_configurations():
    assert any(path.stem == "inpaint" for path in CONFIGS)


def test_every_key_of_the_base_has_a_comment():
    """Beside it, or on the line above."""
    source = Path(jax_bridges.config.__file__).read_text()
    beside, above = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line.lstrip().startswith("#")
            (above if alone else beside)[token.start[0] + alone] = token.string.strip("# ")
    keys, bare = set(), []
    for number, line in enumerate(source.splitlines(), 1):
        match = re.match(r"    config\.([a-zA-Z0-9_.]+) = (?!.*ConfigDict\(|_optimizer\()", line)
        if match:
            keys.add(match[1])
            if len(beside.get(number, above.get(number, ""))) < 4:
                bare.append(match[1])
    assert bare == []
    optimizer = {
        "name",
        "learning_rate",
        "schedule",
        "delay",
        "warmup",
        "b1",
        "b2",
        "eps",
        "weight_decay",
        "clip",
    }
    flat = {line.split(":")[0] for line in differences({}, json.loads(base_config().to_json()))}
    consistency = set(base_config().distill.cbd) - {"optimizer"}
    grouped = ("corruption.", "bridge.", "preconditioning.", "distill.cbd.", "distill.cbt.")
    flat = {k for k in flat if "ptimizer." not in k and not k.startswith(grouped)}
    assert flat <= keys and optimizer <= keys and consistency <= keys  # all seen


def test_size_may_be_one_number_or_two():
    config = base_config()
    config.data.size = (32, 48)
    validate(config)
    assert System.create(config).size == (32, 48)
    config.data.size = 16
    assert System.create(config).size == (16, 16)
    assert base_config().data.size == 32
