"""Corruptions against official numbers, closed forms and the properties they promise."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jax_bridges.corruptions import (
    CORRUPTIONS,
    FILL_OF_TEACHER,
    I2SB_TASKS,
    Blur,
    Colorize,
    Denoise,
    Identity,
    InpaintCenter,
    InpaintFreeform,
    Jpeg,
    Mixture,
    Paired,
    SuperResolution,
    fill_hole,
    keep_known,
    make_corruption,
)
from jax_bridges.corruptions import blur as blurs
from jax_bridges.corruptions import jpeg as jpegs
from jax_bridges.corruptions import superres as superresolutions

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "corruptions_64.npz")
SMALL_BANK = {"count": 8}
ALL = {
    "inpaint_center": InpaintCenter(),
    "inpaint_center zero": InpaintCenter(fill="zero", size=0.25),
    "inpaint_freeform": InpaintFreeform(**SMALL_BANK),
    "superres bicubic": SuperResolution(),
    "superres pool": SuperResolution(kind="pool", factor=2),
    "jpeg": Jpeg(quality=5),
    "blur uniform": Blur(kind="uniform"),
    "blur aniso": Blur(kind="aniso"),
    "blur legacy": Blur(legacy=True),
    "colorize": Colorize(noise_std=1.0),
    "denoise": Denoise(std=0.3),
    "identity": Identity(),
    "mixture": Mixture(parts=(InpaintCenter(), Jpeg(), Denoise()), with_mask=True),
}


def make_keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def official_image(dtype=jnp.float32):
    return jnp.asarray(GOLDEN["img_u8"], dtype)[None] / 255 * 2 - 1


def images(n, height=32, width=32, seed=1):
    return jax.random.uniform(jax.random.key(seed), (n, height, width, 3), minval=-1.0)


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


# --- promises that all of them make --------------------------------------------------------------


def test_every_name_is_tested():
    assert {name.split()[0] for name in ALL} | {"paired"} == set(CORRUPTIONS)
    for name, corruption in ALL.items():
        assert type(corruption) is CORRUPTIONS[name.split()[0]]


@pytest.mark.parametrize("name", ALL)
def test_one_at_a_time_equals_the_batch_under_jit(name):
    corruption, x, keys = ALL[name], images(4, 16, 16), make_keys(4)
    jitted = jax.jit(corruption)
    batch = jitted(x, keys)
    for i in range(4):
        one = jitted(x[i : i + 1], keys[i : i + 1])
        np.testing.assert_allclose(one.xT[0], batch.xT[i], atol=2e-6)
        if batch.mask is not None:
            np.testing.assert_array_equal(one.mask[0], batch.mask[i])
    chex.assert_equal_shape([batch.xT, x])
    assert batch.xT.dtype == x.dtype
    if batch.mask is not None:
        assert batch.mask.shape == (4, 16, 16, 1) and batch.mask.dtype == x.dtype
    again = jitted(x, make_keys(4, seed=9)).xT
    drawn = name.split()[0] not in ("superres", "jpeg", "blur", "identity")
    assert (np.abs(again - batch.xT).max() > 0.1) == (drawn and "zero" not in name)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_the_operators_own(name):
    corruption, x, keys = ALL[name], images(2, 16, 16), make_keys(2)
    cotangent = images(2, 16, 16, seed=7)
    gradient = jax.jit(jax.grad(lambda x: jnp.vdot(corruption(x, keys).xT, cotangent)))(x)
    assert bool(jnp.isfinite(gradient).all())
    if name.startswith("inpaint"):
        mask = jax.jit(corruption)(x, keys).mask
        np.testing.assert_array_equal(gradient, jnp.where(mask > 0, 0, cotangent))
    elif name.startswith("blur"):
        np.testing.assert_allclose(gradient, corruption.transpose(cotangent), atol=1e-5)
    elif name in ("denoise", "identity"):
        np.testing.assert_array_equal(gradient, cotangent)


@pytest.mark.parametrize("name", ALL)
def test_static_hashable_and_without_leaves(name):
    corruption = ALL[name]
    assert hash(corruption) == hash(type(corruption)(**vars(corruption)))
    assert jax.tree.leaves(corruption) == []


def test_passed_to_a_jitted_function_as_it_is_or_static():
    traces = []

    def apply(corruption, x, keys):
        traces.append(corruption)
        return corruption(x, keys).xT

    x, keys = images(1, 16, 16), make_keys(1)
    plain, static = jax.jit(apply), jax.jit(apply, static_argnums=0)
    for factor in (2, 4, 2):
        corruption = SuperResolution(factor=factor)  # equal ones share a compilation
        expected = corruption(x, keys).xT
        np.testing.assert_allclose(plain(corruption, x, keys), expected, atol=1e-6)
        np.testing.assert_allclose(static(corruption, x, keys), expected, atol=1e-6)
    assert len(traces) == 4


@pytest.mark.parametrize("corruption", [SuperResolution(), Blur(), Blur(legacy=True)], ids=str)
def test_no_decomposition_is_left_to_the_device(corruption):
    graph = str(jax.make_jaxpr(corruption)(images(1), make_keys(1)))
    assert "dot_general" in graph and "svd" not in graph and "custom_call" not in graph


OPERATORS = {
    "inpaint": InpaintCenter(),
    "bicubic": SuperResolution(),
    "bicubic 2": SuperResolution(factor=2),
    "pool": SuperResolution(kind="pool"),
    "colorize": Colorize(),
    "denoise": Denoise(),
    "identity": Identity(),
    "blur mild": Blur(taps=5, std=0.6),
    "blur aniso mild": Blur(kind="aniso", taps=3, std=(0.5, 0.3)),
    "blur uniform": Blur(kind="uniform"),
    "blur gauss": Blur(),
    "blur aniso": Blur(kind="aniso"),
    "blur legacy": Blur(kind="uniform", legacy=True),
    "blur aniso legacy": Blur(kind="aniso", legacy=True),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_identities(name):
    operator = OPERATORS[name]
    assert operator.linear
    with jax.enable_x64(True):
        x, y = (jnp.asarray(images(1, seed=s), jnp.float64) for s in (1, 2))
        ax, y = operator.forward(x), operator.forward(y)
        np.testing.assert_allclose(
            operator.forward(2 * x - 3 * operator.pinv(y)),
            2 * ax - 3 * operator.forward(operator.pinv(y)),
            atol=1e-9,
        )
        np.testing.assert_allclose(jnp.vdot(ax, y), jnp.vdot(x, operator.transpose(y)), rtol=1e-9)
        back = operator.pinv(y)
        np.testing.assert_allclose(operator.pinv(operator.forward(back)), back, atol=1e-8)
        lost = operator.forward(operator.pinv(ax)) - ax
        truncated = name in ("blur uniform", "blur gauss", "blur aniso")
        # What the pseudo-inverse ignores are directions that A shrinks to less than the threshold.
        bound = 3e-2 * jnp.linalg.norm(x) if truncated else 1e-9
        assert jnp.linalg.norm(lost) < bound


def test_freeform_operator_takes_its_mask():
    operator, x = InpaintFreeform(**SMALL_BANK), images(2)
    mask = operator.masks(jnp.array([0, 5]), 32, 32)
    y = operator.forward(x, mask)
    np.testing.assert_array_equal(y, x * (1 - mask))
    np.testing.assert_array_equal(operator.transpose(y, mask), y)
    np.testing.assert_array_equal(operator.pinv(y, mask), y)
    assert not operator.linear


def test_blur_without_threshold_is_inverted_exactly():
    with jax.enable_x64(True):
        x, blur = jnp.asarray(images(1), jnp.float64), Blur(std=1.0, threshold=0.0)
        np.testing.assert_allclose(blur.pinv(blur.forward(x)), x, atol=1e-7)
        assert jnp.abs(Blur(std=1.0).pinv(blur.forward(x)) - x).max() > 0.05
        # A singular one: still A A^+ A = A, and no explosion.
        blur = Blur(kind="uniform", threshold=0.0)
        y = blur.forward(x)
        np.testing.assert_allclose(blur.forward(blur.pinv(y)), y, atol=1e-7)


# --- mixture -------------------------------------------------------------------------------------


def test_each_example_of_a_mixture_suffers_one_part():
    parts = (InpaintCenter(), Denoise(std=0.1), SuperResolution())
    mixture, x, keys = Mixture(parts=parts, with_mask=True), images(64, 16, 16), make_keys(64)
    xT, mask = jax.jit(mixture)(x, keys)
    choice = np.asarray(mixture.choice(keys))
    counts = np.bincount(choice, minlength=3)
    assert counts.sum() == 64 and counts.min() >= 10
    in_hole = np.asarray(mask)[:, 4:12, 4:12]
    np.testing.assert_array_equal(in_hole, 1)
    known = np.asarray(mask).mean((1, 2, 3))
    np.testing.assert_array_equal(known, np.where(choice == 0, 0.25, 1))
    repeated = parts[2](x, keys).xT
    np.testing.assert_allclose(xT[choice == 2], repeated[choice == 2], atol=1e-6)
    np.testing.assert_array_equal(
        np.where(mask[choice == 0] > 0, 0, xT[choice == 0]),
        InpaintCenter(fill="zero")(x, keys).xT[choice == 0],
    )
    noise = (xT - x)[choice == 1] / 0.1
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.05)
    assert jax.eval_shape(Mixture(parts=parts), x, keys).mask is None


def test_the_papers_mixture():
    mixture = make_corruption("mixture")
    assert len(mixture.parts) == len(I2SB_TASKS) == 9
    assert mixture.parts[0] == Jpeg(quality=5)
    small = make_corruption("mixture", parts=["jpeg", ("superres", {"factor": 2}), Denoise()])
    assert small.parts == (Jpeg(), SuperResolution(factor=2), Denoise())


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("jpg", {}, "Unknown corruption 'jpg'.*inpaint_center.*mixture"),
        ("jpeg", {"q": 3}, "no setting 'q'.*quality"),
        ("jpeg", {"quality": 0}, "1 to 100"),
        ("superres", {"kind": "lanczos"}, "'bicubic', 'pool'"),
        ("superres", {"factor": 0}, "at least 1"),
        ("inpaint_center", {"fill": "black"}, "'noise', 'zero', 'white'"),
        ("inpaint_center", {"size": 0}, r"\(0, 1\]"),
        ("inpaint_freeform", {"area": (30, 20)}, "low < high"),
        ("inpaint_freeform", {"count": 0}, "at least 1"),
        ("blur", {"kind": "motion"}, "'uniform', 'gauss', 'aniso'"),
        ("blur", {"taps": 4}, "odd"),
        ("blur", {"std": 0.0}, "positive"),
        ("colorize", {"weights": [0, 0, 0]}, "all be zero"),
        ("colorize", {"noise_std": -1}, ">= 0"),
        ("denoise", {"std": -1.0}, ">= 0"),
        ("mixture", {"parts": ["paired"]}, "Paired"),
        ("mixture", {"parts": ["fog"]}, "Unknown corruption 'fog'"),
    ],
)
def test_refused_settings(name, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_corruption(name, **settings)


def test_lists_of_configurations_become_tuples():
    assert make_corruption("inpaint_freeform", area=[20, 30]).area == (20, 30)
    assert hash(make_corruption("blur", std=[1.0, 2.0])) == hash(Blur(std=(1.0, 2.0)))
    assert make_corruption("colorize", weights=[0, 1, 0]).weights == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("corruption", "shape", "sentence"),
    [
        (SuperResolution(), (1, 30, 32, 3), "30 x 32 .* multiples of 4"),
        (Jpeg(), (1, 16, 16, 1), "3 channels, but have 1"),
        (Colorize(), (1, 16, 16, 1), "3 weights .* 1 channels"),
        (Blur(legacy=True), (1, 16, 24, 3), "square images only, not 16 x 24"),
    ],
)
def test_refused_images(corruption, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        corruption(jnp.zeros(shape), make_keys(1))


@pytest.mark.parametrize("corruption", ALL.values(), ids=ALL.keys())
def test_refused_keys(corruption):
    x = images(2, 16, 16)
    if isinstance(corruption, Identity):
        return
    with pytest.raises(ValueError, match="typed PRNG keys, one per example"):
        corruption(x, jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="one per example, but have shape"):
        corruption(x, make_keys(3))


def test_fill_hole_leaves_no_gradient_in_the_hole():
    x, mask = images(1, 8, 8), InpaintCenter().mask(8, 8)
    for fill in ("noise", "zero", "white"):
        gradient = jax.grad(lambda x, f=fill: fill_hole(x, mask, make_keys(1), f).sum())(x)
        np.testing.assert_array_equal(gradient, np.broadcast_to(1 - mask, x.shape))
