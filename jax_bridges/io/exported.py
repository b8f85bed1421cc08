"""What follows an exported student in its file: the configuration that made it."""

from __future__ import annotations

import json
from typing import Any

# What follows the flatbuffer, whose readers end before it: the configuration, as JSON.
_MARK = b"\njax_bridges.export "


def with_config(data: bytes, config: dict[str, Any], nfe: int) -> bytes:
    """The exported bytes with the configuration and number of calls behind them, for restore.py."""
    return data + _MARK + json.dumps({"config": config, "nfe": nfe}).encode()


def split_export(data: bytes) -> tuple[bytes, dict[str, Any] | None, int]:
    """What `with_config` joined: (exported bytes, configuration, calls); None where there is none."""
    data, mark, text = data.rpartition(_MARK)
    try:
        recorded = json.loads(text) if mark else {}
    except ValueError:  # the mark was part of other bytes, or the file is cut
        recorded = {}
    return data, recorded.get("config"), recorded.get("nfe", 0)
