"""Runs of the whole at toy size, for the tests that make, stop, kill and compare them."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from jax_bridges.config import base_config
from tests.support import GOLDEN, ROOT
from tests.support.processes import environment

TRAIN, DISTILL = 6, 4  # steps
LOOKS = ("validation_", "test_")  # at held-out images, in lines of metrics.jsonl
USERS_METRICS = {"evaluate.metrics": base_config().evaluate.metrics}


def unpack_old(folder: Path) -> None:
    """Makes run/ and import/ of commit a011160 in a folder (golden/old_make.py)."""
    # Python before 3.11.4, as Debian 12 has it, knows no filters, and later ones warn without.
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(GOLDEN / "old.tar.xz", folder, **safe)


@contextlib.contextmanager
def silent_backend():
    """Within, the backend tells no operations and no memory, as those of accelerators may not."""
    assert jax.devices()[0].memory_stats() is None  # of a CPU
    with pytest.MonkeyPatch.context() as patch:
        for kind in (jax.stages.Lowered, jax.stages.Compiled):
            patch.setattr(kind, "cost_analysis", lambda self: None)
        patch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
        yield


def tiny(images, **changes) -> ConfigDict:
    """The smallest run that has everything in it, but for feature networks, which take their time."""
    config = base_config()
    config.data.update(dict(name="folder", path=str(images), size=16, test_fraction=0.5))
    config.network.update(dict(widths=(8,), patch=4, groups=2))
    config.train.update(dict(steps=TRAIN, batch=4))
    config.distill.update(dict(steps=DISTILL, batch=4, bridge_updates=1, student_steps=2))
    config.evaluate.update(
        dict(
            images=8, batch=8, teacher_nfe=(1, 2), student_nfe=(1, 2), pictures=2, metrics=("psnr",)
        )
    )
    config.log_every = 1
    config.checkpoint_every = 2
    config.update_from_flattened_dict(changes)
    return config


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps(workdir, stage) -> list[int]:
    return [line["step"] for line in lines(workdir) if line["stage"] == stage]


def saved(workdir, stage) -> dict:
    """Everything in a stage's last checkpoint, as numpy: params, ema, opt and the position."""
    folder = (workdir / "checkpoints" / stage).absolute()
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True)) as m:
        restore = ocp.args.StandardRestore()
        items = m.restore(
            m.latest_step(),
            args=ocp.args.Composite(
                params=restore, ema=restore, opt=restore, data=ocp.args.JsonRestore()
            ),
        )
        trees = {name: items[name] for name in ("params", "ema", "opt", "data")}
    return jax.tree.map(np.asarray, trees)


def read_arrays(workdir, stage) -> dict[str, dict[str, np.ndarray]]:
    """Parameters, averages and optimiser of a stage by leaf, written by whatever devices."""
    folder = workdir.absolute() / "checkpoints" / stage
    newest = max((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    found = {}
    with ocp.PyTreeCheckpointer() as reader:
        for item in ("params", "ema", "opt"):
            tree = reader.metadata(newest / item).item_metadata.tree
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            tree = reader.restore(newest / item, restore_args=how)
            leaves = jax.tree_util.tree_leaves_with_path(tree)
            found[item] = {jax.tree_util.keystr(path): np.float64(leaf) for path, leaf in leaves}
    return found


def assert_same_end(workdir, whole):
    """Every number of every player of both stages, and every result and picture, bit for bit.

    `whole` may have been measured by more metrics.
    """
    for stage, players in (("train", {"teacher"}), ("distill", {"generator", "bridge_net"})):
        one, two = read_arrays(workdir, stage), read_arrays(whole, stage)
        assert one.keys() == two.keys() == {"params", "ema", "opt"}
        for item in one:
            assert {name.split("'")[1] for name in one[item]} == players
            assert one[item].keys() == two[item].keys()
            for name, array in one[item].items():
                np.testing.assert_array_equal(array, two[item][name])
        last = {line["step"]: line for line in lines(workdir) if line["stage"] == stage}
        expected = {line["step"]: line for line in lines(whole) if line["stage"] == stage}
        for step, line in expected.items():
            assert _of_training(last[step]) == _of_training(line)
    rows = [json.loads((w / "results.json").read_text())["rows"] for w in (workdir, whole)]
    for one, two in zip(*rows, strict=True):
        one.pop("seconds_per_image", None)
        assert "psnr" in one and one == _as_far(two, one)
    names = sorted(p.relative_to(whole) for p in (whole / "samples").rglob("*.png"))
    assert names == sorted(p.relative_to(workdir) for p in (workdir / "samples").rglob("*.png"))
    for name in names:
        assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name


def _of_training(line: dict) -> dict:
    """A line without what took its time, and without looks at held-out images."""
    timed = ("images_per_second", "seconds_per_step")
    return {k: v for k, v in line.items() if k not in timed and not k.startswith(LOOKS)}


def _as_far(row: dict, keys: dict) -> dict:
    """What a row says under the keys of another one, and of dictionaries in it."""
    return {k: _as_far(row[k], v) if isinstance(v, dict) else row[k] for k, v in keys.items()}


def write_config(config, tmp_path) -> Path:
    """A file for --config."""
    path = tmp_path / "config.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n\n"
        f"def get_config():\n    return ConfigDict(json.loads({config.to_json()!r}))\n"
    )
    return path


def start(config, workdir, tmp_path) -> subprocess.Popen:
    """`python -m jax_bridges.main` in a process of its own."""
    path = write_config(config, tmp_path)
    return subprocess.Popen(
        [sys.executable, "-m", "jax_bridges.main", f"--config={path}", f"--workdir={workdir}"],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_lines(process, workdir, count):
    """Until metrics.jsonl has so many lines, or the process has ended."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
