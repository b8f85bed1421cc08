"""What every corruption promises, operators' identities, mixtures, and what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.corruptions import (
    CORRUPTIONS,
    I2SB_TASKS,
    BlockSensing,
    Blur,
    Colorize,
    Composition,
    Denoise,
    Identity,
    InpaintCenter,
    InpaintFreeform,
    InpaintHoles,
    InpaintRandom,
    Jpeg,
    Mixture,
    PhotoFile,
    SuperResolution,
    WalshHadamard,
    fill_hole,
    make_corruption,
)
from tests.support.pictures import images, make_keys

SMALL_BANK = {"count": 8}
ALL = {
    "inpaint_center": InpaintCenter(),
    "inpaint_center zero": InpaintCenter(fill="zero", size=0.25),
    "inpaint_freeform": InpaintFreeform(**SMALL_BANK),
    "inpaint_holes": InpaintHoles(**SMALL_BANK),
    "inpaint_random": InpaintRandom(fill="noise"),
    "superres bicubic": SuperResolution(),
    "superres pool": SuperResolution(kind="pool", factor=2),
    "jpeg": Jpeg(quality=5),
    "photo_file": PhotoFile(noise=(0.1, 0.5), written=0.5),
    "blur uniform": Blur(kind="uniform"),
    "blur aniso": Blur(kind="aniso"),
    "blur legacy": Blur(legacy=True),
    "colorize": Colorize(noise_std=1.0),
    "denoise": Denoise(std=0.3),
    "identity": Identity(),
    "walsh_hadamard": WalshHadamard(),
    "block_sensing": BlockSensing(block=8),
    "composition": Composition(parts=(InpaintCenter(), Colorize())),
    "mixture": Mixture(parts=(InpaintCenter(), Jpeg(), Denoise()), with_mask=True),
}


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
    fixed = (
        "superres",
        "jpeg",
        "blur",
        "identity",
        "walsh_hadamard",
        "block_sensing",
        "composition",
    )
    drawn = name.split()[0] not in fixed
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


def test_which_masks_undoing_needs():
    """Of every corruption one of three words, by what it does to a hole."""
    found = {name: corruption.masks for name, corruption in ALL.items()}
    assert {n: word for n, word in found.items() if "inpaint" in n or word != "none"} == {
        "inpaint_center": "needed",
        "inpaint_center zero": "needed",
        "inpaint_freeform": "needed",
        "inpaint_holes": "needed",
        "inpaint_random": "needed",
        "mixture": "possible",
    }
    parts = (InpaintCenter(), Jpeg(quality=5))
    assert Mixture(parts=parts).masks == "none"
    assert Mixture(parts=parts, with_mask=True).masks == "possible"


def test_freeform_operator_takes_its_mask():
    operator, x = InpaintFreeform(**SMALL_BANK), images(2)
    mask = operator.of_bank(jnp.array([0, 5]), 32, 32)
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
        ("photo_file", {"quality": (50, 5)}, "quality must be a least and a largest"),
        ("photo_file", {"quality": (0, 5)}, "1 to 100"),
        ("photo_file", {"noise": (0, 25)}, "lies between 0 and 2"),
        ("photo_file", {"factors": ()}, "factors must be of at least 1"),
        ("photo_file", {"written": 2}, "must be a share"),
        ("photo_file", {"subsampling": "4:2:2"}, "'drawn', '4:4:4', '4:2:0'"),
        ("photo_file", {"phase": "middle"}, "'random', 'corner'"),
        ("superres", {"kind": "lanczos"}, "'bicubic', 'pool'"),
        ("superres", {"factor": 0}, "at least 1"),
        ("inpaint_center", {"fill": "black"}, "'noise', 'zero', 'white'"),
        ("inpaint_center", {"size": 0}, r"\(0, 1\]"),
        ("inpaint_freeform", {"area": (30, 20)}, "low < high"),
        ("inpaint_freeform", {"count": 0}, "at least 1"),
        ("inpaint_holes", {"count": 0}, "at least 1"),
        (
            "inpaint_holes",
            {"kinds": ("boxes", "dust")},
            "'dust' is unknown; it is one of 'freeform'",
        ),
        ("inpaint_holes", {"kinds": ()}, "kinds is empty"),
        ("inpaint_random", {"share": 1.0}, "between 0 and 1"),
        ("inpaint_random", {"share": 60}, "share must be between 0 and 1, and is 60"),
        ("blur", {"kind": "motion"}, "'uniform', 'gauss', 'aniso'"),
        ("blur", {"taps": 4}, "odd"),
        ("blur", {"std": 0.0}, "positive"),
        ("colorize", {"weights": [0, 0, 0]}, "all be zero"),
        ("colorize", {"noise_std": -1}, "lies between 0 and 2"),
        ("denoise", {"std": -1.0}, "lies between 0 and 2"),
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
        (PhotoFile(), (1, 16, 16, 1), "3 channels, but have 1"),
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
