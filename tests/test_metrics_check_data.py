"""What the held-out images and the reference must be like for the metrics, told before the training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jax_bridges.metrics import Measure, Moments
from jax_bridges.metrics import measure as measure_module
from jax_bridges.metrics.check_data import check_test_data
from jax_bridges.metrics.reference import save_statistics


class Images:
    """A source, as far as it is looked at."""

    name = "held-out"

    def __init__(self, classes: int = 0, count: int = 8):
        self.classes, self.count = classes, count

    def __len__(self) -> int:
        return self.count


def settings(metrics, images=8, reference="", allow_unequal=False, **data):
    evaluate = SimpleNamespace(
        metrics=metrics, images=images, reference=str(reference), allow_unequal=allow_unequal,
        protocol="own", weights="", folds=0,
    )  # fmt: skip
    base = dict(name="folder", classes="", label_key="")
    return SimpleNamespace(evaluate=evaluate, data=SimpleNamespace(**{**base, **data}))


@pytest.mark.parametrize("metric", ["ca", "ca_lite0"])
def test_labels_that_are_not_imagenets_are_refused(metric):
    """Numbers 0 to N - 1 of N sub-folders are not the classifier's, and CA would be near 0."""
    folders = settings(("psnr", metric), classes="subfolders")
    for classes in (10, 999, 1001):
        with pytest.raises(
            ValueError, match=f"has '{metric}'.* held-out are of {classes}:"
        ) as error:
            check_test_data(folders, Images(classes))
        file = str(error.value).partition("data.classes=")[2].partition(",")[0]
        assert file.endswith("jax_bridges/metrics/imagenet_wnids.txt") and Path(file).is_file()
    check_test_data(folders, Images(1000))
    check_test_data(settings(("psnr",), classes="subfolders"), Images(10))
    keyed = settings((metric,), name="tfds:cifar10", label_key="label")
    with pytest.raises(ValueError, match="of 10: give labels of ImageNet's numbers, or leave"):
        check_test_data(keyed, Images(10))
    # The highest number that occurs in arrays says little: of 1000 classes the last may be missing.
    arrays = settings((metric,), name="arrays", label_key="label")
    check_test_data(arrays, Images(997))
    with pytest.raises(ValueError, match="are of 1001"):
        check_test_data(arrays, Images(1001))


def test_a_reference_of_another_number_of_images_is_refused(tmp_path):
    nine, unknown = tmp_path / "nine.npz", tmp_path / "unknown.npz"
    save_statistics(nine, Moments.of(np.random.default_rng(0).normal(size=(9, 4))))
    np.savez(unknown, mu=np.zeros(4), sigma=np.eye(4))
    fid = dict(metrics=("fid",), reference=nine)
    words = "is of 9 images and {} will be measured.*evaluate.allow_unequal=True"
    with pytest.raises(ValueError, match=words.format(8)):
        check_test_data(settings(**fid), Images())
    with pytest.raises(ValueError, match=words.format(5)):  # fewer than asked for are there
        check_test_data(settings(**fid, images=9), Images(count=5))
    check_test_data(settings(**fid, images=9), Images(count=20))
    check_test_data(settings(**fid, allow_unequal=True), Images())
    check_test_data(settings(metrics=("fid",), reference=unknown), Images())
    one = tmp_path / "one.npz"
    np.savez(one, act=np.zeros((1, 4)))
    with pytest.raises(ValueError, match="is of 1 image: the FID needs"):
        check_test_data(settings(metrics=("fid",), reference=one, allow_unequal=True), Images())


def test_the_report_names_the_reference_of_the_fid_alone(tmp_path, monkeypatch):
    """KID is always against the targets: statistics do not hold the features that it compares."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"some")
    monkeypatch.setattr(measure_module, "weights_path", lambda need, where: weights)
    unknown = tmp_path / "unknown.npz"
    np.savez(unknown, mu=np.zeros(4), sigma=np.eye(4))

    def said(*metrics, reference=""):
        config = settings(metrics, reference=reference).evaluate
        return Measure(config).how().get("reference")

    targets = "the targets of the same images"
    assert said("kid") == f"KID: {targets}" and said("psnr") is None
    assert said("fid", "kid") == f"FID: {targets}; KID: {targets}"
    both = said("kid", "fid", reference=unknown)
    assert both == f"FID: {unknown} (it does not say of how many images); KID: {targets}"
