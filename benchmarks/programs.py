"""Which programs a run compiles, and how large they are: `python -m benchmarks.programs --json=FILE`.

The run is made on this machine, a CPU will do, but with the loops and branches of an accelerator
(`--platform`), for which every program is lowered too; all is run but the training steps. On a GPU the
start-up is spent on what is counted here: code for the instructions, and kernels tried for every
convolution and matrix product of its own.

Columns: times a program was compiled; `instructions` of StableHLO in all, functions that are called
several times once; `inlined`, the same with functions wherever they are called, as XLA then does it;
`convolutions` and `products` that differ from each other (shapes, types, layout, strides, dilation);
seconds of lowering and of compiling on this machine, without a cache (CPU time, which other jobs
hardly change). `--h100` also compiles each program for an H100 that is not here (pip install
jax-cuda12-pjrt; 175 MB), all but the autotuning: its seconds, the kernels, and the convolutions (cuDNN)
and matrix products (gemm) that would be tried. Sums are of each program as often as it is compiled; the
last line counts what differs in the whole run: XLA keeps what it has tried.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax._src import compiler  # the only way to see every program, also those of single operations
from jax._src.interpreters import pxla

from benchmarks.h100 import Compiled, compile_for_h100, cpu_seconds, h100
from jax_bridges import main as command
from jax_bridges.command_line import read_config
from jax_bridges.measured import markdown_table, measured_here
from jax_bridges.platforms import aim_at

_FRAME = {"func.func", "func.return", "stablehlo.return", "builtin.module", "func.call"}
_KINDS = {"stablehlo.convolution": "convolutions", "stablehlo.dot_general": "products"}


@dataclasses.dataclass
class Program:
    """One program, compiled `times` times.

    Attributes:
      name: as JAX calls it.
      where: file and function of this project that asked for it.
      instructions, inlined, convolutions, products: of StableHLO; those that differ, as text.
      h100: of the program compiled for one, or None.
      lowering, compiling: seconds of CPU time, over all times.
    """

    name: str
    where: str
    instructions: int
    inlined: int
    convolutions: frozenset[str]
    products: frozenset[str]
    h100: Compiled | None = None
    lowering: float = 0.0
    compiling: float = 0.0
    times: int = 0


def operations(operation) -> Iterator:
    """Every operation inside of one, those of nested regions too."""
    for region in operation.regions:
        for block in region:
            for inner in block.operations:
                yield inner.operation
                yield from operations(inner.operation)


def measure(module) -> dict:
    """What `Program` holds of a StableHLO module."""
    own, calls = {}, {}
    found: dict[str, set[str]] = {kind: set() for kind in _KINDS.values()}
    for function in module.body.operations:
        name = function.attributes["sym_name"].value
        inside = list(operations(function.operation))
        own[name] = sum(o.name not in _FRAME for o in inside)
        callees = [o.attributes["callee"].value for o in inside if o.name == "func.call"]
        calls[name] = collections.Counter(callees)
        for o in inside:
            if o.name in _KINDS:
                # Without the names of operands and results.
                found[_KINDS[o.name]].add(" ".join(re.sub(r"%[\w:#]+,?", "", str(o)).split()))

    def inlined(name: str) -> int:
        return own[name] + sum(n * inlined(callee) for callee, n in calls[name].items())

    whole = {"instructions": sum(own.values()), "inlined": inlined("main")}
    return {**whole, **{kind: frozenset(texts) for kind, texts in found.items()}}


class Zeros:
    """In place of a compiled training step: loops take minutes on a CPU, and nobody needs its numbers."""

    def __init__(self, compiled: jax.stages.Compiled):
        self._compiled = compiled

    def __getattr__(self, name: str):
        return getattr(self._compiled, name)

    def __call__(self, *args):
        def zeros(leaf):
            return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)

        return jax.tree.map(zeros, self._compiled.out_info)


def asked_by() -> str:
    """File and function of this project that a program is compiled for now."""
    package = str(Path(command.__file__).parent)
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(package):
            return f"{frame.filename.removeprefix(package + '/')}: {frame.name}"
    return "elsewhere"


class Recorder:
    """While it is entered, looks at every program that is lowered and compiled.

    `programs` has them in the order of their first compilation, with equal ones under one key.
    """

    def __init__(self, platform: str, look: Callable = lambda module: None):
        self._platform, self._look = platform, look
        self._lowered: dict[
            int, tuple
        ] = {}  # of each module: itself, its program, that of `platform`
        self.programs: dict[str, Program] = {}

    def __enter__(self) -> Recorder:
        self._lower, self._compile = pxla.lower_sharding_computation, compiler.compile_or_get_cached
        self._finish = finish = jax.stages.Lowered.compile
        # What it gives is no Compiled, but does for one.
        jax.stages.Lowered.compile = lambda *args, **how: Zeros(finish(*args, **how))  # pyright: ignore[reportAttributeAccessIssue]
        pxla.lower_sharding_computation = self.lower
        compiler.compile_or_get_cached = self.compile
        return self

    def __exit__(self, *error) -> None:
        pxla.lower_sharding_computation = self._lower
        compiler.compile_or_get_cached = self._compile
        jax.stages.Lowered.compile = self._finish

    def lower(self, jaxpr, api, name, *args, lowering_platforms, **settings):
        """In place of `pxla.lower_sharding_computation`."""
        start = cpu_seconds()
        ours = self._lower(
            jaxpr, api, name, *args, lowering_platforms=lowering_platforms, **settings
        )
        seconds = cpu_seconds() - start
        theirs = self._lower(
            jaxpr, api, name, *args, lowering_platforms=(self._platform,), **settings
        ).stablehlo()
        program = Program(name, asked_by(), **measure(theirs), lowering=seconds)
        self._lowered[id(ours.stablehlo())] = ours.stablehlo(), program, theirs
        return ours

    def compile(self, backend, module, *args, **settings):
        """In place of `compiler.compile_or_get_cached`."""
        start = cpu_seconds()
        executable = self._compile(backend, module, *args, **settings)
        seconds = cpu_seconds() - start
        if id(module) in self._lowered:
            _, found, theirs = self._lowered[id(module)]
            program = self.programs.setdefault(str(theirs), found)
            if program is found:
                program.h100 = self._look(theirs)
            else:
                program.lowering += found.lowering
            program.compiling += seconds
            program.times += 1
        return executable


# Columns of the table: how a sum over compilations is made of each program.
_COUNTS = {
    "instructions": lambda p: p.instructions,
    "inlined": lambda p: p.inlined,
    "convolutions": lambda p: len(p.convolutions),
    "products": lambda p: len(p.products),
}
_OF_H100 = {
    "H100 s": lambda p: p.h100.seconds,
    "kernels": lambda p: p.h100.kernels,
    "cuDNN": lambda p: len(p.h100.convolutions),
    "gemm": lambda p: len(p.h100.products),
}


def table(programs: list[Program], least: int) -> str:
    """Markdown; programs of fewer than `least` instructions share one line."""
    columns = _COUNTS | (_OF_H100 if programs[0].h100 else {})
    head = ["program, asked for by", "times", *columns, "lowering s", "compiling s"]
    lines = []

    def add(name: str, some: list[Program]) -> None:
        sums = [sum(p.times * of(p) for p in some) for of in columns.values()]
        seconds = [sum(p.lowering for p in some), sum(p.compiling for p in some)]
        numbers = [n if isinstance(n, int) else f"{n:.1f}" for n in (*sums, *seconds)]
        lines.append([name, sum(p.times for p in some), *numbers])

    for program in programs:
        if program.instructions >= least:
            add(f"`{program.name}`, {program.where}", [program])
    small = [p for p in programs if p.instructions < least]
    add(f"{len(small)} of fewer than {least} instructions", small)
    add("**all**", programs)
    lines.append(["different in the whole run", *[""] * (len(head) - 1)])
    for name, count in different(programs).items():
        lines[-1][head.index(name)] = count
    return markdown_table(head, lines, head[:1])


def different(programs: list[Program]) -> dict[str, int]:
    """Convolutions and products that differ from each other in all of the programs."""
    places = {"convolutions": programs, "products": programs}
    sets = {name: [getattr(p, name) for p in place] for name, place in places.items()}
    if programs[0].h100:
        sets["cuDNN"] = [p.h100.convolutions for p in programs if p.h100]
        sets["gemm"] = [p.h100.products for p in programs if p.h100]
    return {name: len(frozenset().union(*found)) for name, found in sets.items()}


def row(program: Program) -> dict:
    """A program for the file of numbers."""
    counts = _COUNTS | (_OF_H100 if program.h100 else {})
    text = {"program": program.name, "asked_by": program.where, "times": program.times}
    seconds = {"lowering s": program.lowering, "compiling s": program.compiling}
    numbers = {name: of(program) for name, of in counts.items()} | seconds
    return text | {k: round(v, 2) if isinstance(v, float) else v for k, v in numbers.items()}


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--platform", default="cuda", help="of JAX: cuda, tpu, rocm, cpu")
    parser.add_argument("--h100", action="store_true", help="compile for one too")
    parser.add_argument("--json", help="file for the numbers")
    parser.add_argument("--least", type=int, default=50, help="instructions of a line of its own")
    options, rest = parser.parse_known_args()
    config = read_config(rest or ["--config=configs/inpaint.py"])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    look = (lambda module: None) if not options.h100 else partial(compile_for_h100, h100())
    workdir = tempfile.mkdtemp()
    recorder = Recorder(options.platform, look)
    try:
        with aim_at(options.platform), recorder:
            command.run(config, Path(workdir) / "run")
    finally:
        shutil.rmtree(workdir)
    programs = list(recorder.programs.values())
    print(table(programs, options.least))
    if options.json:
        about = {**measured_here("benchmarks.programs"), "lowered_for": options.platform}
        text = {
            "measured": about,
            "programs": list(map(row, programs)),
            "different": different(programs),
        }
        Path(options.json).write_text(json.dumps(text, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
