"""`python -m jax_bridges.import_torch` and the teacher that a run takes from what it leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import base_config, model_differences, validate
from jax_bridges.corruptions import I2SB_TASKS, make_corruption
from jax_bridges.import_torch import read_torch
from jax_bridges.import_torch.__main__ import main
from jax_bridges.import_torch.names import flax_to_torch, torch_layout, torch_to_flax
from jax_bridges.import_torch.workdir import _write, i2sb_settings
from jax_bridges.import_torch.writer import write_safetensors
from jax_bridges.stages.train import check_teacher, load_teacher, train
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System

# When a read fails, orbax leaves futures open that warn whenever they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
GOLDEN = Path(__file__).parent / "golden"
I2SB = GOLDEN / "import_i2sb.pt"  # golden/import_make.py, with torch
SMALL = {
    "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_ds": (2,),
    "head_channels": 32,
}  # fmt: skip
HEADS = "--set=head_channels=32"
FAMILY = {  # what tells a family's network apart, and the dimensions of its 1x1 convolutions
    "ddbm": ({"conditional": True}, 4),
    "dbim": ({"conditional": True, "num_classes": 10}, 3),
    "adm": ({"out_channels": 6}, 3),
}


def weights(family: str) -> dict[str, np.ndarray]:
    """Random weights in the official names, layouts and order."""
    settings, ndim = FAMILY[family]
    random = np.random.default_rng(0)
    layout = torch_layout({**SMALL, **settings}, ndim)
    return {n: random.normal(0, 0.1, s).astype(np.float32) for n, s in layout.items()}


def saved(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    return write_safetensors(path / "w.safetensors", arrays)


def imported(workdir: Path) -> dict:
    with Checkpoints(workdir / "checkpoints" / "train", read_only=True) as checkpoints:
        return checkpoints.meta()["config"]


def configured(recorded: dict):
    """A configuration for the imported teacher, small enough to build."""
    config = base_config()
    for part in ("network", "bridge", "preconditioning", "corruption"):
        if part in recorded:
            config[part] = recorded[part]
    config.data.size = 8
    return config


def a_run(config, workdir: Path):
    """What the train stage uses of a run."""
    return SimpleNamespace(
        config=config,
        system=System.create(config),
        parallel=Parallel.create("fsdp"),
        key=jax.random.key,
        checkpoints=lambda stage: Checkpoints(workdir / "checkpoints" / stage),
    )


def resolved(config, **teacher) -> dict:
    config.teacher.update(teacher)
    return json.loads(config.to_json_best_effort())


def assert_same(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=str(name))


# ---------------------------------------------------------------- what an import records


@pytest.fixture(scope="module")
def i2sb(tmp_path_factory) -> Path:
    """An import of the file that torch wrote."""
    workdir = tmp_path_factory.mktemp("i2sb") / "teacher"
    assert main([str(I2SB), "--as=i2sb", "--task=jpeg-5", HEADS, str(workdir)]) == 0
    return workdir


def test_i2sb_file_becomes_a_teacher(i2sb):
    recorded = imported(i2sb)
    assert recorded["bridge"] == {
        "name": "i2sb", "beta_max": 0.3, "steps": 1000, "deterministic": False,
    }  # fmt: skip
    assert recorded["preconditioning"] == {"name": "i2sb", "t0": 1e-4}
    assert recorded["corruption"] == {"name": "jpeg", "quality": 5}
    assert recorded["keep_known"] is True
    assert recorded["source"] == {
        "family": "i2sb",
        "file": "import_i2sb.pt",
        "sha256": hashlib.sha256(I2SB.read_bytes()).hexdigest(),
        "qkv_ndim": 3,
    }
    assert sorted(p.name for p in i2sb.iterdir()) == ["checkpoints"]
    assert not list(i2sb.parent.glob(".*"))

    # The weights are the moving averages, matched by position, wherever a run wants them.
    config = configured(recorded)
    validate(config)
    run = a_run(config, i2sb)
    params = load_teacher(run, str(i2sb))
    shadows = read_torch(I2SB)["ema"]["shadow_params"]
    expected = torch_to_flax(dict(zip(torch_layout(SMALL), shadows, strict=True)), SMALL)
    assert_same(params, expected)
    leaves = jax.tree.leaves(params)
    assert all(a.sharding.mesh == run.parallel.mesh for a in leaves)


@pytest.mark.parametrize("task", I2SB_TASKS)
def test_i2sb_tasks(task):
    """Spec: blur and inpainting beta_max 1.0 and OT-ODE, the others 0.3 with noise."""
    settings = i2sb_settings(task)
    quiet = task.split("-")[0] in ("blur", "inpaint")
    assert settings["bridge"]["beta_max"] == (1.0 if quiet else 0.3)
    assert settings["bridge"]["deterministic"] is quiet
    corruption = make_corruption(**settings["corruption"])
    assert getattr(corruption, "fill", "noise") == "noise"
    assert getattr(corruption, "legacy", True) is True
    other = i2sb_settings(task, beta_max=0.5, ot_ode=not quiet)["bridge"]
    assert (other["beta_max"], other["deterministic"]) == (0.5, not quiet)


@pytest.mark.parametrize(
    "family, flags, bridge, scalings",
    [
        (
            "ddbm",
            ["--schedule=vp"],
            {"name": "vp", "t_min": 1e-4, "T": 1.0, "beta_d": 2.0, "beta_min": 0.1},
            "bridge_karras",
        ),
        (
            "ddbm",
            ["--schedule=ve", "--sigma-min=0.0005", "--sigma-max=20"],
            {"name": "ve", "t_min": 0.0005, "T": 20.0},
            "bridge_karras",
        ),
        (
            "dbim",
            [],
            {"name": "i2sb_ddbm", "beta_max": 1.0, "steps": 1000, "deterministic": False},
            "i2sb",
        ),
        ("adm", ["--condition=duplicate"], None, None),
    ],
)
def test_other_families(tmp_path, family, flags, bridge, scalings):
    arrays = weights(family)
    file, workdir = saved(tmp_path, arrays), tmp_path / "deep" / "er"
    assert main([str(file), f"--as={family}", HEADS, *flags, str(workdir)]) == 0
    recorded = imported(workdir)
    network = recorded["network"]
    assert recorded.get("bridge") == bridge
    assert recorded.get("preconditioning", {}).get("name") == scalings
    assert network["name"] == "adm" and network["conditional"] and network["out_channels"] == 3
    assert network["new_attention_order"] is (family == "ddbm")
    assert network["num_classes"] == (10 if family == "dbim" else 0)
    assert recorded["source"]["qkv_ndim"] == FAMILY[family][1]
    if family == "dbim":
        assert recorded["corruption"] == {"name": "inpaint_center", "fill": "zero"}

    params = load_teacher(a_run(configured(recorded), workdir), str(workdir))
    if family == "adm":
        kernel = arrays["input_blocks.0.0.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(
            params["input_blocks_0_0"]["kernel"], np.concatenate([kernel, kernel], axis=2)
        )
        np.testing.assert_array_equal(params["out_2"]["bias"], arrays["out.2.bias"][:3])
    else:
        config = {**SMALL, **FAMILY[family][0]}
        assert_same(flax_to_torch(params, config, FAMILY[family][1]), arrays)


# ---------------------------------------------------------------- what a run makes of it


def test_a_teacher_meets_only_its_own_model(i2sb, tmp_path, capsys):
    path, config = str(i2sb), configured(imported(i2sb))
    check_teacher(resolved(config, checkpoint=path))
    assert "import_i2sb.pt" in capsys.readouterr().out
    config.network.dtype, config.network.remat = "bfloat16", True  # change no weight's meaning
    config.network.dropout = 0.3
    check_teacher(resolved(config, checkpoint=path))

    config.bridge.beta_max = 1.0
    config.preconditioning = {"name": "bridge_karras"}
    config.network.head_channels = 16
    config.keep_known = False
    with pytest.raises(ValueError, match="These keys differ") as error:
        check_teacher(resolved(config, checkpoint=path))
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == [
        "bridge.beta_max: 0.3 -> 1.0",
        "keep_known: True -> False",
        "network.head_channels: 32 -> 16",
        "preconditioning.cov_xy: (absent) -> 0.0",
        "preconditioning.name: i2sb -> bridge_karras",
        "preconditioning.sigma_data: (absent) -> 0.5",
        "preconditioning.sigma_data_end: (absent) -> 0.5",
        "preconditioning.t0: 0.0001 -> (absent)",
    ]
    # As a start of a training only the network must be the same.
    with pytest.raises(ValueError) as error:
        check_teacher(resolved(config, checkpoint="", init=path))
    assert str(error.value).splitlines()[1:] == ["  network.head_channels: 32 -> 16"]
    config.network.head_channels = 32
    check_teacher(resolved(config, init=path))

    with pytest.raises(FileNotFoundError, match="no teacher in .*nowhere"):
        check_teacher(resolved(config, init="", checkpoint=str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()


def test_models_are_compared_in_full():
    """A default that is written out is no difference; what fills a hole is one."""
    short = {"bridge": {"name": "i2sb"}, "preconditioning": {"name": "i2sb"}, "network": {}}
    full = {**short, "bridge": {"name": "i2sb", "beta_max": 0.3, "steps": 1000}, "keep_known": True}
    assert model_differences(short, full) == []
    noise, zero = (
        {**short, "corruption": {"name": "inpaint_center", **c}} for c in ({}, {"fill": "zero"})
    )
    assert model_differences(noise, zero) == ["corruption.fill: noise -> zero"]
    assert model_differences(zero, {**short, "corruption": {"name": "jpeg"}}) == []
    assert model_differences(zero, noise, ("network",)) == []
    levels = {**short, "network": {"name": "unet", "attention": (1,)}}
    assert model_differences(
        levels, {**short, "network": {"name": "unet", "dtype": "bfloat16"}}
    ) == ["network.attention: [1] -> []"]


def test_adm_starts_a_training(tmp_path):
    arrays = weights("adm")
    workdir = tmp_path / "start"
    assert main([str(saved(tmp_path, arrays)), "--as=adm", HEADS, str(workdir)]) == 0
    config = configured(imported(workdir))
    with pytest.raises(ValueError, match="no bridge yet.*teacher.init"):
        check_teacher(resolved(config, checkpoint=str(workdir)))
    config.teacher.update(checkpoint="", init=str(workdir))
    check_teacher(resolved(config))

    run = a_run(config, tmp_path / "run")
    stage = train(run)
    state = run.parallel.init(stage.make_state, run.key(0), stage.frozen)
    player = state.players["teacher"]
    cut = {n: a[:3] if n.startswith("out.2.") else a for n, a in arrays.items()}
    expected = torch_to_flax(cut, SMALL)
    assert_same(player.params, expected)
    assert_same(player.ema, expected)

    # A training that has begun goes on from its own checkpoint and reads the start no more.
    run.checkpoints("train").save_weights({"teacher": expected}, {}, step=3)
    assert train(run).frozen is None


def test_checkpoint_and_init(tmp_path):
    config = base_config()
    config.train.steps = config.train.batch = 0
    config.train.optimizer.name = "none"
    with pytest.raises(ValueError, match="train.steps is 0"):
        validate(config)
    config.teacher.checkpoint = "somewhere"
    validate(config)
    config.teacher.init = "elsewhere"
    with pytest.raises(ValueError, match="teacher.checkpoint.*teacher.init.*give one"):
        validate(config)


def test_damaged_weights_are_told(i2sb, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(i2sb, copy)
    run = a_run(configured(imported(copy)), copy)
    for path in (copy / "checkpoints/train/0/ema").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="averages of step 0 .* cannot be read"):
        load_teacher(run, str(copy))
    wider = configured(
        {**imported(i2sb), "network": {"name": "adm", **SMALL, "model_channels": 64}}
    )
    with pytest.raises(ValueError, match="(of another network|damaged)"):
        load_teacher(a_run(wider, copy), str(i2sb))


# ---------------------------------------------------------------- what is refused


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


QKV = "middle_block.1.qkv.weight"
DDBM = ["--as=ddbm", "--schedule=vp"]
JPEG = ["--as=i2sb", "--task=jpeg-5"]
BROKEN = {  # name: (contents: bytes, arrays or a path; flags; words of the sentence)
    "truncated .pt": (I2SB.read_bytes()[:20000], JPEG, ["cut short or damaged"]),
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
    assert done.stderr == "error: no.pt: no such checkpoint file.\n"
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the writer of safetensors


def test_safetensors_are_read_by_others_and_by_us(tmp_path):
    from safetensors import safe_open

    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "b": np.asarray([1, -2], np.int64),
        "c": np.asarray([0.5, 3], ml_dtypes.bfloat16),
        "d": np.float64(2.5).reshape(()),
        "e": np.zeros((0, 4), np.float16),
    }
    path = write_safetensors(tmp_path / "x.safetensors", arrays, {"format": "pt"})
    with safe_open(path, framework="numpy") as theirs:
        assert theirs.metadata() == {"format": "pt"}
        for name in "abde":
            np.testing.assert_array_equal(theirs.get_tensor(name), arrays[name], strict=True)
    ours = read_torch(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(ours[name], array, strict=True)
    with pytest.raises(ValueError, match="'z' is complex64"):
        write_safetensors(tmp_path / "y", {"z": np.zeros(2, np.complex64)})
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
