"""Feature networks against torch's definitions on the same random weights, and their files.

The numbers come from golden/feature_nets_make.py: pytorch-fid, torch-fidelity, torchvision, lpips.
"""

import gzip
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.io.safetensors import write_safetensors
from jax_bridges.metrics import inception_outputs, lpips, resnet_logits
from jax_bridges.metrics import weights as weights_module
from jax_bridges.metrics.resize import bicubic_torch, bilinear_tf1, bilinear_torch
from jax_bridges.metrics.weights import FILES, weights_path
from tests.golden import feature_nets_weights as given

HERE = Path(__file__).parent / "golden"

GOLDEN = np.load(HERE / "feature_nets.npz")
LAYOUTS = json.loads(gzip.decompress((HERE / "feature_nets_layouts.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """`file(name)`: a file of random weights in the layout that torch's definition has."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            write_safetensors(path, given.make(LAYOUTS[name]))
        return path

    return make


def close(got, want, tolerance=1e-4):
    """Within the tolerance of the largest value."""
    assert got.shape == want.shape
    assert np.abs(got - want).max() < tolerance * np.abs(want).max()


def test_inception_of_the_fid_under_both_conventions(file):
    images = given.images(2, 64)
    for convention in ("pytorch", "tensorflow"):
        out = inception_outputs(images, f"legacy_{convention}", file("inception"))
        close(out.features, GOLDEN[f"inception_{convention}"])
        close(out.logits, GOLDEN[f"inception_{convention}_logits"])
    # The two conventions are not the same, by far more than that.
    gap = np.abs(GOLDEN["inception_pytorch"] - GOLDEN["inception_tensorflow"]).max()
    assert gap > 10 * 1e-4 * GOLDEN["inception_pytorch"].max()


@pytest.mark.slow
def test_resnet50_after_i2sb_s_preparation(file):
    close(resnet_logits(given.images(2, 96), file("resnet50")), GOLDEN["resnet50"])


@pytest.mark.parametrize("net, trunk", [("vgg", "vgg16"), ("alex", "alexnet")])
def test_lpips(file, net, trunk):
    images = given.images(4, 64)
    got = lpips(images[:2], images[2:], net, file(trunk), file(f"lpips_{net}"))
    np.testing.assert_allclose(got, GOLDEN[f"lpips_{net}"], atol=1e-5, rtol=1e-5)
    floats = images.astype(np.float32) / 127.5 - 1
    same = lpips(floats[:2], images[:2], net, file(trunk), file(f"lpips_{net}"), batch_size=4)
    assert np.abs(same).max() < 1e-7


@pytest.mark.parametrize("old", [7, 64, 299, 400])
def test_resizing_by_its_definition(old):
    """Against the closed form on a straight line: at half pixels, or at the top left corner."""
    line = jnp.broadcast_to(jnp.arange(old, dtype=jnp.float32)[None, :, None, None], (1, old, 5, 1))
    new = 31
    half = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    corner = np.minimum(np.arange(new) * old / new, old - 1)
    np.testing.assert_allclose(bilinear_torch(line, new)[0, :, 3, 0], half, atol=1e-3)
    np.testing.assert_allclose(bilinear_tf1(line, new)[0, :, 3, 0], corner, atol=1e-3)
    inside = (half > 1) & (half < old - 2)  # cubic interpolation with a = -3/4 bends lines a little
    cubic = np.asarray(bicubic_torch(line, new)[0, :, 3, 0])
    assert np.abs(cubic - half)[inside].max(initial=0) < 0.15
    exact = inside & (np.abs(half % 1 - 0.5) < 1e-6)
    np.testing.assert_allclose(cubic[exact], half[exact], atol=1e-3)


@pytest.mark.slow
def test_against_torch_itself(file):
    """Other image sizes and the published heads of LPIPS, where torch is installed."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
    reason = "lpips is not installed: pip install '.[torch]'"
    package = pytest.importorskip("lpips", reason=reason)
    from tests.golden.feature_nets_make import load, nchw

    for side in (40, 300, 350):
        images = given.images(2, side)
        x = nchw(images).float()
        for ours, mode, size in (
            (bilinear_torch, "bilinear", 299),
            (bicubic_torch, "bicubic", 224),
        ):
            want = torch.nn.functional.interpolate(x, size=(size, size), mode=mode)
            got = np.asarray(ours(jnp.asarray(images, jnp.float32), size))
            np.testing.assert_allclose(got, want.numpy().transpose(0, 2, 3, 1), atol=2e-3)
    for name, trunk in (("vgg", "vgg16"), ("alex", "alexnet")):
        net = package.LPIPS(net=name, pnet_rand=True, verbose=False)
        state = net.state_dict()
        heads = {k: v.numpy() for k, v in state.items() if k.startswith("lin") and "lins" not in k}
        load(net, given.make(LAYOUTS[trunk]), heads)
        images = given.images(4, 80)
        a, b = (nchw(v) / 127.5 - 1 for v in (images[:2], images[2:]))
        with torch.no_grad():
            want = net(a, b).reshape(-1).numpy()
        # The heads are found in the installed package.
        np.testing.assert_allclose(
            lpips(images[:2], images[2:], name, file(trunk)), want, atol=1e-5
        )


def test_what_a_missing_file_is_told(tmp_path, monkeypatch):
    for name in ("HOME", "TORCH_HOME", weights_module.ENVIRONMENT):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, entry in FILES.items():
        if entry.package:
            continue
        with pytest.raises(FileNotFoundError) as error:
            weights_path(name)
        assert entry.address in str(error.value) and entry.sha256 in str(error.value)
        assert entry.name in str(error.value) and "config.evaluate.weights" in str(error.value)


def test_where_files_are_looked_for_and_that_they_are_checked(tmp_path, monkeypatch, file):
    name = FILES["resnet50"].name
    for variable in ("HOME", "TORCH_HOME", weights_module.ENVIRONMENT):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    known = FILES["resnet50"]._replace(sha256="0a1b")
    monkeypatch.setitem(FILES, "resnet50", known)
    monkeypatch.setattr(weights_module, "file_sha256", lambda path: path.read_text())
    places = ("HOME/.cache/jax_bridges/weights", "TORCH_HOME/hub/checkpoints", "given")
    for place in places:  # each is found before those that came earlier here
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / name).write_text("0a1b2c3d")
        where = tmp_path / "given" if place == "given" else None
        expected = places[0] if place == places[1] else place
        assert weights_path("resnet50", where) == tmp_path / expected / name
    (tmp_path / "given" / name).write_text("ffff")
    with pytest.raises(ValueError, match="SHA-256 starts with ffff and not with 0a1b"):
        weights_path("resnet50", tmp_path / "given")
    # A file that is named is taken as it is.
    assert weights_path("resnet50", tmp_path / "given" / name) == tmp_path / "given" / name


def test_other_weights_and_images_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="missing.*fc.weight|fc.weight.*missing|do not fit"):
        resnet_logits(given.images(1, 32), file("alexnet"))
    with pytest.raises(ValueError, match="not the linear heads"):
        lpips(given.images(1, 32), given.images(1, 32), "alex", file("alexnet"), file("alexnet"))
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="web page"):
        inception_outputs(given.images(1, 32), where=damaged)
    with pytest.raises(ValueError, match="uint8 RGB"):
        inception_outputs(np.zeros((1, 8, 8, 3), np.float32), where=file("inception"))
    with pytest.raises(ValueError, match="legacy_pytorch, legacy_tensorflow"):
        inception_outputs(given.images(1, 32), "clean", file("inception"))
    with pytest.raises(ValueError, match="16 pixels a side"):
        small = given.images(1, 8)
        lpips(small, small, "vgg", file("vgg16"), file("lpips_vgg"))
