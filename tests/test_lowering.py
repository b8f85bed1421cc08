"""Every program that a run compiles lowers for GPUs and TPUs, from a machine that has neither.

With the loops and the attention that it would have there: in float32 for both at once, in bfloat16 for a
GPU, with cuDNN's attention, and for a TPU. Nothing is compiled. Most programs have a network of one
convolution and one attention, which is traced in no time; the real ones are in some of each kind.
"""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax._src.cudnn.fused_attention_stablehlo as cudnn
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.acts.zero_shot import restorer
from jax_bridges.corruptions import CORRUPTIONS, make_corruption
from jax_bridges.metrics import batches, image, inception, lite0, resnet
from jax_bridges.models.attention import attend
from jax_bridges.models.classifier import ADMClassifier
from jax_bridges.planning.abstract import (
    abstract_arguments,
    abstract_batch,
    abstract_params,
    abstract_run,
)
from jax_bridges.platforms import aim_at, target
from jax_bridges.preconditioning import Wiener
from jax_bridges.samplers import SAMPLERS
from jax_bridges.stages.distill import distill
from jax_bridges.stages.jobs import student_sampler, teacher_sampler
from jax_bridges.stages.train import train
from jax_bridges.training.parallel import Parallel
from jax_bridges.validation import validate
from jax_bridges.zero_shot import (
    SOLVERS,
    make_method,
    shipped_basis,
    solve_hierarchical,
    solve_mask_shift,
    tile_denoiser,
)
from tests.support.runs import tiny

lpips = importlib.import_module("jax_bridges.metrics.lpips")  # the function of that name hides it
HOPPER = ("cuda", (9, 0))
# dtype of the network, what is aimed at, what is lowered for
PLATFORMS = {
    "float32": ("float32", HOPPER, ("cuda", "tpu")),
    "bfloat16 on cuda": ("bfloat16", HOPPER, ("cuda",)),
    "bfloat16 on tpu": ("bfloat16", ("tpu",), ("tpu",)),
}
each_platform = pytest.mark.parametrize("platform", PLATFORMS)
KEY = jax.eval_shape(lambda: jax.random.key(0))
CUDNN = "__cudnn$fmha"  # how its custom calls begin


class Toy(nn.Module):
    """A convolution, an attention, a projection."""

    dtype: Any
    conditional: bool
    z_channels: int = 0
    mark_channels: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, c_noise, xT=None, z=None, y=None, train=False, mark=None):
        conv = partial(nn.Conv, 8, (3, 3), (4, 4), dtype=self.dtype)
        h = conv()(jnp.concatenate([x, xT], -1) if self.conditional else x)
        h += conv(name="z_in")(z) if self.z_channels else 0
        h += nn.Dense(8, name="mark_in")(mark)[:, None, None] if self.mark_channels else 0
        h = h * jnp.cos(c_noise)[:, None, None, None].astype(self.dtype)
        q = h.reshape(len(x), -1, 1, 8)
        h = attend(q, q, q).reshape(h.shape)
        return jnp.repeat(jnp.repeat(nn.Dense(3)(h), 4, 1), 4, 2)


class Jitted(Parallel):
    """One device, with samplers as they are compiled, not as they are called."""

    def map(self, function):
        return jax.jit(function)


@pytest.fixture(autouse=True)
def a_cudnn(monkeypatch):
    """JAX asks for its version as soon as it is used."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)


def abstract(dtype, toy=True, **changes):
    """A run to be traced, of the smallest networks with attention."""
    small = {"network.widths": (32,), "network.attention": (0,), "network.dtype": dtype}
    run = abstract_run(tiny(".", **small, **changes), Jitted.create("fsdp"))
    if toy:
        system = run.system
        dtype, sees = system.teacher.dtype, system.teacher.conditional
        made = {
            player: Toy(dtype, sees, net.z_channels, net.mark_channels)
            for player, net in system.networks.items()
        }
        run.system = dataclasses.replace(system, networks=made)
    return run


def lowered(platform: str, program) -> str:
    """The text of `program(dtype) -> (jitted, arguments)`, with the attention that belongs there."""
    dtype, aim, platforms = PLATFORMS[platform]
    with aim_at(*aim):
        function, arguments = program(dtype)
        text = function.trace(*arguments).lower(lowering_platforms=platforms).as_text()
    assert (CUDNN in text) is (platform == "bfloat16 on cuda")
    return text


def weights(run, player="teacher"):
    return abstract_params(run.system, player)


def step_of(run, stage):
    """The step of "train" or "distill" and the shapes of its arguments."""
    made = train(run) if stage == "train" else distill(run, weights(run))
    return made.step, abstract_arguments(run, made)


# -- training --------------------------------------------------------------------------------------
BROWNIAN = {
    "bridge": {"name": "brownian", "epsilon": 0.5}, "preconditioning": {"name": "i2sb"},
    "corruption": {"name": "denoise", "std": 0.2}, "keep_known": False, "network.conditional": False,
    "train.weight": "native", "train.simulation_steps": 2,
}  # fmt: skip
STRAIGHT = BROWNIAN | {"bridge": {"name": "brownian", "epsilon": 0.5, "deterministic": True}}
STEPS = {
    "teacher": ("train", {"train.microbatches": 2}),
    "reflow": ("train", STRAIGHT | {"train.mode": "reflow"}),
    "dsbm": ("train", BROWNIAN | {"train.mode": "dsbm", "train.rounds": 3}),
    "ibmd": ("distill", {}),
    "ibmd, chain_through": ("distill", {"distill.roll_out": "chain_through"}),
    "cbd": ("distill", {"distill.method": "cbd"}),
    "cbt": ("distill", {"distill.method": "cbt"}),
}
ADM = {
    "name": "adm", "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1,), "attention_ds": (),
    "head_channels": 32, "dropout": 0.1, "remat": True, "conditional": True,
}  # fmt: skip


@each_platform
@pytest.mark.parametrize("name", STEPS)
def test_steps(name, platform):
    stage, changes = STEPS[name]
    lowered(platform, lambda dtype: step_of(abstract(dtype, **changes), stage))


@pytest.mark.parametrize("platform", ["float32", "bfloat16 on cuda"])
@pytest.mark.parametrize("network", ["unet", "adm"])
def test_steps_of_the_real_networks(network, platform):
    """There and back, with dropout; the ADM's blocks are computed twice."""

    def program(dtype):
        changes = (
            {"network": {**ADM, "dtype": dtype}} if network == "adm" else {"network.dropout": 0.1}
        )
        return step_of(abstract(dtype, toy=False, **changes), "train")

    lowered(platform, program)


# -- sampling --------------------------------------------------------------------------------------
@each_platform
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name, platform):
    def program(dtype):
        run = abstract(dtype)
        return jax.jit(teacher_sampler(run, 5, name)), (
            weights(run),
            abstract_batch(run, (4,)),
            KEY,
        )

    assert "stablehlo.while" in lowered(platform, program)


@each_platform
@pytest.mark.parametrize("method", ["ibmd", "cbd"])
def test_samplers_of_students(method, platform):
    def program(dtype):
        run = abstract(dtype, **{"distill.method": method})
        return jax.jit(student_sampler(run, 2)), (
            weights(run, "generator"),
            abstract_batch(run, (4,)),
            KEY,
        )

    assert "stablehlo.while" in lowered(platform, program)


# -- restoring by a prior --------------------------------------------------------------------------
PRIOR = {
    "bridge": {"name": "ddpm"}, "preconditioning": {"name": "epsilon"}, "keep_known": False,
    "corruption": {"name": "identity"}, "network.conditional": False,
}  # fmt: skip


def solving(dtype, name, operator, noise=0.0, classifier=None, wrap=None, **changes):
    """One row of a table of zero-shot methods, its arguments."""
    run = abstract(dtype, **{**PRIOR, **changes})
    method = make_method(name, run.system.bridge, {}, 4)
    if wrap is not None:
        solver = dataclasses.replace(method.solver, solve=partial(wrap, method.solver.solve))
        method = dataclasses.replace(method, solver=solver)
    params = (weights(run), None)
    batch = abstract_batch(run, (2,))
    if classifier is not None:
        batch["label"] = jax.ShapeDtypeStruct((2,), jnp.int32)
        x, t = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1)
        shapes = jax.eval_shape(lambda key: classifier.init(key, x, t)["params"], KEY)
        params = (params[0], shapes)
    return restorer(run, operator, noise, method, classifier), (params, batch, KEY)


@each_platform
@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "pinv"])
def test_solvers(name, platform):
    kind = {"name": "inpaint_center"} if name == "repaint" else {"name": "superres", "kind": "pool"}
    noise = 0.1 if SOLVERS[name].noise else 0.0
    program = partial(solving, name=name, operator=make_corruption(**kind), noise=noise)
    assert "stablehlo.while" in lowered(platform, program)


def in_tiles(solve, denoise, *args, **knobs):
    return solve(tile_denoiser(denoise, 16, 8, batch=2), *args, **knobs)


def by_shifted_masks(solve, *args, **knobs):
    return solve_mask_shift(*args, tile=16, stride=8, **knobs)


def coarse_first(solve, denoise, *args, **knobs):
    knobs |= {"solve": solve, "factor": 2, "least": (16, 16)}
    return solve_hierarchical(tile_denoiser(denoise, 16, 8), *args, **knobs)


@each_platform
@pytest.mark.parametrize(
    "name, wrap",
    [("dps", in_tiles), ("ddnm", by_shifted_masks), ("ddnm", coarse_first)],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_solvers_of_larger_pictures(name, wrap, platform):
    operator = make_corruption("inpaint_center")
    size = {"data.size": 32, "network.patch": 4}
    lowered(platform, lambda dtype: solving(dtype, name, operator, wrap=wrap, **size))


@pytest.mark.parametrize("platform", ["float32", "bfloat16 on cuda"])
def test_solvers_that_are_guided(platform):
    """DPS goes through the gradient of the classifier, which is always float32: never through cuDNN's."""
    classifier = ADMClassifier(
        classes=4, model_channels=32, num_res_blocks=1, channel_mult=(1,), attention_ds=(1,),
        head_channels=32,
    )  # fmt: skip
    operator = make_corruption("superres", kind="pool")
    lowered(platform, lambda dtype: solving(dtype, "dps", operator, classifier=classifier))


# -- corruptions, metrics, feature networks: float32 alone, and in full precision -------------------
def exact(function, *arguments) -> str:
    """Its text for both platforms, all of whose products are exact: a TPU's default is bfloat16."""
    text = function.trace(*arguments).lower(lowering_platforms=("cuda", "tpu")).as_text()
    products = [
        line for line in text.splitlines() if "dot_general" in line or ".convolution" in line
    ]
    assert all(line.count("HIGHEST") == 2 for line in products), products
    return text


IMAGES = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "paired"])
def test_corruptions(name):
    settings = {
        "superres": {"kind": "bicubic"}, "block_sensing": {"block": 8},
        "composition": {"parts": ("colorize", "denoise")},
    }  # fmt: skip
    corruption = make_corruption(name, **settings.get(name, {}))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    with aim_at("tpu"):
        exact(jax.jit(corruption), IMAGES, keys)
        if corruption.linear:
            exact(jax.jit(lambda x: corruption.pinv(corruption.forward(x))), IMAGES)


def test_scalings_and_bases():
    run = abstract("float32", **PRIOR)
    t = jax.ShapeDtypeStruct((4,), jnp.float32)
    scaling = Wiener()
    exact(jax.jit(lambda x, t: scaling.skip(run.system.bridge, x, t)), IMAGES, t)
    exact(jax.jit(lambda t: scaling.scalings(run.system.bridge, t)), t)
    for operator in (make_corruption("superres", kind="pool"), make_corruption("colorize")):
        exact(jax.jit(shipped_basis(operator, 32, 32).rotate), IMAGES)


def test_metrics():
    pair = np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.uint8)
    for function in (image.psnr, image.ssim):
        exact(jax.jit(function), *pair)


FEATURES = {
    "lite0": (lite0, "lite0_params", lambda images: lite0.lite0_outputs(images)),
    "inception": (
        inception,
        "inception_params",
        lambda images: inception.inception_outputs(images),
    ),
    "resnet": (resnet, "resnet_params", lambda images: resnet.resnet_logits(images)),
    "vgg": (lpips, "lpips_params", lambda images: lpips.lpips(images, images, "vgg")),
    "alex": (lpips, "lpips_params", lambda images: lpips.lpips(images, images, "alex")),
}


def made_up(name: str):
    """Shapes of a feature network's weights, which are not here."""
    trunk, size = {
        "lite0": (lite0.Lite0, 224), "inception": (inception.Inception, 299),
        "resnet": (resnet.ResNet50, 224), "vgg": (lpips.VGG16, 64), "alex": (lpips.AlexNet, 64),
    }[name]  # fmt: skip
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(trunk().init, KEY, x)
    if name not in lpips.TRUNKS:
        return variables
    maps = jax.eval_shape(trunk().apply, variables, x)
    return {
        "trunk": variables,
        "heads": [jax.ShapeDtypeStruct(m.shape[-1:], m.dtype) for m in maps],
    }


@pytest.mark.parametrize("name", FEATURES)
def test_feature_networks(name, monkeypatch):
    """In the batches that an accelerator takes, not in those of a CPU."""
    module, of_file, call = FEATURES[name]
    variables, given = made_up(name), []
    monkeypatch.setattr(module, of_file, lambda *_: variables)
    monkeypatch.setattr(module, "in_batches", lambda *args: given.append(args) or [args[2][0]] * 2)
    images = np.zeros((2, 48, 48, 3), np.uint8)
    with aim_at("cuda"):
        call(images)
        ((steps, variables, inputs, batch, *_),) = given
        assert batch == (32 if name in lpips.TRUNKS else 64)
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",))
        arrays = [jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in inputs]
        for step in steps:
            function = batches.on_each(step, mesh).__wrapped__
            assert "stablehlo.while" not in exact(function, variables, *arrays)
            arrays = jax.eval_shape(function, variables, *arrays)


# -- what is claimed of the programs -----------------------------------------------------------------
def loops(lowered) -> int:
    """Loops with a convolution in them that are no part of another such loop."""
    module = lowered.compiler_ir("stablehlo")
    functions = {each.attributes["sym_name"].value: each for each in module.body.operations}

    def inside(operation):
        if operation.operation.name == "func.call":
            operation = functions[operation.attributes["callee"].value]
        for region in operation.regions:
            for block in region:
                yield from block.operations

    def convolves(operation) -> bool:
        found = operation.operation.name == "stablehlo.convolution"
        return found or any(map(convolves, inside(operation)))

    def count(operation) -> int:
        if operation.operation.name == "stablehlo.while" and convolves(operation):
            return 1
        return sum(map(count, inside(operation)))

    return count(functions["main"])


L = {"distill.student_steps": 1, "distill.bridge_updates": 3}
CHAIN = {"distill.student_steps": 3, "distill.roll_out": "chain_through"}


@pytest.mark.parametrize(
    "changes, expected",
    [
        (L, 1),  # L updates
        (L | {"distill.microbatches": 2}, 2),  # and those of the generator
        ({**L, "distill.bridge_updates": 1}, 1),
        (CHAIN, 3),  # the update of L = 1, and the generator's calls there and back
    ],
)
def test_loops_with_gradients_are_loops_but_on_a_cpu(changes, expected):
    found = {}
    for aim in (("cpu",), HOPPER, ("tpu",)):
        with aim_at(*aim):
            step, arguments = step_of(abstract("float32", **changes), "distill")
            found[aim[0]] = loops(step.trace(*arguments).lower(lowering_platforms=(target(),)))
    assert found == {"cpu": 0, "cuda": expected, "tpu": expected}


def test_cudnns_attention_is_refused_where_there_is_none():
    """In one sentence, by the configuration's check and by the network itself, before any compile."""
    q = jax.ShapeDtypeStruct((1, 16, 2, 8), jnp.bfloat16)
    config = tiny(".", **{"network": {**ADM, "dtype": "bfloat16", "attention": "cudnn"}})
    for aim, words in (
        (("tpu",), "made for TPU, and cuDNN is for NVIDIA's GPUs: set it to 'auto'."),
        (("cpu",), "made for CPU, and"),
        (("cuda", (7, 5)), "from Ampere .compute capability 8.0. on, not 7.5"),
    ):
        with aim_at(*aim):
            with pytest.raises(ValueError, match=f"^attention is 'cudnn', but .*{words}"):
                jax.eval_shape(lambda q: attend(q, q, q, "cudnn"), q)
            with pytest.raises(ValueError, match=f"^network.attention is 'cudnn', but .*{words}"):
                validate(config)
    with aim_at(*HOPPER):
        validate(config)
        config.network.dtype = "float32"
        with pytest.raises(ValueError, match="in bfloat16 or float16, not in float32: set it"):
            validate(config)
        for channels in (12, 136):
            q = jax.ShapeDtypeStruct((1, 16, 2, channels), jnp.bfloat16)
            with pytest.raises(
                ValueError, match=f"heads have 8, 16, ... or 128 channels, not {channels}"
            ):
                jax.eval_shape(lambda q: attend(q, q, q, "cudnn"), q)
