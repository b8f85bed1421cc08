"""Work directories in a bucket: what lies there, what happens when it cannot be reached."""

from __future__ import annotations

import json
from types import SimpleNamespace as Config

import jax
import numpy as np
import pytest

import jax_bridges.main
from jax_bridges.checkpoints import Checkpoints, whole_steps
from jax_bridges.data import make_source
from jax_bridges.export import run as export
from jax_bridges.import_torch.__main__ import main as import_main
from jax_bridges.io import bucket as buckets
from jax_bridges.io.atomic import check_writable, is_writable, open_atomic, write_atomic
from jax_bridges.io.bucket import COMMITTED, copy_folder, place, remove_folder
from jax_bridges.pack import pack
from jax_bridges.players import read_player
from jax_bridges.report.results import read_results
from jax_bridges.restore import Restorer
from jax_bridges.stages.teacher import check_teacher
from jax_bridges.table import read_runs
from tests.support.buckets import NAME, refusing, serving
from tests.support.imports import HEADS, saved, weights
from tests.support.processes import free_port
from tests.support.runs import assert_same_end, tiny

pytestmark = pytest.mark.usefixtures("handlers")
ROOT = f"gs://{NAME}"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("buckets")) as served:
        yield served


def test_a_folder_of_a_bucket_is_one(emulator):
    home = place(f"{ROOT}/place")
    assert str(home / "a") == f"{ROOT}/place/a" and place(home) is home
    assert not home.exists() and list(home.glob("*")) == []
    write_atomic(home / "a" / "one.txt", "ä\n".encode())
    write_atomic(f"{ROOT}/place/a/two.bin", bytes(range(256)) * 1000)
    assert home.is_dir() and (home / "a").is_dir() and not (home / "a").is_file()
    assert (home / "a" / "one.txt").read_text() == "ä\n"
    with (home / "a" / "two.bin").open("rb") as file:
        assert file.read() == bytes(range(256)) * 1000
    assert (home / "a" / "two.bin").stat().st_size == 256000
    assert sorted(p.name for p in home.glob("a/*.txt")) == ["one.txt"]
    assert {p.name for p in home.iterdir()} == {"a"}
    with pytest.raises(FileNotFoundError, match=f"{ROOT}/place/none"):
        (home / "none").read_bytes()
    (home / "none").unlink(missing_ok=True)
    (home / "a" / "one.txt").unlink()
    assert emulator.objects("place") == ["place/a/two.bin"]
    remove_folder(home)
    assert emulator.objects("place") == []


def test_an_object_is_written_whole_or_not_at_all(emulator):
    path = place(f"{ROOT}/whole.txt")
    write_atomic(path, b"old")
    with pytest.raises(KeyError), open_atomic(path) as file:
        file.write(b"half of the n")
        raise KeyError
    assert path.read_bytes() == b"old"


def test_a_copied_checkpoint_is_none_before_its_last_object(emulator, monkeypatch):
    source, target = (place(f"{ROOT}/copies/{name}") for name in ("train", "best"))
    with Checkpoints(source) as checkpoints:
        checkpoints.save_weights({"teacher": {"w": np.arange(3.0)}}, {"config": {}}, step=7)
    client, copied = buckets._client(), []
    copy = client.cp_file

    def break_off(one, two):
        if one.endswith(f"/7/{COMMITTED}"):
            raise OSError("broken off")
        copied.append(two)
        copy(one, two)

    with monkeypatch.context() as patch:
        patch.setattr(client, "cp_file", break_off)
        with pytest.raises(OSError, match="broken off"):
            copy_folder(source, target)
    assert copied and whole_steps(target) == [] and whole_steps(source) == [7]
    copy_folder(source, target)
    assert whole_steps(target) == [7]
    with Checkpoints(target, read_only=True) as checkpoints:
        like = {"teacher": {"w": jax.ShapeDtypeStruct((3,), np.float64)}}
        np.testing.assert_array_equal(checkpoints.restore_ema(like)["teacher"]["w"], np.arange(3.0))


@pytest.mark.slow
def test_a_run_in_a_bucket_is_the_run_on_a_disk(images, emulator, tmp_path, capsys):
    config = tiny(images, **{"train.steps": 2, "distill.steps": 1, "checkpoint_every": 9})
    jax_bridges.main.run(config, tmp_path / "disk")
    report = jax_bridges.main.run(config, f"{ROOT}/run")
    assert str(report) == f"{ROOT}/run/report.html"
    assert_same_end(emulator.files / "run", tmp_path / "disk")
    for player in ("teacher", "student"):
        one, two = (read_player(where, player) for where in (f"{ROOT}/run", tmp_path / "disk"))
        jax.tree.map(np.testing.assert_array_equal, one[1], two[1])
    assert (
        read_runs([f"{ROOT}/run"])["run"]
        == read_results(place(f"{ROOT}/run") / "results.json")["rows"]
    )
    # Pictures are restored from there as from the disk, and by what is exported to there.
    assert export([f"{ROOT}/run", f"{ROOT}/s.jax", "--nfe=1"]) == place(f"{ROOT}/s.jax")
    picture = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    there, here, exported = (
        Restorer(model, nfe=nfe)(picture, boxes=[(4, 4, 8, 8)]).pixels
        for model, nfe in ((f"{ROOT}/run", 1), (tmp_path / "disk", 1), (f"{ROOT}/s.jax", None))
    )
    np.testing.assert_array_equal(there, here)
    np.testing.assert_allclose(exported, here, atol=1)  # in units of 255
    # A finished run is only shown; one of another seed starts from its teacher.
    jax_bridges.main.run(config, f"{ROOT}/run")
    assert "evaluate: already done" in capsys.readouterr().out
    config.teacher.checkpoint = f"{ROOT}/run"
    check_teacher(json.loads(config.to_json_best_effort()))
    assert f"teacher    {ROOT}/run: step 2 of 2" in capsys.readouterr().out
    config.teacher.checkpoint = ""
    for name, start in (("from_disk", tmp_path / "disk"), ("from_bucket", f"{ROOT}/run")):
        config.teacher.init = str(start)
        jax_bridges.main.run(config, tmp_path / name)
    one, two = (read_player(tmp_path / name, "teacher")[1] for name in ("from_disk", "from_bucket"))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    plain = read_player(tmp_path / "disk", "teacher")[1]
    same = jax.tree.map(np.array_equal, one, plain)
    assert not all(jax.tree.leaves(same))


def test_what_is_no_bucket_to_write_to_is_one_sentence(emulator, monkeypatch):
    with pytest.raises(ValueError, match="names no folder of a bucket: give gs://BUCKET/FOLDER"):
        place(ROOT)
    with pytest.raises(
        ValueError, match="no-such-bucket/x: there is no bucket no-such-bucket: make it"
    ):
        check_writable("gs://no-such-bucket/x")
    assert not is_writable("gs://no-such-bucket/x") and is_writable(f"{ROOT}/new")
    assert emulator.objects("new") == []
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{(port := free_port())}")
    message = "someone does not have storage.objects.create access to the object."
    with refusing(port, 403, message):
        with pytest.raises(
            ValueError, match=f"no right to use the bucket {NAME}: give its account"
        ):
            check_writable(f"{ROOT}/new")
    monkeypatch.setattr(buckets, "PATIENCE", 2.5)
    with pytest.raises(ValueError, match=f"connection to {NAME} was lost, and did not come back"):
        check_writable(f"{ROOT}/new")


def test_packed_images_are_read_from_a_bucket(images, emulator, monkeypatch):
    monkeypatch.setenv(
        "CLOUD_STORAGE_EMULATOR_ENDPOINT", emulator.environment["STORAGE_EMULATOR_HOST"]
    )
    pack(images, f"{ROOT}/packed", 2)
    assert emulator.objects("packed") == [
        "packed/index.json",
        *(f"packed/{s}-0000{n}-of-00002.array_record" for s in ("test", "train") for n in range(2)),
    ]
    plain = make_source(Config(name="folder", path=str(images), size=16), "train")
    for path in ("packed", "packed/train-*.array_record"):
        packed = make_source(Config(name="array_record", path=f"{ROOT}/{path}", size=16), "train")
        found = {packed[i]["x0"].tobytes() for i in range(len(packed))}
        assert found <= {plain[i]["x0"].tobytes() for i in range(len(plain))}
    assert len(
        make_source(Config(name="array_record", path=f"{ROOT}/packed", size=16), "train")
    ) == len(plain)


def test_an_imported_teacher_lies_in_a_bucket(emulator, tmp_path):
    file = saved(tmp_path, weights("ddbm"))
    place(f"{ROOT}/w.safetensors").write_bytes(file.read_bytes())
    for where in (f"{ROOT}/import", tmp_path / "import"):
        assert (
            import_main([f"{ROOT}/w.safetensors", "--as=ddbm", "--schedule=vp", HEADS, str(where)])
            == 0
        )
    one, two = (read_player(where, "teacher") for where in (f"{ROOT}/import", tmp_path / "import"))
    assert one[0] == two[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], two[1])
    assert (
        import_main([str(file), "--as=ddbm", "--schedule=vp", HEADS, f"{ROOT}/import"]) == 1
    )  # it is not empty
