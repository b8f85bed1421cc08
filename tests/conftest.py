"""What all tests share: compiled programs are kept in pytest's cache, so that a second run is fast,
and not in memory, so that a laptop's is enough."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.support import compiler


def pytest_configure(config):
    if hasattr(config, "cache"):  # not with -p no:cacheprovider
        compiler.set_up(str(config.cache.mkdir("jax")))


def pytest_xdist_auto_num_workers(config):
    """Two for a folder, of about 3 GB each, as far as there are cores; one file needs no second."""
    folder = any(Path(arg).is_dir() for arg in config.args)
    return min(2, os.cpu_count() or 1) if folder else 0


_modules = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def room():
    """JAX keeps every program that it has compiled: those of the whole suite would take 7 GB."""
    yield
    if next(_modules) % 8 == 0:  # not after each: small programs are shared, and quick to forget
        jax.clear_caches()


@pytest.fixture
def optimised():
    """For programs that run for seconds: compiled as a user's are."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def handlers():
    """A run takes over the signals; pytest gets them back."""
    before = [(s, signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def float64():
    """Closed forms are compared to nine digits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of 24 random images of 16x16 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        array = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture
def a_cudnn(monkeypatch):
    """JAX asks for its version as soon as it is used."""
    import jax._src.cudnn.fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
