"""What an import refuses: every broken, foreign or misnamed file gets one sentence and leaves nothing."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jax_bridges.checkpoints import Checkpoints
from jax_bridges.import_torch.__main__ import main
from jax_bridges.import_torch.names import torch_to_flax
from jax_bridges.import_torch.workdir import _write
from jax_bridges.stages.teacher import load_teacher
from tests.support.imports import (
    GOLDEN,
    HEADS,
    I2SB,
    SMALL,
    a_run,
    assert_same,
    configured,
    imported,
    saved,
    weights,
)

# When a read fails, orbax leaves futures open that warn whenever they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def changed(name: str, change) -> dict[str, np.ndarray]:
    arrays = weights("ddbm")
    arrays[name] = change(arrays[name])
    return arrays


def renamed() -> dict[str, np.ndarray]:
    return {n.replace("middle_block.1.qkv", "mid.attn.qkv"): a for n, a in weights("ddbm").items()}


def nan(array):
    array = array.copy()
    array.flat[5] = np.nan
    return array


def infinite(array):
    array = array.copy()
    array.flat[5] = -np.inf
    return array


QKV = "middle_block.1.qkv.weight"
DDBM = ["--as=ddbm", "--schedule=vp"]
JPEG = ["--as=i2sb", "--task=jpeg-5"]


def zipped(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    return buffer.getvalue()


BROKEN = {  # name: (contents: bytes, arrays or a path; flags; words of the sentence)
    "truncated .pt": (I2SB.read_bytes()[:20000], JPEG, ["cut short or damaged"]),
    "truncated legacy .pt": (
        (GOLDEN / "reader_legacy.pt").read_bytes()[:-300], JPEG, ["cut short or damaged"],
    ),
    "truncated .safetensors": (lambda: weights("ddbm"), DDBM, ["cut short or damaged"]),
    "wrong shape": (
        lambda: changed("time_embed.2.weight", lambda a: a[:, :-1]),
        DDBM,
        ["1 misshapen", "time_embed.2.weight", "(128, 128) (128, 127)"],
    ),
    "no dimension": (
        lambda: changed("time_embed.0.weight", lambda a: a[0, 0]), DDBM, ["dimensions of an ADM"],
    ),
    "pickled code, zip": (GOLDEN / "reader_evil_zip.pt", JPEG, ["refuses", "code"]),
    "pickled code, legacy": (GOLDEN / "reader_evil_legacy.pt", JPEG, ["refuses", "code"]),
    "empty": (b"", JPEG, ["the file is empty"]),
    "NaN": (lambda: changed(QKV, nan), DDBM, [QKV, "1 values", "NaN"]),
    "infinite": (lambda: changed(QKV, infinite), DDBM, [QKV, "1 values", "infinite"]),
    "float16": (
        lambda: {n: a.astype(np.float16) for n, a in weights("ddbm").items()},
        DDBM,
        ["float16", "--half"],
    ),
    "bfloat16": (
        lambda: {n: a.astype(ml_dtypes.bfloat16) for n, a in weights("ddbm").items()},
        DDBM,
        ["bfloat16", "--half"],
    ),
    "integers": (
        lambda: changed(QKV, lambda a: a.astype(np.int32)), DDBM, [QKV, "int32", "floating"],
    ),
    "renamed keys": (renamed, DDBM, ["missing", QKV]),
    "all keys renamed": (
        lambda: {"x." + n: a for n, a in weights("ddbm").items()}, DDBM, ["no ADM UNet"],
    ),
    "text": (b"Not a checkpoint.\n", JPEG, ["this is a text file"]),
    "a folder": (Path("."), JPEG, ["is a folder", "name one .pt"]),
    "another zip": (zipped({"photos/1.png": b"x"}), JPEG, ["a zip archive, but not a PyTorch"]),
    "arrays of NumPy": (zipped({"w.npy": b"x"}), JPEG, [".npz file", "numpy.load"]),
    "a damaged zip": (zipped({"x/data.pkl": b"no pickle"}), JPEG, ["cut short or damaged"]),
    "zeros": (bytes(5000), JPEG, ["not a PyTorch checkpoint"]),
    "no file": (Path("missing.pt"), JPEG, ["no such checkpoint file"]),
    "another thing": (GOLDEN / "reader_zip.pt", DDBM, ["'tensors' is no tensor", "state dict"]),
    "i2sb as ddbm": (I2SB, DDBM, ["'net' and 'ema'", "--as=i2sb"]),
    "ddbm as i2sb": (lambda: weights("ddbm"), JPEG, ["I2SB file has 'net'", "--as=ddbm"]),
    "dbim as ddbm": (lambda: weights("dbim"), DDBM, ["class-conditional", "--as=dbim"]),
    "ddbm as dbim": (lambda: weights("ddbm"), ["--as=dbim"], ["without classes", "--as=ddbm"]),
    "adm as dbim": (lambda: weights("adm"), ["--as=dbim"], ["does not see x_T", "--as=adm"]),
    "ddbm as adm": (lambda: weights("ddbm"), ["--as=adm"], ["sees x_T", "--as=ddbm"]),
    "no task": (I2SB, ["--as=i2sb"], ["--task", "jpeg-5", "--beta-max"]),
    "unknown task": (I2SB, ["--as=i2sb", "--task=jpg-5"], ["jpg-5", "Did you mean 'jpeg-5'"]),
    "negative beta": (I2SB, ["--as=i2sb", "--beta-max=-1"], ["--beta-max is -1.0", "positive"]),
    "no schedule": (lambda: weights("ddbm"), ["--as=ddbm"], ["--schedule=vp", "--schedule=ve"]),
    "no range": (lambda: weights("ddbm"), ["--as=ddbm", "--schedule=ve"], ["--sigma-min", "0.002"]),
    "alien flag": (I2SB, ["--as=dbim", "--task=jpeg-5"], ["--task is not for --as=dbim"]),
    "unknown family": (I2SB, ["--as=sdxl"], ["invalid choice: 'sdxl'", "i2sb"]),
    "unknown setting": (I2SB, [*JPEG, "--set=heads=4"], ["setting of ADM", "heads"]),
    "wrong heads": (I2SB, [*JPEG, "--set=head_channels=48"], ["heads of 48"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence_and_nothing_else(name, tmp_path, capsys):
    contents, flags, words = BROKEN[name]
    file = tmp_path / "file.pt"
    if isinstance(contents, Path):
        file = contents if contents.is_absolute() else tmp_path / contents
    elif isinstance(contents, bytes):
        file.write_bytes(contents)
    else:
        file = saved(tmp_path, contents())
    if name == "truncated .safetensors":
        file.write_bytes(file.read_bytes()[:-100])
    before = sorted(tmp_path.rglob("*"))
    heads = [] if "wrong heads" == name else [HEADS]
    assert main([str(file), str(tmp_path / "new" / "teacher"), *heads, *flags]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert len(err) < 450 and err.rstrip()[-1] in ".?"
    for word in words:
        assert word in err
    assert sorted(tmp_path.rglob("*")) == before


def test_half_is_taken_when_asked_for(tmp_path):
    arrays = {n: a.astype(np.float16) for n, a in weights("ddbm").items()}
    file, workdir = saved(tmp_path, arrays), tmp_path / "w"
    assert main([str(file), *DDBM, HEADS, "--half", str(workdir)]) == 0
    params = load_teacher(a_run(configured(imported(workdir)), workdir), str(workdir))
    assert_same(params, torch_to_flax(arrays, {**SMALL, "conditional": True}))


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert main([str(I2SB), *JPEG, HEADS, str(tmp_path)]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(self, *args, **kwargs):
        (self.folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save_weights", full)
    with pytest.raises(ValueError, match="cannot be written: .*No space left"):
        _write(tmp_path / "a" / "b" / "teacher", {}, {})
    assert list(tmp_path.iterdir()) == []


def test_as_a_command(tmp_path):
    command = [sys.executable, "-m", "jax_bridges.import_torch", "no.pt", "--as=dbim", "w"]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[1:] == ["error: no.pt: no such checkpoint file."]
    assert list(tmp_path.iterdir()) == []
