"""For the tests of restore.py: folders with networks of random weights, pictures good and bad."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import resource
import struct
import zlib
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jax_bridges.checkpoints import Checkpoints
from jax_bridges.config import base_config
from jax_bridges.training.system import System

RNG = np.random.default_rng(0)
TILE = 16
BOX = (4, 4, 12, 12)  # the hole of inpaint_center in a tile


def tiny(**changes) -> ConfigDict:
    config = base_config()
    config.data.size = TILE
    config.network.widths, config.network.patch, config.network.groups = (8,), 2, 4
    config.evaluate.teacher_nfe = (1, 2)
    for key, value in changes.items():
        config[key] = value
    return config


def left_behind(workdir: Path, config: ConfigDict) -> Path:
    """Both players as a run's folder holds them, their weights random: every input matters."""
    system, recorded = System.create(config), json.loads(config.to_json_best_effort())
    save_player(workdir, "distill", "generator", system, recorded)
    save_player(workdir, "train", "teacher", system, recorded)
    return workdir


def save_player(
    workdir: Path, stage: str, player: str, system: System, recorded: dict, spread: float = 0.12
) -> None:
    """A checkpoint of one player with random weights of this standard deviation."""
    shapes = jax.eval_shape(lambda k: system.init(k, player), jax.random.key(0))
    rng = np.random.default_rng(len(stage))
    params = jax.tree.map(lambda s: rng.normal(0, spread, s.shape).astype(np.float32), shapes)
    with Checkpoints(workdir / "checkpoints" / stage) as checkpoints:
        checkpoints.save_weights({player: params}, {"stage": stage, "config": recorded}, step=7)


def photograph(height: int, width: int, seed: int = 0, dtype=np.uint8, channels: int = 3):
    """Pixels with structure at several sizes."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, channels))
    for size in (4, 16, 64):
        coarse = rng.normal(0, 1, (height // size + 2, width // size + 2, channels))
        image += coarse.repeat(size, 0).repeat(size, 1)[:height, :width] * size**0.3
    image = (image - image.min()) / (image.max() - image.min())
    return np.rint(image * np.iinfo(dtype).max).astype(dtype)


def pixels(height=11, width=7, channels=3, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@contextlib.contextmanager
def files_of_at_most(size: int):
    """No file may become larger, as if the disk were full: with the system's own error."""
    before, cache = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        "jax_persistent_cache_min_compile_time_secs",
    )
    least = getattr(jax.config, cache)
    jax.config.update(cache, 1e9)  # half a program would be kept
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update(cache, least)


def png(width: int, height: int, bits: int, kind: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG by its numbers; `rows` are the lines, each but the first after the number of its filter."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
    parts += [(name.encode(), data) for name, data in chunks.items()]
    parts += [(b"IDAT", zlib.compress(b"\0" + rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts
    )


def bad_files(folder):
    """Name -> (path, words of the reason)."""
    image = Image.fromarray(pixels(64, 64))
    png, jpeg = encoded(image, "PNG"), encoded(image, "JPEG")
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header
    huge += struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:]
    frames = [Image.fromarray(pixels()) for _ in range(3)]
    contents = {
        "text": (b"hello, this is no picture\n", "not a picture that Pillow can read"),
        "empty": (b"", "the file is empty"),
        "cut_png": (png[: len(png) // 2], "cannot be decoded"),
        "cut_jpeg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "huge": (huge, "more than 100 megapixels"),
        "no_pixels": (b"P6 0 4 255\n", "cannot be decoded|no pixels|not a picture"),
        "animated": (
            encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            "3 frames",
        ),
        "float": (encoded(Image.fromarray(pixels()[..., 0].astype(np.float32)), "TIFF"), "32-bit"),
        "damaged": (png[:60] + bytes(40) + png[100:], "cannot be decoded"),
        "cut_ppm": (b"P6 2 2 65535\n" + bytes(6), "cannot be decoded"),
    }
    for name, (data, words) in contents.items():
        (folder / f"{name}.png").write_bytes(data)
        yield name, folder / f"{name}.png", words
    (folder / "folder.png").mkdir()
    yield "folder", folder / "folder.png", "is a folder"
    yield "absent", folder / "absent.png", "no such file"


def freed(restorer):
    """One whose answers need not shrink to the small picture."""
    other = copy.copy(restorer)
    other.model = dataclasses.replace(restorer.model, shrinks=None)
    return other
