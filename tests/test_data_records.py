"""Packed images: they are those of the folder, in its order, whoever reads them."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace as Config

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from jax_bridges.data import Loader, has_labels, is_paired, make_source
from jax_bridges.data.errors import BadImage
from jax_bridges.data.records import INDEX, decode, encode
from jax_bridges.pack import main, pack
from tests.support.restorers import files_of_at_most

SIZE = (16, 16)


def noise(seed: int, size=SIZE) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Forty pictures in a folder a class, and their corrupted partners."""
    root = tmp_path_factory.mktemp("animals")
    for i in range(40):
        for name, seed in (("clean", i), ("corrupted", 100 + i)):
            path = root / name / ("ant", "bee")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(noise(seed, (20, 17 + i % 3)))
    return root


def opened(name: str, path, split="train", **settings):
    return make_source(Config(name=name, path=str(path), size=16, **settings), split)


def assert_same(one, two):
    assert len(one) == len(two) > 0
    for i in range(len(one)):
        a, b = one[i], two[i]
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
            assert np.asarray(a[key]).dtype == np.asarray(b[key]).dtype


@pytest.mark.parametrize("shards", [1, 3, 1000])
def test_packed_images_are_those_of_the_folder(animals, tmp_path, shards):
    index = pack(animals / "clean", tmp_path / "out", shards, classes="subfolders")
    assert index["classes"] == 2 and sum(map(sum, index["records"].values())) == 40
    for split in ("train", "test"):
        plain = opened("folder", animals / "clean", split, classes="subfolders")
        assert len(index["records"][split]) == min(shards, len(plain))
        packed = opened("array_record", tmp_path / "out", split, label_key="label")
        assert packed.classes == plain.classes == 2
        assert_same(packed, plain)
        few = opened("array_record", tmp_path / "out", split, label_key="label", max_images=2)
        assert len(few) == 2
        np.testing.assert_array_equal(few[1]["x0"], plain[1]["x0"])


def test_packed_pairs_are_those_of_both_folders(animals, tmp_path):
    clean, corrupted = str(animals / "clean"), str(animals / "corrupted")
    code = main([clean, str(tmp_path / "out"), "--shards=2", f"--xT={corrupted}"])
    assert code == 0
    settings = dict(name="array_record", path=str(tmp_path / "out"), xT_key="xT")
    assert is_paired(Config(**settings)) and not has_labels(Config(**settings))
    for split in ("train", "test"):
        plain = opened("pairs", clean, split, path_xT=corrupted)
        assert_same(opened("array_record", tmp_path / "out", split, xT_key="xT"), plain)


def test_each_host_has_the_batches_of_the_folder(animals, tmp_path):
    pack(animals / "clean", tmp_path / "out", 2)
    sources = [opened("array_record", tmp_path / "out"), opened("folder", animals / "clean")]
    for host in range(2):
        one, two = (Loader(s, (2, 6), 5, host, 2, cache_mb=0, threads=2) for s in sources)
        with one.iterate(7) as batches:  # as a run that goes on at step 7, in its third epoch
            for step in range(7, 12):
                batch, expected = next(batches), two.batch_at(step)
                for key, value in expected.items():
                    np.testing.assert_array_equal(batch[key], value)


def write(path, records) -> str:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


def test_shards_of_other_programs_are_a_pattern(tmp_path):
    contents = [noise(i) for i in range(20)]
    write(tmp_path / "b-1.array_record", contents[15:])
    write(tmp_path / "b-0.array_record", contents[:15])
    pattern = str(tmp_path / "b-*.array_record")
    test, train = (opened("array_record", pattern, split) for split in ("test", "train"))
    assert (len(test), len(train)) == (2, 18)
    found = sorted(example["x0"].tobytes() for source in (test, train) for example in source)
    assert found == sorted(np.asarray(Image.open(io.BytesIO(c))).tobytes() for c in contents)
    with pytest.raises(ValueError, match="only a packed folder tells how many classes"):
        opened("array_record", pattern, label_key="label")


def test_a_damaged_record_is_named_or_passed_over(tmp_path):
    views = {"image": noise(0)}
    cut = encode({"image": noise(1)}, "a/1.png")[:-9]
    shard = write(tmp_path / "x.array_record", [encode(views, "a/0.png")] * 8 + [cut, b"no image"])
    settings = dict(test_fraction=0.1, max_images=0)
    with pytest.raises(ValueError, match=r"bad image .*\[\d\]: .* Mend or remove it"):
        [*opened("array_record", shard, **settings)]
    with pytest.raises(BadImage, match="bytes, and tells of"):
        decode(cut)
    with pytest.warns(UserWarning, match="The next one is used in its place"):
        (image,) = {e["x0"].tobytes() for e in opened("array_record", shard, on_bad_file="skip")}
    assert image == np.asarray(Image.open(io.BytesIO(views["image"]))).tobytes()


def test_what_cannot_be_packed_leaves_nothing_behind(animals, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(tmp_path / "none"), str(out), "--shards=2"]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert main([str(animals / "clean"), str(out), "--shards=0"]) == 1
    assert "--shards is 0: it must be at least 1" in capsys.readouterr().err
    assert not out.exists()
    bad = tmp_path / "bad"
    for i in range(30):
        (bad / str(i)).mkdir(parents=True)
        (bad / str(i) / "a.png").write_bytes(noise(i))
    # It is there while the folder is looked at, and gone when it is packed.
    real = opened("folder", bad).paths[3][0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "jax_bridges.pack._records", lambda *_: iter([real.with_name("x").read_bytes()])
        )
        assert main([str(bad), str(out), "--shards=4"]) == 1
    assert "No such file" in capsys.readouterr().err and not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("")
    assert main([str(bad), str(out), "--shards=4"]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_one_line_with_nothing_left(
    animals, tmp_path, capsys, monkeypatch, number
):
    def endless(*_):
        for i in itertools.count():
            yield b"x" * 1000
            if i == 3:
                os.kill(os.getpid(), number)

    monkeypatch.setattr("jax_bridges.pack._records", endless)
    out, before = tmp_path / "out", signal.getsignal(number)
    assert main([str(animals / "clean"), str(out), "--shards=4"]) == 75
    said = f"stopped: nothing is left of {out}; the same command starts again\n"
    assert capsys.readouterr().err == said
    assert not out.exists() and signal.getsignal(number) == before


def test_an_interruption_waits_for_the_shards_that_are_being_written(
    animals, tmp_path, monkeypatch
):
    """Else a thread would make the folder again, once it is removed."""

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *job):
            if self._work_queue.qsize():
                raise KeyboardInterrupt
            return super().submit(*job)

    def slow(*_):
        time.sleep(0.1)
        yield b"x"

    monkeypatch.setattr("jax_bridges.pack._records", slow)
    monkeypatch.setattr("jax_bridges.pack.ThreadPoolExecutor", lambda _: Interrupted(1))
    with pytest.raises(KeyboardInterrupt):
        pack(animals / "clean", tmp_path / "out", 9)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_sentence(animals, tmp_path, capsys):
    out = tmp_path / "out"
    with files_of_at_most(4096):
        assert main([str(animals / "clean"), str(out), "--shards=1"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"error: {out}/train-00000-of-00001" in said
    assert f"make room in {out}, and start again" in said and not out.exists()


def test_messages_name_this_command_s_flags(animals, tmp_path, capsys):
    bad = tmp_path / "bad"
    for i in range(20):
        bad.mkdir(exist_ok=True)
        (bad / f"{i}.png").write_bytes(noise(i))
    (bad / "broken.png").write_bytes(b"")
    (bad / "text.txt").write_text("")
    command = [str(bad), str(tmp_path / "out"), "--shards=1"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "or set --on-bad-file='skip'" in said and "data." not in said
    assert main([*command, "--test-fraction=2"]) == 1
    said = capsys.readouterr().err
    assert "--test-fraction is 2.0" in said and "data." not in said
    assert main([*command, "--on-bad-file=skip"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith(("note: ", "pack: ")) for line in said)
    assert any("are bad: broken.png" in line for line in said)


def test_what_is_missing_is_one_sentence(animals, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(
        FileNotFoundError, match="There is no .*index.json: data.path is a folder that"
    ):
        opened("array_record", out)
    pack(animals / "clean", out, 2)
    with pytest.raises(ValueError, match="data.xT_key is 'xT', but the records of .* have 'image'"):
        opened("array_record", out, xT_key="xT")
    with pytest.raises(ValueError, match="are none; pack with --classes"):
        opened("array_record", out, label_key="label")
    shard = next(out.glob("train-00001*"))
    shard.rename(out / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"lacks '{shard.name}': copy or pack it again"):
        opened("array_record", out)
    index = json.loads((out / INDEX).read_text())
    (out / INDEX).write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(ValueError, match="has the format 99, this version reads up to 1"):
        opened("array_record", out)
