"""Small checkpoints of every family, and what a run makes of an import: for the import's tests."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import base_config
from jax_bridges.import_torch.names import flax_to_torch, torch_layout
from jax_bridges.io.safetensors import write_safetensors
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import System
from tests.support import GOLDEN

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
        done=lambda stage: Checkpoints(workdir / "checkpoints" / stage).latest() or 0,
    )


def resolved(config, **teacher) -> dict:
    config.teacher.update(teacher)
    return json.loads(config.to_json_best_effort())


def assert_same(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=str(name))


def as_i2sb_saves(params, config):
    """The "net" and "ema" of a file of I2SB's own code: what `import_i2sb` reads."""
    flat = flax_to_torch(params, config)
    net = {"diffusion_model." + name: array for name, array in flat.items()}
    return {"net": net, "ema": {"shadow_params": list(flat.values())}}
