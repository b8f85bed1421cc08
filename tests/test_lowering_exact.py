"""Corruptions, scalings, metrics and feature networks lower for GPUs and TPUs, in full precision."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.corruptions import CORRUPTIONS, make_corruption
from jax_bridges.metrics import batches, image, inception, lite0, resnet
from jax_bridges.platforms import aim_at
from jax_bridges.wiener import Wiener
from tests.support.lowering import KEY, PRIOR, abstract
from tests.support.shipped import shipped_basis

lpips = importlib.import_module("jax_bridges.metrics.lpips")  # the function of that name hides it


def exact(function, *arguments) -> str:
    """Its text for both platforms, all of whose products are exact: a TPU's default is bfloat16."""
    text = function.trace(*arguments).lower(lowering_platforms=("cuda", "tpu")).as_text()
    products = [
        line for line in text.splitlines() if "dot_general" in line or ".convolution" in line
    ]
    assert all(line.count("HIGHEST") == 2 for line in products), products
    return text


IMAGES = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "paired"])
def test_corruptions(name):
    settings = {
        "superres": {"kind": "bicubic"}, "block_sensing": {"block": 8},
        "composition": {"parts": ("colorize", "denoise")},
    }  # fmt: skip
    corruption = make_corruption(name, **settings.get(name, {}))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    with aim_at("tpu"):
        exact(jax.jit(corruption), IMAGES, keys)
        if corruption.linear:
            exact(jax.jit(lambda x: corruption.pinv(corruption.forward(x))), IMAGES)


def test_scalings_and_bases():
    run = abstract("float32", **PRIOR)
    t = jax.ShapeDtypeStruct((4,), jnp.float32)
    scaling = Wiener()
    exact(jax.jit(lambda x, t: scaling.skip(run.system.bridge, x, t)), IMAGES, t)
    exact(jax.jit(lambda t: scaling.scalings(run.system.bridge, t)), t)
    for operator in (make_corruption("superres", kind="pool"), make_corruption("colorize")):
        exact(jax.jit(shipped_basis(operator, 32, 32).rotate), IMAGES)


def test_metrics():
    pair = np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3), np.uint8)
    for function in (image.psnr, image.ssim):
        exact(jax.jit(function), *pair)


FEATURES = {
    "lite0": (lite0, "lite0_params", lambda images: lite0.lite0_outputs(images)),
    "inception": (
        inception,
        "inception_params",
        lambda images: inception.inception_outputs(images),
    ),
    "resnet": (resnet, "resnet_params", lambda images: resnet.resnet_logits(images)),
    "vgg": (lpips, "lpips_params", lambda images: lpips.lpips(images, images, "vgg")),
    "alex": (lpips, "lpips_params", lambda images: lpips.lpips(images, images, "alex")),
}


def made_up(name: str):
    """Shapes of a feature network's weights, which are not here."""
    trunk, size = {
        "lite0": (lite0.Lite0, 224), "inception": (inception.Inception, 299),
        "resnet": (resnet.ResNet50, 224), "vgg": (lpips.VGG16, 64), "alex": (lpips.AlexNet, 64),
    }[name]  # fmt: skip
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(trunk().init, KEY, x)
    if name not in lpips.TRUNKS:
        return variables
    maps = jax.eval_shape(trunk().apply, variables, x)
    return {
        "trunk": variables,
        "heads": [jax.ShapeDtypeStruct(m.shape[-1:], m.dtype) for m in maps],
    }


@pytest.mark.parametrize("name", FEATURES)
def test_feature_networks(name, monkeypatch):
    """In the batches that an accelerator takes, not in those of a CPU."""
    module, of_file, call = FEATURES[name]
    variables, given = made_up(name), []
    monkeypatch.setattr(module, of_file, lambda *_: variables)
    monkeypatch.setattr(module, "in_batches", lambda *args: given.append(args) or [args[2][0]] * 2)
    images = np.zeros((2, 48, 48, 3), np.uint8)
    with aim_at("cuda"):
        call(images)
        ((steps, variables, inputs, batch, *_),) = given
        assert batch == (32 if name in lpips.TRUNKS else 64)
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",))
        arrays = [jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in inputs]
        for step in steps:
            function = batches.on_each(step, mesh).__wrapped__
            assert "stablehlo.while" not in exact(function, variables, *arrays)
            arrays = jax.eval_shape(function, variables, *arrays)
