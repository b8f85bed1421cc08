"""launch/: every script is shell, explains itself, and prints what it would do, as stored here.

After a change of a script: `python tests/test_launch.py` writes tests/golden/launch.txt anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
STORED = Path(__file__).parent / "golden" / "launch.txt"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
COMMANDS = [p for p in SCRIPTS if p.name != "common.sh"]
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
    "spot_loop.sh --name t --type v5litepod-16 --mount 10.0.0.2:/share --dry-run -- "
    "--config=c.py --workdir=/mnt/runs/c",
    "slurm.sh --nodes 2 --gpus 8 --time 1-00:00:00 --account a --partition p --dry-run -- "
    "--config=c.py --workdir=/scratch/c",
    "slurm.sh --dry-run -- --config=c.py --workdir=/scratch/c",
    "docker.sh --for cuda --dry-run",
    "docker.sh --for tpu --tag mine:1 --dry-run",
]  # fmt: skip


def call(command: str, **more: str) -> subprocess.CompletedProcess:
    """A script, without any program of a cloud or cluster in reach, but with a project and a zone."""
    script, *arguments = shlex.split(command)
    environment = {
        "PATH": os.environ["PATH"],
        "TMPDIR": "/tmp",
        "TPU_PROJECT": "p",
        "TPU_ZONE": "z",
    }
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        capture_output=True, text=True, env=environment | more, timeout=60,
    )  # fmt: skip


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
        ("spot_loop.sh --name t --type v5litepod-16", "nothing to run"),
        ("spot_loop.sh --name t -- --config=c.py", "The accelerator type is not set"),
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


# -- with programs that play the cloud and the cluster ---------------------------------------------
def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text("#!/usr/bin/env bash\n" + text)
    (folder / name).chmod(0o755)


def test_the_spot_loop_survives_a_preemption(tmp_path):
    """The first TPU is lost twice, the second stops with 75, the third comes to the end."""
    program(tmp_path, "sleep", "exit 0\n")
    program(tmp_path, "git", "exit 0\n")
    program(
        tmp_path,
        "gcloud",
        f"""echo "$3 $4" >> {tmp_path}/calls
case "$*" in
  *describe*) echo ACTIVE ;;
  *"queued-resources create"*) echo x >> {tmp_path}/made ;;
  *jax_bridges.main*)
    echo "run on $(wc -l < {tmp_path}/made)" >> {tmp_path}/calls
    case "$(wc -l < {tmp_path}/made)" in
      1) echo "training"; exit 255 ;;
      2) echo "exit code 75"; echo "exit code 75" ;;
      *) echo "exit code 0"; echo "exit code 0" ;;
    esac ;;
esac
""",
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = "spot_loop.sh --name t --type v5litepod-16 -- --config=c.py --workdir=/mnt/runs/c"
    done = call(command, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stopped with code 76: again" in done.stdout
    assert "stopped with code 75: again" in done.stdout and done.stdout.endswith("# done\n")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum(c == "queued-resources create" for c in calls) == 3
    assert calls[0] == calls[-1] == "queued-resources delete" and calls.count(calls[0]) == 4
    # A TPU that is still there may have lost nothing but the connection: it is asked once more.
    assert [c for c in calls if c.startswith("run")] == [f"run on {n}" for n in (1, 1, 2, 3)]

    # What would fail again is not tried again.
    (tmp_path / "made").unlink()
    gcloud = (
        (tmp_path / "gcloud").read_text().replace('echo "training"; exit 255', "echo exit code 1")
    )
    (tmp_path / "gcloud").write_text(gcloud)
    done = call(command, PATH=path)
    assert done.returncode == 2 and "refused or diverged" in done.stderr
    assert (tmp_path / "made").read_text() == "x\n"


@pytest.mark.parametrize("code, again", [(0, False), (1, False), (75, True)])
def test_the_slurm_script_requeues_what_was_stopped(tmp_path, code, again):
    script = call("slurm.sh --dry-run -- --config=c.py --workdir=/scratch/c").stdout
    program(tmp_path, "srun", f'echo "$@" > {tmp_path}/asked\nexit {code}\n')
    program(tmp_path, "scontrol", f'echo "$@" > {tmp_path}/requeued\n')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    done = subprocess.run(["bash"], input=script, env=environment, text=True)
    assert done.returncode == code
    asked = (tmp_path / "asked").read_text()
    assert asked.endswith("-m jax_bridges.main --hosts=slurm --config=c.py --workdir=/scratch/c\n")
    assert (tmp_path / "requeued").exists() == again
    assert not again or (tmp_path / "requeued").read_text() == "requeue 42\n"


def test_the_image_hears_signals_and_takes_all_kinds():
    text = (LAUNCH / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "jax_bridges.main"]' in text  # not through a shell
    for name in ("jax_bridges", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        assert name in text and (ROOT / name).exists()


if __name__ == "__main__":
    STORED.write_text("".join(map(dry_run, DRY_RUNS)))
