"""A run on native crops of photographs: trained on random ones, measured on the tiles of the test's."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import jax_bridges.main
from jax_bridges import keys
from jax_bridges.corruptions import PhotoFile
from jax_bridges.data import first, make_source
from tests.support.runs import steps, tiny


@pytest.mark.slow
def test_a_run_on_native_crops(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
            coarse.resize((48, 40), 3).save(tmp_path / "photos" / split / f"{number}.png")
    config = tiny(
        tmp_path / "photos", corruption={"name": "photo_file", "quality": (5, 30)}, keep_known=False,
        **{"data.crop": "random", "data.crops": 5, "data.crop_scale": 0.5, "train.steps": 2},
        **{"distill.steps": 2, "evaluate.teacher_nfe": (1,), "evaluate.student_nfe": (1,)},
    )  # fmt: skip
    jax_bridges.main.run(config, tmp_path / "run")
    assert steps(tmp_path / "run", "train") == steps(tmp_path / "run", "distill") == [1, 2]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    source, *others = results["rows"]
    assert [row["images"] for row in results["rows"]] == [8, 8, 8]
    assert all(np.isfinite(row["psnr"]) for row in others)
    # The corrupted images are files of the tiles: the same keys give the same errors.
    batch = first(make_source(config.data, "test"), 8)
    x0 = batch["x0"] / np.float32(127.5) - 1
    key = jax.random.fold_in(jax.random.key(config.seed), keys.Purpose.EVALUATE)
    own = keys.fold(keys.example_keys(key, batch["index"]), keys.Stream.CORRUPT)
    xT = jax.jit(PhotoFile(quality=(5, 30)))(x0, own).xT
    psnr = 10 * np.log10(4 / np.mean((np.asarray(xT) - x0) ** 2, (1, 2, 3)))
    assert abs(source["psnr"] - psnr.mean()) < 0.02
