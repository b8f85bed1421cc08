"""Zero-shot rows of a comparison: the same images, corruption and metrics as the bridges'."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.acts.compare import student_runs
from jax_bridges.acts.compare_prior import check_prior, measurement, prior_jobs
from jax_bridges.corruptions import (
    Blur,
    Colorize,
    Denoise,
    InpaintFreeform,
    InpaintMask,
    SuperResolution,
    make_corruption,
)
from jax_bridges.data import first, make_source
from jax_bridges.keys import Purpose, example_keys
from jax_bridges.stages.log import NoLog
from jax_bridges.stages.run import Run, StopSignal
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import Pair, System
from jax_bridges.validation import validate
from tests.support.restorers import save_player
from tests.support.runs import tiny

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def prior(images, tmp_path_factory):
    return make_prior(images, tmp_path_factory.mktemp("prior"))


def make_prior(images, workdir, **changes):
    """A prior of random weights for 16x16 pixels."""
    config = tiny(images, **changes)
    config.corruption, config.keep_known = {"name": "identity"}, False
    config.bridge, config.preconditioning = {"name": "ddpm"}, {"name": "unit_variance"}
    config.network.conditional = False
    config.zero_shot.settings = {"ddrm": {"nfe": 2}, "repaint": {"nfe": 4, "travel": (2, 2)}}
    recorded = json.loads(config.to_json_best_effort())
    save_player(workdir, "train", "teacher", System.create(config), recorded, spread=0.05)
    return str(workdir)


def comparison(images, prior, corruption=None, **changes):
    compare = {
        "compare.students": ("ibmd",), "compare.samplers": ("ancestral",),
        "compare.teacher_nfe": (1,), "compare.prior": prior, "compare.prior_nfe": 3,
    }  # fmt: skip
    config = tiny(images, **compare, **changes)
    if corruption:
        config.corruption = corruption
    return config


def a_run(config, workdir):
    train, test = (make_source(config.data, split) for split in ("train", "test"))
    parallel = Parallel.create("fsdp")
    return Run(config, workdir, System.create(config), parallel, train, test, NoLog(), StopSignal())


def test_a_measurement_says_what_the_bridge_is_given():
    """x_T can be made of y, up to what a bridge puts into a hole, and y never shows the hole."""
    x0 = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3), minval=-1.0)
    keys = example_keys(jax.random.key(1), jnp.arange(2))
    for name, settings in (
        ("inpaint_center", {"fill": "noise"}), ("inpaint_freeform", {"count": 4}),
        ("superres", {"kind": "pool"}), ("superres", {}), ("colorize", {"noise_std": 1.0}),
        ("denoise", {"std": 0.3}), ("blur", {}),
    ):  # fmt: skip
        corruption = make_corruption(name, **settings)
        xT, mask = corruption(x0, keys)
        operator, y, sigma_y = measurement(corruption, Pair(x0, xT, mask, keys))
        assert sigma_y == (0.3 if isinstance(corruption, Denoise) else 0)
        if mask is not None:
            np.testing.assert_array_equal(y, jnp.where(mask > 0, 0, xT))
            assert isinstance(corruption, InpaintFreeform) == isinstance(operator, InpaintMask)
        elif isinstance(corruption, SuperResolution):
            np.testing.assert_array_equal(y.repeat(4, 1).repeat(4, 2), xT)
        elif isinstance(corruption, Denoise):
            np.testing.assert_array_equal(y, xT)
        elif isinstance(corruption, Blur):  # which the bridge is given in [0, 1]
            np.testing.assert_allclose(y, xT + 1 - operator.forward(jnp.ones_like(x0)), atol=1e-5)
        else:
            assert isinstance(corruption, Colorize)
            np.testing.assert_array_equal(y, corruption.forward(x0))


def test_rows_of_a_prior(images, prior, tmp_path):
    """Which there are, and that they keep what is known of the run's own corrupted images."""
    config = comparison(images, prior)
    config.compare.prior_methods = ("pinv", "ddnm", "ddnm_plus", "ddrm", "repaint")
    validate(config)
    run = a_run(config, tmp_path)
    jobs = prior_jobs(run, labels=False)
    rows = [(job.model, job.sampler, job.nfe) for job in jobs]
    calls = 4 + 2  # four levels, and one jump of two that is walked once more
    assert rows == [
        ("prior", "pinv", 0), ("prior", "ddnm", 3), ("prior", "ddrm", 2), ("prior", "repaint", calls)
    ]  # fmt: skip
    assert [job.label for job in jobs] == ["", "prior ddnm 3", "", ""]
    data = first(run.test_data, 4)
    out = np.asarray(jobs[1].make()(jobs[1].params, data, run.key(Purpose.EVALUATE)))
    assert out.dtype == np.uint8 and out.shape == (4, 16, 16, 3)
    hole = np.asarray(run.system.corruption.mask(16, 16))[..., 0] > 0
    hole = np.broadcast_to(hole, out.shape[:3])
    np.testing.assert_array_equal(out[~hole], data["x0"][~hole])
    assert (out != data["x0"]).any(-1)[hole].mean() > 0.9
    # The hole's pixels have no say: the solver is given y, not x_0.
    other = {**data, "x0": np.where(hole[..., None], 255 - data["x0"], data["x0"])}
    again = np.asarray(jobs[1].make()(jobs[1].params, other, run.key(Purpose.EVALUATE)))
    np.testing.assert_array_equal(again, out)

    config = comparison(images, prior, {"name": "denoise", "std": 0.2})
    names = [job.sampler for job in prior_jobs(a_run(config, tmp_path), labels=False)]
    assert names == ["pinv", "ddnm", "ddnm_plus", "ddrm", "pigdm", "dps"]


def test_what_does_not_fit_is_refused_before_any_training(images, prior, tmp_path):
    cases = (
        (dict(corruption={"name": "jpeg"}), validate, "'jpeg' is no linear operator"),
        ({"compare.students": ()}, validate, "name its students"),
        ({"compare.prior_methods": ("ddnn",)}, validate, "Did you mean 'ddnm'"),
        ({"compare.prior_nfe": 1}, validate, "at least 2"),
    )
    for changes, check, words in cases:
        config = comparison(images, prior, **{k: v for k, v in changes.items() if "." not in k})
        config.update_from_flattened_dict({k: v for k, v in changes.items() if "." in k})
        with pytest.raises(ValueError, match=words):
            check(config)
    config = comparison(images, prior)
    config.data.size = 32
    with pytest.raises(ValueError, match="16x16 pixels, and data.size is 32x32"):
        student_runs(a_run(config, tmp_path))
    config.compare.prior = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="There is no .*nowhere: give"):
        check_prior(config, False)
    bridge = tiny(images)
    recorded = json.loads(bridge.to_json_best_effort())
    save_player(tmp_path / "bridge", "train", "teacher", System.create(bridge), recorded)
    config.compare.prior = str(tmp_path / "bridge")
    with pytest.raises(ValueError, match="holds a bridge between images"):
        check_prior(config, False)


@pytest.mark.slow
def test_a_comparison_with_a_prior_from_end_to_end(images, prior, tmp_path):
    config = comparison(images, prior, **{"compare.prior_methods": ("pinv", "ddnm")})
    config.evaluate.metrics, config.evaluate.student_nfe = ("psnr",), (1,)
    jax_bridges.main.run(config, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {(r["model"], r["sampler"], r["nfe"]): r for r in results["rows"]}
    assert list(rows)[-2:] == [("prior", "pinv", 0), ("prior", "ddnm", 3)]
    assert ("student", "ibmd", 1) in rows and ("teacher", "ancestral", 1) in rows
    for row in rows.values():
        assert row["images"] == 8 and np.isfinite(row["psnr"])
    assert rows["prior", "ddnm", 3]["seconds_per_image"] > 0
    report = (tmp_path / "run" / "report.html").read_text()
    assert "prior" in report and "ddnm" in report
    assert any("prior ddnm 3" in item["images"] for item in results["comparisons"])
