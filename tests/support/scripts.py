"""The scripts of launch/, and calls of them without a cloud."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from tests.support import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
COMMANDS = [p for p in SCRIPTS if p.name != "common.sh"]


def call(command: str, launch: Path = LAUNCH, **more: str) -> subprocess.CompletedProcess:
    """A script, without any program of a cloud or cluster in reach, but with a project and a zone."""
    script, *arguments = shlex.split(command)
    environment = {
        "PATH": os.environ["PATH"],
        "TMPDIR": "/tmp",
        "TPU_PROJECT": "p",
        "TPU_ZONE": "z",
    }
    return subprocess.run(
        ["bash", str(launch / script), *arguments],
        capture_output=True, text=True, env=environment | more, timeout=60,
    )  # fmt: skip
