"""One device, pmap and a (data, fsdp) mesh give the same numbers.

The 8 virtual devices are made in a process of their own, which runs the second half of this file:
the rest of the tests runs on one device, as a laptop does.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import jax
import jax._src.cudnn.fused_attention_stablehlo as cudnn
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.checkpoints import Checkpoints
from jax_bridges.planning.abstract import abstract_arguments, abstract_run
from jax_bridges.planning.collectives import Marked, count_sent
from jax_bridges.planning.cost import count_flops
from jax_bridges.platforms import aim_at
from jax_bridges.samplers import sample_few_step
from jax_bridges.stages.train import train
from jax_bridges.times import student_grid
from jax_bridges.training.methods.ibmd import make_ibmd_step
from jax_bridges.training.optimizers import make_optimizer
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.state import Player, State, graft
from jax_bridges.training.steps import make_teacher_step
from tests.support.compiler import count_hits
from tests.support.games import BATCH, STEPS, UPDATES, batch, difference, make_system, moved, shard
from tests.support.processes import result_of
from tests.support.toy import optimizer_config, pointwise, random_params, small_config


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What `main` below has printed in a process with 8 devices."""
    return result_of(sys.executable, __file__, tmp_path_factory.mktemp("checkpoints"), devices=8)


def test_eight_devices(measured):
    assert measured["devices"] == 8
    assert measured["auto"] == ["pmap", "fsdp"]


@pytest.mark.parametrize("mode", ["pmap", "2x4"])
def test_teacher_is_the_same_on_one_device_and_on_eight(measured, mode):
    found, one = measured["teacher"][mode], measured["teacher"]["one"]
    assert found["difference"] < 1e-5 < 1e-3 < found["moved"]
    np.testing.assert_allclose(found["loss"], one["loss"], rtol=1e-5)


def test_eight_devices_share_the_work(measured):
    """Each does an eighth of the operations, of a batch in two microbatches too, but for what XLA saves.

    Microbatches that were pieces of the batch would lie on half of the devices: a quarter for each.
    """
    whole, found = measured["flops"], measured["teacher"]["2x4"]["flops"]
    assert 0.7 * whole / 8 < found < 1.25 * whole / 8


def test_parameters_travel_and_images_do_not(measured):
    """What shards are gathered are those of parameters: no layer is split by its channels."""
    travels = measured["teacher"]["2x4"]["travels"]
    assert set(travels) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert len(travels["all-gather"]) > 10
    wrong = [shape for shape in travels["all-gather"] if shape not in measured["shapes"]]
    assert not wrong, wrong
    assert "all-gather" not in measured["teacher"]["pmap"]["travels"]


@pytest.mark.parametrize("mode", ["pmap", "2x4"])
def test_a_plan_counts_what_the_compiled_program_sends(measured, mode):
    """Gathers to the byte, sums but for the norms' and the losses'.

    Counted is one microbatch. Of the two, unrolled on a CPU, XLA may gather and sum each or both at once.
    """
    found, sizes = measured["teacher"][mode], {}
    for kind, shapes in found["travels"].items():
        sizes[kind] = 4 * sum(math.prod(shape) for shape in shapes if shape)
    gathered, summed = (found["sent"].get(kind, 0) for kind in ("gather", "reduce"))
    assert (gathered > 0) == (mode != "pmap")
    assert sizes.get("all-gather", 0) in (gathered, 2 * gathered)
    turns = round(sizes["all-reduce"] / summed)
    assert turns in (1, 2) and summed == pytest.approx(sizes["all-reduce"] / turns, rel=0.02)


@pytest.mark.parametrize("mode", ["pmap", "4x2", "2x4"])
def test_players_are_the_same_on_one_device_and_on_eight(measured, mode):
    """Parameters and averages of both players after five steps."""
    found, one = measured["game"][mode], measured["game"]["one"]
    assert found["difference"] < 1e-5 < 1e-3 < found["moved"]
    assert found["step"] == 5 and found["devices"] == 8
    for name, value in one["metrics"].items():
        np.testing.assert_allclose(found["metrics"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["pmap", "4x2", "2x4"])
def test_replicated_leaves_are_equal_on_all_devices(measured, mode):
    """pmap returns device 0's value without looking at the others."""
    assert measured["game"][mode]["uneven"] == 0
    assert measured["teacher"].get(mode, {"uneven": 0})["uneven"] == 0


def test_fsdp_really_shards_the_large_leaves(measured):
    """A 32 x 32 kernel, its average and its moment; a bias of 32 stays whole."""
    for mode, rows in (("one", 32), ("pmap", 32), ("4x2", 16), ("2x4", 8)):
        found = measured["game"][mode]
        assert found["kernel"] == found["average"] == found["moment"] == [rows, 32], mode
        assert found["bias"] == [32]
    # The largest axis that divides is cut; what is small is not.
    assert measured["specs"] == {"large": [None, "fsdp"], "small": []}


@pytest.mark.parametrize("change", ["pmap in 2x4", "2x4 in pmap", "4x2 in one", "one in 4x2"])
def test_a_state_saved_in_one_mode_goes_on_in_another(measured, change):
    found = measured["restored"][change]
    assert found["difference"] < 1e-5
    assert found["laid_out"] and found["step"] == 5
    assert found["meta"] == change.split()[0]


@pytest.mark.parametrize("mode", ["pmap", "2x4"])
def test_a_program_from_the_cache_gives_the_same_bits(measured, mode):
    """test_compiler.py asks this of one device."""
    found = measured["again"][mode]
    assert found["hits"] >= 1 and found["difference"] == 0


@pytest.mark.parametrize("mode", ["pmap", "4x2", "2x4"])
def test_sampling_is_the_same_in_all_modes(measured, mode):
    found = measured["sampled"][mode]
    assert found["difference"] < 1e-4 and found["source"] < 1e-6
    assert found["shape"] == [16, 8, 8, 3] and found["is_numpy"]


def test_attention_of_a_gpu_lowers_on_eight(measured):
    """Two layers, there and back: on its device's images alone, or to be split over devices by JAX."""
    assert measured["cuda"] == {
        "pmap": {"__cudnn$fmha": 4, "CustomSPMDPartitioning": 0},
        "4x2": {"__cudnn$fmha": 0, "CustomSPMDPartitioning": 4},
    }


def test_what_does_not_fit_is_refused(measured):
    assert measured["error"] == "parallel.fsdp is 3: it must divide the 8 devices."
    with pytest.raises(ValueError, match="parallel.mode is 'ddp': choose one of auto, pmap, fsdp"):
        Parallel.create("ddp")
    with pytest.raises(ValueError, match="'pmap' replicates the state: set parallel.fsdp to 1"):
        Parallel.create("pmap", 2)
    with pytest.raises(ValueError, match="parallel.fsdp is 0: it must divide the"):
        Parallel.create("fsdp", 0)


def test_one_device_is_a_mesh_of_one():
    parallel = Parallel.create(devices=jax.devices()[:1])
    assert parallel.mode == "fsdp" and parallel.devices == 1
    assert parallel.mesh.shape == {"data": 1, "fsdp": 1}


# -- run in a process with 8 devices --------------------------------------------------------------


def uneven(state):
    """Number of replicated leaves whose shards are not all the same."""
    bad = 0
    for leaf in jax.tree.leaves(state):
        if leaf.sharding.is_fully_replicated:
            shards = [np.asarray(s.data) for s in leaf.addressable_shards]
            bad += any(not np.array_equal(shards[0], s, equal_nan=True) for s in shards[1:])
    return bad


def travels(text):
    """{kind: dimensions} of what the compiled program sends between devices."""
    found = {}
    names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for out, kind in re.findall(rf"= (.*?) ({names})(?:-start)?\(", text):
        shapes = [shape.split(",") for shape in re.findall(r"\w+\[([\d,]*)\]", out)]
        found.setdefault(kind, []).extend([int(n) for n in s if n] for s in shapes)
    return found


def teacher_run(modes, out):
    """A UNet (convolutions, norms) through the teacher's step."""
    config, system = make_system()
    config.train.microbatches = 2
    adam = make_optimizer(optimizer_config(clip=1.0, learning_rate=1e-3), 10)
    start = jax.tree.map(lambda p: 0.3 * p, random_params(system.teacher))
    out["shapes"] = [list(leaf.shape) for leaf in jax.tree.leaves(start)]
    results = {}
    for name in ("one", "pmap", "2x4"):
        parallel = modes[name]
        state = parallel.init(lambda p: State.create(teacher=Player.create(p, adam)), start)
        step = parallel.step(make_teacher_step(system, config.train, adam))
        given = state, None, parallel.put(batch(0)), jax.random.key(1)
        one = copy.deepcopy(config.train)
        one.microbatches = 1
        marked = Marked.of(parallel).step(make_teacher_step(system, one, adam))
        sent = count_sent(jax.make_jaxpr(marked)(*given).jaxpr)
        if name == "one":
            out["flops"] = count_flops(step, *given)
        step = step.lower(*given).compile()
        for k in range(STEPS):
            state, metrics = step(state, None, parallel.put(batch(k)), jax.random.key(1))
        results[name] = state
        out["teacher"][name] = dict(
            flops=step.cost_analysis()["flops"],
            travels=travels(step.as_text()),
            sent={kind: sum(n for (k, _), n in sent.items() if k == kind) for kind, _ in sent},
            difference=difference(results["one"], state),
            uneven=uneven(state),
            loss=float(metrics["loss"]),
            moved=moved(state, {"teacher": start}),
        )


def game_run(modes, out, folder):
    """Five two-player steps, a checkpoint after three of them, and a sampler."""
    config, system = make_system()
    system = pointwise(system, width=32)
    adam = make_optimizer(optimizer_config(clip=1.0, learning_rate=1e-3), 10)
    teacher = random_params(system.teacher)
    start = {
        "generator": graft(teacher, random_params(system.student, seed=2)),
        "bridge_net": graft(teacher, random_params(system.networks["bridge_net"], seed=3)),
    }

    def make(start):
        return State.create(**{name: Player.create(p, adam) for name, p in start.items()})

    def play(parallel, step, state, steps):
        for k in steps:
            group = parallel.put(batch(k, UPDATES + 1), 1)
            state, metrics = step(state, teacher, group, jax.random.key(1))
        return state, {k: float(v) for k, v in metrics.items()}

    def fresh(parallel):
        return parallel.init(make, start)

    results, made = {}, {}
    for name, parallel in modes.items():
        made[name] = parallel.step(make_ibmd_step(system, config.distill, adam, adam), 1)
        state, _ = play(parallel, made[name], fresh(parallel), range(3))
        checkpoints = Checkpoints(folder / name)
        checkpoints.save(state, {"mode": name})
        checkpoints.wait()
        state, metrics = play(parallel, made[name], state, range(3, STEPS))
        results[name] = state
        generator = state.players["generator"]
        kernel = generator.params["second"]["kernel"]
        moment = state.players["bridge_net"].opt.inner_state[1][0].mu["second"]["kernel"]
        out["game"][name] = dict(
            difference=difference(results["one"], state),
            uneven=uneven(state),
            metrics=metrics,
            moved=moved(state, start),
            step=int(state.step),
            kernel=shard(kernel),
            average=shard(generator.ema["second"]["kernel"]),
            moment=shard(moment),
            bias=shard(generator.params["second"]["bias"]),
            devices=len(kernel.sharding.device_set),
        )

    for saved, other in (("pmap", "2x4"), ("2x4", "pmap"), ("4x2", "one"), ("one", "4x2")):
        parallel = modes[other]
        checkpoints = Checkpoints(folder / saved)
        state = checkpoints.restore(fresh(parallel))
        laid_out = jax.tree.map(lambda a, b: a.sharding == b.sharding, state, fresh(parallel))
        state, _ = play(parallel, made[other], state, range(3, STEPS))
        out["restored"][f"{saved} in {other}"] = dict(
            difference=difference(results["one"], state),
            laid_out=all(jax.tree.leaves(laid_out)),
            meta=checkpoints.meta()["mode"],
            step=int(state.step),
        )

    # Programs of several devices, and with a donated state, as the cache gives them back.
    jax.clear_caches()
    for name in ("pmap", "2x4"):
        parallel, hits = modes[name], count_hits()
        step = parallel.step(make_ibmd_step(system, config.distill, adam, adam), 1)
        state, _ = play(parallel, step, fresh(parallel), range(STEPS))
        out["again"][name] = dict(difference=difference(results[name], state), hits=len(hits))

    times = student_grid(system.bridge, 2)

    def sample(params, batch, key):
        pair = system.prepare(batch, key, augment=False)
        generate = system.generator(params, pair)
        return sample_few_step(generate, system.bridge, pair.xT, times, pair.keys)

    # Each mode samples with the parameters as it holds them.
    # Without parameters, and with as many leaves as arguments, pmap needs care (Parallel.map).
    sources = {
        n: p.map(lambda params, batch, key: system.prepare(batch, key, augment=False).xT)
        for n, p in modes.items()
    }
    sources = {n: source(None, batch(0), jax.random.key(1)) for n, source in sources.items()}
    averages = {name: state.players["generator"].ema for name, state in results.items()}
    images = {n: p.map(sample)(averages[n], batch(0), jax.random.key(1)) for n, p in modes.items()}
    for name, array in images.items():
        out["sampled"][name] = dict(
            difference=float(np.abs(array - images["one"]).max()),
            shape=list(array.shape),
            is_numpy=isinstance(array, np.ndarray),
            source=float(np.abs(sources[name] - sources["one"]).max()),
        )


def lowered_for_cuda(modes, out):
    """The teacher's step in bfloat16."""
    cudnn.check_cudnn_version = lambda: 91000
    small = {"network.widths": (32,), "network.attention": (0,), "network.dtype": "bfloat16"}
    config = small_config(**small, **{"train.batch": BATCH})
    # A pmap lowers for its own devices alone; on several hosts it is a jit of the same.
    for name, parallel in {
        "pmap": dataclasses.replace(modes["pmap"], hosts=2),
        "4x2": modes["4x2"],
    }.items():
        with aim_at("cuda", (9, 0)):
            run = abstract_run(config, parallel)
            stage = train(run)
            traced = stage.step.trace(*abstract_arguments(run, stage))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        calls = ("__cudnn$fmha", "CustomSPMDPartitioning")
        out["cuda"][name] = {call: text.count(f"custom_call @{call}") for call in calls}


def main():
    modes = {
        "one": Parallel.create("fsdp", 1, jax.devices()[:1]),
        "pmap": Parallel.create("pmap"),
        "4x2": dataclasses.replace(Parallel.create("fsdp", 2), min_shard=100),
        "2x4": dataclasses.replace(Parallel.create("fsdp", 4), min_shard=100),
    }
    out = {k: {} for k in ("teacher", "game", "restored", "again", "sampled", "cuda")}
    teacher_run(modes, out)
    game_run(modes, out, Path(sys.argv[1]))
    lowered_for_cuda(modes, out)
    out["devices"] = jax.device_count()
    try:
        Parallel.create("fsdp", 3)
    except ValueError as error:
        out["error"] = str(error)
    out["auto"] = [Parallel.create("auto", n).mode for n in (1, 2)]
    large = jax.ShapeDtypeStruct((3, 1024, 64), jnp.float32)
    small = jax.ShapeDtypeStruct((10,), jnp.float32)
    specs = Parallel.create("fsdp", 4).shardings({"large": large, "small": small})
    out["specs"] = {k: list(s.spec) for k, s in specs.items()}
    print("RESULT " + json.dumps(out))


if __name__ == "__main__":
    with aim_at("any"):  # loops, as on an accelerator; and compiled in half the time
        main()
