"""Several hosts that run one program: how they find each other, who speaks, and when all stop.

JAX knows a pod's devices only after `jax.distributed` was started, before anything else is asked of
it. On one host it must not be started by accident: it would wait for hosts that never come.
"""

from __future__ import annotations

import ctypes
import dataclasses
import glob
import importlib.util
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jax_bridges.starting import REQUEUE

KINDS = ("auto", "none", "tpu", "slurm")
# Flags of a command that may run on several hosts, as `find_hosts` takes them: default and help.
FLAGS = {
    "hosts": ("auto", f"Several hosts: one of {', '.join(KINDS)}; auto finds TPU pods and srun."),
    "coordinator": ("", "Several hosts by hand: HOST:PORT of the first."),
    "processes": (0, "Several hosts by hand: how many processes."),
    "process": (-1, "Several hosts by hand: which one this is, from 0."),
    "lost_after": (
        100,
        "Several hosts: seconds of silence after which one counts as lost, and all end.",
    ),
}
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the hosts of this program find each other.

    Attributes:
      how: what was found, for people to read.
      settings: arguments of `jax.distributed.initialize`.
    """

    how: str
    settings: dict[str, Any]


def find_hosts(
    kind: str = "auto",
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    environment: Mapping[str, str] | None = None,
    tpu_workers: Callable[[Mapping[str, str]], int] | None = None,
) -> Hosts | None:
    """Whether this process is one of several, from flags and the environment; starts nothing.

    Args:
      kind: "auto" looks for a SLURM step of several tasks and a TPU pod of several hosts; "tpu" and
        "slurm" insist on it; "none" is this process alone.
      coordinator, processes, process: "HOST:PORT" of process 0, their number, and this one's: all
        three or none, and they come before what "auto" finds.
      environment: `os.environ` by default.
      tpu_workers: counts the hosts of the TPU this process runs on; 0 without one.

    Returns:
      None for one process alone.

    Raises:
      ValueError: flags that contradict each other or are missing.
    """
    environment = os.environ if environment is None else environment
    if kind not in KINDS:
        raise ValueError(f"--hosts is '{kind}': choose one of {', '.join(KINDS)}.")
    given = [bool(coordinator), processes > 0, process >= 0]
    if any(given):
        if not all(given) or process >= processes or ":" not in coordinator:
            raise ValueError(
                "Hosts given by hand need all of --coordinator=HOST:PORT (of process 0), "
                f"--processes=N and --process=0..N-1; there are '{coordinator}', {processes} and "
                f"{process}."
            )
        if kind != "auto":
            raise ValueError(f"--hosts={kind} and --coordinator are two ways to say it: give one.")
        settings = dict(
            coordinator_address=coordinator, num_processes=processes, process_id=process
        )
        return Hosts(f"process {process} of {processes} at {coordinator}", settings)
    tasks = slurm_tasks(environment)
    if kind == "slurm" and not tasks:
        raise ValueError("--hosts=slurm, but this is no step of SLURM: start it with srun.")
    if kind == "slurm" or (kind == "auto" and tasks > 1):
        return Hosts(f"SLURM step of {tasks} tasks", {"cluster_detection_method": "slurm"})
    if kind == "tpu":
        return Hosts("TPU pod", {})
    if kind == "auto":
        workers = (tpu_workers or count_tpu_workers)(environment)
        if workers > 1:
            return Hosts(f"TPU pod of {workers} hosts", {})
    return None


def slurm_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the SLURM step (srun) this process belongs to; 0 outside of one.

    The script of sbatch and the shell of salloc know the job's tasks too, but are not one of them.
    """
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environment for name in needed):
        return 0
    return int(environment.get("SLURM_STEP_NUM_TASKS", 0))


def count_tpu_workers(environment: Mapping[str, str]) -> int:
    """Hosts of the TPU slice this process runs on; 0 where there is no TPU.

    The network is asked (the machine's own metadata server) only where libtpu is installed and a TPU
    is plugged in.
    """
    if environment.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return 0
    slices = int(environment.get("MEGASCALE_NUM_SLICES", 1))
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):  # GKE
        if environment.get(name):
            return slices * len(environment[name].split(","))
    plugged = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    if not plugged or importlib.util.find_spec("libtpu") is None:
        return 0
    request = urllib.request.Request(
        _METADATA + "worker-network-endpoints", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return slices * len(answer.read().decode().split(","))
    except OSError:  # no such server, or one that knows nothing of a TPU
        return 0


def join(kind: str, coordinator: str, processes: int, process: int, lost_after: int) -> None:
    """Finds the hosts and starts, as the values of FLAGS say, in their order.

    Raises:
      ValueError: flags that contradict each other or are missing.
    """
    if lost_after < 5:
        raise ValueError(f"--lost_after is {lost_after}: it must be at least 5 seconds.")
    start(find_hosts(kind, coordinator, processes, process), lost_after)


def start(hosts: Hosts | None, lost_after: int = FLAGS["lost_after"][0]) -> None:
    """Starts `jax.distributed`; with `None` does nothing. Must come before any other use of JAX.

    Where a host is lost, the others end with a sentence and the code REQUEUE: at once if it was the first
    host, else `lost_after` seconds later.
    """
    global _lost_after
    if hosts is not None:
        _lost_after = lost_after
        ctypes.CDLL(None).signal(signal.SIGABRT, _end_as_lost)
        # A process that ends on an error waits so long for the others, which then are told.
        jax.distributed.initialize(
            **hosts.settings, heartbeat_timeout_seconds=lost_after, shutdown_timeout_seconds=60
        )


_lost_after = 0


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _end_as_lost(number: int) -> None:
    """Of SIGABRT, by which JAX ends, in C++, a process that has lost another; Python would not hear it."""
    os.write(
        2, b"stopped: another host was lost; the same command goes on from the last checkpoint\n"
    )
    os._exit(REQUEUE)


def outlive(error: Exception) -> None:
    """Returns unless a host was lost, which an error in what all compute together may be the first to tell.

    JAX itself finds out later, and then this process ends, see `start`.
    """
    if jax.process_count() > 1 and "RESOURCE_EXHAUSTED" not in str(error):
        time.sleep(_lost_after + 10)


# -- who speaks ----------------------------------------------------------------------------------
def is_chief() -> bool:
    """Whether this is process 0: it alone writes logs, pictures and reports, and prints."""
    return jax.process_index() == 0


def only_chief_prints() -> None:
    """Discards the standard output of the other processes; errors are still printed by all."""
    if not is_chief():
        sys.stdout = open(os.devnull, "w", errors="backslashreplace")


# -- what all do together ------------------------------------------------------------------------
def barrier(name: str) -> None:
    """Returns when all processes are here; `name` must be the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays `[N, ...]` of all processes end to end, in their order and bit for bit, on each.

    Shapes and dtypes must be the same in all of them.
    """
    if jax.process_count() == 1:
        return array
    # As bytes: jax would round float64 to float32 on the way.
    words = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(words))
    return np.concatenate(
        [np.frombuffer(r.tobytes(), array.dtype).reshape(array.shape) for r in rows]
    )


def all_reached_stop(count: int) -> bool:
    """Whether a SIGTERM that came to any process stops all of them now.

    Every process calls it with count = 1, 2, 3, ... at the same places. JAX's coordination service
    takes the largest count that any process had reached when the signal came and says yes to all at
    the next one: no process waits for another, and no device is involved.
    """
    return multihost_utils.reached_preemption_sync_point(count)
