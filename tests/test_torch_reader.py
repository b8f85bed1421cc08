"""The reader of PyTorch and safetensors files, against small files that torch 2.13 wrote."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jax_bridges.import_torch import read_torch
from jax_bridges.io.safetensors import write_safetensors

GOLDEN = Path(__file__).parent / "golden"
EXPECTED = dict(np.load(GOLDEN / "reader_expected.npz"))
TENSORS = [name for name in EXPECTED if "/" not in name]
KIND = {"bf16": np.dtype(ml_dtypes.bfloat16)}


def check(arrays):
    for name in TENSORS:
        got, want = arrays[name], EXPECTED[name]
        assert got.dtype == KIND.get(name, want.dtype), name
        assert got.shape == want.shape, name
        np.testing.assert_array_equal(got.astype(want.dtype), want, err_msg=name)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_values_views_and_containers(kind):
    saved = read_torch(GOLDEN / f"reader_{kind}.pt")
    check(saved["tensors"])
    assert saved["nested"] == {
        "list": [1, 2.5, "text", None, True],
        "tuple": (3, (4,)),
        5: {"set": {1, 2}},
    }
    assert (saved["size"], saved["dtype"], saved["device"]) == ((4, 6), "bfloat16", "cpu")
    assert isinstance(saved["od"], OrderedDict) and saved["od"]["a"].tolist() == [9]
    state = saved["state_dict"]
    assert list(state) == [n.removeprefix("state_dict/") for n in EXPECTED if "/" in n]
    for name, value in state.items():
        np.testing.assert_array_equal(value, EXPECTED[f"state_dict/{name}"])


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_views_share_memory_and_never_reach_the_file(kind, tmp_path):
    path = tmp_path / "copy.pt"
    path.write_bytes((GOLDEN / f"reader_{kind}.pt").read_bytes())
    before = path.read_bytes()
    saved = read_torch(path)
    flat, square = saved["shared"]
    flat[7] = 100.0
    assert square[1, 1] == 100.0 and saved["tensors"]["transposed"][1, 1] == 100.0
    assert path.read_bytes() == before
    assert read_torch(path)["shared"][0][7] == 1.0


def test_types_of_the_third_rebuild_function():
    saved = read_torch(GOLDEN / "reader_v3.pt")
    assert saved["u16"].dtype == np.uint16 and saved["u16"].tolist() == [1, 65535]
    assert saved["f8"].dtype == ml_dtypes.float8_e4m3fn
    assert saved["f8"].astype(np.float32).tolist() == [0.5, -448.0]


def test_rezipped_with_compression(tmp_path):
    with zipfile.ZipFile(GOLDEN / "reader_zip.pt") as old:
        with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    check(read_torch(tmp_path / "x.pt")["tensors"])


def test_safetensors():
    arrays = read_torch(GOLDEN / "reader.safetensors")
    check(arrays)
    assert set(arrays) == set(TENSORS)  # the metadata entry is no tensor


def test_legacy_view_of_a_storage(tmp_path):
    """torch 0.1 named a part of a storage as (key, offset, size); written here by hand."""

    body = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x017U\x03cpu"
        b"K\x06(U\x018K\x02K\x03ttQK\x01K\x02\x85K\x01\x85tR."
    )
    head = b"".join(
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    data = struct.pack("<q6f", 6, *range(6))
    (tmp_path / "x.pt").write_bytes(head + body + pickle.dumps(["7"], 2) + data)
    assert read_torch(tmp_path / "x.pt").tolist() == [3.0, 4.0]


def refused(path, *words):
    with pytest.raises(ValueError) as caught:
        read_torch(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith(".")
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_code_is_refused_by_name_and_not_run(kind):
    refused(GOLDEN / f"reader_evil_{kind}.pt", "'posix.system'", "state_dict()")
    assert not Path("/tmp/reader_was_here").exists()


def test_whole_module_and_torchscript():
    refused(GOLDEN / "reader_module.pt", "torch.nn.modules.container.Sequential", "state_dict()")
    refused(GOLDEN / "reader_torchscript.pt", "TorchScript", "torch.jit.load")


def legacy_with(pickled):
    head = b"".join(pickle.dumps(p, 2) for p in (0x1950A86A20F9469CFC6C, 1001, {}))
    return head + pickled + pickle.dumps([], 2)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02cbuiltins\neval\nU\x041+1\x01\x85R.",
        b"\x80\x04\x8c\x05torch\x8c\x0cdevice.__func\x93.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02cnumpy\ndtype\n.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}U\x08__code__K\x01s\x86b.",
        b"\x80\x02ccollections\nOrderedDict\n}U\x04itemK\x01sb.",
        b"\x80\x02}U\x01aQ.",
    ],
)
def test_no_way_around_the_list(pickled, tmp_path):
    (tmp_path / "x.pt").write_bytes(legacy_with(pickled))
    refused(tmp_path / "x.pt")


def tar_bytes():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("sys_info"), io.BytesIO(b""))
    return out.getvalue()


def zip_bytes(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return out.getvalue()


@pytest.mark.parametrize(
    "content, word",
    [
        (b"", "empty"),
        (b"hello there\n" * 20, "text file"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'{"weight_map": {}}', "JSON"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x08\x07\x12\x07pytorch", "08 07 12 07"),
        (tar_bytes(), "tar archive"),
        (zip_bytes(model_onnx=b"x"), "no data.pkl"),
        (zip_bytes(a_npy=b"x"), "numpy.load"),
        (pickle.dumps({"a": np.zeros(3)}), "plain Python pickle"),
        (struct.pack("<Q", 50) + b"{}", "longer than the file"),
        (struct.pack("<Q", 2) + b"{]", "damaged"),
    ],
)
def test_foreign_files(content, word, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", word)


@pytest.mark.parametrize("name", ["reader_zip.pt", "reader_legacy.pt", "reader.safetensors"])
def test_cut_short_anywhere(name, tmp_path):
    """Every prefix of a file is refused in one sentence, never read as something else."""
    whole = (GOLDEN / name).read_bytes()
    for size in {1, 9, 20, *range(40, len(whole), 97), len(whole) - 1}:
        (tmp_path / "x.pt").write_bytes(whole[:size])
        refused(tmp_path / "x.pt")


def test_bytes_changed_anywhere_never_raise_anything_else(tmp_path):
    """Flipped bytes either give other values or one ValueError: no crash, no foreign exception."""
    random = np.random.default_rng(0)
    outcomes = set()
    for name in ("reader_zip.pt", "reader_legacy.pt", "reader.safetensors"):
        whole = bytearray((GOLDEN / name).read_bytes())
        for place in random.integers(0, len(whole), 200):
            changed = bytearray(whole)
            changed[place] ^= int(random.integers(1, 256))
            (tmp_path / "x.pt").write_bytes(changed)
            try:
                read_torch(tmp_path / "x.pt")
                outcomes.add("read")
            except ValueError as error:
                assert str(error).startswith(f"{tmp_path / 'x.pt'}: ")
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_torch(tmp_path / "none.pt")
    refused(tmp_path, "folder")


# ---------------------------------------------------------------- the writer of safetensors


def test_safetensors_are_read_by_others_and_by_us(tmp_path):
    from safetensors import safe_open

    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "b": np.asarray([1, -2], np.int64),
        "c": np.asarray([0.5, 3], ml_dtypes.bfloat16),
        "d": np.float64(2.5).reshape(()),
        "e": np.zeros((0, 4), np.float16),
    }
    path = write_safetensors(tmp_path / "x.safetensors", arrays, {"format": "pt"})
    with safe_open(path, framework="numpy") as theirs:
        assert theirs.metadata() == {"format": "pt"}
        for name in "abde":
            np.testing.assert_array_equal(theirs.get_tensor(name), arrays[name], strict=True)
    ours = read_torch(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(ours[name], array, strict=True)
    with pytest.raises(ValueError, match="'z' is complex64"):
        write_safetensors(tmp_path / "y", {"z": np.zeros(2, np.complex64)})
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
