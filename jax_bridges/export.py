"""A student that runs without this package: `python -m jax_bridges.export WORKDIR OUT --nfe=1`.

`--format=jax` writes a `jax.export` file (StableHLO with the weights inside) for CPU, CUDA and TPU
and any batch size, and OUT.md, which says how to call it with jax alone. `--format=torch` writes
the weights of an ADM as .safetensors under the names of the released checkpoints.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_bridges.choices import look_up
from jax_bridges.command import Parser, run_command
from jax_bridges.command_flags import refuse_given
from jax_bridges.corruptions import fill_hole
from jax_bridges.import_torch.names import flax_to_torch
from jax_bridges.io.atomic import check_name, write_atomic
from jax_bridges.io.bucket import place
from jax_bridges.io.exported import with_config
from jax_bridges.io.safetensors import write_safetensors
from jax_bridges.keys import Purpose, Stream, example_keys, fold
from jax_bridges.metrics import to_uint8
from jax_bridges.models import portable
from jax_bridges.platforms import aim_at
from jax_bridges.players import DISTILL, PLAYERS, full_network, is_teacher, read_player
from jax_bridges.training.methods import check_calls, sample_student
from jax_bridges.training.system import Pair, System
from jax_bridges.typing import PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
IMAGES = {"float32": jnp.float32, "uint8": jnp.uint8}
LIMIT = 2**31 - 2**24  # bytes of a file: flatbuffers, the container of jax.export, ends at 2 GiB


def export_jax(
    config: dict[str, Any],
    params: PyTree,
    nfe: int,
    *,
    images: str = "float32",
    weights: str = "float32",
    platforms: tuple[str, ...] = PLATFORMS,
) -> tuple[bytes, list[tuple[str, jax.ShapeDtypeStruct]]]:
    """The student as one function, weights inside, serialised.

    The function is `restore(xT, [mask,] [label,] seed) -> x0`, batch size free:
      xT: `[B, H, W, C]` corrupted images, float32 in [-1, 1] or uint8; a hole's content is ignored.
      mask: `[B, H, W, 1]` of the type of xT, 1 in the hole; only for tasks that have one.
      label: `[B]` int32; only for class-conditional networks.
      seed: uint32; `config.seed` gives the first B held-out images what the evaluation gave them.
      x0: as xT, in range.

    Args:
      config: recorded by the run.
      params: averaged parameters of the generator.
      nfe: network calls, as many as its method of distillation can give.
      images: type of xT and x0, a key of `IMAGES`.
      weights: type they are stored in, a key of `WEIGHTS`; the computation is the network's.
      platforms: where the file will run.

    Returns:
      The file's bytes, and (name, shape and type) of each argument.

    Raises:
      ValueError: flatbuffers is missing, nfe is out of range, or the file would pass 2 GiB.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise ValueError(
            "jax.export writes its files with flatbuffers: `pip install flatbuffers`."
        ) from None
    stored, image = look_up("type of weights", WEIGHTS, weights), look_up("images", IMAGES, images)
    params = jax.tree.map(lambda a: np.asarray(a).astype(stored), params)
    size = sum(a.nbytes for a in jax.tree.leaves(params))
    if size > LIMIT:
        raise ValueError(
            f"The weights are {size / 2**30:.2f} GiB, and a jax.export file ends at 2 GiB: store "
            "them with --weights=bfloat16, or give --format=torch."
        )
    system = System.create(ConfigDict({**config, "network": portable(config["network"])}))
    distill = ConfigDict(config["distill"])
    check_calls(distill, system.bridge, nfe)
    fill = getattr(system.corruption, "fill", None)

    def restore(*values):
        given = dict(zip(arguments, values, strict=True))
        xT, mask = given["xT"], given.get("mask")
        if image == jnp.uint8:
            xT = xT.astype(jnp.float32) / 127.5 - 1.0
        base = jax.random.fold_in(jax.random.key(given["seed"]), Purpose.EVALUATE)
        keys = example_keys(base, jnp.arange(xT.shape[0], dtype=jnp.uint32))
        if fill is not None:
            xT = fill_hole(xT, mask, fold(keys, Stream.CORRUPT), fill)
        pair = Pair(xT, xT, mask, keys, given.get("label"))
        floats = jax.tree.map(lambda a: jnp.asarray(a).astype(jnp.float32), params)
        keys = fold(keys, Stream.SAMPLE)
        x0 = sample_student(system, distill, floats, pair, nfe, keys, clip=True)
        return to_uint8(x0) if image == jnp.uint8 else x0

    (batch,) = jax.export.symbolic_shape("b")
    shape = (batch, *system.size)
    arguments = {"xT": jax.ShapeDtypeStruct((*shape, system.channels), image)}
    if _has_mask(system):
        arguments["mask"] = jax.ShapeDtypeStruct((*shape, 1), image)
    if getattr(system.student, "num_classes", 0):
        arguments["label"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
    arguments["seed"] = jax.ShapeDtypeStruct((), jnp.uint32)
    with aim_at("any"):
        exported = jax.export.export(jax.jit(restore), platforms=platforms)(*arguments.values())
    return bytes(exported.serialize()), list(arguments.items())


def export_torch(
    config: dict[str, Any], params: PyTree, path: str | Path, player: str = "student"
) -> Path:
    """Writes the weights of an ADM as .safetensors, names and layouts as in the released files.

    A student has `z_in.weight` besides. The configuration goes into the header as JSON.

    Raises:
      ValueError: the network is not an ADM.
    """
    network = {k: v for k, v in full_network(config, player).items() if k != "dtype"}
    if network.pop("name") != "adm":
        raise ValueError(
            f"The network is '{config['network']['name']}': only 'adm' has a PyTorch counterpart; "
            "give --format=jax."
        )
    ndim = config.get("source", {}).get("qkv_ndim", 3)
    recorded = {"format": "pt", "config": json.dumps(config), "player": player}
    return write_safetensors(path, flax_to_torch(params, network, ndim), recorded)


def usage(name: str, config: dict[str, Any], nfe: int, arguments: list) -> str:
    """Markdown: how to call the file `name` with jax alone."""
    images = arguments[0][1].dtype
    say = {
        "xT": "corrupted images" + (", in [-1, 1]" if images == jnp.float32 else ""),
        "mask": "1 where pixels are missing; what xT holds there is ignored",
        "label": "classes",
    }
    lines = [
        f"`{name}`: {config.get('task', 'bridge')} student, {nfe} network call{'s' * (nfe > 1)}. "
        f"Runs on {', '.join(PLATFORMS)} after `pip install jax flatbuffers`:",
        "```python",
        "import jax, numpy as np",
        f'restore = jax.jit(jax.export.deserialize(open("{name}", "rb").read()).call)',
    ]
    for key, leaf in arguments[:-1]:
        shape = ", ".join(["4", *map(str, leaf.shape[1:])]) + "," * (leaf.ndim == 1)
        lines.append(f"{key} = np.zeros(({shape}), np.{leaf.dtype})  # {say[key]}")
    names = ", ".join(key for key, _ in arguments[:-1])
    return "\n".join([*lines, f"x0 = restore({names}, np.uint32(0))  # last: the seed", "```", ""])


def _has_mask(system: System) -> bool:
    if system.corruption.paired:
        return False
    image = jax.ShapeDtypeStruct((1, *system.size, system.channels), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return jax.eval_shape(system.corruption, image, keys).mask is not None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m jax_bridges.export", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("workdir", metavar="WORKDIR", help="what a run (or, for a teacher, an import) left")
    add("out", metavar="OUT", help="file to write")
    add("--format", choices=("jax", "torch"), default="jax")
    add("--nfe", type=int, help="jax: network calls an image (1)")
    add("--images", choices=IMAGES, help="jax: type of xT and x0 (float32)")
    add("--weights", choices=WEIGHTS, help="jax: type they are stored in (float32)")
    known = "whose weights; the student's (torch: if there is one), or a comparison's by its method"
    add("--player", choices=PLAYERS, help=known)
    return parser


def run(argv: list[str]) -> Path:
    """Parses, exports, says what was written. Raises ValueError or OSError."""
    flags = _parser().parse_args(argv)
    out, player = place(flags.out), flags.player
    if flags.format == "jax":
        if player and is_teacher(player):
            raise ValueError("--format=jax exports students; a teacher goes with --format=torch.")
        notes = out.with_name(f"{out.name}.md")
        check_name(notes, out)
        config, params = read_player(flags.workdir, player or "student")
        nfe = 1 if flags.nfe is None else flags.nfe
        types: dict[str, Any] = {
            "images": flags.images or "float32",
            "weights": flags.weights or "float32",
        }
        data, arguments = export_jax(config, params, nfe, **types)
        write_atomic(out, with_config(data, config, nfe))
        text = usage(out.name, config, nfe, arguments)
        write_atomic(notes, text.encode("utf-8", "backslashreplace"))
        print(text, end="")
    else:
        why = "is for --format=jax: leave it out, the weights are written as they are."
        refuse_given(flags, ("nfe", "images", "weights"), why)
        if player is None:
            distilled = (place(flags.workdir) / "checkpoints" / DISTILL).exists()
            player = "student" if distilled else "teacher"
        export_torch(*read_player(flags.workdir, player), out, player)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")
    return out


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on stderr."""
    jax.config.update("jax_captured_constants_warn_bytes", -1)  # they are the point here
    return run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # it lowers for all platforms and runs on none
    sys.exit(main())
