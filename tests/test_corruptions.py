"""Corruptions against official numbers and closed forms; test_corruptions_promises.py has the rest."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jax_bridges.corruptions import (
    FILL_OF_TEACHER,
    Blur,
    Colorize,
    Denoise,
    Identity,
    InpaintCenter,
    Jpeg,
    Paired,
    SuperResolution,
    keep_known,
)
from jax_bridges.corruptions import blur as blurs
from jax_bridges.corruptions import jpeg as jpegs
from jax_bridges.corruptions import superres as superresolutions
from tests.support.pictures import images, make_keys

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "corruptions_64.npz")


def official_image(dtype=jnp.float32):
    return jnp.asarray(GOLDEN["img_u8"], dtype)[None] / 255 * 2 - 1


# --- numbers of the official code --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bicubic", "pool"])
def test_superres_is_the_official_one(kind):
    x, small = official_image(), GOLDEN[f"sr_{kind}_lr"]
    corruption = SuperResolution(kind=kind)
    np.testing.assert_allclose(corruption.forward(x)[0], small, atol=1e-5)
    large = small.repeat(4, 0).repeat(4, 1)
    corrupted = corruption(x, make_keys(1))
    np.testing.assert_allclose(corrupted.xT[0], large, atol=1e-5)
    assert corrupted.mask is None


@pytest.mark.parametrize("quality", [5, 10])
def test_jpeg_is_the_official_one(quality):
    luma, chroma = jpegs.quantisation_tables(quality)
    np.testing.assert_array_equal(luma, GOLDEN[f"jpeg{quality}_luma"])
    np.testing.assert_array_equal(chroma, GOLDEN[f"jpeg{quality}_chroma"])
    out = Jpeg(quality=quality)(official_image(), make_keys(1)).xT[0]
    np.testing.assert_allclose(out, GOLDEN[f"jpeg{quality}"], atol=1e-5)


def test_center_inpainting_is_the_official_one():
    x, noise = official_image(), np.zeros((1, 64, 64, 3), np.float32)
    noise[:, 16:48, 16:48] = GOLDEN["noise_hole"]
    xT, mask = InpaintCenter()(x, lambda draw: noise)  # the official noise, replayed
    official = np.unpackbits(GOLDEN["center_mask"]).reshape(64, 64)
    np.testing.assert_array_equal(mask[0, ..., 0], official)
    np.testing.assert_array_equal(xT[0, 16:48, 16:48], GOLDEN["x1_i2sb_hole"])
    np.testing.assert_array_equal(
        np.where(mask > 0, 0, xT), InpaintCenter(fill="zero")(x, make_keys(1)).xT
    )
    white = InpaintCenter(fill="white")(x, make_keys(1)).xT
    np.testing.assert_array_equal(white, np.where(mask > 0, 1, x))
    assert FILL_OF_TEACHER == {"i2sb": "noise", "ddbm": "zero", "dbim": "zero"}


@pytest.mark.parametrize(("name", "kind"), [("uni", "uniform"), ("gauss", "gauss")])
def test_legacy_blur_is_the_official_one_given_its_sort(name, kind):
    u, s, v, order = (GOLDEN[f"blur_{name}_{part}"] for part in ("U", "s", "V", "perm"))
    x, official = official_image(), GOLDEN[f"blur_{name}"]
    spectrum = blurs.legacy_spectrum(s, s, 3, order)
    out = 2 * blurs.spectral((x + 1) / 2, spectrum, (v, v), (u, u)) - 1
    np.testing.assert_allclose(out[0, ::2, ::2], official, atol=1e-5)
    # Our own decomposition is theirs ...
    taps, (std, _) = blurs.PAPER_KERNELS[kind]
    np.testing.assert_allclose(
        blurs.blur_matrix(64, taps, std, True)[32], GOLDEN[f"blur_{name}_M"], atol=1e-8
    )
    u1, s1, v1 = blurs.blur_svd(64, taps, std, 3e-2, True)
    np.testing.assert_allclose(s1, s, atol=1e-6)
    spectrum = blurs.legacy_spectrum(s1, s1, 3, order)
    out = 2 * blurs.spectral((x + 1) / 2, spectrum, (v1, v1), (u1, u1)) - 1
    np.testing.assert_allclose(out[0, ::2, ::2], official, atol=5e-5)
    # ... and ties in the sort are all that is left between the two.
    out = Blur(kind=kind, legacy=True)(x, make_keys(1)).xT
    assert 1e-3 < np.abs(out[0, ::2, ::2] - official).max() < 0.03
    # The true operator is far from it.
    assert np.abs(Blur(kind=kind)(x, make_keys(1)).xT[0, ::2, ::2] - official).max() > 0.3


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("sr_bicubic4", SuperResolution()),
        ("sr_avg2", SuperResolution(kind="pool", factor=2)),
        ("color", Colorize()),
    ],
)
def test_operators_are_ddnms(name, operator):
    y = operator.forward(jnp.asarray(GOLDEN["x32"])[None])
    np.testing.assert_allclose(operator.pinv(y)[0], GOLDEN[f"ddnm_{name}_pinv"], atol=1e-5)
    np.testing.assert_allclose(operator.transpose(y)[0], GOLDEN[f"ddnm_{name}_AtA"], atol=1e-5)


# --- closed forms --------------------------------------------------------------------------------


def test_bicubic_keeps_constants_and_is_exact_on_ramps_inside():
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 64)[None, :, None, None], (1, 64, 48, 3))
    small = SuperResolution(factor=4).forward(ramp)
    assert small.shape == (1, 16, 12, 3)
    middles = np.linspace(-1, 1, 64).reshape(16, 4).mean(1)
    np.testing.assert_allclose(small[0, 2:-2, 3, 0], middles[2:-2], atol=1e-6)
    for factor in (2, 3, 8):
        matrix = superresolutions.bicubic_matrix(24, factor)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
        assert np.linalg.svd(matrix)[1].min() > 0.2  # so that its pseudo-inverse is tame


@pytest.mark.parametrize("factor", [1, 2, 3, 5, 8])
def test_bicubic_is_pillows_inside_and_shifts_nothing(factor):
    """Pillow has the same kernel, and other rules beyond the borders."""
    x = np.random.default_rng(0).uniform(-1, 1, (12 * factor, 12 * factor)).astype(np.float32)
    small = SuperResolution(factor=factor).forward(x[None, :, :, None])[0, 2:-2, 2:-2, 0]
    pillows = np.asarray(Image.fromarray(x).resize((12, 12), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(small, pillows[2:-2, 2:-2], atol=1e-6)
    ramp = np.linspace(-1, 1, 12 * factor)[None, :, None, None] * np.ones((1, 1, 2 * factor, 1))
    inner = slice(4 * factor, -4 * factor)
    low = superresolutions.low_pass(jnp.asarray(ramp, jnp.float32), factor)
    np.testing.assert_allclose(low[:, inner], ramp[:, inner], atol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "gauss", "aniso"])
def test_true_blur_is_a_convolution(kind):
    x = images(1, 24, 40)
    out = Blur(kind=kind)(x, make_keys(1)).xT
    taps, stds = blurs.PAPER_KERNELS[kind]
    expected = (np.asarray(x[0], np.float64) + 1) / 2
    for axis, std in enumerate(stds):
        kernel = np.exp(-(np.arange(-(taps // 2), taps // 2 + 1) ** 2) / (2 * std**2))
        expected = ndimage.convolve1d(expected, kernel / kernel.sum(), axis, mode="constant")
    np.testing.assert_allclose(out[0], expected * 2 - 1, atol=1e-5)


def test_blur_takes_other_kernels():
    assert Blur(taps=9, std=2.0) != Blur(taps=9, std=(2.0, 3.0))
    impulse = jnp.zeros((1, 33, 33, 1)).at[0, 16, 16].set(1.0)
    out = Blur(taps=31, std=(2.0, 3.0)).forward(impulse)[0, ..., 0]
    at = np.arange(-16, 17)
    variance = [(out.sum(1 - axis) * at**2).sum() for axis in (0, 1)]
    np.testing.assert_allclose(variance, [4, 9], rtol=1e-3)


def test_jpeg_tables_are_those_of_libjpeg():
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        written = Image.open(file).quantization
        for ours, table in zip(jpegs.quantisation_tables(quality), (0, 1), strict=True):
            np.testing.assert_array_equal(ours.ravel(), written[table], err_msg=f"{quality}")


def test_jpeg_keeps_flat_grey_and_pads_odd_sizes():
    flat = jnp.full((1, 20, 30, 3), 0.25)
    np.testing.assert_allclose(Jpeg(quality=90)(flat).xT, flat, atol=2 / 255)
    x = images(1, 32, 48)
    padded = jnp.pad(x[:, :20, :30], ((0, 0), (0, 12), (0, 2), (0, 0)), mode="edge")
    np.testing.assert_array_equal(Jpeg()(x[:, :20, :30]).xT, Jpeg()(padded).xT[:, :20, :30])


def test_jpeg_has_more_to_lose_at_lower_quality_and_is_not_clipped():
    x = jnp.repeat(official_image()[..., :1], 3, -1)  # grey: decimated chroma costs nothing
    errors = [float(jnp.square(Jpeg(quality=q)(x).xT - x).mean()) for q in (100, 50, 10, 1)]
    assert errors == sorted(errors) and errors[0] < 1e-4 < 1e-2 < errors[-1]
    board = jnp.asarray(np.indices((16, 16)).sum(0) % 2 * 2.0 - 1)[None, :, :, None]
    extreme = Jpeg(quality=30)(jnp.repeat(board.at[:, 8:].set(1.0), 3, -1)).xT
    assert jnp.abs(extreme).max() > 1.01


def test_jpeg_gradients():
    x, direction = images(1, 16, 16), jnp.repeat(images(1, 16, 16, seed=2)[..., :1], 3, -1)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(Jpeg()(x).xT ** 2)))(x)
    np.testing.assert_array_equal(gradient, 0)
    through = Jpeg(straight_through=True)
    np.testing.assert_allclose(through(x).xT, Jpeg()(x).xT, atol=1e-5)
    # Without the rounding grey passes unchanged.
    tangent = jax.jit(lambda x, d: jax.jvp(lambda x: through(x).xT, (x,), (d,))[1])(x, direction)
    np.testing.assert_allclose(tangent, direction, atol=1e-4)


@pytest.mark.parametrize("make", [lambda s: Denoise(std=s), lambda s: Colorize(noise_std=s)])
def test_noise_is_at_most_white_minus_black(make):
    for std in (0.0, 1.0, 2.0):
        make(std)
    for std in (-0.1, 2.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise is in units of images in .-1, 1., so it lies"):
            make(std)


def test_colorize_denoise_identity_paired():
    x, keys = images(2), make_keys(2)
    grey = Colorize(weights=(0.2, 0.7, 0.1))(x, keys).xT
    expected = np.asarray(x) @ np.array([0.2, 0.7, 0.1])
    np.testing.assert_allclose(grey, np.repeat(expected[..., None], 3, -1), atol=1e-6)
    noise = (Denoise(std=0.5)(x, keys).xT - x) / 0.5
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.05)
    np.testing.assert_allclose(
        Colorize(noise_std=0.5)(x, keys).xT - Colorize()(x, keys).xT, 0.5 * noise, atol=1e-6
    )
    np.testing.assert_array_equal(Identity()(x, keys).xT, x)
    assert Paired().paired and not Identity().paired
    np.testing.assert_array_equal(Paired()(x, keys, xT=grey).xT, grey)
    with pytest.raises(ValueError, match="pass the batch's own"):
        Paired()(x, keys)


# --- holes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shape", "box"),
    [
        (0.5, (256, 256), (64, 64, 192, 192)),
        (0.5, (32, 64), (8, 16, 24, 48)),
        (0.5, (30, 30), (7, 7, 23, 23)),
        (0.6, (10, 20), (2, 4, 8, 16)),
        (1.0, (8, 8), (0, 0, 8, 8)),
        (0.01, (8, 8), (3, 3, 5, 5)),
    ],
)
def test_hole_box(size, shape, box):
    corruption = InpaintCenter(size=size, fill="zero")
    assert corruption.hole_box(*shape) == box
    mask = corruption(jnp.ones((1, *shape, 3)), make_keys(1)).mask[0, ..., 0]
    y, x = np.nonzero(np.asarray(mask))
    assert (y.min(), x.min(), y.max() + 1, x.max() + 1) == box
    assert mask.sum() == (box[2] - box[0]) * (box[3] - box[1])
    assert Jpeg().hole_box(*shape) is None


def test_noise_in_the_hole_is_standard_and_its_own_for_each_example():
    x = images(8, 64, 64)
    xT, mask = jax.jit(InpaintCenter())(x, make_keys(8))
    hole = np.asarray(xT)[:, 16:48, 16:48]
    np.testing.assert_allclose([hole.mean(), hole.std()], [0, 1], atol=0.03)
    correlation = np.corrcoef(hole.reshape(8, -1)) - np.eye(8)
    assert np.abs(correlation).max() < 0.1
    np.testing.assert_array_equal(np.where(mask > 0, 0, xT), np.where(mask > 0, 0, x))


def test_keep_known():
    x0_hat, xT = images(2, seed=3), images(2, seed=4)
    assert keep_known(x0_hat, xT, None) is x0_hat
    mask = jnp.broadcast_to(InpaintCenter().mask(32, 32), (2, 32, 32, 1))
    out = np.array(keep_known(x0_hat, xT, mask))
    np.testing.assert_array_equal(out[:, 8:24, 8:24], x0_hat[:, 8:24, 8:24])
    out[:, 8:24, 8:24] = xT[:, 8:24, 8:24]
    np.testing.assert_array_equal(out, xT)


def test_keep_known_hides_even_a_network_that_failed():
    mask = InpaintCenter().mask(8, 8)
    failed = jnp.full((1, 8, 8, 3), jnp.nan)
    out = keep_known(failed, jnp.ones((1, 8, 8, 3)), mask)
    assert jnp.isnan(out).sum() == 3 * mask.sum()
