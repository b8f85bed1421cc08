"""The evaluate stage with other metrics and protocols than the default ones."""

import dataclasses
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jax_bridges.corruptions import make_corruption
from jax_bridges.data.arrays import ArraySource
from jax_bridges.keys import ONLY, Purpose, Stream, example_keys, fold, normal
from jax_bridges.metrics import PROTOCOLS, measure
from jax_bridges.stages.evaluate import (
    Restoring,
    corruption_gap,
    evaluate,
    hole_masks,
    holes_differ,
)
from jax_bridges.stages.jobs import Job, plain_jobs, source_images, source_job
from jax_bridges.stages.run import Run
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from jax_bridges.validation import check_evaluation, validate
from tests.support.runs import USERS_METRICS, tiny


def run_of(tmp_path, **changes) -> Run:
    """A run as far as measuring needs one: a system and devices."""
    config = tiny(tmp_path, **changes)
    parts = dict.fromkeys(field.name for field in dataclasses.fields(Run))
    parts.update(config=config, workdir=tmp_path, system=System.create(config), programs={})
    return Run(**{**parts, "parallel": Parallel.create("auto", 1)})


def batch(count=6, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return {"x0": images, "index": np.arange(count, dtype=np.uint32)}


def test_holes_that_differ_have_their_own_psnr(tmp_path):
    """Of the source, whose known pixels are right: that of the whole image, less the share of the hole."""
    run = run_of(
        tmp_path,
        **{
            "corruption.name": "inpaint_freeform", "corruption.fill": "zero",
            "evaluate.metrics": ("psnr",), "evaluate.images": 6,
        },
    )  # fmt: skip
    data = batch()
    run.stop, run.test_data = (
        threading.Event(),
        ArraySource("arrays", {"x0": data["x0"]}, None, np.arange(6), (16, 16)),
    )
    masks = Restoring(run, hole_masks(run), None, 4)(data)
    assert masks.shape == (6, 16, 16, 1) and len({m.tobytes() for m in masks}) > 1
    source = evaluate(run, [source_job(run)], "")["rows"][0].metrics
    share = 10 * np.log10(masks.mean((1, 2, 3))).mean()
    assert source["psnr_hole"] == pytest.approx(source["psnr"] + share, abs=1e-3)
    for name in ("inpaint_center", "superres"):  # one fixed hole, and none
        run.system = dataclasses.replace(run.system, corruption=make_corruption(name))
        assert not holes_differ(run, {k: v[:1] for k, v in data.items()})


@pytest.mark.parametrize("fill", ["noise", "zero"])
def test_consistency_is_the_gap_to_xT(tmp_path, fill):
    """Zero for the target whatever is in the hole; the known pixels' error otherwise.

    Zero is less than a rounding of 1: some compilers fuse the two differences, which then differ.
    """
    run = run_of(tmp_path, **{"corruption.fill": fill})
    run.stop = threading.Event()
    data = batch()
    consistency = corruption_gap(run)
    exact = consistency(data["x0"], data)
    np.testing.assert_allclose(exact, np.zeros(6), atol=6e-8)
    other = data["x0"].copy()
    other[:, 4:12, 4:12] = 0  # the hole alone
    np.testing.assert_allclose(consistency(other, data), np.zeros(6), atol=6e-8)
    other = data["x0"].astype(np.float32) / 127.5 - 1
    other[:, :2] += 0.25  # 32 of 256 pixels, all known; floats, as DDNM's protocol keeps them
    got = consistency(other, data)
    np.testing.assert_allclose(got, 0.25 * np.sqrt(32 / 256), rtol=1e-4)
    assert consistency(other, {**data, "xT": data["x0"]}) is None


def test_diversity_is_the_distance_of_two_answers_to_one_source(tmp_path, monkeypatch):
    """Exactly, from the ledger's keys; with features that are the pixels, in units of [-1, 1]."""
    monkeypatch.setattr(
        measure, "lite0_outputs", lambda v: SimpleNamespace(features=v.reshape(len(v), -1) / 127.5)
    )
    run = run_of(tmp_path, **{"evaluate.metrics": ("psnr", "diversity"), "evaluate.images": 6})
    run.system = dataclasses.replace(run.system, corruption=make_corruption("denoise", std=0.1))
    data, index = batch(), np.arange(6)
    run.stop, run.test_data = (
        threading.Event(),
        ArraySource("arrays", {"x0": data["x0"]}, None, index, (16, 16)),
    )
    keep = PROTOCOLS["own"].keep

    def answers(strength):
        def sample(params, batch, key):
            pair = run.system.prepare(batch, key, augment=False)
            return keep(0.5 * pair.xT + strength * normal(pair.sampling_keys, ONLY, pair.xT))

        return Job("teacher", f"{strength}", 3, lambda: run.parallel.map(sample), None, "")

    jobs = [source_job(run), answers(0.0), answers(0.2)]
    rows = [row.metrics for row in evaluate(run, jobs, "")["rows"]]
    assert "diversity" not in rows[0] and rows[1]["diversity"] == 0
    pair = run.system.prepare(data, run.key(Purpose.EVALUATE), augment=False)
    keys = example_keys(run.key(Purpose.EVALUATE), index)
    both = [fold(keys, Stream.SAMPLE), fold(fold(keys, Stream.ANSWER), 1)]
    one, two = (keep(0.5 * pair.xT + 0.2 * normal(k, ONLY, pair.xT)) for k in both)
    apart = (np.asarray(one, float) - np.asarray(two, float)).reshape(6, -1) / 127.5
    assert rows[2]["diversity"] == pytest.approx(np.linalg.norm(apart, axis=1).mean(), rel=1e-5)
    assert rows[2]["diversity"] == pytest.approx(0.2 * 2**0.5 * (16 * 16 * 3) ** 0.5, rel=0.1)
    # What else is measured is of the first answer alone.
    error = np.square((np.asarray(one, float) - data["x0"]) / 255).mean((1, 2, 3))
    assert rows[2]["psnr"] == pytest.approx(np.mean(-10 * np.log10(error)), abs=1e-3)


def test_what_the_samplers_hand_over_by_protocol(tmp_path):
    """Truncated without a guard for the papers, floats for DDNM, and known pixels as they were."""
    data, kept = batch(), {}
    for protocol in ("own", "i2sb", "ddnm"):
        run = run_of(tmp_path, **{"evaluate.protocol": protocol})
        sample = source_images(run)
        kept[protocol] = np.asarray(sample(None, data, jax.random.key(0)))[:, :4]
    target = data["x0"][:, :4]
    np.testing.assert_array_equal(kept["own"], target)
    fallen = target.astype(int) - kept["i2sb"]
    assert kept["i2sb"].dtype == np.uint8 and set(np.unique(fallen)) == {0, 1}
    assert kept["ddnm"].dtype == np.float32
    np.testing.assert_allclose(kept["ddnm"], target / 127.5 - 1, atol=1e-6)


def test_a_row_tells_the_calls_that_the_teacher_makes(tmp_path):
    """Heun spends 3N - 1 of a budget; a budget that buys no further step has no row of its own."""
    run = run_of(
        tmp_path, **{"evaluate.sampler": "heun", "evaluate.teacher_nfe": (5, 7, 10)},
    )  # fmt: skip
    source, *jobs = plain_jobs(run, None, None)
    assert (source.model, source.nfe) == ("source", 0)
    found = [(job.model, job.sampler, job.nfe, job.label) for job in jobs]
    assert found == [
        ("teacher", "heun", 5, "teacher 5"), ("teacher", "heun", 8, "teacher 8"),
        ("student", "few_step", 1, "student 1"), ("student", "few_step", 2, "student 2"),
    ]  # fmt: skip


def test_numbers_of_calls_share_a_program(tmp_path):
    """Pictures and evaluation too: they ask for the same by the same name."""
    run = run_of(tmp_path, **{"evaluate.teacher_nfe": (1, 3, 7), "evaluate.student_nfe": (1, 2)})
    for job in plain_jobs(run, None, None):
        job.make()
    found = {"the corruption", "the sampler ancestral", "the student's sampler"}
    assert set(run.programs) == found


@pytest.mark.parametrize(
    "images, changes, words",
    [
        (1, {}, "held-out leaves 1 image to evaluate, but fd_lite0 and kid_lite0 compare sets of 2 or more"),
        (9, {"evaluate.images": 1}, "leaves 1 image to evaluate"),
        (9, {"data.size": 8}, "whose window is 11x11, but an image is 8x8"),
        (9, {"evaluate.margin": 1}, "but the hole with evaluate.margin is 10x10: enlarge data.size"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_told_before_the_training(tmp_path, images, changes, words):
    held_out = ArraySource("held-out", {}, None, np.arange(images), (16, 16))
    config = tiny(tmp_path, **USERS_METRICS)
    check_evaluation(config, ArraySource("", {}, None, np.arange(2), (16, 16)))
    with pytest.raises(ValueError, match=words):
        check_evaluation(tiny(tmp_path, **USERS_METRICS, **changes), held_out)
    check_evaluation(tiny(tmp_path, **changes, **{"evaluate.metrics": ("psnr",)}), held_out)


def test_the_configuration_is_checked_before_anything_is_trained(tmp_path):
    validate(tiny(tmp_path, **{"evaluate.metrics": ("cons", "kid_lite0")}))
    task = {"evaluate.published": "inpaint-center-128"}
    validate(tiny(tmp_path, **task, **{"evaluate.published_data": "ImageNet 256"}))
    for changes, words in (
        ({"evaluate.metrics": ("psnr", "fdi")}, "evaluate.metrics is .*'fdi'.*Did you mean 'fid'"),
        ({"evaluate.metrics": ("ca_lite0",)}, "needs class labels"),
        ({"evaluate.published": "inpaint"[:4]}, "Unknown published task"),
        ({**task, "evaluate.published_data": "ImageNet 64"}, "choose one of ImageNet 256"),
    ):
        with pytest.raises(ValueError, match=words):
            validate(tiny(tmp_path, **changes))
