"""Every program that a run compiles lowers for GPUs and TPUs, from a machine that has neither.

With the loops and the attention that it would have there: in float32 for both at once, in bfloat16 for a
GPU, with cuDNN's attention, and for a TPU. Nothing is compiled. Most programs have a network of one
convolution and one attention, which is traced in no time; the real ones are in some of each kind.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jax_bridges.acts.em_rounds import e_step_method
from jax_bridges.acts.zero_shot import restorer
from jax_bridges.corruptions import make_corruption
from jax_bridges.models.classifier import ADMClassifier
from jax_bridges.planning.abstract import abstract_batch, abstract_run
from jax_bridges.samplers import SAMPLERS
from jax_bridges.stages.e_step import posterior_sampler
from jax_bridges.stages.jobs import student_sampler, teacher_sampler
from jax_bridges.zero_shot import (
    SOLVERS,
    make_method,
    solve_hierarchical,
    solve_mask_shift,
    tile_denoiser,
)
from tests.support.config_files import read
from tests.support.lowering import (
    ADM,
    KEY,
    PRIOR,
    Jitted,
    abstract,
    each_platform,
    lowered,
    step_of,
    weights,
)

pytestmark = pytest.mark.usefixtures("a_cudnn")


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
    # As configs/inpaint.py has it; as the released inpainting runs; with real images and a critic.
    "ibmd, detached": ("distill", {"distill.detach_xt": True, "distill.call_per": "microbatch"}),
    "ibmd, renoised": ("distill", {"distill.roll_out": "renoised", "distill.xt_from": "call"}),
    "ibmd, critic": ("distill", {"distill.gan_weight": 0.1, "distill.real_alpha": 0.9}),
    "cbd": ("distill", {"distill.method": "cbd"}),
    "cbt": ("distill", {"distill.method": "cbt"}),
}


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


# -- learning a prior from corrupted images -------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("platform", ["float32", "bfloat16 on cuda"])
def test_em_at_the_papers_sizes(platform):
    """configs/em.py:cifar10: an E-step of 1000 calls is one loop, and the M-step of its network."""
    config = read("em:cifar10")

    def run(dtype):
        config.network.dtype = dtype
        return abstract_run(config, Jitted.create("fsdp"))

    def e_step(dtype):
        its = run(dtype)
        method, corruption = e_step_method(its), make_corruption(**config.em.operator)
        assert method.nfe == 1000
        program = posterior_sampler(its, corruption, config.em.sigma_y, method)
        shapes = {"y": (4, 32, 32, 3), "mask": (4, 32, 32, 1), "number": (4,)}
        kinds = {"number": jnp.uint32}
        batch = {
            key: jax.ShapeDtypeStruct(shape, kinds.get(key, jnp.float32))
            for key, shape in shapes.items()
        }
        scale = {"scale": jax.ShapeDtypeStruct((), jnp.float32)}
        return program, ((weights(its), scale), batch, KEY)

    assert "stablehlo.while" in lowered(platform, e_step)
    text = lowered(platform, lambda dtype: step_of(run(dtype), "train"))
    assert "512x32x32x3x" in text  # the paper's batch
