"""Pairs made of published files (edges2handbags, DIODE) and edges: small files of the same layout.

`golden/data_builders_normals.npz` holds random normals and the pictures of them that OpenCV 5.0
(`resize`, INTER_NEAREST) and Matplotlib 3.11 (`imsave`) make by the preprocessing of DDBM.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace as Config

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jax_bridges.data import Loader, edges, is_paired, make_source
from jax_bridges.data.diode import normals_to_image
from jax_bridges.data.edges import canny, edge_map

GOLDEN = Path(__file__).parent / "golden" / "data_builders_normals.npz"
ROOT = str(Path(__file__).parents[1])


def noise(seed, h, w, sigma=0.0):
    """uint8 [h, w, 3], random, smoothed over `sigma` pixels."""
    x = ndimage.gaussian_filter(
        np.random.default_rng(seed).normal(size=(h, w, 3)), (sigma,) * 2 + (0,)
    )
    return (255 * (x - x.min()) / np.ptp(x)).astype(np.uint8)


def source(name, path, split="train", size=16, **settings):
    return make_source(Config(name=name, path=str(path), size=size, **settings), split)


def by_bytes(examples):
    return sorted(e["x0"].tobytes() + e["xT"].tobytes() for e in examples)


# Edges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0, 2.0])
def test_canny_equals_scikit_image(sigma):
    feature = pytest.importorskip("skimage.feature")
    count = 0
    for seed in range(8):
        gray = noise(seed, 61, 80, 1.0 + seed)[..., 0] / 255
        found = canny(gray, sigma, 0.15, 0.4)
        reference = feature.canny(gray, sigma, 0.15, 0.4, mode="nearest")
        np.testing.assert_array_equal(found, reference)
        count += found.sum()
    assert count > 500


def test_a_step_gives_one_line_at_the_step():
    image = np.zeros((20, 30))
    image[:, 11:] = 1
    image[:, 11] = 0.75  # nearer to the right: the line is in column 11 alone
    expected = np.zeros((20, 30), bool)
    expected[1:-1, 11] = True
    np.testing.assert_array_equal(canny(image, 1.0), expected)


def test_weak_edges_count_where_they_touch_strong_ones():
    step = np.zeros((40, 30))
    step[:, 11:] = 1
    step[:, 11] = 0.75
    line = np.zeros((40, 30), bool)
    line[1:-1, 11] = True
    np.testing.assert_array_equal(canny(0.02 * step, 1.0, 0.03, 0.03), line)
    assert not canny(0.02 * step, 1.0, 0.03, 0.2).any()  # weak everywhere
    slope = np.linspace(0.02, 0.10, 40)[:, None]  # weak above, strong below
    found = canny(slope * step, 1.0, 0.03, 0.2)
    np.testing.assert_array_equal(found[1:36], line[1:36])
    assert not canny(slope * step, 1.0, 0.2, 0.2)[:25].any()


def test_edges_are_black_on_white():
    image = np.full((12, 12, 3), 40, np.uint8)
    image[:, 6:] = (255, 0, 0)  # luma 76: 36 grays above the rest
    found = edge_map(image, 0.5)
    assert found.shape == (12, 12, 3) and found.dtype == np.uint8
    assert (found[1:-1, 5:7] == 0).any(axis=1).all() and (found[:, :4] == 255).all()
    assert (edge_map(np.full((8, 8, 3), 255, np.uint8), 1.0) == 255).all()


@pytest.fixture
def photographs(tmp_path):
    for k in range(6):
        Image.fromarray(noise(k, 40, 48, 2.0)).save(tmp_path / f"{k}.png")
    return tmp_path


def test_edge_source(photographs):
    settings = dict(size=(20, 24), test_fraction=1e-9)
    plain, drawn = (source(name, photographs, **settings) for name in ("folder", "edges"))
    assert len(drawn) == 6
    for i in range(6):
        np.testing.assert_array_equal(drawn[i]["x0"], plain[i]["x0"])
        np.testing.assert_array_equal(drawn[i]["xT"], edge_map(plain[i]["x0"], 1.0))
    smooth = source("edges", photographs, edge_sigma=3.0, **settings)
    lines = [np.mean([s[i]["xT"] == 0 for i in range(6)]) for s in (drawn, smooth)]
    assert lines[0] > lines[1] > 0
    with pytest.raises(
        ValueError, match="data.edge_sigma is -1: it must be a number of at least 0"
    ):
        source("edges", photographs, edge_sigma=-1)


def test_edges_are_computed_once_an_image(photographs, monkeypatch):
    calls = []
    monkeypatch.setattr(edges, "edge_map", lambda *a: calls.append(1) or edge_map(*a))
    loader = Loader(source("edges", photographs, test_fraction=1e-9), (3,))
    seen = [loader.batch_at(step) for step in range(6)]  # three epochs
    assert len(calls) == 6 + 1  # one more for the shapes
    ends = (seen[:2], seen[4:])
    first, last = (
        sorted(a.tobytes() + b.tobytes() for x in end for a, b in zip(x["x0"], x["xT"]))
        for end in ends
    )
    assert first == last


def test_all_of_these_are_paired():
    for name in ("edges", "edges2handbags", "diode_normals"):
        assert is_paired(Config(name=name))
    assert not is_paired(Config(name="folder"))


# Edges2handbags ----------------------------------------------------------------------------------


def make_e2h(root, train=5, val=2):
    """train/K_AB.jpg and val/K_AB.jpg, as in edges2handbags.tar.gz but smaller."""
    for folder, count in (("train", train), ("val", val)):
        (root / folder).mkdir(parents=True)
        for k in range(count):
            both = noise(k + 10 * count, 64, 128, 3.0)
            Image.fromarray(both).save(root / folder / f"{k + 1}_AB.jpg", quality=95)
    return root


def test_e2h_is_the_right_half_from_the_left(tmp_path):
    root = make_e2h(tmp_path)
    for split, folder, count in (("train", "train", 5), ("test", "val", 2)):
        pairs = source("edges2handbags", root, split)
        assert len(pairs) == count and len(set(pairs.names)) == count
        for i in range(count):
            both = Image.open(root / folder / pairs.names[i])
            for key, left in (("xT", 0), ("x0", 64)):
                half = both.crop((left, 0, left + 64, 64)).resize((16, 16), Image.BICUBIC)
                np.testing.assert_array_equal(pairs[i][key], np.asarray(half))


def test_e2h_at_its_own_size_and_few(tmp_path):
    root = make_e2h(tmp_path)
    pairs = source("edges2handbags", root, size=64, max_images=2)
    assert len(pairs) == 2
    pixels = np.asarray(Image.open(root / "train" / pairs.names[1]))
    np.testing.assert_array_equal(np.concatenate([pairs[1]["xT"], pairs[1]["x0"]], 1), pixels)


def test_e2h_halves_do_not_mix(tmp_path):
    root = make_e2h(tmp_path, 0, 0)
    both = np.zeros((64, 128, 3), np.uint8)
    both[:, 64:] = 255
    Image.fromarray(both).save(root / "train" / "1_AB.jpg")
    pair = source("edges2handbags", root)[0]
    assert (pair["xT"] == 0).all() and (pair["x0"] == 255).all()


def test_e2h_bad_files(tmp_path):
    root = make_e2h(tmp_path)
    with pytest.raises(ValueError, match="would have to grow 4.7 times"):
        source("edges2handbags", root, size=300)[0]
    Image.fromarray(noise(0, 64, 64)).save(root / "train" / "9_AB.jpg")
    pairs = source("edges2handbags", root)
    with pytest.raises(ValueError, match="9_AB.jpg: 64x64 pixels are not two squares side by side"):
        [pairs[i] for i in range(6)]
    pairs = source("edges2handbags", root, on_bad_file="skip")
    with pytest.warns(UserWarning, match="9_AB.jpg"):
        assert len({pairs[i]["x0"].tobytes() for i in range(6)}) == 5
    (root / "train" / "8_AB.jpg").write_bytes((root / "train" / "1_AB.jpg").read_bytes()[:900])
    with pytest.raises(ValueError, match="8_AB.jpg: cannot be decoded"):
        source("edges2handbags", root)


def test_e2h_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="unpacked edges2handbags.tar.gz"):
        source("edges2handbags", tmp_path)


# DIODE -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, size", [("half", (12, 16)), ("odd", (7, 13)), ("same", (24, 32))])
def test_normals_equal_the_official_pictures(key, size):
    with np.load(GOLDEN) as golden:
        for normals, picture in zip(golden["normals"], golden[key]):
            np.testing.assert_array_equal(normals_to_image(normals, size), picture)


def test_normals_by_hand():
    normals = np.zeros((2, 4, 3))
    normals[0, 0], normals[0, 2] = (0, 0, -1), (0.5, 0.25, -0.5)
    normals[:, 1::2] = 9  # not read
    expected = [[[127, 127, 0], [191, 159, 63]], [[0, 0, 0], [0, 0, 0]]]
    np.testing.assert_array_equal(normals_to_image(normals, (2, 2)), expected)


def make_diode(root, train=4, val=2):
    """{train,val}/outdoor/scene_*/scan_*/, as in the archives of DIODE but smaller; one indoors."""
    for part, count in (("train", train), ("val", val)):
        for k in range(count):
            write_diode(root / part / "outdoor", k, 10 * count)
        write_diode(root / part / "indoors", 99, 0)
    return root


def write_diode(place, k, seed):
    folder = place / f"scene_{k % 2:05}" / f"scan_{k:05}"
    folder.mkdir(parents=True)
    stem = f"{k % 2:05}_{k:05}_{place.name}_010_020"
    Image.fromarray(noise(k + seed, 48, 64, 2.0)).save(folder / f"{stem}.png")
    normals = np.random.default_rng(k + seed).normal(size=(48, 64, 3)).astype(np.float32)
    np.save(folder / f"{stem}_normal.npy", normals)
    np.save(folder / f"{stem}_depth.npy", normals[..., :1])


def test_diode_resizes_the_whole_frame(tmp_path, recwarn):
    root = make_diode(tmp_path)
    for split, part, count in (("train", "train", 4), ("test", "val", 2)):
        pairs = source("diode_normals", root, split)
        assert len(pairs) == count
        for i in range(count):
            (path,) = (root / part / "outdoor").rglob(f"{pairs.names[i]}.png")
            frame = Image.open(path).resize((16, 16), Image.BICUBIC)
            normals = np.load(path.with_name(f"{path.stem}_normal.npy"))[::3, ::4]
            shifted = np.clip((normals - normals.min()) / 2, 0, 1)
            np.testing.assert_array_equal(pairs[i]["x0"], np.asarray(frame))
            np.testing.assert_array_equal(pairs[i]["xT"], (255 * shifted).astype(np.uint8))
    assert not recwarn.list


def remove_normals(root, k):
    (path,) = root.glob(f"train/outdoor/*/scan_{k:05}/*_normal.npy")
    path.unlink()
    return path.name.replace("_normal.npy", "")


def test_diode_without_some_normals(tmp_path):
    root = make_diode(tmp_path)
    name = remove_normals(root, 2)
    with pytest.warns(UserWarning, match=f"1 of 4 images .* have no normals, such as .*{name}.png"):
        pairs = source("diode_normals", root)
    assert len(pairs) == 3 and name not in pairs.names


@pytest.mark.parametrize("folder", ["data_list", "."])
def test_diode_with_the_list_of_its_authors(tmp_path, folder, recwarn):
    root = make_diode(tmp_path)
    names = [remove_normals(root, 2), remove_normals(root, 1)]
    paths = sorted(root.glob("train/outdoor/*/*/*.png"))

    def write(without):
        (root / folder).mkdir(exist_ok=True)
        with open(root / folder / "train_outdoor.csv", "w") as file:
            for path in paths:
                rgb = f"./{path.relative_to(root)}"
                normal = "Unavailable" if path.stem in without else rgb[:-4] + "_normal.npy"
                file.write(f"{rgb},{rgb[:-4]}_depth.npy,{rgb[:-4]}_depth_mask.npy,{normal}\n")

    write(names)
    assert sorted(source("diode_normals", root).names) == [
        path.stem for path in sorted(paths, key=lambda p: p.stem) if path.stem not in names
    ]
    assert not recwarn.list
    write(names[:1])  # the other is missing, then, and should not
    with pytest.raises(FileNotFoundError, match=f"1 of 3 .*{names[1]}.*unpack train_normals.tar"):
        source("diode_normals", root)


def test_diode_bad_files(tmp_path):
    root = make_diode(tmp_path, train=1)
    (path,) = root.glob("train/outdoor/*/*/*_normal.npy")
    whole = path.read_bytes()
    for normals, reason in (
        (np.zeros((24, 64, 3)), "normals of shape .24, 64, 3."),
        (np.zeros((48, 64)), "are not .H, W, 3."),
        (np.full((48, 64, 3), np.nan), "not finite"),
    ):
        np.save(path, normals)
        with pytest.raises(ValueError, match=f"bad image 00000_00000_outdoor_010_020: .*{reason}"):
            source("diode_normals", root)[0]
    path.write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match="00000_00000_outdoor_010_020: its normals cannot be read"):
        source("diode_normals", root)[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match="unpack train_normals.tar.gz into the same"):
        source("diode_normals", root)


def test_diode_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="val.tar.gz and val_normals.tar.gz of DIODE"):
        source("diode_normals", tmp_path, "test")


# TFDS --------------------------------------------------------------------------------------------

SETS = [("edges2handbags", "edges", make_e2h), ("diode_normals", "normals", make_diode)]


@pytest.mark.parametrize("name, xT_key, make", SETS)
def test_builder_yields_what_the_plain_source_has(tmp_path, name, xT_key, make):
    tfds = pytest.importorskip("tensorflow_datasets")
    before = "tensorflow" in sys.modules
    with tfds.core.registered.skip_registration():  # a test of the command may have done it here
        from jax_bridges.data import builders

    make(tmp_path / "manual")
    named = {"edges2handbags": builders.Edges2handbags, "diode_normals": builders.DiodeNormals}
    builder = named[name](config="64px", data_dir=tmp_path / "data")
    assert builder.name == name
    shapes = {key: feature.shape for key, feature in builder.info.features.items()}
    assert shapes == {"image": (64, 64, 3), xT_key: (64, 64, 3)}
    splits = builder._split_generators(Config(manual_dir=tmp_path / "manual"))
    assert sorted(splits) == ["train", "validation"]
    for split, plain in (("train", "train"), ("validation", "test")):
        pairs = source(name, tmp_path / "manual", plain, size=64)
        found = dict(splits[split])
        assert sorted(found) == sorted(pairs.names)
        for i, key in enumerate(pairs.names):
            np.testing.assert_array_equal(found[key]["image"], pairs[i]["x0"])
            np.testing.assert_array_equal(found[key][xT_key], pairs[i]["xT"])
    assert ("tensorflow" in sys.modules) == before


@pytest.mark.slow
@pytest.mark.parametrize("name, xT_key, make", SETS)
def test_prepared_by_tfds_reads_the_same(tmp_path, name, xT_key, make):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("preparing a TFDS set needs TensorFlow: pip install 'jax_bridges[tfds]'")
    manual, data = tmp_path / "manual", tmp_path / "data"
    make(manual)
    # In another process: TensorFlow takes its time and would stay loaded.
    command = [sys.executable, "-m", "jax_bridges.data.builders", f"{name}/64px", manual, data]
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT}
    )
    assert run.returncode == 0, run.stderr[-2000:]
    for split in ("train", "test"):
        plain = source(name, manual, split, size=64)
        stored = source(f"tfds:{name}/64px", data, split, size=64, xT_key=xT_key)
        assert by_bytes(map(plain.__getitem__, range(len(plain)))) == by_bytes(
            map(stored.__getitem__, range(len(stored)))
        )
