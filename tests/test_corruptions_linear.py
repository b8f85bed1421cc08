"""Linear operators: official numbers, the identities of a pseudo-inverse, singular values."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.corruptions import (
    BlockSensing,
    Blur,
    Colorize,
    Composition,
    Denoise,
    Identity,
    InpaintCenter,
    InpaintFreeform,
    InpaintMask,
    Jpeg,
    SuperResolution,
    WalshHadamard,
    make_corruption,
)
from jax_bridges.corruptions.sensing import walsh_hadamard

FILE = np.load(pathlib.Path(__file__).parent / "golden" / "zero_shot.npz")
HOLE = 1 - FILE["mask"][None, :, :, None].astype(np.float32)
ORDER = tuple(FILE["wh_perm"].tolist())
OLD_PHOTO = (InpaintCenter(size=0.3), Colorize(), SuperResolution(kind="pool", factor=2))


def images(shape, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, shape)


# -- the official operators, and how their flat y maps to ours ------------------------------------
OFFICIAL = {
    "sr_avg4": SuperResolution(kind="pool", factor=4),
    "sr_bicubic4": SuperResolution(factor=4),
    "sr_bicubic2": SuperResolution(factor=2),
    "inpaint": InpaintMask(mask=HOLE),
    "color": Colorize(),
    "cs_wh4": WalshHadamard(ratio=0.25, order=ORDER),
}


def to_official(name, y):
    """Our y of one image as the flat vector of the official operator, and the way back."""
    y = np.asarray(y)
    if name == "inpaint":
        return y[0][HOLE[0, ..., 0] == 0].ravel()
    if name.startswith("cs_wh"):
        return y.reshape(1024, 3)[list(ORDER)].ravel()[: int(3072 * OFFICIAL[name].ratio)]
    return y.transpose(0, 3, 1, 2).ravel()


def from_official(name, y, like):
    out = np.zeros(like.shape, np.float32)
    if name == "inpaint":
        out[0][HOLE[0, ..., 0] == 0] = y.reshape(-1, 3)
    elif name.startswith("cs_wh"):
        flat = np.zeros(3072, np.float32)
        flat[: y.size] = y
        view = np.zeros((1024, 3), np.float32)
        view[list(ORDER)] = flat.reshape(1024, 3)
        out = view.reshape(like.shape)
    else:
        out = y.reshape(1, like.shape[-1], *like.shape[1:3]).transpose(0, 2, 3, 1)
    return jnp.asarray(out)


@pytest.mark.parametrize("name", OFFICIAL)
def test_operators_are_the_official_ones(name):
    operator = OFFICIAL[name]
    y = operator.forward(jnp.asarray(FILE["x"]))
    official = FILE[f"{name}/y"].ravel()
    np.testing.assert_allclose(to_official(name, y), official, atol=1e-5)
    np.testing.assert_allclose(operator.transpose(y)[:, ::3, ::3], FILE[f"{name}/AtA_x"], atol=1e-5)
    noisy = official + 0.4 * FILE["ynoise"].ravel()[: official.size]
    back = operator.pinv(from_official(name, noisy, y))
    np.testing.assert_allclose(back[:, ::3, ::3], FILE[f"{name}/Apinv_ynoisy"], atol=1e-5)
    s = operator.singular_values(32, 32)
    np.testing.assert_allclose(s[::16], FILE[f"{name}/singulars"], atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("uni", "uniform"), ("gauss", "gauss")])
def test_blur_truncated_with_seven_eighths_of_its_kernel_is_the_official_matrix(name, kind):
    """The intended operator of DDNM (singular values laid out rightly) has the kernel's last tap cut."""
    from jax_bridges.corruptions import blur as blurs

    taps, (std, _) = blurs.PAPER_KERNELS[kind]
    u, s, v = blurs.blur_svd(32, taps, std, 3e-2, True)
    x = FILE["x"].astype(np.float64)
    m = (u * s) @ v.T
    out = np.einsum("hH,bHWc,wW->bhwc", m, x, m)
    np.testing.assert_allclose(out[:, ::3, ::3], FILE[f"deblur_{name}/y_fixed"], atol=1e-5)


def test_walsh_hadamard_against_the_matrix():
    matrix = np.ones((1, 1))
    for _ in range(4):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    x = images((2, 16, 3))
    np.testing.assert_allclose(
        walsh_hadamard(jnp.asarray(x, jnp.float32)),
        np.einsum("ij,bjc->bic", matrix, x) / 4,
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="power of 2"):
        walsh_hadamard(jnp.zeros((1, 12, 1)))


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.29, 1 / 3, 0.4, 0.5, 0.6, 0.7, 0.9, 1.0])
def test_sensing_keeps_the_share_that_it_was_given(ratio):
    measured = WalshHadamard(ratio=ratio).measured(32, 32, 3)
    assert 0 <= ratio * measured.size - measured.sum() < 1
    if ratio in (0.1, 0.25, 1 / 3, 0.5, 1.0):  # as published
        assert measured.sum() == measured.size // round(1 / ratio)
    rows = len(BlockSensing(ratio=ratio, block=10).matrix)
    assert rows == {0.29: 29, 1 / 3: 33}.get(ratio, round(100 * ratio))


# -- properties -----------------------------------------------------------------------------------
OPERATORS = {
    "pool": SuperResolution(kind="pool", factor=4),
    "pool 3": SuperResolution(kind="pool", factor=3),
    "bicubic": SuperResolution(factor=4),
    "bicubic 3": SuperResolution(factor=3),
    "inpaint": InpaintCenter(),
    "colorize": Colorize(weights=(0.2, 0.7, 0.1)),
    "denoise": Denoise(),
    "identity": Identity(),
    "blur uniform": Blur(kind="uniform", truncated=True),
    "blur gauss": Blur(truncated=True),
    "blur aniso": Blur(kind="aniso", truncated=True),
    "blur mild": Blur(taps=5, std=0.6),
    "blur legacy": Blur(legacy=True),
    "walsh": WalshHadamard(),
    "walsh ragged": WalshHadamard(ratio=0.1, seed=3),
    "blocks": BlockSensing(block=4),
    "old photo": Composition(parts=OLD_PHOTO),
    "mask then blocks": Composition(parts=(InpaintCenter(size=0.5), BlockSensing(block=4))),
}
# Sizes that every operator takes but for these; small, so that A can be written down.
SIZE = {"walsh": (8, 16), "walsh ragged": (8, 16), "blur legacy": (12, 12)}


def operator_and_size(name):
    return OPERATORS[name], SIZE.get(name, (12, 24))


@pytest.mark.parametrize("name", OPERATORS)
def test_pseudo_inverse_and_spectrum_against_the_dense_matrix(name):
    operator, (h, w) = operator_and_size(name)
    if name == "mask then blocks":
        with pytest.raises(ValueError, match="not orthogonal"):
            operator.pinv(operator.forward(jnp.zeros((1, h, w, 3))))
        return
    assert operator.linear
    with jax.enable_x64(True):
        # One channel but for those that mix them: the dense matrix is small then.
        mixes = name in ("colorize", "old photo", "walsh ragged", "blur legacy")
        c = 3 if mixes else 1
        n = h * w * c
        units = jnp.asarray(np.eye(n).reshape(n, h, w, c))

        @jax.jit
        def all_of(units):
            y = operator.forward(units)
            return y, operator.transpose(y), operator.project(units), operator.spectral_map(
                units, lambda s: jnp.exp(-s) + s**2
            )  # fmt: skip

        y, ata, projector, mapped = (np.asarray(v).reshape(n, -1).T for v in all_of(units))
        # A by its columns: y is [m, n], and <A x, A z> = <x, A^T A z> is the transpose's identity.
        np.testing.assert_allclose(ata, y.T @ y, atol=1e-9)
        np.testing.assert_allclose(projector, projector.T, atol=1e-8)
        np.testing.assert_allclose(projector @ projector, projector, atol=1e-7)
        np.testing.assert_allclose(y @ projector, y, atol=1e-9)  # A A^+ A = A
        _, s, vt = np.linalg.svd(y, full_matrices=True)
        s = np.append(s, np.zeros(n - len(s)))[:n]
        s[s < 1e-9] = 0
        expected = (vt.T * (np.exp(-s) + s**2)) @ vt
        np.testing.assert_allclose(mapped, expected, atol=1e-6)
        values = operator.singular_values(h, w, c)
        np.testing.assert_allclose(values, s[s > 0], atol=1e-5)
        # A^+ A A^+ = A^+ and the symmetry of A A^+, on any y.
        shape = jax.eval_shape(operator.forward, units[:1]).shape
        a, b = (jnp.asarray(images(shape, i)) for i in (3, 4))
        back = operator.pinv(a)
        np.testing.assert_allclose(operator.project(back), back, atol=1e-8)
        both = [operator.forward(operator.pinv(v)) for v in (a, b)]
        np.testing.assert_allclose(jnp.vdot(both[0], b), jnp.vdot(a, both[1]), rtol=1e-6)


def test_masks_of_each_example_and_traced():
    bank, x = InpaintFreeform(count=8), jnp.asarray(images((2, 32, 32, 3)), jnp.float32)
    masks = bank.of_bank(jnp.array([0, 5]), 32, 32)
    y = jax.jit(lambda m: InpaintMask(mask=m).forward(x))(masks)
    np.testing.assert_array_equal(y, x * (1 - masks))
    np.testing.assert_array_equal(InpaintMask(mask=masks).project(x), y)


def test_product_of_pseudo_inverses_is_the_published_one_and_not_exact():
    operator, x = Composition(parts=OLD_PHOTO, product=True), jnp.asarray(images((1, 20, 20, 3)))
    y = operator.forward(x)
    expected = OLD_PHOTO[0].pinv(OLD_PHOTO[1].pinv(OLD_PHOTO[2].pinv(y)))
    np.testing.assert_allclose(operator.pinv(y), expected, atol=1e-6)
    assert jnp.abs(operator.forward(operator.pinv(y)) - y).max() > 1e-2  # blocks cut by the hole
    exact = Composition(parts=OLD_PHOTO)
    np.testing.assert_allclose(exact.forward(exact.pinv(y)), y, atol=1e-5)


def test_bad_settings():
    with pytest.raises(ValueError, match="share in"):
        WalshHadamard(ratio=0)
    for make in (
        lambda: WalshHadamard(ratio=0.01).measured(4, 4, 3),
        lambda: BlockSensing(ratio=0.01, block=8),
    ):
        with pytest.raises(ValueError, match="ratio 0.01 of .* leaves nothing to measure"):
            make()
    with pytest.raises(ValueError, match="permutation"):
        WalshHadamard(order=(0, 0))
    with pytest.raises(ValueError, match="entries, the image"):
        WalshHadamard(order=(0, 1)).forward(jnp.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="do not divide into blocks"):
        BlockSensing().forward(jnp.zeros((1, 40, 40, 3)))
    with pytest.raises(ValueError, match="no linear operator"):
        Composition(parts=(Jpeg(),))
    made = make_corruption("composition", parts=["inpaint_center", ("superres", {"kind": "pool"})])
    assert made == Composition(parts=(InpaintCenter(), SuperResolution(kind="pool")))
