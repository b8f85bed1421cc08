"""The archive of training photographs: which are taken, as they are or halved, and what is held out."""

import io
import zipfile
from types import SimpleNamespace as Config

import numpy as np
import pytest
from PIL import Image

from jax_bridges.data import make_source
from tools import pack_photographs


def jpeg(seed, size):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=90)
    return out.getvalue()


def test_what_is_packed(tmp_path, capsys):
    names = (
        "lomiri_sea_by_x",
        "elementary_2",
        "elementary_lizard",
        "lomiri_life_by_y",
        "mate_aqua",
    )
    contents = {name: jpeg(i, (96 + 32 * (i == 0), 100)) for i, name in enumerate(names)}
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("ATTRIBUTION.txt", "who made them")
        for name, content in contents.items():
            archive.writestr(f"photos/{name}.jpg", content)
    sizes = {name: len(content) for name, content in contents.items()}
    limit = (sizes[names[1]] + sizes[names[0]] * 0.7 + 3 * 32 * 32 * 3.1 + 20_000 + 100) / 1e6
    arguments = [str(tmp_path / "all.zip"), str(tmp_path / "out.zip"), "--test=32"]
    pack_photographs.main([*arguments, f"--megabytes={limit}"])
    assert "halved photos/train/lomiri_sea_by_x.jpg" in capsys.readouterr().out
    assert (tmp_path / "out.zip").stat().st_size <= limit * 1e6
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("ATTRIBUTION.txt") == b"who made them"
        assert archive.read("photos/train/elementary_2.jpg") == contents["elementary_2"]
        with Image.open(archive.open("photos/test/mate_aqua.png")) as piece:
            whole = np.asarray(Image.open(io.BytesIO(contents["mate_aqua"])))
            np.testing.assert_array_equal(np.asarray(piece), whole[32:64, 34:66])
        archive.extractall(tmp_path / "out")
    config = Config(
        name="folder", path=str(tmp_path / "out/photos"), size=16, crop="random", crops=3
    )
    train, test = (make_source(config, split) for split in ("train", "test"))
    assert sorted(train.pictures.names) == ["elementary_2.jpg", "lomiri_sea_by_x.jpg"]
    assert sorted(train.pictures.sizes()) == [(64, 50), (96, 100)]
    assert sorted(test.pictures.names) == [f"{name}.png" for name in sorted(names[2:])]
    assert (len(train), len(test)) == (6, 12)


def test_an_archive_without_any(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("photos/mate_aqua.jpg", jpeg(0, (64, 64)))
    with pytest.raises(ValueError, match="has no pictures named lomiri_, elementary_"):
        pack_photographs.main([str(tmp_path / "all.zip"), str(tmp_path / "out.zip"), "--test=32"])
    assert not (tmp_path / "out.zip").exists()
