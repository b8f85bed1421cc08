"""`arrays`: images that are numpy arrays already."""

from __future__ import annotations

from types import SimpleNamespace as Config

import numpy as np
import pytest
from PIL import Image

from jax_bridges.data import Loader, first, has_labels, is_paired, make_source
from jax_bridges.data.classes import class_count
from jax_bridges.data.images import read_images


def pictures(count, height=8, width=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def config(path, **changes):
    return Config(**{"name": "arrays", "path": str(path), "size": 8, **changes})


def test_pairs_and_labels_come_back_as_they_were_saved(tmp_path):
    x0, path = pictures(20), tmp_path / "images.npz"
    np.savez(path, image=x0, source=255 - x0, kind=np.arange(20) % 3)
    c = config(path, xT_key="source", label_key="kind", test_fraction=0.25)
    assert is_paired(c) and has_labels(c) and not is_paired(config(path))
    train, test = make_source(c, "train"), make_source(c, "test")
    assert (len(train), len(test)) == (15, 5) and class_count(train) == class_count(test) == 3
    # Each image is in one split, once, and with its own source and label.
    assert sorted([*train.order, *test.order]) == list(range(20))
    for source in (train, test):
        for i, row in enumerate(source.order):
            example = source[i]
            np.testing.assert_array_equal(example["x0"], x0[row])
            np.testing.assert_array_equal(example["xT"], 255 - x0[row])
            assert example["label"] == row % 3 and example["label"].dtype == np.int32
    batch = Loader(train, (2, 3)).batch_at(1)
    np.testing.assert_array_equal(batch["xT"], 255 - batch["x0"])
    assert batch["x0"].shape == (2, 3, 8, 8, 3) and batch["label"].shape == (2, 3)


def test_a_folder_has_its_own_split(tmp_path):
    train, test = pictures(4, seed=1), pictures(3, seed=2)
    np.savez(tmp_path / "train.npz", image=train, kind=np.array([0, 1, 0, 1]))
    np.savez(tmp_path / "test.npz", image=test, kind=np.array([4, 0, 0]))
    for split, images in (("train", train), ("test", test)):
        source = make_source(config(tmp_path, label_key="kind"), split)
        found = first(source, len(source))["x0"]
        np.testing.assert_array_equal(found, images[source.order])
        assert class_count(source) == 5
    assert len(make_source(config(tmp_path, max_images=2), "train")) == 2


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 1)])
def test_gray_is_repeated(tmp_path, shape):
    gray = np.arange(128, dtype=np.uint8).reshape(shape)
    np.savez(tmp_path / "gray.npz", image=gray)
    train = make_source(config(tmp_path / "gray.npz", test_fraction=0.5), "train")
    want = gray[train.order[0]].reshape(8, 8, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(train[0]["x0"], want)


def test_other_sizes_are_cut_and_resized_like_files(tmp_path):
    """Bit for bit what the same pictures give from a folder; the pair alike."""
    x0 = pictures(2, 16, 24)
    np.savez(tmp_path / "large.npz", image=x0, source=255 - x0)
    source = make_source(config(tmp_path / "large.npz", xT_key="source", test_fraction=0.5), "test")
    views = (x0[source.order[0]], 255 - x0[source.order[0]])
    for number, view in enumerate(views):
        Image.fromarray(view).save(tmp_path / f"{number}.png")
    clean, corrupt = read_images((tmp_path / "0.png", tmp_path / "1.png"), (8, 8), 4.0)
    np.testing.assert_array_equal(source[0]["x0"], clean)
    np.testing.assert_array_equal(source[0]["xT"], corrupt)


X0 = pictures(4)


@pytest.mark.parametrize(
    "arrays, changes, words",
    [
        ({"clean": X0}, {}, "no array 'image' .data.image_key.; it holds clean"),
        ({"image": X0}, {"xT_key": "source"}, "no array 'source' .data.xT_key."),
        ({"image": X0 / 255.0}, {}, "'image' is float64, but images are uint8: .*astype"),
        ({"image": X0 > 9}, {}, "'image' is bool, .*: of masks save 255 . x.astype"),
        ({"image": X0.astype("i8")}, {}, "is int64, .*lie between 0 and 255, so save x.astype"),
        ({"image": X0 * np.uint16(16)}, {}, "is uint16, .*of 16 bits, up to 40[0-9]+ here.* means white"),
        ({"image": X0.astype("i2") - 9}, {}, "is int16, .*number is black .b. and which white"),
        ({"image": X0[..., :2]}, {}, r"has the shape \[4, 8, 8, 2\]: images are \[N, H, W, 3\]"),
        ({"image": X0[:0]}, {}, r"has the shape \[0, 8, 8, 3\]"),
        ({"image": X0, "source": X0[:3]}, {"xT_key": "source"}, "'source' has 3 images .* 4"),
        ({"image": X0, "y": X0[:, 0, 0, 0]}, {"label_key": "z"}, "no array 'z' .data.label_key."),
        ({"image": X0, "y": np.ones(4)}, {"label_key": "y"}, "'y' is float64 .* whole numbers"),
        ({"image": X0, "y": np.array(1)}, {"label_key": "y"}, "one for each of the 4 images"),
        ({"image": X0}, {"size": 64}, "8x8 pixels would have to grow 8.0 times"),
        ({"image": X0[:1]}, {}, "leaves no images for train: see data.test_fraction"),
        ({"image": np.array([None])}, {}, "cannot be read as an .npz file of plain arrays"),
    ],
    ids=lambda value: value.split()[-1] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_set_of_images_is_refused_by_name(tmp_path, arrays, changes, words):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=words) as caught:
        make_source(config(path, **changes), "train")
    assert "images.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_not_there_or_broken_are_refused(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    np.save(tmp_path / "one.npy", X0)
    with pytest.raises(ValueError, match="data.path is empty: set it to the .npz file"):
        make_source(config(""), "train")
    with pytest.raises(FileNotFoundError, match="no .*train.npz: data.path is an .npz file, or"):
        make_source(config(tmp_path), "train")
    for name in ("broken.npz", "one.npy"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as an .npz file"):
            make_source(config(tmp_path / name), "train")
