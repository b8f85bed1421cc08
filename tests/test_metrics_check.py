"""`python -m tools.check_metrics`: what it reads, measures, resumes and refuses."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from jax_bridges.metrics.classes import imagenet_classes
from tools import check_metrics as check

WNIDS = ("n02123045", "n01440764")  # tabby cat, tench


@pytest.fixture
def photos(tmp_path):
    """Two images a class and split, 32 pixels a side, one of them grey."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for split in ("train", "val"):
        for wnid in WNIDS:
            folder = tmp_path / "photos" / split / wnid
            folder.mkdir(parents=True)
            for i in range(2):
                wave = 120 + 80 * np.sin(x / random.uniform(2, 6)) * np.cos(
                    y / random.uniform(2, 6)
                )
                image = np.repeat(wave[..., None], 3, -1) + random.normal(size=(32, 32, 3)) * 20
                image = np.clip(image, 0, 255).astype(np.uint8)
                Image.fromarray(image[..., 0] if i else image).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_classes_are_numbered_as_imagenet_does():
    classes = imagenet_classes()
    assert len(classes) == 1000 and list(classes) == sorted(classes)
    assert classes["n01440764"] == 0 and classes["n02123045"] == 281
    assert classes["n15075141"] == 999  # toilet tissue


def test_a_zip_reads_like_its_folder(photos, tmp_path):
    images, labels = check.read_split(photos, "val", 2)
    assert images.shape == (4, 32, 32, 3) and labels.tolist() == [0, 0, 281, 281]
    with Image.open(photos / "val" / WNIDS[1] / "0.png") as first:
        np.testing.assert_array_equal(images[0], np.asarray(first))
    assert (images[1] == images[1][..., :1]).all()  # the grey one
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for path in photos.rglob("*.png"):
            archive.write(path, path.relative_to(photos.parent))
    again, _ = check.read_split(tmp_path / "p.zip", "val", 2)
    np.testing.assert_array_equal(again, images)


@pytest.mark.slow
def test_corruptions_grow_along_every_ladder(photos):
    """In mean squared error, which needs no network; the first images' corruption is their own."""
    images, _ = check.read_split(photos, "val", 2)
    for task, ladder in check.LADDERS.items():
        errors = []
        for _, kwargs in ladder:
            out = check.corrupted(images, task, kwargs)
            assert out.dtype == np.uint8 and out.shape == images.shape
            np.testing.assert_array_equal(check.corrupted(images[:2], task, kwargs), out[:2])
            errors.append(np.square(out.astype(float) - images).mean())
        assert errors == sorted(errors) and errors[0] > 1, task


def test_measures_resumes_and_judges(photos, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out" / "check.json"
    argv = [str(photos), f"--out={out}", "--per-class=2", "--tasks", "denoise"]
    check.main(argv)
    rows = json.loads(out.read_text())["rows"]
    assert [r["strength"] for r in rows] == ["clean", "noise 0.1", "noise 0.25", "noise 0.5"]
    distances = [r["fd_lite0"] for r in rows]
    assert distances == sorted(distances) and distances[0] > 0  # noise takes it ever further away
    for row in rows:
        low, high = row["intervals"]["ca_lite0"]
        assert 0 <= low <= row["ca_lite0"] <= high <= 100
    written = out.read_text()
    assert str(photos.parent) not in written  # no path of this machine
    monkeypatch.setattr(check, "lite0_outputs", None)  # nothing is measured a second time
    capsys.readouterr()
    code = check.main(argv)
    table = capsys.readouterr().out
    assert table.count("| denoise |") == 3 and json.loads(out.read_text())["rows"] == rows
    assert code == (1 if check.failures(rows) else 0)
    with pytest.raises(SystemExit) as error:
        check.main([*argv[:2], "--per-class=1"])
    assert error.value.code == 2 and "another measurement" in capsys.readouterr().err


def test_an_order_that_is_not_seen_is_named():
    def row(task, strength, fd, ca):
        return dict(task=task, strength=strength, fd_lite0=fd, ca_lite0=ca)

    rows = [row("-", "clean", 1, 60), row("jpeg", "weak", 2, 50), row("jpeg", "strong", 3, 40)]
    assert check.failures(rows) == []
    rows += [row("blur", "weak", 5, 61), row("blur", "strong", 4, 30)]
    lines = check.failures(rows)
    assert len(lines) == 2 and "blur, ca_lite0: 61 at weak, 60 at clean" in lines
    assert "blur, fd_lite0: 4 at strong, 5 at weak" in lines


def test_what_is_refused(photos, tmp_path, capsys):
    (photos / "val" / "dogs").mkdir()
    Image.new("RGB", (32, 32)).save(photos / "val" / "dogs" / "0.png")
    with pytest.raises(ValueError, match="val/dogs is no WordNet id"):
        check.read_split(photos, "val", 1)
    with pytest.raises(ValueError, match="has 2 images, not the 3"):
        check.read_split(photos, "train", 3)
    (photos / "train" / WNIDS[1] / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="0.png"):
        check.read_split(photos, "train", 1)
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ValueError, match="neither a folder nor a .zip"):
        check.read_split(tmp_path / "text.zip", "val", 1)
    with pytest.raises(ValueError, match="no image under test/WNID"):
        check.read_split(photos, "test", 1)
    with pytest.raises(SystemExit):
        check.main([str(tmp_path / "absent"), f"--out={tmp_path / 'o.json'}"])
    assert "no such folder or .zip" in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()
