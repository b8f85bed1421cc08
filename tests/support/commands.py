"""Commands called as functions: what they print and return, without a process of their own."""

from __future__ import annotations

import sys

from jax_bridges import benchmark
from tests.support import ROOT


def benchmark_main(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """`python -m jax_bridges.benchmark ARGUMENTS` at the root: exit status, output, errors."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    monkeypatch.chdir(ROOT)
    status = benchmark.main()
    out = capsys.readouterr()
    return status, out.out, out.err
