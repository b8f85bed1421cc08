"""Paint what is missing on a page of this machine: `python -m jax_bridges.paint [MODEL ...]`.

Prints an address to open in a browser: drop a picture, paint the hole, compare the answers, download the
one you like, with all pixels outside the hole as they were, bit for bit. A MODEL is what
`python -m jax_bridges.restore` takes, each a tab; without one it is what comes with the package. Nothing
leaves this machine: the page is served on 127.0.0.1 under a random address and asks for nothing from
elsewhere. On a machine far away: `ssh -L 8000:127.0.0.1:8000 HOST python -m jax_bridges.paint --port=8000`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from jax_bridges.starting import begin

    begin()

import argparse
import math
import sys
import threading
import webbrowser
from typing import Any

from jax_bridges.command import Parser, keep_compiled, run_command
from jax_bridges.command_flags import given_flags, refuse_empty
from jax_bridges.packed import shipped
from jax_bridges.painting import Desk, Server, make_server
from jax_bridges.players import PLAYERS
from jax_bridges.restoring.pictures import MAX_PIXELS
from jax_bridges.restoring.restorer import Restorer
from jax_bridges.starting import stopping_says


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m jax_bridges.paint", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "models",
        metavar="MODEL",
        nargs="*",
        help="a run, an import, an exported file or a name of restore --list; a tab each; by default what "
        "comes with the package",
    )
    add("--model", choices=PLAYERS, help="whose weights; the student's by default")
    add("--nfe", type=int, help="network calls a tile")
    add("--tile", type=int, help="side of a tile; for imports, which do not record it")
    add("--batch", type=int, help="tiles at once (16)")
    add("--megapixels", type=float, default=50.0, help="largest picture, before and after (50)")
    add("--port", type=int, default=0, help="any that is free by default")
    add("--open", action="store_true", help="open the page in the default browser")
    return parser


def prepare(argv: list[str]) -> tuple[Server, Desk, argparse.Namespace]:
    """The server, listening, and the desk behind it, whose models are not compiled yet.

    Raises ValueError or OSError, in one sentence.
    """
    flags = _parser().parse_intermixed_args(argv)  # flags may stand between names
    refuse_empty(("MODEL", each) for each in flags.models)
    most = int(flags.megapixels * 1e6) if math.isfinite(flags.megapixels) else 0
    if not 0 < most <= MAX_PIXELS:
        raise ValueError(
            f"--megapixels={flags.megapixels:g}: it must be above 0, and at most {MAX_PIXELS / 1e6:g}."
        )
    if not 0 <= flags.port < 2**16:
        raise ValueError(f"--port={flags.port}: it must lie between 0 and {2**16 - 1}.")
    given = given_flags(flags)
    options: dict[str, Any] = {
        name: given[name] for name in ("nfe", "tile", "batch") if name in given
    }
    models = flags.models or list(shipped())
    restorers = [Restorer(path, flags.model or "student", **options) for path in models]
    if not flags.models:  # this page is for painting first of all
        restorers.sort(key=lambda restorer: restorer.model.masks != "needed")
    for restorer in restorers:
        print(f"{restorer.path}: {restorer.model.text}", flush=True)
    desk = Desk(restorers, most)
    try:
        server = make_server(desk, flags.port)
    except OSError as error:
        raise ValueError(
            f"--port={flags.port}: {error.strerror}; leave it out for any that is free."
        ) from error
    return server, desk, flags


def run(argv: list[str]) -> None:
    """Serves the page until the command is stopped."""
    server, desk, flags = prepare(argv)
    threading.Thread(target=desk.warm_up, daemon=True).start()
    stopping_says(": the page has ended")
    print(f"open  {server.address}  (on this machine; Ctrl-C ends it)", flush=True)
    if flags.open:
        webbrowser.open(server.address)
    with server:
        server.serve_forever()


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on stderr."""
    keep_compiled()
    return run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
