"""A process that measures rows, one a line of its input: `python -m benchmarks.lab.worker`."""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback

from jax_bridges.io.atomic import write_atomic

from . import LeftOut


def answer(request: dict) -> dict:
    """What a row's function returns, with its status; its error, in one line, where it fails."""
    module, _, function = request["work"].partition(":")
    start = time.perf_counter()
    try:
        work = getattr(importlib.import_module(module), function)
        found = {"status": "ok", **work(**request["arguments"])}
        json.dumps(found, allow_nan=False)
    except Exception as error:
        traceback.print_exc()  # into the log
        lines = str(error).strip().splitlines() or [""]
        if isinstance(error, LeftOut):
            found = {"status": "left out", "error": lines[0]}
        else:
            found = {"status": "failed", "error": f"{type(error).__name__}: {lines[0][:300]}"}
    return {**found, "wall_seconds": round(time.perf_counter() - start, 2)}


def main() -> None:
    """Reads requests until the input ends; an answer is a file, there once it is whole."""
    for line in sys.stdin:
        request = json.loads(line)
        print(f"== {request['row']}", flush=True)
        write_atomic(request["answer"], json.dumps(answer(request)).encode())


if __name__ == "__main__":
    main()
