"""launch/*.yaml: what SkyPilot and xpk read in them, where they are installed, without a cloud.

They are programs of half a gigabyte with environments of their own (`uv tool install 'skypilot[gcp]'`,
`uv tool install xpk`), so they are not part of the extra [test]; what needs neither is asked here always.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from jax_bridges.hosts import FLAGS
from jax_bridges.starting import REQUEUE
from tests.support import ROOT, pages
from tests.support.processes import result_of
from tests.support.scripts import LAUNCH

SKY, JOBSET = (LAUNCH / name for name in ("sky.yaml", "jobset.yaml"))


def tool(name: str) -> str:
    """The path of a program, or a skipped test that says which is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}, which is not on PATH")
    return found


def commands(path) -> list[str]:
    """The commands in the comment at the top of a file, one a line, their lines joined."""
    head = re.match(r"(#.*\n)+", path.read_text())[0]
    lines = re.findall(r"^#   (.*)$", head, flags=re.MULTILINE)
    return re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()


def pod() -> dict:
    (job,) = yaml.safe_load(JOBSET.read_text())["spec"]["replicatedJobs"]
    return job["template"]["spec"]


# -- always ----------------------------------------------------------------------------------------
def test_sky_starts_again_what_was_stopped_and_nothing_else():
    recovery = yaml.safe_load(SKY.read_text())["resources"]["job_recovery"]
    assert recovery == {"recover_on_exit_codes": [REQUEUE], "max_restarts_on_errors": 0}


@pytest.mark.parametrize(
    "extras, nodes, expected",
    [
        ("tpu", "4", ["--hosts=auto"]),
        ("cuda", "1", ["--hosts=none"]),
        ("cuda", "2", ["--coordinator=10.0.0.1:8476", "--processes=2", "--process=1"]),
    ],
)
def test_sky_tells_each_host_of_the_others(tmp_path, extras, nodes, expected):
    """Its script, run with a python that says what it was given, and with its own exit code."""
    python = tmp_path / "jax_bridges/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 75\n')
    python.chmod(0o755)
    task = yaml.safe_load(SKY.read_text())
    more = {
        "WORKDIR": "gs://b/a run", "OPTIONS": "--config.train.steps=3 --config.seed=1",
        "EXTRAS": extras, "SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "HOME": str(tmp_path), "PATH": os.environ["PATH"],
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", task["run"]], env=task["envs"] | more, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (REQUEUE, "")
    assert done.stdout.splitlines() == [
        "-m", "jax_bridges.main", *expected, "--config=configs/inpaint.py", "--workdir=gs://b/a run",
        "--config.train.steps=3", "--config.seed=1",
    ]  # fmt: skip
    assert {word.split("=")[0].removeprefix("--") for word in expected} <= set(FLAGS)


def test_what_both_install_and_start_is_there():
    task, container = yaml.safe_load(SKY.read_text()), pod()["template"]["spec"]["containers"][0]
    assert (
        '".[$EXTRAS,gcs]"' in task["setup"]
        and '".[$EXTRAS,gcs]"' in (LAUNCH / "Dockerfile").read_text()
    )
    done = subprocess.run(["bash", "-n"], input=task["setup"] + task["run"], text=True)
    assert done.returncode == 0
    assert container["command"] == ["python", "-m", "jax_bridges.main"]
    assert (ROOT / task["envs"]["CONFIG"]).exists()


def test_jobset_starts_again_what_was_stopped_and_not_what_was_refused():
    """The hosts of a v5e-16, all of which end with any of them."""
    job = pod()
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert (rule["action"], codes["operator"], codes["values"]) == ("FailJob", "In", [1, 2])
    assert REQUEUE not in codes["values"] and job["backoffLimit"] == 0
    limits = job["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert job["parallelism"] * limits["google.com/tpu"] == 16


# -- by the tools themselves -----------------------------------------------------------------------
READ = """
import json, sys, sky
task = sky.Task.from_yaml_config(
    sky.utils.yaml_utils.safe_load(open(sys.argv[1])), env_overrides=[("WORKDIR", "gs://b/run")]
)
(one,) = task.resources
print("RESULT " + json.dumps(dict(
    accelerators=one.accelerators, args=one.accelerator_args, spot=one.use_spot, cloud=str(one.cloud),
    recovery=one.job_recovery, envs=task.envs, nodes=task.num_nodes,
)))
"""


@pytest.mark.slow
def test_skypilot_reads_it(tmp_path):
    """By its own parser, schema and all; a task without a bucket is refused."""
    with open(tool("sky")) as script:
        python = script.readline().removeprefix("#!").strip()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
    }
    read = result_of(python, "-c", READ, SKY, cwd=ROOT, env=environment)
    assert read["accelerators"] == {"tpu-v5litepod-16": 1} and read["cloud"] == "GCP"
    assert read["spot"] is True and read["nodes"] == 1
    assert read["args"] == {"runtime_version": "v2-alpha-tpuv5-lite"}
    assert read["recovery"]["recover_on_exit_codes"] == [75]
    assert read["envs"]["WORKDIR"] == "gs://b/run" and read["envs"]["EXTRAS"] == "tpu"
    wrong = READ.replace('env_overrides=[("WORKDIR", "gs://b/run")]', "")
    done = subprocess.run(
        [python, "-c", wrong, SKY], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0 and "WORKDIR" in done.stderr


@pytest.mark.slow
def test_xpk_makes_the_same_jobset(tmp_path):
    """From the command in the file's head, by a dry run; more is its own queue and image's wrapping."""
    xpk = tool("xpk")
    (command,) = (line for line in commands(JOBSET) if line.startswith("xpk workload create"))
    name = r"\b(CLUSTER|PROJECT|ZONE|REGISTRY|BUCKET)\b"
    words = shlex.split(
        re.sub(name, lambda m: {"ZONE": "us-west4-a"}.get(m[0], m[0].lower()), command)
    )
    done = subprocess.run(
        [xpk, *words[1:], "--dry-run"], capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    text = re.search(r"^apiVersion: jobset.*?(?=^\[XPK\])", done.stdout, flags=re.M | re.S)[0]
    theirs, ours = yaml.safe_load(text), yaml.safe_load(JOBSET.read_text())
    for key in ("apiVersion", "kind"):
        assert theirs[key] == ours[key]
    assert theirs["metadata"]["annotations"] == ours["metadata"]["annotations"]
    assert theirs["spec"]["failurePolicy"] == ours["spec"]["failurePolicy"]
    (their_job,), (our_job,) = (each["spec"]["replicatedJobs"] for each in (theirs, ours))
    assert (their_job["name"], their_job["replicas"]) == (our_job["name"], our_job["replicas"])
    theirs, ours = (each["template"]["spec"] for each in (their_job, our_job))
    for key in ("parallelism", "completions", "backoffLimit"):
        assert theirs[key] == ours[key]
    # What it lets be started again holds 75 and the signals, what ours ends does not.
    (rule,) = theirs["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["operator"] == "NotIn" and 75 in rule["onExitCodes"]["values"]
    assert not {1, 2} & set(rule["onExitCodes"]["values"])
    theirs, ours = (each["template"]["spec"] for each in (theirs, ours))
    same = "restartPolicy nodeSelector hostNetwork dnsPolicy terminationGracePeriodSeconds".split()
    for key in same:
        assert theirs[key] == ours[key], key
    (theirs,), (ours,) = (each["containers"] for each in (theirs, ours))
    assert theirs["name"] == ours["name"] and theirs["resources"] == ours["resources"]
    program = " ".join([*ours["command"], *ours["args"]]).replace("BUCKET", "bucket")
    assert f"({program}) & PID=$!" in theirs["command"][-1]


# -- the page ----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sky", "xpk"])
def test_the_page_calls_them_by_options_that_they_have(name, tmp_path):
    path, called = tool(name), 0
    for block in pages.blocks("docs/pod.md", "sh"):
        for words in map(shlex.split, pages.lines(block)):
            if words[0] != name:
                continue
            sub = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)]
            options = {word.split("=")[0] for word in words if word.startswith("--")}
            done = subprocess.run(
                [path, *sub, "--help"], capture_output=True, text=True,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            )  # fmt: skip
            assert done.returncode == 0, words
            assert options <= set(re.findall(r"--[a-z][a-z-]*", done.stdout)), words
            called += 1
    assert called > 1
