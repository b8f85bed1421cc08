"""launch/: every script is shell, explains itself, and prints what it would do, as stored here.

After a change of a script: `python -m tests.test_launch` writes tests/golden/launch.txt anew.
"""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support import GOLDEN, ROOT
from tests.support.scripts import COMMANDS, LAUNCH, SCRIPTS, call

STORED = GOLDEN / "launch.txt"
RUN = "-- --config=configs/inpaint.py:imagenet256_i2sb --workdir=/mnt/runs"

DRY_RUNS = [
    "local.sh --dry-run -- --config=configs/inpaint.py",
    "local.sh --cpu-devices 8 --dry-run -- --config=configs/inpaint.py --config.parallel.fsdp=4",
    "tpu_vm_create.sh --name t --type v5litepod-16 --dry-run",
    "tpu_vm_create.sh --name t --type v6e-8 --spot --runtime v2-alpha-tpuv6e --zone z2 --dry-run",
    f"tpu_vm_run.sh --name t --dry-run {RUN}/inpaint",
    f"tpu_vm_run.sh --name t --mount 10.0.0.2:/share --dry-run {RUN}/'in paint'",
    "tpu_vm_run.sh --name t --skip-setup --dry-run -- --config=c.py --workdir=/mnt/runs/c",
    "tpu_vm_delete.sh --name t --dry-run",
    "slurm.sh --nodes 2 --gpus 8 --time 1-00:00:00 --account a --partition p --dry-run -- "
    "--config=c.py --workdir=/scratch/c",
    "slurm.sh --dry-run -- --config=c.py --workdir=/scratch/c",
    "docker.sh --for cuda --dry-run",
    "docker.sh --for tpu --tag mine:1 --dry-run",
]  # fmt: skip


def dry_run(command: str) -> str:
    done = call(command)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return f"$ launch/{command}\n{done.stdout.replace(str(ROOT), 'CHECKOUT')}\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_shell(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(script.read_text().splitlines()) < 100
    if script.name != "common.sh":
        assert "set -euo pipefail" in script.read_text() and os.access(script, os.X_OK)


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_scripts_explain_themselves(script):
    """Every option they take is in their help, and one they do not take is refused."""
    done = call(f"{script.name} --help")
    assert done.returncode == 0 and f"launch/{script.name}" in done.stdout
    text = script.read_text()
    (taken,) = re.findall(r'^options "(.*)" "\$@"$', text, flags=re.MULTILINE)
    names = [word.split("=")[0] for word in taken.split() if word != "--"]
    for option in ("help", "dry-run", *names):
        assert f"--{option}" in done.stdout, option
    assert taken.endswith(" --") == (" -- --config=" in done.stdout)
    wrong = call(f"{script.name} --no-such-option")
    assert wrong.returncode == 2 and "unknown option --no-such-option" in wrong.stderr


def test_dry_runs_are_as_stored():
    assert "".join(map(dry_run, DRY_RUNS)) == STORED.read_text()


def test_what_a_dry_run_prints_is_shell():
    """Every printed line can be given to a shell."""
    printed = "".join(dry_run(c).split("\n", 1)[1] for c in DRY_RUNS)
    done = subprocess.run(["bash", "-n"], input=printed, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command, words",
    [
        ("tpu_vm_create.sh --type v5litepod-16", "The name is not set: give --name NAME."),
        ("tpu_vm_create.sh --name t", "The accelerator type is not set"),
        ("tpu_vm_run.sh --name t --dry-run -- --config=c.py", "give --workdir=DIR after --"),
        ("tpu_vm_run.sh --name t", "nothing to run"),
        ("tpu_vm_delete.sh", "The name is not set"),
        ("slurm.sh --nodes 2", "nothing to run"),
        ("slurm.sh --nodes", "--nodes needs a value"),
        ("local.sh --cpu-devices many -- --config=c.py", "--cpu-devices is 'many'"),
        ("docker.sh --for rocm", "--for is 'rocm': choose cpu, cuda or tpu."),
    ],
)
def test_what_is_missing_is_named(command, words):
    done = call(command)
    assert done.returncode == 2 and words in done.stderr and done.stdout == ""


def test_nothing_is_hard_coded():
    """Neither a project nor a zone: without them nothing is asked of a cloud."""
    done = call("tpu_vm_create.sh --name t --type v5litepod-16 --dry-run", TPU_PROJECT="")
    assert done.returncode == 2 and "--project PROJECT or TPU_PROJECT" in done.stderr
    done = call("tpu_vm_delete.sh --name t --dry-run", TPU_ZONE="")
    assert done.returncode == 2 and "--zone ZONE or TPU_ZONE" in done.stderr


def test_the_image_hears_signals_and_takes_all_kinds():
    text = (LAUNCH / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "jax_bridges.main"]' in text  # not through a shell
    project = ("pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE")
    for name in ("jax_bridges", "configs", *project):
        assert name in text and (ROOT / name).exists()


if __name__ == "__main__":
    STORED.write_text("".join(map(dry_run, DRY_RUNS)))
