"""How fast it runs here, and what a run would cost elsewhere.

    python -m jax_bridges.benchmark                               # the small network, a minute
    python -m jax_bridges.benchmark --network=i2sb256 --dtype=bfloat16 --batch=8 --peak-tflops=989
    python -m jax_bridges.benchmark --config=configs/jpeg.py --config.network.blocks=2
    python -m jax_bridges.benchmark --plan --config=configs/inpaint.py:imagenet256_i2sb \
        --devices=8 --fsdp=8 --compile
    python -m jax_bridges.benchmark --plan --config=configs/edges_to_image.py:handbags64 \
        --topology=v5e:4x4 --fsdp=16                                    # for TPUs that are not here
    python -m jax_bridges.benchmark --plan --config=configs/inpaint.py:imagenet256_i2sb \
        --topology=v5e:8x8 --slices=2 --fsdp=64 --no-compile            # and what goes over their links

Measured are the functions that a run uses, compiled, warm, on random images and on random weights
(or those of `--config.teacher.checkpoint`): medians of several repeats. TFLOP/s count the operations
of the mathematics (planning/abstract.py).
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import json
import sys
import time
from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jax_bridges import papers
from jax_bridges.benchmark_options import OPTIONS, complete_options
from jax_bridges.benchmark_rows import format_rows
from jax_bridges.benchmark_weights import place_random, random_inputs
from jax_bridges.choices import look_up
from jax_bridges.command import Parser, run_command
from jax_bridges.command_line import read_config
from jax_bridges.config import base_config
from jax_bridges.io.atomic import write_atomic
from jax_bridges.keys import Purpose
from jax_bridges.measured import measured_here, median_seconds
from jax_bridges.models import DTYPES, mask_input, network_settings
from jax_bridges.planning.abstract import abstract_run, call_flops, random_batch, step_flops
from jax_bridges.planning.memory import held_compiled, held_state
from jax_bridges.planning.plan import STAGES, describe, plan_config
from jax_bridges.planning.topology import CHIPS, compile_only_devices, read_topology
from jax_bridges.platforms import target
from jax_bridges.stages.distill import distill
from jax_bridges.stages.jobs import student_sampler, teacher_sampler
from jax_bridges.stages.run import Run, Stage
from jax_bridges.stages.teacher import check_teacher, load_teacher
from jax_bridges.stages.train import train
from jax_bridges.training.parallel import MODES, Parallel
from jax_bridges.validation import validate

# A network and the task it belongs to, as a change of the base configuration.
NETWORKS = {
    "unet": lambda config: None,
    "i2sb256": papers.i2sb_inpaint,
    "dbim_inpaint256": papers.dbim_inpaint,
    "ddbm_diode256": partial(papers.ddbm_diode, calls=2, updates=500),
    "ddbm_e2h64": partial(papers.ddbm_handbags, calls=2, updates=300),
}


# -- what is measured ----------------------------------------------------------------------------
def measure_forward(run: Run, params, nfe: int, repeats: int) -> Iterable[dict]:
    """One network call on `evaluate.batch` images that lie on the device."""
    del nfe
    yield time_forward(run, params, repeats)[0]


def time_forward(run: Run, params, repeats: int) -> tuple[dict, np.ndarray]:
    """The row of a network call on `evaluate.batch` images, and what the network answered."""
    system, batch = run.system, run.config.evaluate.batch
    sharding = NamedSharding(run.parallel.mesh, PartitionSpec(("data", "fsdp")))
    inputs = random_inputs(system.teacher, system.size, system.channels, batch)
    inputs = jax.device_put(inputs, sharding)

    def call(params, x, t, xT, label):
        told = mask_input(system.teacher, jnp.zeros_like(x[..., :1]))
        return system.teacher.apply({"params": params}, x, t, xT, None, label, **told)

    start = time.perf_counter()
    compiled = jax.jit(run.parallel.gathered(call)).lower(params, *inputs).compile()
    took = time.perf_counter() - start
    seconds = median_seconds(lambda: compiled(params, *inputs), repeats)
    row = {"what": "forward", "images": batch, "calls": batch, "seconds": seconds, "compile": took}
    return row, np.asarray(compiled(params, *inputs))


def measure_train(run: Run, params, nfe: int, repeats: int) -> Iterable[dict]:
    """One step of the teacher."""
    del nfe
    yield time_step(run, train(run), params, repeats)


def measure_distill(run: Run, params, nfe: int, repeats: int) -> Iterable[dict]:
    """One step of IBMD: `bridge_updates` of the bridge net and one of the generator."""
    del nfe
    yield time_step(run, distill(run, params), params, repeats)


def time_step(run: Run, stage: Stage, params, repeats: int) -> dict:
    """The row of a step of a stage that starts from `params`, its batch on the device already.

    With the metrics of the first step (its loss, its gradient's norm), and the bytes that a device
    holds by the compiler's count (`memory`; None where it gives none).
    """
    state = run.parallel.init(stage.make_state, run.key(stage.init), params)
    frozen = None if stage.frozen is None else params
    del params  # the state has a copy: where nobody else keeps them, their memory is free
    batch = run.parallel.put(random_batch(run, stage.batch_shape), stage.batch_axis)
    start = time.perf_counter()
    compiled = stage.step.lower(state, frozen, batch, run.key(stage.draws)).compile()
    took = time.perf_counter() - start
    held = held_compiled(held_state(run, stage), compiled)

    def step():
        nonlocal state  # its buffers are donated
        state, metrics = compiled(state, frozen, batch, run.key(stage.draws))
        return metrics

    first = {name: float(value) for name, value in step().items()}
    seconds = median_seconds(step, repeats)
    # In calls, so that the rate comes from the same formula as that of a forward pass.
    calls = step_flops(run.config, stage.name, 1.0)
    row = {"what": stage.name, "images": stage.images, "calls": calls, "seconds": seconds}
    return {**row, "compile": took, **first, "memory": None if held.work is None else held.total}


def measure_sample(run: Run, params, nfe: int, repeats: int) -> Iterable[dict]:
    """Restored images, host to host: the teacher with `nfe` calls and the student with its own."""
    batch = run.config.evaluate.batch
    images = random_batch(run, (batch,))
    few = run.config.distill.student_steps
    student = place_random(run, "generator")
    makers = {
        f"teacher x {nfe}": (partial(teacher_sampler, run, nfe), params, nfe),
        f"student x {few}": (partial(student_sampler, run, few), student, few),
    }
    for what, (make, weights, calls) in makers.items():
        sample = make()
        start = time.perf_counter()
        sample(weights, images, run.key(Purpose.EVALUATE))
        took = time.perf_counter() - start
        seconds = median_seconds(
            partial(sample, weights, images, run.key(Purpose.EVALUATE)), repeats
        )
        row = {"what": what, "images": batch, "calls": batch * calls}
        yield {**row, "seconds": seconds, "compile": took - seconds}


MEASURES = {
    "forward": measure_forward,
    "train": measure_train,
    "distill": measure_distill,
    "sample": measure_sample,
}


def measure(config, names: list[str], nfe: int, repeats: int) -> Iterable[dict]:
    """Rows of a configuration for `names` of MEASURES, each when it is done.

    Yields:
      what, images a run of it, network calls (a backward pass counts as calls), seconds (median),
      compile (seconds), images_per_second, tflops (a second, all devices), network, dtype, size.
    """
    parallel = Parallel.create(config.parallel.mode, config.parallel.fsdp)
    validate(config, parallel.devices)
    run = abstract_run(config, parallel)
    system = run.system
    flops = call_flops(system)
    if config.teacher.checkpoint:
        check_teacher(json.loads(config.to_json_best_effort()))
        params = load_teacher(run, config.teacher.checkpoint)
    else:
        params = place_random(run, "teacher")
    about = {
        "network": config.network.name,
        "dtype": network_settings(config.network)["dtype"],
        "size": system.size,
    }
    for name in names or MEASURES:
        for row in MEASURES[name](run, params, nfe, repeats):
            row["images_per_second"] = row["images"] / row["seconds"]
            row["tflops"] = row["calls"] * flops / row["seconds"] / 1e12
            yield {**about, **row}


def matmul_tflops(dtype: str) -> float:
    """TFLOP/s of square matrix products on one device, as JAX does them by default: a reference."""
    n, chain = (1024, 4) if target() == "cpu" else (8192, 16)
    a = jax.random.normal(jax.random.key(0), (n, n), look_up("dtype", DTYPES, dtype)) / n**0.5

    @jax.jit
    def product(a):
        return jax.lax.fori_loop(0, chain, lambda _, x: x @ a, a)

    return 2 * n**3 * chain / median_seconds(lambda: product(a), 5) / 1e12


# -- command line --------------------------------------------------------------------------------
def arguments() -> tuple[argparse.Namespace, list[str]]:
    """The options, and what is left: --config and --config.KEY=VALUE."""
    parser = Parser(
        prog="python -m jax_bridges.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="--config=FILE[:VARIANT] [--config.KEY=VALUE ...]: a configuration, not --network.",
    )
    add = parser.add_argument
    more = {
        "network": f": {', '.join(NETWORKS)}",
        "topology": f", by its own compiler (extra [tpu]); kinds are {', '.join(CHIPS)}",
    }
    for row in OPTIONS:
        default = f" ({row.default})" if row.default != "" else ""
        told = f"{row.meaning}{more.get(row.key, '')}{default}"
        add(f"--{row.key.replace('_', '-')}", type=type(row.default), help=told)
    known = f"of {', '.join(DTYPES)}, with commas; the network's own if empty"
    add("--dtype", default="", help=known)
    known = f"of {', '.join(MEASURES)}, with commas; all if empty. With "
    known += f"--plan: of {', '.join(STAGES)}, both if empty"
    add("--what", default="", help=known)
    add("--batch", type=int, default=0, help="images; 0: 32, for networks of 256 pixels 4")
    add("--size", type=int, default=0, help="pixels; 0: the network's own")
    add("--plan", action="store_true", help="measure nothing: costs of --config from shapes alone")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="with --plan: compile the steps for their memory too, or not; with --topology it does",
    )
    add("--fsdp", type=int, default=0, help="devices over which the state is sharded; 0: config's")
    add("--mode", choices=MODES, help="of parallel.mode; the configuration's if not given")
    return parser.parse_known_args()


def configurations(options: argparse.Namespace, given) -> Iterable[tuple[str, ConfigDict]]:
    """(name, configuration) of everything to be measured, with the options applied."""
    names = [given.task] if given is not None else options.network.split(",")
    for name in names:
        for dtype in options.dtype.split(","):
            config = base_config() if given is None else given.copy_and_resolve_references()
            if given is None:
                look_up("network", NETWORKS, name)(config)
            with config.unlocked():
                dtype = dtype or network_settings(config.network)["dtype"]
                look_up("dtype", DTYPES, dtype)
                config.network.dtype = dtype
                config.data.size = options.size or config.data.size
                batch = options.batch or (4 if np.max(config.data.size) >= 256 else 32)
                if given is None or options.batch:
                    config.evaluate.batch = config.train.batch = config.distill.batch = batch
                    config.train.microbatches = config.distill.microbatches = 1
                config.parallel.fsdp = options.fsdp or config.parallel.fsdp
                config.parallel.mode = options.mode or config.parallel.mode
            yield name, config


def benchmark(options: argparse.Namespace, given) -> None:
    """Measures, prints the table and writes the file after every row."""
    measures = [what for what in options.what.split(",") if what]
    for what in measures:
        look_up("measure", MEASURES, what)
    matmul: dict[str, float] = {}
    rows: list[dict] = []
    about = measured_here("jax_bridges.benchmark")
    print(f"{about['devices']} x {about['device']}, jax {about['versions']['jax']}", flush=True)
    todo = list(configurations(options, given))
    for _, config in todo:  # all of them, before any is measured
        validate(config, Parallel.create(config.parallel.mode, config.parallel.fsdp).devices)
    for name, config in todo:
        dtype = network_settings(config.network)["dtype"]
        matmul[dtype] = matmul.get(dtype) or matmul_tflops(dtype) * about["devices"]
        for row in measure(config, measures, options.nfe, options.repeats):
            peak = options.peak_tflops * about["devices"]
            row |= {"name": name, "matmul_tflops": matmul[dtype], "peak_tflops": peak}
            rows.append(row)
            apart = f", {row['difference']:.1g} from ours" if "difference" in row else ""
            print(f"{name} {dtype} {row['what']}: {1e3 * row['seconds']:.4g} ms{apart}", flush=True)
            text = json.dumps({"measured": about, "rows": rows}, indent=1)
            write_atomic(options.json, f"{text}\n".encode())
    products = ", ".join(f"{rate:.3g} TFLOP/s in {dtype}" for dtype, rate in matmul.items())
    print(f"\n{format_rows(rows)}\n\nmatrix products: {products}\n{options.json}", flush=True)


def plan(options: argparse.Namespace, given) -> None:
    """Prints what the configuration costs."""
    devices = topology = None
    if options.topology:
        topology = read_topology(options.topology, options.slices)
        devices = compile_only_devices(topology)
    elif options.devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.devices)
    ((_, config),) = configurations(options, given)
    parallel = Parallel.create(config.parallel.mode, config.parallel.fsdp, devices)
    validate(config, parallel.devices)
    compiled = bool(options.topology) if options.compile is None else options.compile
    stages = [what for what in options.what.split(",") if what] or STAGES
    made = plan_config(config, parallel, stages, compiled, topology, partial(print, flush=True))
    print(describe(made, topology), flush=True)


def main() -> int:
    """Entry point; returns the exit status."""

    def work():
        options, rest = arguments()
        given = read_config(rest)
        complete_options(options, given is not None)
        (plan if options.plan else benchmark)(options, given)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
