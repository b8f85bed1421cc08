"""The PyTorch ADM that ours is timed beside is the network of models/adm.py: same names, same numbers.

Needs torch (`pip install 'jax_bridges[bench]'`). Without it the numbers of both are still held to the
same record: tests/test_adm.py checks ours against golden/adm_oracle.npz.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.benchmark_weights import random_inputs, random_params
from jax_bridges.config import base_config
from jax_bridges.import_torch.__main__ import main
from jax_bridges.import_torch.names import (
    abstract_params,
    flax_to_torch,
    torch_layout,
    torch_to_flax,
)
from jax_bridges.models.adm import ADM, ADM_PRESETS
from jax_bridges.planning.abstract import abstract_run
from jax_bridges.players import recorded_config
from jax_bridges.stages.teacher import load_teacher
from jax_bridges.training.parallel import Parallel
from tests.golden.adm_weights import weight
from tools.compare_torch import (
    WORK,
    jax_calls,
    make_inputs,
    relative_difference,
    torch_calls,
)

torch = pytest.importorskip("torch")
from tools.torch_unet import TorchADM, torch_forward, write_random  # noqa: E402

torch.set_num_threads(1)  # these networks are too small for more

GOLDEN = Path(__file__).parent / "golden"

TINY = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2), "attention_ds": (2,)}
CASES = {
    "legacy order": {**TINY, "head_channels": 16, "out_channels": 6},
    "new order, xT and classes": {
        **TINY, "head_channels": 16, "new_attention_order": True, "conditional": True,
        "num_classes": 5,
    },
    "plain": {
        **TINY, "model_channels": 64, "channel_mult": (0.5, 1), "head_channels": None,
        "scale_shift_norm": False, "resblock_updown": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("preset", ADM_PRESETS)
def test_names_order_and_shapes_of_the_released_networks(preset):
    with torch.device("meta"):
        model = TorchADM(ADM(**ADM_PRESETS[preset]))
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = torch_layout(ADM_PRESETS[preset])
    assert found == expected and list(found) == list(expected)


@pytest.mark.parametrize("case", CASES)
def test_equals_ours_on_the_same_weights(case):
    config = CASES[case]
    net, rng = ADM(**config), np.random.default_rng(0)
    weights = {name: weight(name, shape) for name, shape in torch_layout(config).items()}
    x, xT = rng.standard_normal((2, 2, 8, 16, 3)).astype(np.float32)
    t, y = np.array([0.3, 700.5], np.float32), np.array([4, 1], np.int32)
    inputs = (x, t, xT if net.conditional else None, y if net.num_classes else None)
    theirs = torch_forward(net, weights, inputs)().numpy()
    with jax.default_matmul_precision("highest"):
        params = torch_to_flax(weights, config)
        ours = net.apply({"params": params}, *map(jnp.asarray, (x, t, xT)), None, jnp.asarray(y))
    assert np.abs(theirs).max() > 0.5
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    half = torch_forward(net, weights, inputs, bfloat16=True)().numpy()
    error = np.abs(half - theirs).max() / np.abs(theirs).max()
    assert 1e-4 < error < 0.1  # autocast is on


@pytest.mark.parametrize("case", ["legacy_updown", "new_conditional", "plain"])
def test_equals_the_stored_runs(case):
    stored = np.load(GOLDEN / "adm_oracle.npz")
    config = json.loads(str(stored[f"{case}/args_json"]))
    net = ADM(**config)
    weights = {name: weight(name, shape) for name, shape in torch_layout(config).items()}
    x = stored[f"{case}/in/x"].transpose(0, 2, 3, 1)
    x, *xT = np.split(x, x.shape[-1] // 3, axis=-1)
    y = stored[f"{case}/in/y"] if net.num_classes else None
    inputs = (x, stored[f"{case}/in/timesteps"], xT[0] if xT else None, y)
    out = torch_forward(net, weights, inputs)().numpy()
    expected = stored[f"{case}/out"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(expected).max())


def test_a_written_file_goes_through_the_import(tmp_path, capsys):
    """A file of random weights, imported: both networks give the same output on it."""
    file, workdir = tmp_path / "e2h.pt", tmp_path / "teacher"
    settings = dict(model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_ds=(2,))
    write_random("ddbm_e2h64", str(file), **settings, head_channels=32)
    flags = ["--as=ddbm", "--schedule=vp", "--set=head_channels=32"]
    assert main([str(file), str(workdir), *flags]) == 0, capsys.readouterr()
    state = torch.load(file, weights_only=True)
    assert all(float(a.abs().min()) > 0 or a.ndim == 4 for a in state.values())
    assert all(float(a.abs().max()) > 0 for a in state.values())

    config = base_config()
    recorded = recorded_config(workdir, "teacher")
    for part in ("network", "bridge", "preconditioning"):
        config[part] = recorded[part]
    run = abstract_run(config, Parallel.create())
    params, net = load_teacher(run, str(workdir)), run.system.teacher
    inputs = random_inputs(net, (8, 8), 3, 2)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(net.apply({"params": params}, *map(jnp.asarray, inputs[:3])))
    theirs = torch_forward(net, {k: v.numpy() for k, v in state.items()}, inputs)().numpy()
    assert 0 < relative_difference(ours, theirs) < 1e-5


def test_one_wrong_weight_is_seen():
    """Random weights leave no layer without a say: changed on one side alone, each tells."""
    config = {**TINY, "head_channels": 16, "new_attention_order": True}
    net = ADM(**config)
    params = random_params(abstract_params(config))
    weights = flax_to_torch(params, config)
    inputs = random_inputs(net, (8, 8), 3, 2)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(net.apply({"params": params}, *map(jnp.asarray, inputs[:2])))
    call = torch_forward(net, weights, inputs)
    apart = {"": relative_difference(ours, call().numpy())}
    for name, array in weights.items():
        if name.endswith("weight"):  # a bias before a norm may have no say by right
            wrong = array.copy()
            wrong.flat[-1] += 1.0
            call = torch_forward(net, {**weights, name: wrong}, inputs)
            apart[name] = relative_difference(ours, call().numpy())
    assert len(apart) > 50 and apart.pop("") < 1e-5
    assert min(apart.values()) > 1e-3, min(apart, key=apart.get)


@pytest.mark.parametrize(
    "how",
    [{"layout": "channels_last"}, pytest.param({"compiled": True}, marks=pytest.mark.slow)],
    ids=str,
)
def test_layout_and_compiler_leave_the_numbers(how):
    net = ADM(**TINY, head_channels=16)
    weights = flax_to_torch(random_params(abstract_params(TINY)), TINY)
    inputs = random_inputs(net, (8, 8), 3, 2)
    plain, other = (torch_forward(net, weights, inputs, **more)() for more in ({}, how))
    assert relative_difference(plain.numpy(), other.numpy()) < 1e-5


def test_the_comparison_measures_the_same_function_twice(tmp_path):
    """Both frameworks' output, and the gradient of its mean square by the last bias."""
    make_inputs("8M", tmp_path, batch=1, size=16)
    ours = jax_calls("8M", tmp_path)
    theirs = torch_calls("8M", tmp_path, "channels_last")
    for what in WORK:
        apart = relative_difference(ours[what](), theirs[what]())
        assert 0 < apart < 1e-4, what


def test_a_preset_that_there_is_not(tmp_path):
    with pytest.raises(ValueError, match="Unknown preset 'e2h'"):
        write_random("e2h", str(tmp_path / "e2h.pt"))
    assert list(tmp_path.iterdir()) == []
