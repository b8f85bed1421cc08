"""Tasks that cannot be: refused with the configuration, before a folder or a compilation is begun."""

import jax
import pytest

import jax_bridges.main
from jax_bridges.config import base_config
from jax_bridges.corruptions import (
    CORRUPTIONS,
    LinearOperator,
    make_corruption,
    write_masks,
)
from jax_bridges.corruptions.check import check_task
from jax_bridges.corruptions.masks import freeform_masks
from jax_bridges.validation import validate


def configured(data="earth", size=32, **corruption):
    config = base_config()
    config.data.name, config.data.size = data, size
    config.corruption = corruption
    return config


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (configured("earth_relief", name="jpeg", quality=5), "bring x_T .* Jpeg would never be"),
        (configured(name="paired"), "'paired', but the data bring no x_T"),
        (configured(name="superres", factor=5), "32 x 32 .* multiples of 5"),
        (configured(size=(32, 48), name="blur", legacy=True), "square images only, not 32 x 48"),
        (configured(name="jpeg", quality=0), "1 to 100"),
        (configured(name="jpeg", q=5), "no setting 'q'"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.corruption.name,
)
def test_refused_with_the_configuration(config, sentence):
    with pytest.raises(ValueError, match=sentence):
        validate(config)


def test_masks_are_looked_for_before_anything_is_written(tmp_path):
    """A missing file, a band that is not in it, and masks of another size."""
    file, workdir = tmp_path / "masks.npz", tmp_path / "run"
    config = configured(name="inpaint_freeform", area=(10, 20), fill="zero", path=str(file))
    with pytest.raises(FileNotFoundError, match="No mask file .*Palette"):
        jax_bridges.main.run(config, workdir)
    write_masks(file, {(20, 30): freeform_masks(3, 32, 32, (20, 30))})
    with pytest.raises(ValueError, match="no masks '10-20% freeform'; it has 20-30% freeform"):
        jax_bridges.main.run(config, workdir)
    write_masks(file, {(10, 20): freeform_masks(3, 16, 16, (10, 20))})
    with pytest.raises(ValueError, match="not a whole number of 32 x 32 masks"):
        jax_bridges.main.run(config, workdir)
    assert not workdir.exists()
    write_masks(file, {(10, 20): freeform_masks(3, 32, 32, (10, 20))})
    validate(config)


def test_accepted_without_computing_an_image():
    """Tasks of the papers at their size, traced on shapes alone."""
    before = sum(array.nbytes for array in jax.live_arrays())
    for name in ("jpeg", "superres", "inpaint_center", "blur"):
        check_task(make_corruption(name), False, 256, 256)
    check_task(make_corruption("paired"), True, 64, 64)
    assert sum(array.nbytes for array in jax.live_arrays()) - before < 256 * 256


def test_noise_that_fills_the_hole_by_default_is_randomness_enough():
    """As of InpaintCenter: fill need not be written out for a student without z."""
    config = configured(name="inpaint_center")
    config.distill.z_channels, config.distill.first_time = 0, 1.0
    validate(config)
    config.corruption = {"name": "inpaint_center", "fill": "zero"}
    with pytest.raises(ValueError, match="no randomness"):
        validate(config)


def test_operators_are_what_the_flag_says():
    """`linear` and the class agree for every name, and what is none says so when it is asked for one."""
    named = {name: make_corruption(name) for name in CORRUPTIONS if name != "composition"}
    for task in named.values():
        assert task.linear == isinstance(task, LinearOperator)
    assert named["superres"].operator(None) is named["superres"]
    assert not named["inpaint_freeform"].linear
    for name in ("jpeg", "paired", "mixture"):
        with pytest.raises(ValueError, match="is no linear operator"):
            named[name].operator(None)
