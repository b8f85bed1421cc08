"""Protocols, scores, reference statistics, intervals: against public implementations and laws."""

from pathlib import Path
from types import SimpleNamespace

import dm_pix
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from jax_bridges.io.safetensors import write_safetensors
from jax_bridges.metrics import (
    PROTOCOLS,
    Measure,
    Moments,
    check_metrics,
    fd_lite0,
    frechet_distance,
    hits,
    inception_score,
    kernel_distance,
    load_statistics,
    measure_images,
    over_hosts,
)
from jax_bridges.metrics import measure as measure_module
from jax_bridges.metrics import metric as metric_module
from jax_bridges.metrics.reference import save_statistics
from tests.golden import feature_nets_weights as given

HERE = Path(__file__).parent / "golden"

GOLDEN = np.load(HERE / "feature_nets.npz")


def settings(**changes):
    base = dict(
        metrics=("psnr", "ssim", "fd_lite0"), protocol="own", weights="", reference="",
        allow_unequal=False, folds=0,
    )  # fmt: skip
    return SimpleNamespace(**{**base, **changes})


def golden_features():
    random = np.random.default_rng(5)
    logits = random.normal(size=(60, 12)) * 2
    f, g = random.normal(size=(2, 40, 10))
    return logits, f, g + 0.3


# -- scores ----------------------------------------------------------------------------------------
def test_fid_is_and_kid_of_public_implementations():
    """pytorch-fid's distance, torch-fidelity's IS and KID, on the same features."""
    logits, f, g = golden_features()
    fid = frechet_distance(Moments.of(f), Moments.of(g))
    assert fid == pytest.approx(float(GOLDEN["fid"]), abs=1e-4, rel=1e-8)
    assert inception_score(logits, splits=4) == pytest.approx(float(GOLDEN["is"]), rel=1e-9)
    kid, spread = kernel_distance(f, g, subset=40, subsets=1)
    assert kid == pytest.approx(float(GOLDEN["kid"]), abs=1e-8) and spread == 0


def test_inception_score_closed_forms():
    certain = 60.0 * np.eye(8)
    assert inception_score(certain) == pytest.approx(8, rel=1e-6)  # K classes, all sure and equal
    assert inception_score(np.zeros((6, 5))) == pytest.approx(1)
    # In order, in chunks of 4: the first of one class alone, the second of four.
    chunks = np.concatenate([certain[[0] * 4], certain[:4]])
    assert inception_score(chunks, split_size=4) == pytest.approx((1 + 4) / 2, rel=1e-6)
    assert inception_score(certain[:5], split_size=4) == pytest.approx((4 + 1) / 2, rel=1e-6)
    with pytest.raises(ValueError, match="finite"):
        inception_score(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="3 images 4 times"):
        inception_score(np.zeros((3, 3)), splits=4)


def test_hits():
    logits = np.array([[0, 3, 1], [5, 0, 0], [0, 0, 1.0]])
    assert hits(logits, [1, 0, 0]).tolist() == [100, 100, 0]
    with pytest.raises(ValueError, match="imagenet_wnids.txt"):
        hits(logits, [1, 0, 3])
    with pytest.raises(ValueError, match="one label each"):
        hits(logits, [1, 0])


# -- statistics --------------------------------------------------------------------------------------
def test_joined_moments_are_those_of_all():
    random = np.random.default_rng(1)
    x = (random.normal(size=(90, 7)) @ random.normal(size=(7, 7)) + 1e5).astype(np.float64)
    one = Moments.of_blocks(x[start : min(start + 13, 60)] for start in range(0, 60, 13))
    both = one.joined(Moments.of(x[60:]))
    assert both.count == 90
    np.testing.assert_allclose(both.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(both.covariance, np.cov(x.T), rtol=1e-9, atol=1e-9)
    square = both.square()
    assert square.shape == (7, 7)
    np.testing.assert_allclose(square.T @ square / 89, np.cov(x.T), rtol=1e-9, atol=1e-9)
    few = Moments.of(x[:3])  # fewer than dimensions: rows of zeros
    assert few.square().shape == (7, 7) and not few.square()[3:].any()
    assert over_hosts(both, 7).count == 90
    assert frechet_distance(both, Moments.of(x)) < 1e-6
    with pytest.raises(ValueError, match="7 and of 3 numbers"):
        both.joined(Moments.of(x[:, :3]))
    with pytest.raises(ValueError, match="NaN"):
        Moments.of(x * np.nan)
    with pytest.raises(ValueError, match="2 features or more, not 0"):
        over_hosts(None, 3)


def test_moments_gathered_over_hosts(monkeypatch):
    """What two hosts hold is packed bit by bit, and comes together as float64."""
    random = np.random.default_rng(2)
    x = random.normal(size=(50, 4)) + 1e7
    parts = [Moments.of(half) for half in (x[:20], x[20:])]
    packed = [np.concatenate([[float(p.count)], p.mean, p.square().reshape(-1)]) for p in parts]

    def gather(words):
        np.testing.assert_array_equal(words, np.frombuffer(packed[0].tobytes(), np.uint8))
        return jnp.stack([np.frombuffer(p.tobytes(), np.uint8) for p in packed])

    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", gather)
    both = over_hosts(parts[0], 4)
    assert both.count == 50
    np.testing.assert_allclose(both.mean, x.mean(0), rtol=1e-15)
    np.testing.assert_allclose(both.covariance, np.cov(x.T), rtol=1e-7)


def test_reference_statistics_of_every_kind(tmp_path):
    _, f, g = golden_features()
    mean, covariance = g.mean(0), np.cov(g.T)
    np.savez(tmp_path / "adm.npz", mu=mean, sigma=covariance, mu_s=mean, sigma_s=covariance)
    np.savez(tmp_path / "ddbm.npz", arr_0=np.zeros(3), mu=mean, sigma=covariance, act=g)
    np.savez(tmp_path / "acts.npz", pool_3=g)
    save_statistics(tmp_path / "own.npz", Moments.of(g))
    counts = {"adm": None, "ddbm": 40, "acts": 40, "own": 40}
    for name, count in counts.items():
        loaded = load_statistics(tmp_path / f"{name}.npz")
        assert loaded.count == count
        fid = frechet_distance(Moments.of(f), loaded)
        assert fid == pytest.approx(float(GOLDEN["fid"]), abs=1e-4)
    unknown = load_statistics(tmp_path / "adm.npz")
    np.testing.assert_allclose(unknown.covariance, covariance, atol=1e-12)
    # Published statistics stand for their data: any number of ours may be compared with them.
    assert frechet_distance(Moments.of(f[:30]), unknown) > 0
    with pytest.raises(ValueError, match="30 and 40 samples"):
        frechet_distance(Moments.of(f[:30]), load_statistics(tmp_path / "ddbm.npz"))


def test_bad_reference_statistics(tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "nan.npz", mu=np.zeros(3), sigma=np.full((3, 3), np.nan))
    (tmp_path / "text.npz").write_text("no archive")
    for name, words in {
        "images": "holds arr_0, and neither", "shape": r"mu is \(3,\)", "nan": "not finite",
        "text": "not an .npz file",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=words):
            load_statistics(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="reference statistics"):
        load_statistics(tmp_path / "absent.npz")


def test_fid_formula_with_a_matrix_root():
    _, f, g = golden_features()
    root = linalg.sqrtm(np.cov(f.T) @ np.cov(g.T)).real
    want = np.square(f.mean(0) - g.mean(0)).sum() + np.trace(np.cov(f.T) + np.cov(g.T) - 2 * root)
    assert frechet_distance(Moments.of(f), Moments.of(g)) == pytest.approx(want, rel=1e-9)


# -- protocols -----------------------------------------------------------------------------------------
def test_from_floats_to_pixels_as_each_paper_does():
    levels = np.arange(256, dtype=np.uint8)
    scaled = jnp.asarray(levels / np.float32(127.5) - 1)
    kept = {name: np.asarray(p.pixels(p.keep(scaled))) for name, p in PROTOCOLS.items()}
    np.testing.assert_array_equal(kept["own"], levels)
    np.testing.assert_array_equal(kept["ddnm"], levels)
    for name in ("i2sb", "ddbm", "dbim"):  # truncation without a guard: the papers lose levels
        fallen = levels.astype(int) - kept[name]
        assert set(fallen) == {0, 1} and fallen.sum() == 63
        np.testing.assert_array_equal(PROTOCOLS[name].keep(jnp.asarray(levels)), levels)
    between = jnp.asarray([10.6 / 127.5 - 1, 1.3, -1.3, np.nan], jnp.float32)
    assert PROTOCOLS["i2sb"].pixels(between).tolist() == [10, 255, 0, 0]
    assert PROTOCOLS["ddnm"].pixels(between).tolist() == [11, 255, 0, 0]
    assert PROTOCOLS["ddnm"].keep(between).dtype == jnp.float32


def test_ddbm_psnr_and_ssim_are_torchmetrics_on_its_evaluator_s_inputs():
    images = given.images(4, 64)
    ddbm = PROTOCOLS["ddbm"]
    np.testing.assert_allclose(ddbm.psnr(images[:2], images[2:]), [GOLDEN["ddbm_psnr"]], atol=1e-4)
    np.testing.assert_allclose(ddbm.ssim(images[:2], images[2:]), [GOLDEN["ddbm_ssim"]], atol=1e-4)
    own = np.asarray(PROTOCOLS["own"].psnr(images[:2], images[2:])).mean()
    assert abs(own - GOLDEN["ddbm_psnr"]) > 0.01  # it is another number


def test_psnr_and_ssim_are_skimage_s_and_dm_pix_s():
    images = given.images(4, 40)
    x, y = images[:2], images[2:]
    floats = np.clip(x / 127.5 - 1 + 0.003, -1.2, 1.2).astype(np.float32)
    kept = np.asarray(PROTOCOLS["ddnm"].keep(jnp.asarray(floats)))
    want = [
        peak_signal_noise_ratio(b / 255, np.clip((a + 1) / 2, 0, 1), data_range=1)
        for a, b in zip(floats.astype(np.float64), y, strict=True)
    ]
    np.testing.assert_allclose(PROTOCOLS["ddnm"].psnr(kept, y), want, atol=1e-4)
    got = np.asarray(PROTOCOLS["i2sb"].ssim(x, y))
    np.testing.assert_allclose(got, dm_pix.ssim(x / 255.0, y / 255.0), atol=1e-4)
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
    for a, b, value in zip(x / 255, y / 255, got, strict=True):
        _, full = structural_similarity(a, b, channel_axis=-1, full=True, **options)
        assert value == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)
    got = np.asarray(PROTOCOLS["i2sb"].psnr(x, y))
    np.testing.assert_allclose(got, dm_pix.psnr(x / 255.0, y / 255.0), atol=1e-4)


# -- rows ------------------------------------------------------------------------------------------------
def test_a_row_of_metrics_and_its_intervals(monkeypatch):
    def lite0_outputs(images):  # the network itself has a test of its own
        pixels = images.reshape(len(images), -1)[:, ::97].astype(np.float32)
        return SimpleNamespace(features=pixels, logits=pixels)

    monkeypatch.setattr(measure_module, "lite0_outputs", lite0_outputs)
    images = given.images(8, 32)
    noisy = np.clip(images + 12.0 * np.sin(np.arange(32))[:, None], 0, 255).astype(np.uint8)
    labels = lite0_outputs(images).logits.argmax(-1)
    names = ("psnr", "ssim", "fd_lite0", "kid_lite0", "ca_lite0", "cons")
    config = settings(metrics=names, folds=20)
    measure = Measure(config)
    whole = measure.begin()
    whole.add(noisy, images, labels, lambda: np.full(8, 0.25))
    row = whole.values()
    assert list(row) == [*names, "intervals"] and row["cons"] == 0.25
    features = [lite0_outputs(v).features for v in (noisy, images)]
    assert row["fd_lite0"] == pytest.approx(fd_lite0(*features), rel=1e-9)
    assert row["kid_lite0"] == pytest.approx(kernel_distance(*features, subset=8)[0], rel=1e-9)
    want = [
        peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(noisy, images, strict=True)
    ]
    assert row["psnr"] == pytest.approx(np.mean(want), abs=1e-4)
    for name in names:
        low, high = row["intervals"][name]
        assert low <= row[name] <= high or name == "kid_lite0"
    exact = measure_images(config, images, images, labels)
    assert exact["ca_lite0"] == 100 and exact["psnr"] == 100 and "cons" not in exact
    assert exact["fd_lite0"] < 1e-6
    assert measure.how()["protocol"].startswith("own: ")
    hole = measure_images(settings(metrics=names), noisy, images, labels, hole=True)
    assert list(hole) == ["psnr", "ssim", "fd_lite0", "kid_lite0"]
    # The same in parts, which may be of any size; a second set reads the targets' features again.
    for _ in range(2):
        parts = measure.begin()
        for i in (slice(0, 3), slice(3, 8)):
            parts.add(noisy[i], images[i], labels[i], lambda i=i: np.full(8, 0.25)[i])
        again = parts.values()
        assert again.keys() == row.keys() and again["intervals"] == row["intervals"]
        assert all(again[name] == row[name] for name in names)
        assert parts.each().keys() == {"psnr", "ssim", "ca_lite0", "cons"}
        np.testing.assert_allclose(parts.each()["psnr"], want, atol=1e-4)


def test_the_networks_of_a_row_by_protocol(tmp_path, monkeypatch):
    """FID, IS, CA and LPIPS reach their networks with the protocol's convention and weights."""
    calls = []

    def inception(images, resize, where):
        calls.append((resize, where))
        pixels = images.reshape(len(images), -1)[:, ::97].astype(np.float32)
        return SimpleNamespace(features=pixels, logits=pixels / 9)

    monkeypatch.setattr(measure_module, "inception_outputs", inception)
    monkeypatch.setattr(measure_module, "resnet_logits", lambda images, where: np.eye(8, 9))
    seen = []
    monkeypatch.setattr(
        metric_module, "lpips", lambda x, y, net, where: seen.append((x.shape, net)) or np.ones(8)
    )
    images, targets = given.images(16, 32)[:8], given.images(16, 32)[8:]
    names = ("fid", "kid", "is", "ca", "lpips", "lpips_alex")
    for protocol, conventions in (
        ("i2sb", {"legacy_pytorch", "legacy_tensorflow"}),
        ("ddbm", {"legacy_tensorflow"}),
    ):
        calls.clear(), seen.clear()
        config = settings(metrics=names, protocol=protocol, weights="folder")
        row = measure_images(config, images, targets, np.arange(8))
        assert {c for c, _ in calls} == conventions and {w for _, w in calls} == {"folder"}
        assert row["ca"] == 100 and row["lpips"] == 1
        ours, theirs = (v.reshape(8, -1)[:, ::97].astype(float) for v in (images, targets))
        assert row["fid"] == pytest.approx(frechet_distance(*map(Moments.of, (ours, theirs))))
        assert row["is"] == pytest.approx(inception_score(ours.astype(np.float32) / 9))
        side = 224 if protocol == "ddbm" else 32
        assert seen == [((8, side, side, 3), "vgg"), ((8, side, side, 3), "alex")]
    save_statistics(tmp_path / "nine.npz", Moments.of(np.zeros((9, ours.shape[1]))))
    config = settings(metrics=("fid",), reference=str(tmp_path / "nine.npz"))
    with pytest.raises(ValueError, match="8 and 9 samples"):
        measure_images(config, images, targets)
    config.allow_unequal = True
    assert measure_images(config, images, targets)["fid"] > 0


def test_what_cannot_be_measured_is_refused_at_the_start(tmp_path, monkeypatch):
    for name in ("HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("JAX_BRIDGES_WEIGHTS", raising=False)
    check_metrics(settings())
    files, no, ten = (str(tmp_path / name) for name in ("weights", "no.npz", "ten.npz"))
    save_statistics(ten, Moments.of(np.eye(10)))
    there = measure_module.weights_path
    monkeypatch.setattr(
        measure_module,
        "weights_path",
        lambda n, where: "there" if where == files else there(n, where),
    )
    fid = dict(metrics=("fid",), weights=files)
    for changes, error, words in (
        (dict(metrics=("psnr", "fvd")), ValueError, "evaluate.metrics is .*'fvd'.*one of fd_lite0"),
        (dict(metrics=()), ValueError, "a tuple of one or more"),
        (dict(protocol="i2bs"), ValueError, "Did you mean 'i2sb'"),
        (dict(folds=1), ValueError, "evaluate.folds is 1"),
        (dict(metrics=("fid",)), FileNotFoundError, "https://github.com/mseitzer"),
        (dict(metrics=("ca_lite0",)), ValueError, "needs class labels"),
        (dict(reference="r.npz"), ValueError, "evaluate.reference is for the metric 'fid'"),
        (dict(metrics=("kid",), reference="r.npz", weights=files), ValueError, "the metric 'fid'"),
        (dict(reference=no, **fid), FileNotFoundError, "reference statistics"),
        (dict(reference=ten, **fid), ValueError, "is of 10 features, but the FID's are the 2048"),
    ):
        with pytest.raises(error, match=words):
            check_metrics(settings(**changes), labels=False)
    write_safetensors(tmp_path / "pt_inception-2015-12-05-6726825d.pth", {"x": np.zeros(3)})
    with pytest.raises(ValueError, match="SHA-256"):
        check_metrics(settings(metrics=("is",), weights=str(tmp_path)))
