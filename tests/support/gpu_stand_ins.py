"""Rows for the tests of benchmarks/gpu.sh that take no time: one for each way in which a row can end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.lab import LeftOut


def count(scratch: str, name: str) -> int:
    """How often a row has been begun, this time included."""
    file = Path(scratch) / f"{name}.count"
    number = 1 + (int(file.read_text()) if file.exists() else 0)
    file.write_text(str(number))
    return number


def fine(toy, scratch, counter="fine"):
    return {
        "seconds": 0.25,
        "tflops": 2.0,
        "begun": count(scratch, counter),
        "process": os.getpid(),
    }


def fails(toy, scratch):
    count(scratch, "fails")
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand a lot more")


def mends(toy, scratch):
    if count(scratch, "mends") == 1:
        raise RuntimeError("not yet")
    return {"seconds": 1.0}


def not_finite(toy, scratch):
    return {"seconds": float("nan")}


def dies(toy, scratch):
    print("Fatal: the driver is gone", flush=True)
    os._exit(3)


def hangs(toy, scratch):
    """With a process of its own, as compilers have."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    half = Path(scratch) / "half"  # whoever sees the file finds the number in it
    half.write_text(str(child.pid))
    half.rename(Path(scratch) / "child")
    time.sleep(600)


def lacks(toy, scratch):
    raise LeftOut("PyTorch is not installed: pip install 'jax_bridges[bench]'.")
