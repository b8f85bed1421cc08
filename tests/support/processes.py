"""Programs of several processes that talk over localhost: to start them, and to read what they said."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time

from tests.support import ROOT
from tests.support.compiler import xla_flags

# What gloo's threads print, piece by piece, with numbers between them: one piece may follow any
# other, of any thread.
GLOO = (
    "[Gloo] Rank ",
    " is connected to ",
    " peer ranks. ",
    "Expected number of connected peer ranks is : ",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """Of a process on the CPU, split into so many devices, that finds the tests and their cache."""
    flags = xla_flags(f"--xla_force_host_platform_device_count={devices}")
    set_ = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    return {**os.environ, **set_, **more}


def result_of(*command, devices=1, **how):
    """What a program has printed, as JSON, in its line RESULT; `how` as of `subprocess.run`."""
    how = {"env": environment(devices), **how}
    done = subprocess.run(command, capture_output=True, text=True, **how)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(lines[0].removeprefix("RESULT "))


@contextlib.contextmanager
def started(*commands, devices=4):
    """Processes, one a command; none of them outlives the block."""
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env=environment(devices),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for command in commands
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ended(processes, timeout=900) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each."""
    deadline = time.monotonic() + timeout
    said = [p.communicate(timeout=deadline - time.monotonic()) for p in processes]
    return [(p.returncode, *s) for p, s in zip(processes, said, strict=True)]


def spoken(output: str) -> str:
    """The words that the program itself has printed, without white space and digits.

    Of gloo's prints nothing is left, however they interleave; digits cannot be told from its own.
    """
    for piece in GLOO:
        output = output.replace(piece, "")
    return re.sub(r"[\d\s]", "", output)
