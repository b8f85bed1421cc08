"""`python -m jax_bridges.measure`: two folders, or a folder and statistics."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jax_bridges import measure
from jax_bridges.config import base_config
from jax_bridges.metrics import PROTOCOLS, Moments, fd_lite0, mean_estimate, metric, psnr
from jax_bridges.metrics import measure as measure_module
from jax_bridges.metrics.reference import save_statistics

RANDOM = np.random.default_rng(0)
TARGETS = RANDOM.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
OURS = np.clip(TARGETS + RANDOM.normal(0, 20, TARGETS.shape), 0, 255).astype(np.uint8)


def few_features(images):
    """In place of the network, which has a test of its own."""
    pixels = np.asarray(images).reshape(len(images), -1)[:, ::97].astype(np.float32)
    return SimpleNamespace(features=pixels, logits=pixels)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_module, "lite0_outputs", few_features)
    for name, images, suffix in (("a", OURS, "png"), ("b", TARGETS, "bmp")):
        for i, image in enumerate(images):
            path = tmp_path / name / f"part{i % 2}" / f"{i}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return tmp_path


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["measure", *map(str, arguments)])
    code = measure.main()
    said = capsys.readouterr()
    return code, said.out, said.err


def test_two_folders_are_measured_as_arrays_are(folders, monkeypatch, capsys):
    command = (folders / "a", folders / "b", "--metrics=psnr,fd_lite0", "--json")
    code, out, _ = run(monkeypatch, capsys, *command)
    found = json.loads(out)
    each = np.asarray(psnr(OURS, TARGETS))
    assert code == 0 and found["images"] == 12
    assert found["psnr"] == pytest.approx(each.mean(), rel=1e-5)
    assert found["intervals"]["psnr"] == pytest.approx(mean_estimate(each).interval(), rel=1e-4)
    want = fd_lite0(few_features(OURS).features, few_features(TARGETS).features)
    assert found["fd_lite0"] == pytest.approx(want, rel=1e-9)
    assert found["intervals"]["fd_lite0"][0] < want < found["intervals"]["fd_lite0"][1]
    code, out, _ = run(monkeypatch, capsys, *command[:-1])
    assert f"PSNR ↑            {each.mean():.2f} dB  (95% interval" in out
    assert "FD-Lite0 of 12 images: few" in out and "own: pixels truncated" in out


def test_what_does_not_match_is_said(folders, monkeypatch, capsys):
    a, b = folders / "a", folders / "b"

    def refused(*arguments):
        code, _, err = run(monkeypatch, capsys, *arguments)
        assert code == 1 and err.count("\n") == 1
        return err

    assert "'cons' needs the corruption" in refused(a, b, "--metrics=cons")
    assert "'diversity' needs two answers" in refused(a, b, "--metrics=diversity")
    assert "Did you mean 'psnr'" in refused(a, b, "--metrics=psnrr")
    assert "needs class labels" in refused(a, b, "--metrics=ca_lite0")
    assert "nowhere is no folder of images" in refused(folders / "nowhere", b)
    assert "is no folder of images, nor statistics" in refused(a, folders / "c.npz")
    save_statistics(folders / "c.npz", Moments.of(few_features(TARGETS).features))
    said = refused(a, folders / "c.npz", "--metrics=psnr,kid_lite0")
    assert "psnr and kid_lite0 compare with images" in said or "evaluate.reference" in said
    (b / "part0/0.bmp").rename(b / "part0/other.bmp")
    said = refused(a, b, "--metrics=psnr")
    assert (
        "psnr compare images of the same name, and 2 are in one of" in said
        and "part0/other" in said
    )
    code, *_ = run(monkeypatch, capsys, a, b, "--metrics=fd_lite0")  # as sets they compare
    assert code == 0
    (b / "part0/other.bmp").unlink()
    assert "has 12 images and" in refused(a, b, "--metrics=fd_lite0")
    (a / "part0/0.png").unlink()
    Image.fromarray(TARGETS[2][:8]).save(b / "part0/2.bmp")
    said = refused(a, b, "--metrics=psnr")
    assert "2.png is 16x16 and" in said and "2.bmp is 16x8: they must" in said
    assert "none of them twice" in refused(a, b, "--metrics=psnr,psnr")
    (a / "part0/2.png").write_bytes(b"no picture")
    assert "2.png: " in refused(a, b, "--metrics=psnr")


def test_a_second_name_of_a_file_is_a_name(folders, monkeypatch, capsys):
    for folder, suffix in (("a", "png"), ("b", "bmp")):
        file = folders / folder / f"part0/0.{suffix}"
        (folders / folder / f"again.{suffix}").symlink_to(file)
    code, out, _ = run(
        monkeypatch, capsys, folders / "a", folders / "b", "--metrics=psnr", "--json"
    )
    assert code == 0 and json.loads(out)["images"] == 13


def test_large_images_are_measured_few_at_a_time(folders, monkeypatch):
    """With the numbers of all at once; but for a protocol whose values are of batches."""
    sizes, seen, few = [], [], metric._few_at_once

    def count(part, function):
        sizes.append(len(part.images))
        return few(part, function)

    def all_seen(images, targets):
        seen.append(len(images))
        return psnr(images, targets)

    def measured(protocol):
        config = base_config().evaluate
        config.update(metrics=("psnr", "ssim"), protocol=protocol)
        return measure.measure_folders(folders / "a", folders / "b", config)[0]

    whole = {protocol: measured(protocol) for protocol in ("own", "ddbm")}
    monkeypatch.setattr(measure, "PART_PIXELS", 5 * 256)
    monkeypatch.setattr(metric, "PIXELS_AT_ONCE", 2 * 256)
    monkeypatch.setattr(metric, "_few_at_once", count)
    assert measured("ddbm") == whole["ddbm"] and sizes == [12, 12]
    sizes.clear()
    own = measured("own")
    assert sizes == [5, 5, 5, 5, 2, 2]
    for name in ("psnr", "ssim"):
        assert own[name] == pytest.approx(whole["own"][name], rel=1e-6)
    part = SimpleNamespace(images=OURS, targets=TARGETS, protocol=PROTOCOLS["own"])
    np.testing.assert_allclose(few(part, all_seen), psnr(OURS, TARGETS), rtol=1e-6)
    assert seen == [2] * 6
