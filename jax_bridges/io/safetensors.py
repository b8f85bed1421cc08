"""Write safetensors files: an 8-byte header size, a JSON header, then the raw tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jax_bridges.io.atomic import open_atomic
from jax_bridges.io.bucket import place

_TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"} | {
    f"{kind}{bits}": f"{kind[0].upper()}{bits}"
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
}


def write_safetensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes named arrays in C order, little-endian; torch, jax and numpy readers take the file.

    Args:
      path: of the file, which appears whole or not at all.
      arrays: name -> array of any floating or integer type.
      metadata: strings kept in the header.

    Raises:
      ValueError: an array whose type the format does not know.
    """
    path, header, end = place(path), {}, 0
    if metadata:
        header["__metadata__"] = dict(metadata)
    for name, array in arrays.items():
        if array.dtype.name not in _TYPES:
            raise ValueError(f"'{name}' is {array.dtype}: safetensors holds {', '.join(_TYPES)}.")
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with open_atomic(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():  # viewed as bytes: ml_dtypes have no buffer of their own
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return path
