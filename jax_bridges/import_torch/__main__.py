"""`python -m jax_bridges.import_torch FILE --as=i2sb|ddbm|dbim|adm WORKDIR`: see `--help`."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import json
import sys
from typing import Any

import jax

from jax_bridges import command
from jax_bridges.command import Parser, run_command
from jax_bridges.corruptions import I2SB_TASKS
from jax_bridges.import_torch.families import FAMILIES
from jax_bridges.import_torch.workdir import SETTINGS, check_options, import_workdir

# Flags that only some families have, by the name of the importer's or the bridge's argument.
_BRIDGE = {
    "i2sb": ("task", "beta_max", "ot_ode"),
    "ddbm": ("schedule", "sigma_min", "sigma_max"),
    "dbim": (),
    "adm": (),
}
_IMPORTER = {"i2sb": ("weights",), "ddbm": (), "dbim": (), "adm": ("condition", "out_channels")}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m jax_bridges.import_torch",
        description="Turns a released PyTorch checkpoint into a folder for "
        "--config.teacher.checkpoint "
        "(i2sb, ddbm, dbim) or --config.teacher.init (adm). No code in the file is run.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help=".pt, .pth, .bin, .ckpt or .safetensors")
    add("workdir", metavar="WORKDIR", help="folder to make")
    add("--as", dest="family", required=True, choices=FAMILIES, help="whose file it is")
    add("--half", action="store_true", help="take float16 or bfloat16 weights, rounded as they are")
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an argument of ADM that no file says, as JSON: head_channels=32 (of OpenAI's networks "
        "of 64, 128, 256 and 512 pixels it is known)",
    )
    add("--task", help=f"i2sb: {', '.join(I2SB_TASKS)}; decides beta-max and ot-ode")
    add("--beta-max", type=float, help="i2sb: 0.3 (jpeg, sr4x) or 1.0 (blur, inpaint)")
    add(
        "--ot-ode",
        action=argparse.BooleanOptionalAction,
        help="i2sb: a bridge without noise (blur, inpaint)",
    )
    add("--weights", choices=("ema", "net"), help="i2sb: moving average (the default) or last")
    add("--schedule", help="ddbm: vp (both released files) or ve")
    add("--sigma-min", type=float, help="ddbm, ve: 0.002 (edges2handbags) or 0.0005 (DIODE)")
    add("--sigma-max", type=float, help="ddbm, ve: 80 (edges2handbags) or 20 (DIODE)")
    add(
        "--condition",
        choices=("none", "duplicate", "extend"),
        help="adm: how the input takes x_T: not, by the same weights (DBIM), by fresh ones (I2SB)",
    )
    add("--out-channels", type=int, help="adm: of the output, 3 by default (drops the variance)")
    return parser


def run(argv: list[str]) -> dict[str, Any]:
    """Parses, imports and says what was recorded. Raises ValueError or OSError."""
    flags = _parser().parse_args(argv)
    family = flags.family

    def given(table: dict[str, tuple[str, ...]]) -> dict[str, Any]:
        for names in table.values():
            for name in names:
                if getattr(flags, name) is not None and name not in table[family]:
                    raise ValueError(f"--{name.replace('_', '-')} is not for --as={family}.")
        return {n: getattr(flags, n) for n in table[family] if getattr(flags, n) is not None}

    options = {}
    for pair in flags.set:
        name, equals, value = pair.partition("=")
        try:
            options[name] = json.loads(value)
        except ValueError:
            raise ValueError(f"--set {pair}: give KEY=VALUE with a JSON value.") from None
    check_options(family, options)
    options |= given(_IMPORTER)
    recorded = import_workdir(
        flags.file,
        family,
        flags.workdir,
        SETTINGS[family](**given(_BRIDGE)),
        options=options,
        half=flags.half,
    )
    use = "init" if family == "adm" else "checkpoint"
    print(f"{flags.workdir}: use it with --config.teacher.{use}={flags.workdir} and")
    for part in ("network", "bridge", "preconditioning", "corruption"):
        if part in recorded:
            print(f"  config.{part} = {recorded[part]}")
    if family == "adm" and not recorded["network"]["conditional"]:
        print(
            f"or as a diffusion prior: --config.teacher.checkpoint={flags.workdir} with zero_shot.tasks"
        )
    return recorded


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on stderr."""
    given = sys.argv[1:] if argv is None else argv
    return run_command(lambda: run(given), sentence=one_sentence)


def one_sentence(error: Exception) -> str:
    """The message; of one with a table under it, the first line and the table's first row."""
    head, *table = command.one_sentence(error).splitlines()
    if not table:
        return head
    return f"{head.rstrip('.')} (first: {' '.join(table[-1 if len(table) == 1 else 1].split())})."


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # arrays of one file: no accelerator is needed
    sys.exit(main())
