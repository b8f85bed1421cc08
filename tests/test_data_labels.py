"""Class labels: where they come from, that they follow their image, and a run that needs them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace as Config

import jax
import numpy as np
import pytest
from PIL import Image

import jax_bridges.main
from jax_bridges.data import Loader, check_classes, first, has_labels, is_paired, make_source, pad
from jax_bridges.validation import validate
from tests.support.runs import saved, steps, tiny

pytestmark = pytest.mark.usefixtures("handlers")

GOLDEN = Path(__file__).parent / "golden" / "data_tfds.zip"
CLASSES = ("ant", "bee", "cat")


def save(path: Path, value: int) -> None:
    """An image of one colour, by which it is known again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path)


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Path:
    """train/ and val/ with a sub-folder a class; an image of class k has the values 40 k to 40 k + 11."""
    root = tmp_path_factory.mktemp("animals")
    for number, name in enumerate(CLASSES):
        for i in range(12):
            split = "train" if i < 8 else "val"
            save(root / split / name / "deeper" / f"{i}.png", 40 * number + i)
    return root


def opened(root: Path, split: str = "train", name: str = "folder", **settings):
    settings = {"classes": "subfolders", "size": 16, **settings}
    return make_source(Config(name=name, path=str(root), **settings), split)


def check_labels(batch: dict[str, np.ndarray]) -> None:
    """Each label is that of its image, whose colour tells the class."""
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], batch["x0"][..., 0, 0, 0] // 40)


# -- sources -------------------------------------------------------------------------------------
def test_subfolders_are_classes_in_sorted_order(animals):
    for split, count in (("train", 24), ("test", 12)):
        source = opened(animals, split)
        assert (len(source), source.classes) == (count, 3)
        batch = first(source, count)
        check_labels(batch)
        np.testing.assert_array_equal(np.bincount(batch["label"]), [count // 3] * 3)
    assert "label" not in opened(animals, classes="")[0]
    assert opened(animals, classes="").classes == 0


def test_both_splits_number_alike(tmp_path):
    """Also where one of them lacks a class."""
    save(tmp_path / "train" / "b" / "1.png", 1)
    save(tmp_path / "train" / "c" / "2.png", 2)
    save(tmp_path / "val" / "a" / "0.png", 0)
    save(tmp_path / "val" / "c" / "2.png", 2)
    for split in ("train", "test"):
        source = opened(tmp_path, split)
        assert source.classes == 3
        batch = first(source, 2)
        np.testing.assert_array_equal(batch["label"], batch["x0"][:, 0, 0, 0])


def test_a_split_by_name_keeps_its_labels(animals, tmp_path):
    (tmp_path / "all").symlink_to(animals / "train", target_is_directory=True)
    train, test = (
        opened(tmp_path / "all", split, test_fraction=0.3) for split in ("train", "test")
    )
    assert len(train) + len(test) == 24 and len(test) > 2
    for source in (train, test):
        check_labels(first(source, len(source)))


def test_a_file_gives_the_numbers(animals, tmp_path):
    """As the 1000 WNIDs do for a part of ImageNet."""
    names = tmp_path / "names.txt"
    names.write_text("cat\n\nzebra\n bee \nant\nyak\n")
    source = opened(animals, classes=str(names))
    assert source.classes == 5
    batch = first(source, 24)
    expected = np.array([3, 2, 0])[batch["x0"][:, 0, 0, 0] // 40]
    np.testing.assert_array_equal(batch["label"], expected)


def test_pairs_and_edges_have_the_label_of_x0(animals, tmp_path):
    blurred = tmp_path / "xT"
    for path in animals.rglob("*.png"):
        save(blurred / path.relative_to(animals), 255)
    for name, settings in (("pairs", {"path_xT": str(blurred)}), ("edges", {})):
        source = opened(animals, name=name, **settings)
        assert source.classes == 3
        batch = first(source, 24)
        check_labels(batch)
        assert (batch["xT"] == 255).all()


def test_a_skipped_image_takes_its_label_along(animals, tmp_path):
    """Where a file turns bad, the next one takes its place, with its own label."""
    source = opened(animals, on_bad_file="skip")
    order = [name.split("/")[0] for name in source.names]
    k = next(k for k in range(23) if order[k] != order[k + 1])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    source.paths[k] = (broken,)
    with pytest.warns(UserWarning, match="The next one is used in its place"):
        example = source[k]
    assert example["label"] == CLASSES.index(order[k + 1]) == example["x0"][0, 0, 0] // 40


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """The set that TFDS prepared, its feature "number" (0 to 5, in test 6 to 8) called a class."""
    with zipfile.ZipFile(GOLDEN) as golden:
        golden.extractall(tmp_path)
    path = tmp_path / "tiny_bridges/1.0.0/features.json"
    features = json.loads(path.read_text())
    content = features["featuresDict"]["features"]["number"]
    content.clear()
    content["pythonClassName"] = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    content["classLabel"] = {"numClasses": "9"}
    path.write_text(json.dumps(features))
    return tmp_path


def test_tfds_labels(data_dir):
    settings = dict(classes="", label_key="number", name="tfds:tiny_bridges", size=(24, 32))
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        source = opened(data_dir, split, **settings)
        assert source.classes == 9
        batch = first(source, len(numbers))
        assert batch["label"].dtype == np.int32
        # Example k starts with the value k: see test_data_tfds.image.
        np.testing.assert_array_equal(batch["label"], batch["x0"][:, 0, 0, 0])
        np.testing.assert_array_equal(np.sort(batch["label"]), numbers)
    paired = first(opened(data_dir, xT_key="source", **settings), 6)
    np.testing.assert_array_equal(paired["label"], paired["xT"][:, 0, 0, 1])
    with pytest.raises(ValueError, match="no class feature 'image'.* one of: number"):
        opened(data_dir, **{**settings, "label_key": "image"})


def test_tfds_classes_that_are_none(data_dir):
    """A class beyond the set's own number of them, and a test split whose labels are withheld."""
    path = data_dir / "tiny_bridges/1.0.0/features.json"
    path.write_text(path.read_text().replace('"numClasses": "9"', '"numClasses": "6"'))
    settings = dict(classes="", label_key="number", name="tfds:tiny_bridges", size=(24, 32))
    assert first(opened(data_dir, **settings), 6)["label"].max() == 5
    with pytest.raises(ValueError, match=r"its class is [678], none of the 6 of 'number'"):
        opened(data_dir, "test", **settings)[0]


def test_a_test_split_without_its_labels_is_passed_over(data_dir, monkeypatch):
    import tensorflow_datasets as tfds

    read = tfds.core.DatasetBuilder.as_data_source

    def withheld(self, split, **settings):
        records = read(self, split=split, **settings)
        if split == "test":
            return [{**records[i], "number": -1} for i in range(len(records))]
        return records

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", withheld)
    settings = dict(classes="", name="tfds:tiny_bridges", size=(24, 32), test_fraction=0.3)
    test = opened(data_dir, "test", label_key="number", **settings)
    train = opened(data_dir, "train", label_key="number", **settings)
    labels = [*first(test, 2)["label"], *first(train, 4)["label"]]
    assert sorted(labels) == [0, 1, 2, 3, 4, 5]  # both from the train split
    assert len(opened(data_dir, "test", **settings)) == 3


# -- what is refused -----------------------------------------------------------------------------
def test_folders_that_tell_no_class(animals, tmp_path):
    save(tmp_path / "lonely.png", 0)
    with pytest.raises(FileNotFoundError, match="none in .*put the images of each class"):
        opened(tmp_path)
    save(tmp_path / "ant" / "1.png", 0)
    with pytest.raises(ValueError, match="lonely.png lies in no sub-folder.*move it"):
        opened(tmp_path, test_fraction=1e-9)
    names = tmp_path / "names.txt"
    for content, words in (
        (b"ant\nbee\n", "'cat', where .* is not among the 2 names"),
        (b"ant\nbee\nant\ncat\n", "has 'ant' twice"),
        (b"\n", "must be a text file"),
        (b"\xff\xfe\x00", "must be a text file"),
    ):
        names.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            opened(animals, classes=str(names))
    with pytest.raises(FileNotFoundError, match="nowhere.txt is no file.*'subfolders'"):
        opened(animals, classes=str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(name="earth", classes="subfolders"), "data.classes is for folder, pairs, edges"),
        (dict(name="tfds:cifar10", classes="subfolders"), "data.name is 'tfds:cifar10'"),
        (dict(name="folder", label_key="label"), "data.label_key is for tfds"),
    ],
)
def test_keys_of_other_sources(settings, words):
    with pytest.raises(ValueError, match=words):
        make_source(Config(size=16, **settings), "train")


def test_networks_and_data_that_do_not_fit(animals, tmp_path):
    labelled = Config(name="folder", path=str(animals), classes="subfolders", size=16)
    plain = Config(name="folder", path=str(animals), classes="", size=16)
    assert has_labels(labelled) and not has_labels(plain) and not is_paired(labelled)
    assert has_labels(Config(name="tfds:cifar10", label_key="label"))
    source, bare = make_source(labelled, "train"), make_source(plain, "train")
    check_classes(3, labelled, source)
    check_classes(0, labelled, source)
    check_classes(0, plain, bare)
    with pytest.raises(ValueError, match="has 3 classes .*folder-train .*has no labels"):
        check_classes(3, plain, bare)
    with pytest.raises(ValueError, match="3 classes, more than the network's 2: set network.num_c"):
        check_classes(2, labelled, source)
    with pytest.raises(ValueError, match="3 sub-folders and the network 10 classes.*all 10 names"):
        check_classes(10, labelled, source)
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\n")
    listed = Config(**{**vars(labelled), "classes": str(names)})
    check_classes(10, listed, make_source(listed, "train"))


# -- batches -------------------------------------------------------------------------------------
@pytest.mark.parametrize("cache_mb", [0, 0.005, 512])  # nothing, six examples, everything
def test_labels_follow_their_image_through_shuffles_and_resume(animals, cache_mb):
    source = opened(animals)
    loader = Loader(source, (2, 5), seed=4, cache_mb=cache_mb)
    with loader.iterate() as batches:
        expected = [next(batches) for _ in range(9)]  # 90 draws of 24 images: four epochs
    for batch in expected:
        assert batch["label"].shape == (2, 5)
        check_labels(batch)
    drawn = np.concatenate([batch["label"].ravel() for batch in expected])[:72]
    np.testing.assert_array_equal(np.bincount(drawn), [24, 24, 24])
    with Loader(source, (2, 5), seed=4, cache_mb=cache_mb).iterate(6) as batches:
        for batch in expected[6:]:
            for key, value in next(batches).items():
                np.testing.assert_array_equal(value, batch[key])


def test_padding_repeats_the_last_label(animals):
    batch = pad(first(opened(animals, "test"), 5), 8)
    check_labels(batch)
    assert (batch["label"][5:] == batch["label"][4]).all() and batch["label"].dtype == np.int32


# -- a run ---------------------------------------------------------------------------------------
def conditional(root: Path, **changes):
    """Few steps of training and one of IBMD with the smallest class-conditional ADM.

    Its head starts at zero, then every block's: at the third step the gradient meets the labels.
    """
    config = tiny(root)
    config.data.update(dict(classes="subfolders"))
    with config.unlocked():
        config.network = dict(
            name="adm", model_channels=32, num_res_blocks=1, channel_mult=(1,), attention_ds=(),
            head_channels=32, conditional=True, num_classes=3, dropout=0.0, dtype="float32",
        )  # fmt: skip
    config.train.update(dict(steps=4, batch=4))
    config.train.optimizer.update(dict(warmup=0, schedule="constant"))
    config.distill.update(dict(steps=1, batch=4, student_steps=1))
    config.evaluate.update(dict(images=6, batch=6, teacher_nfe=(1,), student_nfe=(1,), pictures=1))
    config.update_from_flattened_dict(changes)
    return config


def moments(workdir: Path, stage: str, player: str) -> np.ndarray:
    """Adam's mean squared gradient of each class's embedding."""
    leaves = jax.tree_util.tree_leaves_with_path(saved(workdir, stage)["opt"][player])
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    (table,) = (a for name, a in names.items() if name.endswith("nu/label_emb/embedding"))
    return table.max(axis=1)


@pytest.mark.slow
def test_a_class_conditional_run(animals, tmp_path):
    """Every stage is given the labels: the classes that were drawn learn, the one without images not."""
    workdir, names = tmp_path / "run", tmp_path / "names.txt"
    names.write_text("ant\nyak\nbee\ncat\n")
    changes = {"data.classes": str(names), "network.num_classes": 4}
    jax_bridges.main.run(conditional(animals, **changes), workdir)
    assert (steps(workdir, "train"), steps(workdir, "distill")) == ([1, 2, 3, 4], [1])
    rows = json.loads((workdir / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["source", "teacher", "student"]
    assert all(np.isfinite(row["psnr"]) for row in rows)
    for stage, player in (("train", "teacher"), ("distill", "bridge_net")):
        found = moments(workdir, stage, player)
        assert found.shape == (4,)
        np.testing.assert_array_equal(found > 0, [True, False, True, True])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data.classes": ""}, "network.num_classes is 3, but the data have no labels"),
        ({"network.num_classes": 2}, "more than the network's 2"),
    ],
)
def test_a_run_without_the_labels_it_needs(animals, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        jax_bridges.main.run(conditional(animals, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_configuration_that_forgets_the_labels(animals):
    validate(conditional(animals))
    with pytest.raises(ValueError, match="set data.classes to 'subfolders'.*data.label_key"):
        validate(conditional(animals, **{"data.classes": ""}))
