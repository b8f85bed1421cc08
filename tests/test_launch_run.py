"""launch/, executed: with programs on PATH that play the cloud, the hosts of a TPU and the cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.scripts import COMMANDS, LAUNCH, call

RUN = "tpu_vm_run.sh --name t --skip-setup -- --config=c.py --workdir=/mnt/runs/c"
MOUNT = RUN.replace("--skip-setup", "--skip-setup --mount 10.0.0.2:/share")

# What each step asks of gcloud, as a pattern of its command line.
STEPS = {
    "delete": "queued-resources\\ delete*",
    "create": "queued-resources\\ create*",
    "describe": "queued-resources\\ describe*",
    "scp": "tpu-vm\\ scp*",
    "install": "*uv\\ pip\\ install*",
    "mount": "*mount\\ -t\\ nfs*",
    "program": "*jax_bridges.main*",
}
ON_THE_HOST = """for word; do case "$word" in --command=*) HOME="$here/host" bash -c "${word#--command=}" ;; esac; done"""


class Stubs:
    """A folder of programs that come before those of the machine, and that write down their calls."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = f"{folder}:{os.environ['PATH']}"
        self.program("sleep", "exit 0")
        self.gcloud()

    def program(self, name: str, text: str) -> None:
        head = f"#!/usr/bin/env bash\nhere={self.folder}\n"
        (self.folder / name).write_text(head + text + "\n")
        (self.folder / name).chmod(0o755)

    def gcloud(self, **steps: str) -> None:
        """A cloud in which everything succeeds, but for what these steps do."""
        steps = {"describe": "echo ACTIVE", "program": "echo exit code 0"} | steps
        cases = [
            f'  {pattern}) echo {step} >> "$here/calls"; {steps.get(step, ":")} ;;'
            for step, pattern in STEPS.items()
        ]
        text = ["shift 2", 'case "$*" in']
        self.program("gcloud", "\n".join([*text, *cases, "esac"]))
        (self.folder / "calls").write_text("")

    def host(self, python: str) -> None:
        """One host on which the program's command is really run, with this as its python."""
        (self.folder / "host/jax_bridges/.venv/bin").mkdir(parents=True)
        self.program("host/jax_bridges/.venv/bin/python", python)
        self.gcloud(program=ON_THE_HOST, mount=ON_THE_HOST)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().split()

    def call(self, command: str, **more) -> subprocess.CompletedProcess:
        return call(command, PATH=self.path, TMPDIR=str(self.folder), **more)


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


# -- a share that cannot be mounted ----------------------------------------------------------------
@pytest.mark.parametrize(
    "mount, code, words",
    [
        ('touch "$here/mounted"', 0, ""),
        ("exit 32", 76, "mounting 10.0.0.2:/share failed on a host"),
        ("exit 0", 76, "mounting 10.0.0.2:/share failed on a host"),  # but nothing is there
    ],
)
def test_without_the_share_nothing_is_started(stubs, mount, code, words):
    """The program would write to the host's own disk, which goes with the TPU."""
    stubs.host('echo "$@" > "$here/started"')
    stubs.program("mountpoint", 'test -e "$here/mounted"')
    stubs.program("sudo", 'case "$1" in mount) "$@" ;; *) echo "$@" >> "$here/as_root" ;; esac')
    stubs.program("mount", mount)
    done = stubs.call(MOUNT)
    assert done.returncode == code and words in done.stderr, done.stdout + done.stderr
    assert (stubs.folder / "started").exists() == (code == 0)
    asked = (stubs.folder / "as_root").read_text().splitlines()
    assert "mkdir -p /mnt/runs" in asked and ("chmod a+rwx /mnt/runs" in asked) == (code == 0)


# -- exit codes of tpu_vm_run.sh -------------------------------------------------------------------
@pytest.mark.parametrize("step", ["scp", "install", "mount"])
def test_a_lost_set_up_is_a_lost_host(stubs, step):
    stubs.gcloud(**{step: "exit 1"})
    done = stubs.call(MOUNT.replace("--skip-setup ", ""))
    assert done.returncode == 76 and "see above" in done.stderr, done.stdout + done.stderr
    assert stubs.calls()[-1] == step


@pytest.mark.parametrize(
    "told, code",
    [
        ("echo exit code 0; echo exit code 0", 0),
        ("echo exit code 0; echo exit code 75", 75),
        ("echo exit code 137; echo exit code 134", 137),
        ("echo exit code 134; echo exit code 1", 1),  # the others abort without the one that failed
        ("echo exit code 2", 2),
        ("echo exit code 0; echo exit code 76", 76),  # a host that has not written its code
        ("echo exit code 0; exit 255", 76),  # a host that could not be heard to the end
        ("echo exit code 134; exit 255", 76),
        ("echo exit code 75; exit 255", 75),
        ("echo training", 76),
    ],
)
def test_the_code_is_that_of_the_program(stubs, told, code):
    stubs.gcloud(program=told)
    assert stubs.call(RUN).returncode == code


@pytest.mark.parametrize(
    "python, code",
    [("exit 0", 0), ("exit 75", 75), ("exit 137", 137), ("kill -9 $PPID; exit 1", 76)],
)
def test_a_host_tells_how_the_program_ended(stubs, python, code):
    stubs.host(f"echo training; {python}")
    done = stubs.call(RUN)
    assert done.returncode == code and f"training\nexit code {code}\n" in done.stdout


# -- exit codes of tpu_vm_create.sh ----------------------------------------------------------------
def test_a_tpu_that_is_refused_is_named(stubs):
    stubs.gcloud(create="echo wrong type >&2; exit 1")
    done = stubs.call("tpu_vm_create.sh --name t --type v5")
    assert done.returncode == 3 and "the request for t-queue was refused" in done.stderr
    assert stubs.calls() == ["create"]


def test_a_tpu_that_is_not_granted_is_told_apart(stubs):
    stubs.gcloud(describe="echo FAILED")
    done = stubs.call("tpu_vm_create.sh --name t --type v5")
    assert done.returncode == 4 and "t-queue: FAILED" in done.stdout, done.stderr
    stubs.gcloud(describe="echo WAITING_FOR_RESOURCES")
    done = stubs.call("tpu_vm_create.sh --name t --type v5 --wait 1")
    assert done.returncode == 4 and "t-queue was not granted in 1 minutes" in done.stderr


# -- what is sent ----------------------------------------------------------------------------------
def checkout(folder: Path) -> Path:
    """A small project with these scripts."""
    shutil.copytree(LAUNCH, folder / "launch")
    for name in ("pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE"):
        (folder / name).write_text("committed")
    for name in ("jax_bridges/main.py", "configs/inpaint.py", "configs/gone.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("committed")
    return folder


def sent(stubs, project: Path) -> dict[str, str]:
    """The files, with their text, that reach the hosts."""
    command = RUN.replace("--skip-setup ", "")
    done = stubs.call(command, launch=project / "launch")
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(stubs.folder / "jax_bridges-t.tar.gz") as archive:
        return {m.name: archive.extractfile(m).read().decode() for m in archive if m.isfile()}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_what_lies_in_the_checkout_is_sent(stubs, tmp_path):
    """Edits, new files and odd names too; neither what was deleted nor what git ignores."""
    project = checkout(tmp_path / "project of mine")
    (project / ".gitignore").write_text("runs/\n")
    git = ["git", "-C", project, "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    (project / "configs/inpaint.py").write_text("edited")
    (project / "configs/my own\nconfig.py").write_text("new")
    (project / "configs/gone.py").unlink()
    (project / "runs").mkdir()
    (project / "runs/big").write_text("ignored")
    files = sent(stubs, project)
    assert files["configs/inpaint.py"] == "edited" and files["setup.cfg"] == "committed"
    assert files["configs/my own\nconfig.py"] == "new" and "launch/common.sh" in files
    assert not {"configs/gone.py", "runs/big"} & set(files)


def test_a_checkout_without_git_is_sent(stubs, tmp_path):
    stubs.program("git", "exit 128")
    project = checkout(tmp_path / "project")
    (project / "configs/my.py").write_text("new")
    (project / "jax_bridges/__pycache__").mkdir()
    (project / "jax_bridges/__pycache__/main.pyc").write_text("")
    assert set(sent(stubs, project)) == {
        "pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE",
        "jax_bridges/main.py", "configs/inpaint.py", "configs/gone.py", "configs/my.py",
    }  # fmt: skip


# -- the cluster, and the shell --------------------------------------------------------------------
@pytest.mark.parametrize("code, again", [(0, False), (1, False), (75, True)])
def test_the_slurm_script_requeues_what_was_stopped(stubs, code, again):
    stubs.program("srun", f'echo "$@" > "$here/asked"; exit {code}')
    stubs.program("scontrol", 'echo "$@" > "$here/requeued"')
    stubs.program("sbatch", "SLURM_JOB_ID=42 exec bash")  # runs at once what it is given
    done = stubs.call("slurm.sh --cpus 12 -- --config=c.py --workdir=/scratch/c")
    assert done.returncode == code
    asked = (stubs.folder / "asked").read_text()
    assert asked.endswith("-m jax_bridges.main --hosts=slurm --config=c.py --workdir=/scratch/c\n")
    assert "--cpus-per-task=12 " in asked  # which srun does not take from the job
    requeued = stubs.folder / "requeued"
    assert requeued.exists() == again and (not again or requeued.read_text() == "requeue 42\n")


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_an_old_bash_is_named(tmp_path, script):
    """Here the scripts are made to ask for one that does not exist yet."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    common = tmp_path / "launch/common.sh"
    common.write_text(common.read_text().replace("< 404", "< 9904"))
    done = call(f"{script.name} --help", launch=tmp_path / "launch")
    assert done.returncode == 2 and done.stdout == ""
    assert "this is bash " in done.stderr and "4.4 or newer is needed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
