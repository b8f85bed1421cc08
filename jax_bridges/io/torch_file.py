"""Read PyTorch checkpoints and safetensors files into numpy: no torch, no code of theirs run.

A `.pt` file is a pickle (a small program that may name any Python function) plus raw tensor bytes,
in a zip since torch 1.6 and in one plain stream before. The unpickler here resolves a fixed list
of names, to inert strings and to methods of its own, so the file can build tensors and plain
containers and nothing else. No tensor byte is copied: arrays are views of a private memory map.
"""

import json
import math
import mmap
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jax_bridges.io.bucket import is_bucket, place

_DTYPES = {
    name: np.dtype(name)
    for name in ("float64", "float32", "float16", "complex128", "complex64", "bool")
    + ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
} | {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
}
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "UntypedStorage": "uint8",
}
_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "BOOL": "bool",
} | {
    f"{kind[0].upper()}{bits}": f"{kind}{bits}"
    for kind in ("int", "uint")
    for bits in (8, 16, 32, 64)
}
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # the first pickle is this integer
_LEGACY_PROTOCOL = 1001
_KNOWN_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer: the real file was not fetched (`git lfs pull`)",
    b"\x1f\x8b": "gzip-compressed: unpack it first",
    b"BZh": "bzip2-compressed: unpack it first",
    b"\xfd7zXZ": "xz-compressed: unpack it first",
    b"\x89HDF": "an HDF5 (Keras) file, not a PyTorch one",
    b"\x93NUMPY": "a NumPy .npy file: read it with numpy.load",
    b"GGUF": "a GGUF file, not a PyTorch one",
    b"{": "a JSON text, not a PyTorch checkpoint",
}


class _Storage(NamedTuple):
    """A flat run of elements in the file; `data` is None where only the layout is wanted."""

    data: memoryview | None
    dtype: np.dtype


def read_torch(path: str | Path) -> Any:
    """Read a `.pt`/`.pth`/`.bin`/`.ckpt` (zip or legacy) or `.safetensors` file; the format is told
    from the content.

    Returns what was saved: dicts (OrderedDict where torch had one), lists, tuples, sets, numbers,
    strings, None, with every tensor and parameter as a numpy array of the same shape, dtype
    (bfloat16 and float8 through ml_dtypes) and values; `torch.dtype` and `torch.device` objects
    come back as strings, `torch.Size` as a tuple. Views of one storage share memory here too.
    The arrays are views of a private copy-on-write map of the file: nothing is read before it is
    used, and writing to one never reaches the file. Safetensors metadata is left out.

    Raises FileNotFoundError where there is no such file; ValueError, in one sentence, for a file
    that is damaged, foreign, or names anything but tensors and plain containers. Code in the file
    is never run.
    """
    path = place(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint file.")
    if not path.is_file():
        raise ValueError(f"{path}: is a folder; name one .pt, .pth or .safetensors file in it.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (an interrupted download?); fetch it again.")
    if is_bucket(path):
        data = memoryview(bytearray(path.read_bytes()))
    else:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    head = bytes(data[:512])
    if head.startswith(b"PK"):
        return _read_zip(path, data)
    if head[4:9] == b"\0\0\0\0{":  # the upper half of the header's size, its first character
        return _read_safetensors(path, data)
    if head.startswith(b"\x80"):
        return _read_legacy(path, data)
    raise ValueError(f"{path}: {_describe(head)}.")


def _describe(head: bytes) -> str:
    """What a file that starts with `head` seems to be, for an error message."""
    for start, what in _KNOWN_STARTS.items():
        if head.startswith(start):
            return f"this is {what}"
    if head[257:262] == b"ustar":
        return (
            "this is a tar archive (torch before 0.1.10 wrote those); load it with torch and save "
            "its state_dict again"
        )
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page, not a checkpoint: the download link led to an HTML page"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "this is a text file, not a PyTorch checkpoint"
    return (
        "not a PyTorch checkpoint or a safetensors file, or its beginning is damaged (first bytes "
        f"{head[:8].hex(' ')})"
    )


def _damaged(path: Path, detail: str) -> ValueError:
    return ValueError(f"{path}: the file is cut short or damaged ({detail}); fetch it again.")


def _read_zip(path: Path, data: memoryview) -> Any:
    """torch >= 1.6: NAME/data.pkl and one uncompressed NAME/data/KEY for each storage."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # besides BadZipFile, whatever a damaged field leads to
        raise _damaged(path, f"zip: {error}") from None
    with archive:
        entries = {info.filename: info for info in archive.infolist()}
        prefix = next((n[: -len("data.pkl")] for n in entries if n.endswith("/data.pkl")), None)
        if prefix is None:
            if any(name.endswith(".npy") for name in entries):
                raise ValueError(f"{path}: this is a NumPy .npz file: read it with numpy.load.")
            raise ValueError(
                f"{path}: a zip archive, but not a PyTorch checkpoint (no data.pkl in it)."
            )
        if f"{prefix}constants.pkl" in entries:
            raise ValueError(
                f"{path}: a TorchScript archive, which holds code; load it with torch.jit.load and "
                "save its state_dict() with torch.save."
            )

        def content(name: str) -> memoryview:
            info = entries.get(prefix + name)
            if info is None:
                raise _damaged(path, f"{prefix}{name} is missing")
            if info.compress_type != zipfile.ZIP_STORED:  # re-zipped by hand
                try:
                    return memoryview(archive.read(info))
                except Exception as error:  # zlib.error, BadZipFile, RuntimeError (password)
                    raise _damaged(path, f"{info.filename}: {error}") from None
            if bytes(data[info.header_offset : info.header_offset + 4]) != b"PK\x03\x04":
                raise _damaged(path, f"{prefix}{name} is not where the index says")
            lengths = data[info.header_offset + 26 : info.header_offset + 30]
            start = info.header_offset + 30 + sum(struct.unpack("<HH", lengths))
            return data[start : start + info.file_size]

        if "byteorder" in {n[len(prefix) :] for n in entries} and content("byteorder") != b"little":
            raise ValueError(f"{path}: written on a big-endian machine; save it again on another.")
        storages: dict[str, memoryview] = {}

        def storage(dtype: np.dtype, key: str, numel: int) -> _Storage:
            if key not in storages:
                storages[key] = content(f"data/{key}")
            if storages[key].nbytes < numel * dtype.itemsize:
                raise _damaged(path, f"storage {key} is too short")
            return _Storage(storages[key], dtype)

        stream = _Stream(content("data.pkl"))
        return _unpickle(path, stream, storage)


def _read_legacy(path: Path, data: memoryview) -> Any:
    """torch < 1.6: pickles of magic number, protocol, system, the object and the storage keys, then
    for each key an int64 element count and the raw elements.

    The object comes before its storages' places are known, so it is unpickled twice: once to
    learn the storages' sizes, once to build the views.
    """
    if _LEGACY_MAGIC not in bytes(data[:32]):
        raise ValueError(
            f"{path}: a plain Python pickle, not a PyTorch checkpoint; read it with the program "
            "that wrote it and save the arrays as .npz, .safetensors or with torch.save."
        )
    stream = _Stream(data)
    _magic, protocol, system = (_unpickle(path, stream) for _ in range(3))
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise ValueError(f"{path}: legacy PyTorch format {protocol!r} is unknown (known: 1001).")
    if not system.get("little_endian", True):
        raise ValueError(f"{path}: written on a big-endian machine; save it again on another.")
    sizes: dict[str, tuple[np.dtype, int]] = {}
    start = stream.position

    def note(dtype: np.dtype, key: str, numel: int) -> _Storage:
        if numel < 0:
            raise ValueError(f"storage {key} of {numel} elements")
        sizes[str(key)] = (dtype, numel)
        return _Storage(None, dtype)

    _unpickle(path, stream, note)
    keys = _unpickle(path, stream)
    if not isinstance(keys, list) or set(sizes) != set(map(str, keys)):
        raise _damaged(path, "the list of storages does not match the tensors")
    places: dict[str, memoryview] = {}
    position = stream.position
    for key in map(str, keys):
        dtype, numel = sizes[key]
        end = position + 8 + numel * dtype.itemsize
        if end > len(data) or struct.unpack_from("<q", data, position)[0] != numel:
            raise _damaged(path, f"storage {key} of {numel} {dtype} is not there")
        places[key] = data[position + 8 : end]
        position = end
    stream.position = start
    return _unpickle(path, stream, lambda dtype, key, numel: _Storage(places[str(key)], dtype))


def _read_safetensors(path: Path, data: memoryview) -> dict[str, np.ndarray]:
    """int64 header size, JSON header {name: {dtype, shape, data_offsets}}, then the raw tensors."""
    size = struct.unpack_from("<Q", data)[0]
    if size > len(data) - 8:
        raise _damaged(path, "safetensors header is longer than the file")
    try:
        header = json.loads(bytes(data[8 : 8 + size]))
        header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            if entry["dtype"] not in _SAFETENSORS:
                raise ValueError(f"tensor {name} has the unknown type {entry['dtype']}")
            dtype, shape = _DTYPES[_SAFETENSORS[entry["dtype"]]], tuple(entry["shape"])
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= len(data) - 8 - size:
                raise ValueError(f"tensor {name} lies outside the file")
            if end - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"tensor {name} has {end - start} bytes for {shape} {dtype}")
            arrays[name] = np.ndarray(shape, dtype, data[8 + size + start : 8 + size + end])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"safetensors: {error}") from None
    return arrays


class _Stream:
    """Just enough of a file over a memoryview for pickle: consecutive pickles, known position."""

    def __init__(self, data: memoryview):
        self.data, self.position = data, 0

    def read(self, size: int) -> bytes:
        chunk = bytes(self.data[self.position : self.position + size])
        self.position += len(chunk)
        return chunk

    def readline(self) -> bytes:
        # Lines are names of globals and decimal numbers; the bound keeps a damaged file cheap.
        window = bytes(self.data[self.position : self.position + 4096])
        return self.read(window.find(b"\n") + 1 or len(window))

    def peek(self, size: int) -> bytes:
        return bytes(self.data[self.position : self.position + max(size, 4096)])


class _Refused(ValueError):
    """A name outside the fixed list."""


class _Unpickler(pickle.Unpickler):
    """Builds tensors and plain containers only.

    Everything a file can name resolves to a string, to an immutable C type or to a method of this
    object, so that neither REDUCE nor BUILD finds anything to misuse; np.dtype, which has a
    `__setstate__`, is never handed out.
    """

    def __init__(self, stream: _Stream, storage: Callable[..., _Storage] | None):
        super().__init__(stream)
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return name
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
            ("torch", "Size"): tuple,
            ("torch", "device"): self.device,
            ("torch._utils", "_rebuild_tensor"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self.tensor_v3,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self.parameter,
            ("torch.nn.parameter", "_rebuild_parameter"): self.parameter,
        }
        if (module, name) not in known:
            raise _Refused(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, numel, *view = pid
        if kind != "storage" or self.storage is None:
            raise _Refused(f"persistent {kind}")
        storage = self.storage(_DTYPES[dtype], key, numel)
        if view and view[0] is not None and storage.data is not None:  # torch 0.1: a part of it
            _view_key, offset, size = view[0]
            width = storage.dtype.itemsize
            storage = storage._replace(data=storage.data[offset * width : (offset + size) * width])
        return storage

    def tensor(self, storage, offset, size, stride, *_grad_hooks_metadata) -> np.ndarray | None:
        if storage.data is None:
            return None
        width = storage.dtype.itemsize
        strides = tuple(step * width for step in stride)
        if min(strides, default=0) < 0:
            raise ValueError("negative stride")
        return np.ndarray(tuple(size), storage.dtype, storage.data, offset * width, strides)

    def tensor_v3(self, storage, offset, size, stride, _grad, _hooks, dtype, *_metadata):
        return self.tensor(storage._replace(dtype=_DTYPES[dtype]), offset, size, stride)

    def parameter(self, data, *_grad_hooks_state):
        return data

    def device(self, *kind_and_index) -> str:
        return ":".join(map(str, kind_and_index))


def _unpickle(path: Path, stream: _Stream, storage: Callable[..., _Storage] | None = None) -> Any:
    """The next pickle of `stream`; `storage(dtype, key, numel)` finds the bytes of a storage."""
    try:
        return _Unpickler(stream, storage).load()
    except _Refused as refused:
        raise ValueError(
            f"{path}: refuses '{refused}', as only tensors and plain containers are read and code "
            "in the file is never run; if you trust the file, load it with torch and save its "
            "state_dict() alone with torch.save."
        ) from None
    except Exception as error:  # pickle documents that a damaged stream may raise anything
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
