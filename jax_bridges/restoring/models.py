"""What restores tiles: the student or teacher of a work directory, or an exported student.

Both answer `Tiles`, of the size they were trained at, whatever the number of tiles at once. The
noise of a work directory's model is a fixed field over the picture: overlapping tiles see the same
noise where they overlap, so that they agree there, and no batch size changes a result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_bridges.corruptions import keep_known, smooth_fill
from jax_bridges.io.exported import split_export
from jax_bridges.keys import ONLY, PictureStream
from jax_bridges.packed import SUFFIX, find_model, read_packed
from jax_bridges.players import (
    complete_recorded,
    is_baseline,
    is_teacher,
    read_player,
    recorded_config,
)
from jax_bridges.restoring.jobs import Tiles
from jax_bridges.samplers import make_sampler
from jax_bridges.stages.prior import is_prior
from jax_bridges.training.methods import PAIR_METHODS, check_calls, sample_student
from jax_bridges.training.parallel import Parallel
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import Array, PyTree


@dataclasses.dataclass
class Model:
    """A restorer of tiles.

    Attributes:
      text: what it is, for people.
      size: (h, w) of a tile.
      box: (y0, x0, y1, x1) of the one hole it was trained on; None where that varied.
      masks: "needed", "possible" or "none".
      colours: it makes colour pictures of gray ones.
      enlargements: how many pixels, along an axis, it may make of one of a small picture first; the last
        where nothing else is said.
      interpolates: it does so by bicubic interpolation, not by repeating the pixel.
      shrinks: the filter by which such a picture was shrunk, bicubic or pool, where nothing else was lost.
      align: corners of tiles are multiples of it.
      classes: number of classes it must be told one of; 0: none.
      recorded: the configuration beside its weights; of an import that of its network alone.
      answer: `answer(tiles, samples, seed) -> float32 [N, h, w, 3]`, samples int `[N]`.
      varies: another sample, or seed, is another answer; not so of one call from an x_T without noise.
      varies_by_calls: where it does not, it would with more network calls.
      qualities: least and largest of the JPEG files that it undoes; None: it undoes something else.
    """

    text: str
    size: tuple[int, int]
    box: tuple[int, int, int, int] | None
    masks: str
    colours: bool
    enlargements: tuple[int, ...]
    interpolates: bool
    align: int
    classes: int
    recorded: dict[str, Any]
    answer: Callable[[Tiles, np.ndarray, int], np.ndarray]
    varies: bool = True
    varies_by_calls: bool = False
    shrinks: str | None = None
    qualities: tuple[int, int] | None = None


def open_model(
    path: str | os.PathLike,
    player: str = "student",
    *,
    nfe: int | None = None,
    sampler: str | None = None,
    tile: tuple[int, int] | None = None,
    label: int | None = None,
    batch: int = 16,
) -> Model:
    """A model from a folder (a run's, or an import of a released teacher) or a file, or one that ships.

    Args:
      path: a folder, a file of `jax_bridges.export` or of `packed.write_packed`, or a name of
        `packed.shipped`, as "photos:inpaint".
      player: one of PLAYERS (jax_bridges/players.py).
      nfe: network calls a tile; the most it was trained for (student) or evaluated at (teacher) by
        default. An exported file has its own.
      sampler: of a teacher; the run's own by default.
      tile: (h, w), for an import alone, which does not record the size it was trained at.
      label: class, for a network that has classes.
      batch: tiles at once; rounded up to a multiple of the number of devices.

    Raises:
      FileNotFoundError, ValueError: one sentence.
    """
    path = find_model(path)
    if path.is_dir():
        return _from_workdir(path, player, nfe, sampler, tile, label, batch)
    if path.suffix == SUFFIX:
        packed, recorded, params = read_packed(path)
        if player not in ("student", packed) or tile:
            given = "--tile" if tile else f"--model={player}"
            raise ValueError(f"{path} is a {packed} by itself: leave {given} out.")
        return _of_player(recorded, params, packed, nfe, sampler, None, label, batch)
    given = {f"--model={player}": player != "student", "--sampler": sampler, "--tile": tile}
    for flag in (name for name, value in given.items() if value):
        raise ValueError(f"{path} is an exported student: {flag} goes with the WORKDIR of a run.")
    return _from_export(path, nfe, label)


def _refuse_prior(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if is_prior(recorded_config(path, "teacher")):
            raise ValueError(
                f"{path} holds a diffusion prior or a plain network, no bridge: give --solver and "
                "--operator, or train it."
            )


class _System(System):
    """Known pixels are those of the picture, `pair.x0`: x_T may hide more than the hole."""

    def known(self, predict, pair: Pair):
        if pair.mask is None or not self.keep_known:
            return predict

        def wrapped(xt, t, xT, *z):
            return keep_known(predict(xt, t, xT, *z), pair.x0, pair.mask)

        return wrapped


def _from_workdir(path, player, nfe, sampler, tile, label, batch) -> Model:
    _refuse_prior(path)  # which has no student; that would be said first
    recorded, params = read_player(path, player)
    check_tile(path, recorded, tile, "256 (I2SB, DBIM, DIODE) or --tile=64 (edges2handbags)")
    return _of_player(recorded, params, player, nfe, sampler, tile, label, batch)


def _of_player(recorded, params, player, nfe, sampler, tile, label, batch) -> Model:
    config = complete_recorded(recorded, tile)
    system = _System.create(config)
    if not is_teacher(player):
        if sampler:
            raise ValueError("--sampler is of a teacher (--model=teacher): a student has its own.")
        nfe = max(config.evaluate.student_nfe) if nfe is None else nfe
        check_calls(config.distill, system.bridge, nfe)
    else:
        chosen = make_sampler(sampler or config.evaluate.sampler)
        nfe = max(config.evaluate.teacher_nfe) if nfe is None else nfe
        times = chosen.grid(system.bridge, nfe)
    network = system.teacher if is_teacher(player) else system.student
    classes = getattr(network, "num_classes", 0) or 0
    check_label(label, classes)

    def sample(params: PyTree, given: dict[str, Array], key: Array) -> Array:
        image, mask = given["image"], given.get("mask")
        noise = noise_field(key, given["samples"], given["origin"], system.size)
        xT = tile_source(system.corruption, image, given.get("blank"), noise)
        labels = jnp.full(len(image), label, jnp.int32) if classes else None
        pair = Pair(image, xT, None if mask is None else mask[..., None], key, labels)
        steps = noise(PictureStream.STEPS)
        if not is_teacher(player):
            return sample_student(system, config.distill, params, pair, nfe, steps, clip=True)
        denoise = system.denoiser(params, pair)
        return jnp.clip(chosen.sample(denoise, system.bridge, xT, times, steps), -1.0, 1.0)

    parallel = Parallel.create("fsdp")
    batch = -(-batch // parallel.devices) * parallel.devices
    params = jax.device_put(params, parallel.shardings(params))
    run = parallel.map(sample)

    def answer(tiles: Tiles, samples: np.ndarray, seed: int) -> np.ndarray:
        given = {"image": tiles.image, "origin": tiles.origin, "samples": samples.astype(np.int32)}
        if tiles.mask is not None:
            given |= {"mask": tiles.mask, "blank": tiles.blank}
        key, out = jax.random.key(seed), []
        for start in range(0, len(tiles), batch):
            part = {k: _padded(v[start : start + batch], batch) for k, v in given.items()}
            out.append(run(params, part, key))
        return np.concatenate(out)[: len(tiles)]

    text = f"{config.task} {player}, {nfe} network call{'s' * (nfe > 1)} a tile"
    model = _model(text, system, classes, recorded, answer)
    still = _is_still(system.corruption)
    if is_baseline(player):
        model.varies = (
            PAIR_METHODS[config.distill.method].varies or system.corruption.fills == "noise"
        )
    else:
        model.varies = not still or nfe > 1 or not is_teacher(player)
        model.varies_by_calls = not model.varies
    return model


def _is_still(corruption: Any) -> bool:
    """Whether `tile_source` makes x_T of a picture without noise."""
    if corruption.masks == "none":
        return not (corruption.greys and len(corruption.chain) == 1 and corruption.noise_std)
    return corruption.masks == "needed" and corruption.fills != "noise"


def _from_export(path: Path, nfe: int | None, label: int | None) -> Model:
    data, recorded, calls = split_export(path.read_bytes())
    if recorded is None:
        raise ValueError(
            f"{path} is no file of `python -m jax_bridges.export`, or one of an older version, which does "
            "not say what it was trained for: export the run again."
        )
    if nfe not in (None, calls):
        raise ValueError(f"{path} was exported with {calls} network calls: leave --nfe out.")
    try:
        exported = jax.export.deserialize(bytearray(data))
    except Exception as error:  # flatbuffers and XLA raise many kinds for damaged files
        raise ValueError(f"{path} is damaged ({error}): export the run again.") from error
    config = complete_recorded(recorded, None)
    system = System.create(config)
    images = exported.in_avals[0].dtype
    classes = getattr(system.student, "num_classes", 0) or 0
    check_label(label, classes)
    uint8, wants_mask = images == jnp.uint8, len(exported.in_avals) == 3 + bool(classes)

    @jax.jit
    def run(tile: dict[str, Array]) -> Array:
        xT = tile_source(system.corruption, tile["image"], None, None)
        xT = jnp.rint((xT + 1) * 127.5) if uint8 else xT
        values = [xT[None].astype(images)]
        if wants_mask:  # the file keeps as known what is not blank
            values.append(tile["blank"][None, ..., None].astype(images))
        if label is not None:  # where there are classes, see `check_label`
            values.append(jnp.full(1, label, jnp.int32))
        x0 = exported.call(*values, tile["seed"])[0].astype(jnp.float32)
        return x0 / 127.5 - 1 if uint8 else x0

    def answer(tiles: Tiles, samples: np.ndarray, seed: int) -> np.ndarray:
        given = {"image": tiles.image, "seed": tile_seeds(seed, samples, tiles.origin)}
        if wants_mask:
            whole = np.ones(tiles.image.shape[:3], bool)
            given["blank"] = whole if tiles.blank is None else tiles.blank
        # One by one: within the file, noise belongs to an image's place in its batch.
        out = [run({k: v[i] for k, v in given.items()}) for i in range(len(tiles))]
        return np.stack([np.asarray(x0) for x0 in out])

    text = f"{config.task} student, exported, {calls} network call{'s' * (calls > 1)} a tile"
    model = _model(text, system, classes, recorded, answer)
    if model.masks == "possible":  # the fill of a mixture's hole is not in the file
        model.masks = "none"
    return model


def noise_field(key: Array, samples: Array, origin: Array, size: tuple[int, int]):
    """`noise(stream)(draw) -> [B, h, w, 3]`: standard normal noise that belongs to places.

    The noise of a pixel depends on the seed, the sample's number, the stream, the draw and the
    pixel's place in the picture alone.

    Args:
      key: of the seed.
      samples: int32 `[B]`, which sample a tile is of.
      origin: int32 `[B, 2]`, (y, x) of the tile's corner.
      size: (h, w) of a tile.
    """

    def noise(stream: PictureStream):
        def draw(number: Array | int) -> Array:
            def of_tile(sample, corner):
                base = jax.random.fold_in(jax.random.fold_in(key, sample), stream)
                base = jax.random.fold_in(base, jnp.asarray(number, jnp.int32))

                def of_row(y):
                    row = jax.random.fold_in(base, y)
                    columns = corner[1] + jnp.arange(size[1])
                    keys = jax.vmap(lambda x: jax.random.fold_in(row, x))(columns)
                    return jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)

                return jax.vmap(of_row)(corner[0] + jnp.arange(size[0]))

            return jax.vmap(of_tile)(samples, origin)

        return draw

    return noise


def tile_seeds(seed: int, samples: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """uint32 `[N]`: a seed of its own for each tile, from its place and its sample's number."""
    rows = zip(samples, origin, strict=True)
    values = [zlib.crc32(struct.pack("<qqqq", seed, int(s), int(y), int(x))) for s, (y, x) in rows]
    return np.array(values, np.uint32)


def tile_source(corruption: Any, image: Array, blank: Array | None, noise) -> Array:
    """x_T of tiles: what a corruption adds that a picture cannot have, holes' fill above all."""
    if corruption.greys and len(corruption.chain) == 1:
        xT = jnp.broadcast_to(corruption.forward(image), image.shape)
        if corruption.noise_std and noise is not None:
            xT = xT + corruption.noise_std * noise(PictureStream.FILL)(ONLY)
        return xT
    if blank is None:
        return image
    fill = corruption.fills
    if fill == "smooth":
        return smooth_fill(image, blank[..., None])
    value = (
        noise(PictureStream.FILL)(ONLY) if fill == "noise" else {"zero": 0.0, "white": 1.0}[fill]
    )
    return jnp.where(blank[..., None], value, image)


def _model(text: str, system: System, classes: int, recorded: dict[str, Any], answer) -> Model:
    corruption, size = system.corruption, system.size
    raster = math.gcd(corruption.raster, *size)  # the model knows where JPEG's blocks lie
    return Model(
        text=text,
        size=size,
        box=corruption.hole_box(*size),
        masks=corruption.masks,
        colours=corruption.paired or corruption.greys,
        enlargements=corruption.enlargements,
        interpolates=corruption.interpolates,
        # And which of an enlarged pixel's parts is which, interpolated or not.
        align=math.lcm(raster, corruption.enlarges),
        classes=classes,
        recorded=recorded,
        answer=answer,
        shrinks=corruption.shrinks,
        qualities=corruption.qualities,
    )


def check_label(label: int | None, classes: int) -> None:
    """ValueError unless a label is given where there are classes, one of them, and nowhere else."""
    if classes and (label is None or not 0 <= label < classes):
        given = "" if label is None else f", not {label}"
        raise ValueError(f"The network has classes: give --label=0 to {classes - 1}{given}.")
    if label is not None and not classes:
        raise ValueError("The network has no classes: leave --label out.")


def check_tile(
    path: str | os.PathLike,
    recorded: dict[str, Any],
    tile: int | tuple[int, int] | None,
    known: str,
) -> None:
    """ValueError unless a tile's size is given where, and only where, it is not recorded, and fits.

    Args:
      recorded: configuration of a run, or of an import, whose network is an ADM.
      known: sizes that released checkpoints have.
    """
    if "data" in recorded and tile is not None:
        raise ValueError(f"{path} records the size it was trained at: leave --tile out.")
    if "data" not in recorded and tile is None:
        raise ValueError(
            f"{path} is an import, which does not record the size it was trained at: give --tile={known}."
        )
    if tile is None:
        return
    sides = (tile, tile) if isinstance(tile, int) else tile
    multiple = 2 ** (len(recorded["network"]["channel_mult"]) - 1)
    if any(n < 1 or n % multiple for n in sides):
        said = sides[0] if len(set(sides)) == 1 else sides
        raise ValueError(f"--tile={said}: for this network it must be a multiple of {multiple}.")


def _padded(a: np.ndarray, size: int) -> np.ndarray:
    """`a` with its last entry repeated up to `size` entries."""
    return np.concatenate([a, np.repeat(a[-1:], size - len(a), axis=0)]) if len(a) < size else a
