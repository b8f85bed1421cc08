"""`tfds:NAME`: reads, without TensorFlow, a set that TensorFlow Datasets itself prepared.

`golden/data_tfds.zip` was written by `prepare` below (TensorFlow 2.21, TFDS 4.9.10); the slow test
writes it anew where TensorFlow is installed.
"""

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace as Config

import numpy as np
import pytest

from jax_bridges.data import Loader, first, make_source

pytest.importorskip("tensorflow_datasets")
GOLDEN = Path(__file__).parent / "golden" / "data_tfds.zip"
ROOT = str(Path(__file__).parents[1])


def image(k, h=24, w=32):
    """Example k of the prepared set, uint8 [24, 32, 3]: ramps that wrap around."""
    y, x = np.mgrid[:h, :w]
    return np.stack([8 * y + k, 7 * x + k, 4 * (x + y) + 3 * k], -1).astype(np.uint8)


def prepare(data_dir):
    """Has TFDS prepare `tiny_bridges`: needs TensorFlow."""
    import tensorflow_datasets as tfds

    class TinyBridges(tfds.core.GeneratorBasedBuilder):
        """Ramps, to test reading."""

        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = Path(data_dir)

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(24, 32, 3), encoding_format="png"),
                "source": tfds.features.Image(shape=(24, 32, 1), encoding_format="png"),
                "number": np.int64,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples(0, 6), "test": self._generate_examples(6, 9)}

        def _generate_examples(self, a, b):
            for k in range(a, b):
                yield k, {"image": image(k), "source": image(k)[..., :1], "number": k}

    # Word for word what the error of an unprepared set tells a user to run.
    builder = tfds.builder("tiny_bridges", data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()


@pytest.fixture
def data_dir(tmp_path):
    with zipfile.ZipFile(GOLDEN) as golden:
        golden.extractall(tmp_path)
    return tmp_path


def source(data_dir, split="train", name="tfds:tiny_bridges", **settings):
    settings = {"size": (24, 32), **settings}
    return make_source(Config(name=name, path=str(data_dir), **settings), split)


def numbers(examples):
    """Which k each example is, by comparing every pixel."""
    found = []
    for example in examples:
        (k,) = [k for k in range(9) if np.array_equal(example["x0"], image(k))]
        found.append(k)
    return found


def check_reading(data_dir):
    train, test = source(data_dir), source(data_dir, "test")
    assert (len(train), len(test)) == (6, 3)
    assert sorted(numbers(train[i] for i in range(6))) == [0, 1, 2, 3, 4, 5]
    assert sorted(numbers(test[i] for i in range(3))) == [6, 7, 8]
    paired = source(data_dir, xT_key="source")
    for i in range(6):
        example = paired[i]
        np.testing.assert_array_equal(example["x0"], train[i]["x0"])
        np.testing.assert_array_equal(example["xT"], np.repeat(example["x0"][..., :1], 3, -1))


def test_reads_what_tfds_prepared(data_dir):
    check_reading(data_dir)


def test_no_tensorflow_is_imported(data_dir):
    code = (
        "import sys; from types import SimpleNamespace as C\n"
        "from jax_bridges.data import make_source\n"
        f"s = make_source(C(name='tfds:tiny_bridges', path={str(data_dir)!r}, size=16), 'train')\n"
        "s[0]; print(len(s), 'tensorflow' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.split() == ["6", "False"], run.stderr


def test_resizes_and_loads(data_dir):
    test = source(data_dir, "test", size=12)
    assert first(test, 3)["x0"].shape == (3, 12, 12, 3)
    with Loader(source(data_dir, xT_key="source"), (4,)).iterate() as batches:
        batch = [next(batches) for _ in range(3)]
    seen = np.concatenate([b["x0"] for b in batch])
    assert sorted(numbers({"x0": x} for x in seen)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_set_without_test_split(data_dir):
    info = data_dir / "tiny_bridges/1.0.0/dataset_info.json"
    fields = json.loads(info.read_text())
    fields["splits"] = [split for split in fields["splits"] if split["name"] == "train"]
    info.write_text(json.dumps(fields))
    train, test = (source(data_dir, split, test_fraction=0.3) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 2)
    every = numbers([train[i] for i in range(4)] + [test[i] for i in range(2)])
    assert sorted(every) == [0, 1, 2, 3, 4, 5]


def test_validation_stands_in_for_test(data_dir):
    folder = data_dir / "tiny_bridges/1.0.0"
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"test"', '"validation"'))
    (shard,) = folder.glob("*test.array_record*")
    shard.rename(folder / shard.name.replace("-test.", "-validation."))
    assert sorted(numbers(source(data_dir, "test")[i] for i in range(3))) == [6, 7, 8]


def test_not_prepared(tmp_path):
    for name in ("cifar10", "no_such_set"):
        with pytest.raises(FileNotFoundError) as error:
            source(tmp_path, name=f"tfds:{name}")
        text = str(error.value)
        assert f"'{name}' is not prepared in {tmp_path}" in text
        assert "pip install 'jax_bridges[tfds]'" in text
        call = f"t.builder('{name}', data_dir='{tmp_path}', file_format='array_record')"
        assert f"{call}.download_and_prepare()" in text


@pytest.mark.parametrize(
    "name, size, full, files",
    [
        ("edges2handbags/64px", 64, "edges2handbags/64px", "edges2handbags.tar.gz"),
        ("edges2handbags", 256, "edges2handbags/256px", "edges2handbags.tar.gz"),
        ("diode_normals", 64, "diode_normals/64px", "train_normals and val_normals"),
    ],
)
def test_our_own_builders_are_prepared_from_files_fetched_by_hand(
    tmp_path, name, size, full, files
):
    with pytest.raises(FileNotFoundError) as error:
        source(tmp_path, name=f"tfds:{name}", size=size)
    text = str(error.value)
    assert f"python -m jax_bridges.data.builders {full} MANUAL_DIR {tmp_path}" in text
    assert f"read it as tfds:{full}" in text and files in text
    own = full.partition("/")[0]
    assert f"data.name={own} data.path=MANUAL_DIR" in text and "\n" not in text


def test_no_random_access(data_dir):
    info = data_dir / "tiny_bridges/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match="without random access"):
        source(data_dir)


@pytest.mark.parametrize("settings", [dict(image_key="picture"), dict(xT_key="number")])
def test_unknown_feature(data_dir, settings):
    with pytest.raises(ValueError, match="no image feature.*image, source"):
        source(data_dir, **settings)


def test_images_that_are_too_small(data_dir):
    with pytest.raises(ValueError, match=r"bad image train\[\d\]: 24x32 pixels would have to grow"):
        source(data_dir, size=200)[0]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="all of the 6 images are bad"):
        source(data_dir, size=200, on_bad_file="skip")[0]


def test_no_name():
    with pytest.raises(ValueError, match="tfds:cifar10"):
        make_source(Config(name="tfds"), "train")


@pytest.mark.slow
def test_reads_what_tfds_prepares_now(tmp_path):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("preparing a TFDS set needs TensorFlow: pip install 'jax_bridges[tfds]'")
    # In another process: TensorFlow takes its time and would stay loaded.
    code = f"from tests.test_data_tfds import prepare; prepare({str(tmp_path)!r})"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    check_reading(tmp_path)
