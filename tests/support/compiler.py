"""How programs of tests are compiled: fast, since they run for milliseconds, and once for all processes."""

from __future__ import annotations

import os

import jax

# One piece a program: there is nothing to split. XLA of jax 0.10 has older emitters of kernels, which
# take half the time; later ones have no such flag, and refuse to start with one that they do not know.
FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
SECONDS = 0.1  # a program that compiled in less is not worth a file


def xla_flags(*more: str) -> str:
    """Value of XLA_FLAGS: those above, then `more`, then the caller's own, which win."""
    given = [f for f in os.environ.get("XLA_FLAGS", "").split() if f not in FLAGS]
    return " ".join([*FLAGS, *more, *given])


def set_up(cache: str) -> None:
    """Before the first program: how this process compiles, and, by its environment, its children."""
    os.environ["XLA_FLAGS"] = xla_flags()
    settings = {
        "jax_compilation_cache_dir": cache,
        "jax_persistent_cache_min_compile_time_secs": SECONDS,
        "jax_persistent_cache_min_entry_size_bytes": 0,
        "jax_disable_most_optimizations": True,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def count_hits() -> list[str]:
    """A list that grows by one with every program that the cache gives from now on."""
    hits = []

    def listen(event: str, **_):
        if event.endswith("/cache_hits"):
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    return hits
