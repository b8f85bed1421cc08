"""Configurations: what is refused and in which words, what may change, that every file is sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jax_bridges.config import base_config, differences
from jax_bridges.models import network_settings
from jax_bridges.training.system import System
from jax_bridges.validation import validate
from tests.support.config_files import CONFIGS as FOLDER
from tests.support.config_files import changed, load

CONFIGS = sorted(FOLDER.glob("*.py"))


# What goes together or not: what is changed, and words that the sentence must hold: the key and what to do.
# What each key may be by itself is in test_settings.py, for every row of the table.
REFUSALS = [
    (dict(corruption__name="inpaint_centre"), ["corruption.name", "Did you mean 'inpaint_center'?"]),
    (dict(train__optimizer__weight_decay=0.1), ["train.optimizer.weight_decay", "adamw"]),
    (dict(train__mode="reflow", teacher__init="x", network__conditional=False, keep_known=False, bridge__deterministic=True, network__dropout=0.1), ["network.dropout", "reflow"]),
    (dict(bridge__deterministic="false"), ["deterministic is 'false'", "True or False"]),
    (dict(bridge__steps=101), ["steps", "even"]),
    (dict(preconditioning__name="bridge_karras", preconditioning__sigma_data="x"), ["preconditioning.sigma_data is 'x'", "a number"]),
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
    (dict(evaluate__teacher_nfe=(1, 1000)), ["nfe = 1000"]),
    (
        dict(evaluate__sampler="dbim", evaluate__teacher_nfe=(1, 10)),
        ["'dbim' needs at least 2 network calls", "nfe = 1"],
    ),
    (dict(bridge__betamax=1.0), ["bridge 'i2sb'", "betamax", "beta_max"]),
    (dict(data__rotate=True, data__size=(32, 48)), ["data.rotate", "square"]),
    (dict(network__attention=(3,)), ["network.attention has 3", "0 to 2"]),
    (dict(distill__first_time=0.5), ["distill.first_time is 0.5", "above 0.75", "next call"]),
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
        dict(bridge={"name": "i2sb", "deterministic": True}, distill__times="even_levels"),
        ["distill.times is 'even_levels'", "no noise: take 'uniform'"],
    ),
    (
        dict(preconditioning={"name": "bridge_karras", "sigma_data": 0.0}),
        ["'bridge_karras' with sigma_data=0.0 is not finite on the bridge 'i2sb'"],
    ),
    (dict(preconditioning={"name": "velocity"}), ["'velocity' needs a path", "which a table"]),
    (
        dict(corruption={"name": "denoise", "std": 15.0}),
        ["denoise: std is 15: noise is in units of images in [-1, 1]", "15 of 255 is 0.118"],
    ),
    (
        dict(corruption={"name": "inpaint_freeform", "area": (0.1, 0.2)}),
        ["corruption.area is (0.1, 0.2)", "each a whole number"],
    ),
    (
        dict(evaluate__sampler="dbim", evaluate__teacher_nfe=(2,), bridge__deterministic=True),
        ["evaluate.teacher_nfe is (2,)", "'dbim' divides by the noise", "use 'ancestral'"],
    ),
    (dict(bridge={"name": "ve", "T": 0.001}), ["t_min 0.002", "T 0.001"]),
    (dict(evaluate__sampler="heun:eta=1"), ["'heun' has no setting 'eta'", "churn, guidance, clip"]),
    (dict(compare__samplers=("dbim", "dbim:eta=2")), ["dbim.eta is 2", "a number from 0 to 1"]),
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
        profile__steps=5, compare__baselines=("palette",), compare__prior_nfe=7, em__baselines=("pinv",),
    )  # fmt: skip
    assert differences(old, flat(free)) == []
    new = flat(
        changed(
            train__steps=7, network__widths=(8, 16), data__size=(32, 48), compare__equal="seconds"
        )
    )
    del new["seed"]
    new["bridge"]["steps"] = 500
    assert differences(old, new) == [
        "bridge.steps: (absent) -> 500",
        "compare.equal: updates -> seconds",
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


def test_a_network_may_leave_out_what_it_has_defaults_for():
    for network in ({"name": "unet", "widths": (8, 16)}, {"name": "adm", "head_channels": 16}):
        config = changed(network=network)
        validate(config)
        full = network_settings(config.network)
        assert full["dtype"] == "float32" and full["conditional"] is False
        assert dict(config.network) == network  # what a run records is what was given
    with pytest.raises(ValueError, match="network.name is missing: .*unet"):
        network_settings({"widths": (8,)})


def test_a_recorded_configuration_makes_the_same_system():
    recorded = json.loads(base_config().to_json_best_effort())
    again = System.create(recorded)
    assert again.teacher == System.create(base_config()).teacher and again.size == (32, 32)
    del recorded["network"]["dtype"], recorded["distill"]["bridge_ema"]
    assert System.create(recorded).teacher == again.teacher
    del recorded["distill"], recorded["data"]  # an import's
    with pytest.raises(ValueError, match="no data, distill: start from config.base_config"):
        System.create(recorded)


def test_size_may_be_one_number_or_two():
    config = base_config()
    config.data.size = (32, 48)
    validate(config)
    assert System.create(config).size == (32, 48)
    config.data.size = 16
    assert System.create(config).size == (16, 16)
    assert base_config().data.size == 32
