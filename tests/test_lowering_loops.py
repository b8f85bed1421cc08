"""What is claimed of the programs that lower: their loops, and where cuDNN's attention is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jax_bridges.models.attention import attend
from jax_bridges.platforms import aim_at, target
from jax_bridges.validation import validate
from tests.support.lowering import (
    ADM,
    HOPPER,
    abstract,
    step_of,
)
from tests.support.runs import tiny

pytestmark = pytest.mark.usefixtures("a_cudnn")


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
