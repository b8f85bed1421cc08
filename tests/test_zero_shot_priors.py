"""Priors that others trained: learned variance, classes, classifier guidance, imported ADM networks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.bridges import DDPM, EDM
from jax_bridges.corruptions import SuperResolution
from jax_bridges.import_torch.__main__ import main
from jax_bridges.import_torch.classifier import classifier_layout, read_classifier
from jax_bridges.import_torch.names import torch_layout, torch_to_flax
from jax_bridges.models.classifier import ADMClassifier, AttentionPool
from jax_bridges.preconditioning import Epsilon, precondition
from jax_bridges.restore import PriorRestorer
from jax_bridges.stages.prior import as_prior, complete_prior, guide, is_prior, open_classifier
from jax_bridges.stages.teacher import check_teacher
from jax_bridges.training.system import Pair, System
from jax_bridges.validation import validate
from jax_bridges.zero_shot import guided_denoiser, walk
from jax_bridges.zero_shot.steps import ancestral, kernel, predict
from tests.support.config_files import read
from tests.support.imports import HEADS, SMALL, imported, saved
from tests.support.restorers import save_player

PRIOR = DDPM.create()

# -- classifier guidance -----------------------------------------------------------------------------

MEANS = jnp.array([-0.6, 0.2, 0.9])
SHARES, VARIANCE = jnp.array([0.5, 0.3, 0.2]), 0.04


def log_joint(x, t):
    """log p(c) p(x_t | c) + constant, `[B, 3]`, of images with independent pixels N(MEANS[c], VARIANCE)."""
    alpha, sigma = PRIOR.alpha(t), PRIOR.sigma(t)
    gap = x[..., None] - alpha * MEANS
    return jnp.log(SHARES) - 0.5 * (gap**2).sum((1, 2, 3)) / (alpha**2 * VARIANCE + sigma**2)


def of_class(x, t, number):
    """E[x_0 | x_t, c]."""
    alpha, sigma = PRIOR.alpha(t), PRIOR.sigma(t)
    gain = VARIANCE * alpha / (alpha**2 * VARIANCE + sigma**2)
    return MEANS[number] + gain * (x - alpha * MEANS[number])


def unconditional(x, t):
    """E[x_0 | x_t]."""
    shares = jax.nn.softmax(log_joint(x, t))
    each = jnp.stack([of_class(x, t, c) for c in range(3)], -1)
    return (each * shares[:, None, None, None]).sum(-1)


@pytest.mark.parametrize("index", [100, 800])
def test_guidance_by_the_exact_classifier_gives_the_denoiser_of_the_class(index):
    with jax.enable_x64(True):
        t = jnp.asarray(index / 999)
        x0 = 0.3 * jax.random.normal(jax.random.key(0), (4, 2, 2, 1))
        x = PRIOR.alpha(t) * x0 + PRIOR.sigma(t) * jax.random.normal(jax.random.key(1), x0.shape)
        for number in range(3):

            def log_prob(x, t, number=number):
                return jax.nn.log_softmax(log_joint(x, t))[:, number]

            guided = guided_denoiser(unconditional, log_prob, PRIOR)
            np.testing.assert_allclose(guided(x, t), of_class(x, t, number), atol=1e-6)
            # A pair stays one, and the scale is linear.
            twice = guided_denoiser(lambda x, t: (unconditional(x, t), x), log_prob, PRIOR, 2.0)
            x0_hat, fraction = twice(x, t)
            want = 2 * of_class(x, t, number) - unconditional(x, t)
            np.testing.assert_allclose(x0_hat, want, atol=1e-6)
            np.testing.assert_array_equal(fraction, x)


# -- learned variance --------------------------------------------------------------------------------


def test_twice_the_channels_are_a_learned_variance():
    """x_0 as without it; the step's variance between the posterior's (v = -1) and beta (v = 1)."""

    def network(v):
        return lambda x, c, xT, z: jnp.concatenate([0.3 * x, jnp.full_like(x, v)], -1)

    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    plain = precondition(lambda x, c, xT, z: 0.3 * x, PRIOR, Epsilon())
    for v in (-1.0, 0.5, 1.0):
        denoise = precondition(network(v), PRIOR, Epsilon())
        x0, fraction = predict(lambda x, t: denoise(x, t, x), x, 0.4)
        np.testing.assert_array_equal(x0, plain(x, 0.4, x))
        np.testing.assert_allclose(fraction, 0.5 * (v + 1))

    # A step's noise, at both ends and half-way in the logarithm (arXiv 2102.09672, eq. 15).
    steps = walk(PRIOR.levels(4), x)
    step = jax.tree.map(lambda a: a[1], steps)
    noise, law = jnp.ones_like(x), kernel(step)
    for fraction, variance in (
        (0.0, law.variance), (0.5, jnp.sqrt(law.variance * law.beta)), (1.0, law.beta),
    ):  # fmt: skip
        moved = ancestral(0 * x, 0 * x, step, noise, jnp.full_like(x, fraction))
        np.testing.assert_allclose(moved, jnp.sqrt(variance) * noise, rtol=1e-5)
    assert law.beta > 1.1 * law.variance


# -- imported networks -------------------------------------------------------------------------------


def adm_file(tmp_path, **settings):
    random = np.random.default_rng(0)
    layout = torch_layout({**SMALL, "out_channels": 6, **settings})
    arrays = {n: random.normal(0, 0.05, s).astype(np.float32) for n, s in layout.items()}
    return saved(tmp_path, arrays), arrays


def run_of(recorded):
    """A configuration that restores with this network."""
    config = read("zero_shot")
    config.network = recorded["network"]
    config.preconditioning = {"name": "epsilon"}
    config.data.size = 16
    return config


def resolved(config, **teacher):
    config.teacher.update(teacher)
    return json.loads(config.to_json_best_effort())


def test_an_imported_adm_is_a_prior(tmp_path, capsys):
    file, _ = adm_file(tmp_path)
    priors = tmp_path / "priors"
    argv = [str(file), "--as=adm", "--out-channels=6", HEADS]
    assert main([*argv, str(priors)]) == 0
    recorded = imported(priors)
    assert is_prior(recorded) and recorded["network"]["out_channels"] == 6
    config = run_of(recorded)
    check_teacher(resolved(config, checkpoint=str(priors)))
    validate(config)
    assert "w.safetensors" in capsys.readouterr().out
    whole = complete_prior(recorded, str(priors), 16)
    assert whole.bridge.name == "ddpm" and whole.preconditioning.name == "epsilon"

    config.preconditioning = {"name": "unit_variance"}
    with pytest.raises(ValueError, match="preconditioning.name: epsilon -> unit_variance"):
        check_teacher(resolved(config, checkpoint=str(priors)))
    config.teacher.checkpoint = ""
    with pytest.raises(ValueError, match="learned variance, which can be used"):
        validate(config)

    for change, words in (
        ({"conditional": True}, "imported with --condition"),
        ({"channel_mult": (1, 2, 3, 4)}, "cosine schedule"),
    ):
        other = {**recorded, "network": {**recorded["network"], **change}}
        with pytest.raises(ValueError, match=words):
            as_prior(other, "priors/x")
    bridge = {"bridge": {"name": "i2sb"}, "network": {}}
    assert not is_prior(bridge)
    with pytest.raises(ValueError, match="runs/x holds a bridge between images"):
        as_prior(bridge, "runs/x")


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 5])
def test_an_imported_adm_restores_pictures(tmp_path, classes):
    """Its eps and variance, told the class; against the network called by hand."""
    file, arrays = adm_file(tmp_path, num_classes=classes)
    argv = [str(file), "--as=adm", "--out-channels=6", HEADS, str(tmp_path / "prior")]
    assert main(argv) == 0
    label = {"label": 3} if classes else {}
    path, pool = tmp_path / "prior", SuperResolution(kind="pool", factor=4)
    with pytest.raises(ValueError, match="does not record the size"):
        PriorRestorer(path, "ddnm", "superres", **label)
    with pytest.raises(ValueError, match="label"):
        PriorRestorer(path, "ddnm", "superres", tile=16, **({} if classes else {"label": 3}))
    small = np.random.default_rng(0).integers(100, 155, (5, 6, 3)).astype(np.uint8)
    restorer = PriorRestorer(
        path, "ilvr", "superres:kind=pool,factor=4", tile=16, nfe=3, batch=2, **label
    )
    done = restorer(small)
    assert done.size == (20, 24)
    # Random weights saturate pixels, which are clipped: the means are near the given ones.
    mean = np.asarray(pool.forward(jnp.asarray(done.to_float())[None]))[0]
    np.testing.assert_allclose(mean, small / 127.5 - 1, atol=0.06)

    system, x = restorer.system, jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    labels = jnp.array([3, 3]) if classes else None
    config = {**SMALL, "out_channels": 6, "num_classes": classes}
    params = torch_to_flax(arrays, config)
    raw = system.teacher.apply({"params": params}, x, jnp.full(2, 400.0), None, None, labels)
    pair = Pair(x, x, None, None, labels)
    x0, fraction = system.denoiser(params, pair)(x, 400 / 999, x)
    alpha, sigma = PRIOR.alpha(400 / 999), PRIOR.sigma(400 / 999)
    np.testing.assert_allclose(x0, (x - sigma * raw[..., :3]) / alpha, atol=1e-4)
    np.testing.assert_allclose(fraction, (raw[..., 3:] + 1) / 2, atol=1e-5)
    if classes:
        other = Pair(x, x, None, None, labels - 2)
        assert jnp.abs(system.denoiser(params, other)(x, 400 / 999, x)[0] - x0).max() > 1e-3


# -- the classifier's network ------------------------------------------------------------------------

TINY = ADMClassifier(
    classes=5, model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_ds=(2,),
    head_channels=32,
)  # fmt: skip
KNOWN = {"head_channels": 32, "num_res_blocks": 1}  # what no shape tells


def classifier_file(tmp_path, spread=0.1, **changes):
    random = np.random.default_rng(0)
    layout = classifier_layout(TINY, 16)
    arrays = {n: random.normal(0, spread, s).astype(np.float32) for n, s in layout.items()}
    path = tmp_path / "classifier"
    path.mkdir(exist_ok=True)
    return saved(path, {**arrays, **changes}), arrays


def test_a_classifier_file_becomes_its_network(tmp_path):
    """Read off the shapes; official names; the pooling against NumPy, the blocks being ADM's."""
    file, arrays = classifier_file(tmp_path)
    network, params, size = read_classifier(file, **KNOWN)
    assert size == 16 and network == TINY
    for name, shape in (
        ("input_blocks.2.0.in_layers.2.weight", (32, 32, 3, 3)),  # the way down
        ("input_blocks.3.1.qkv.weight", (192, 64, 1)),
        ("middle_block.1.proj_out.weight", (64, 64, 1)),
        ("out.2.positional_embedding", (64, 65)),
        ("out.2.c_proj.weight", (5, 64, 1)),
    ):
        assert arrays[name].shape == shape
    assert not any("input_blocks.1.1" in n for n in arrays)

    x = np.random.default_rng(1).normal(size=(2, 8, 8, 64)).astype(np.float32)
    pool = AttentionPool(5, 32)
    got = pool.apply({"params": params["out_2"]}, x)
    tokens = x.reshape(2, 64, 64).transpose(0, 2, 1)  # channels, then places
    tokens = np.concatenate([tokens.mean(2, keepdims=True), tokens], 2)
    tokens = tokens + arrays["out.2.positional_embedding"]
    qkv = np.einsum("oc,bct->bot", arrays["out.2.qkv_proj.weight"][..., 0], tokens)
    qkv = qkv + arrays["out.2.qkv_proj.bias"][:, None]
    q, k, v = (part.reshape(2, 2, 32, 65) for part in np.split(qkv, 3, 1))  # two heads of 32
    odds = np.einsum("bhct,bhcs->bhts", q, k) / np.sqrt(32)
    shares = np.exp(odds - odds.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    gathered = np.einsum("bhts,bhcs->bhct", shares, v).reshape(2, 64, 65)[:, :, 0]
    want = gathered @ arrays["out.2.c_proj.weight"][..., 0].T + arrays["out.2.c_proj.bias"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    other, _ = adm_file(tmp_path)
    with pytest.raises(ValueError, match="w.safetensors: this is no classifier of ADM"):
        read_classifier(other)
    broken, _ = classifier_file(tmp_path, **{"out.2.c_proj.bias": np.full(5, np.nan, np.float32)})
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_classifier(broken, **KNOWN)
    with pytest.raises(ValueError, match="DDPM's 1000"):
        open_classifier(str(file), EDM(), (16, 16))


@pytest.mark.slow
def test_a_classifier_guides_a_restoration(tmp_path, monkeypatch):
    """Its slope at the table's index for the wanted class; and through the door of restore."""
    monkeypatch.setattr(
        "jax_bridges.stages.prior.read_classifier",
        lambda file: read_classifier(file, **KNOWN),
    )
    file, _ = classifier_file(tmp_path, spread=0.3)
    network, params, _ = read_classifier(file, **KNOWN)
    x, t = jax.random.normal(jax.random.key(0), (2, 16, 16, 3)), jnp.asarray(400 / 999)
    label = jnp.array([1, 4])
    guided = jax.jit(guide(lambda x, t: 0.5 * x, network, params, label, PRIOR, 3.0))(x, t)
    with pytest.raises(ValueError, match="they have no labels"):
        guide(lambda x, t: 0.5 * x, network, params, None, PRIOR, 3.0)

    @jax.jit
    @jax.grad
    def score(x):
        odds = jax.nn.log_softmax(network.apply({"params": params}, x, 400.0))
        return odds[jnp.arange(2), label].sum()

    want = 0.5 * x + 3.0 * PRIOR.sigma(t) ** 2 / PRIOR.alpha(t) * score(x)
    np.testing.assert_allclose(guided, want, rtol=1e-4, atol=1e-4)
    assert jnp.abs(guided - 0.5 * x).max() > 1e-3

    prior = tmp_path / "prior"
    config = read("zero_shot")
    config.data.size, config.network.widths, config.network.groups = 16, (8,), 4
    recorded = json.loads(config.to_json_best_effort())
    save_player(prior, "train", "teacher", System.create(config), recorded, spread=0.04)
    with pytest.raises(ValueError, match="--label=0 to 4"):
        PriorRestorer(prior, "ddnm", classifier=file)
    image, hole = np.full((16, 16, 3), 128, np.uint8), np.ones((16, 16), bool)
    hole[0] = False
    told = {"classifier": file, "guidance": 100.0, "label": 1}
    plain, guided = (
        PriorRestorer(prior, "ddnm", nfe=2, **more)(image, hole).pixels for more in ({}, told)
    )
    assert (plain != guided).mean() > 0.05


@pytest.mark.slow
def test_a_run_restores_with_an_imported_adm_and_classifier(images, tmp_path, monkeypatch):
    """The table of configs/zero_shot.py, with the classes of the data; no training."""
    from jax_bridges.main import run

    monkeypatch.setattr(
        "jax_bridges.stages.prior.read_classifier",
        lambda file: read_classifier(file, **KNOWN),
    )
    file, _ = adm_file(tmp_path, num_classes=5)
    prior = tmp_path / "prior"
    assert main([str(file), "--as=adm", "--out-channels=6", HEADS, str(prior)]) == 0
    for name in "abcde":
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i, path in enumerate(sorted(images.glob("*.png"))[:4]):
            (folder / f"{i}.png").write_bytes(path.read_bytes())
    config = run_of(imported(prior))
    config.data.update({"name": "folder", "path": str(tmp_path / "data"), "classes": "subfolders"})
    config.data.test_fraction, config.data.rotate = 0.5, False
    config.teacher.checkpoint = str(prior)
    config.zero_shot.classifier = str(classifier_file(tmp_path)[0])
    config.evaluate.images, config.evaluate.batch, config.evaluate.pictures = 4, 4, 2
    config.zero_shot.nfe, config.zero_shot.methods = 2, ("pinv", "ddnm", "ilvr")
    for task in ("deblur", "colour", "cs25", "sr4_noisy", "inpaint"):
        del config.zero_shot.tasks[task]
    run(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [(row["sampler"], row["nfe"]) for row in rows] == [("pinv", 0), ("ddnm", 2), ("ilvr", 2)]
    for row in rows:
        assert np.isfinite(row["psnr"]) and row["cons"] < 1e-4
    config.data.classes = ""
    with pytest.raises(ValueError, match="data have no labels"):
        validate(config)
