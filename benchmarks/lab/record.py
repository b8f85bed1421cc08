"""The file of results: JSON lines, one a row, whole after each; and what machine and versions they are of."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

from jax_bridges.io.atomic import write_atomic

from .table import markdown

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax", "numpy", "torch", "triton",
)  # fmt: skip
# Rows that a second start does not measure again. What was left out can be had by then.
THERE = ("ok", "failed", "cut")


class Record:
    """Rows by (name, size, device), in NAME.jsonl; NAME.md is the same as a table."""

    def __init__(self, path: Path):
        """Reads what is there.

        Raises:
          ValueError: a line that is no JSON object.
        """
        self.path, self.lines = path, []
        if path.exists():
            try:
                self.lines = [json.loads(line) for line in path.read_text().splitlines()]
                self.lines = sorted(self.lines, key=lambda line: line["date"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is no file of results ({error!r}): move it away, or give another --out."
                ) from None

    def find(self, name: str, size: str, device: str) -> dict | None:
        """The line of a row, if it is there."""
        key = (name, size, device)
        return next((line for line in self.lines if self._key(line) == key), None)

    def add(self, line: dict) -> None:
        """Puts a line in, in place of an older one of the same row, and writes both files."""
        self.lines = [old for old in self.lines if self._key(old) != self._key(line)] + [line]
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_atomic(self.path, text.encode())
        write_atomic(self.path.with_suffix(".md"), markdown(self.lines).encode())

    @staticmethod
    def _key(line: dict) -> tuple[str, str, str]:
        return line["row"], line["size"], line["machine"]["device"]


def machine() -> dict:
    """The first GPU's name, driver and memory where NVIDIA's tool sees one, else the processor."""
    cpu = _cpu_name()
    about = {"device": cpu, "driver": None, "device_gib": None, "cpu": cpu, "cores": os.cpu_count()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total"]
    try:
        text = _said([*query, "--format=csv,noheader,nounits"])
        name, driver, mib = text.splitlines()[0].split(", ")
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return about
    return {**about, "device": name, "driver": driver, "device_gib": round(float(mib) / 1024, 1)}


def versions() -> dict[str, str]:
    """Of Python, the packages that matter, and the commit, as far as they are there."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        found["commit"] = _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]).strip()
    except (OSError, subprocess.SubprocessError):
        pass  # a copy without its history
    return found


def _said(command: list[str]) -> str:
    """What a program prints; an error if it fails or does not answer."""
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
