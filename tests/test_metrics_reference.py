"""Features over devices and hosts, and the command that makes statistics of a data set.

Two real processes of four virtual devices each talk over localhost and run the end of this file; the
network there is a matrix, since what is asked is who computes what, and whether all comes together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jax_bridges import hosts, reference
from jax_bridges.metrics import Moments, frechet_distance, measure_images
from jax_bridges.metrics import measure as measure_module
from jax_bridges.metrics.batches import in_batches
from jax_bridges.metrics.reference import (
    load_statistics,
    over_hosts,
    save_statistics,
    statistics_resize,
)
from tests.support.processes import ended, free_port, started
from tests.support.runs import tiny

COUNT, SIDE, BATCH = 45, 4, 4  # 12 batches: not a multiple of eight devices
FEATURES = (
    16  # of the network that stands for Inception: matrices of 2048 take seconds to factorise
)


def pixels(count=COUNT) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def flat(variables, images):
    del variables
    return (images.reshape(len(images), -1) / 255.0,)


def network(variables, x):
    y = x @ variables
    return y, jnp.concatenate([y[:, :2], jnp.full((len(y), 1), len(y), jnp.float32)], 1)


def matrix() -> np.ndarray:
    return np.random.default_rng(6).normal(size=(SIDE * SIDE * 3, 5)).astype(np.float32)


# -- in batches --------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, BATCH, COUNT])
def test_all_images_in_their_order(count):
    y, more = in_batches((flat, network), matrix(), (pixels(count),), BATCH)
    want = pixels(count).reshape(count, -1) / 255.0 @ matrix()
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    assert (more[:, 2] == BATCH).all()  # the last batch is as large as the others


def test_pairs_of_images():
    a, b = pixels().astype(np.float32), pixels()[::-1]

    def gap(variables, x, y):
        return ((x - y).mean((1, 2, 3)) * variables,)

    (got,) = in_batches((gap,), jnp.float32(2), (a, b), BATCH)
    np.testing.assert_allclose(got, 2 * (a - b).mean((1, 2, 3)), rtol=1e-4, atol=1e-4)


# -- the command -------------------------------------------------------------------------------------
def fake_inception(images, resize, where, shared):
    """Features of which a few differ; the network itself has a test of its own."""
    assert not shared and where == "weights" and resize == "legacy_pytorch"
    features = np.zeros((len(images), FEATURES), np.float32)
    features[:, :6] = images.reshape(len(images), -1)[:, :6]
    return SimpleNamespace(features=features)


@pytest.fixture
def without_network(monkeypatch):
    monkeypatch.setattr(reference, "inception_outputs", fake_inception)
    for module in (reference, measure_module):
        monkeypatch.setattr(module, "FEATURES", FEATURES)
    monkeypatch.setattr(measure_module, "weights_path", lambda need, where: Path("weights"))


def configuration(images, **changes):
    return tiny(images, **{"evaluate.weights": "weights", **changes})


def test_the_statistics_of_a_data_set(images, tmp_path, without_network, monkeypatch, capsys):
    monkeypatch.setattr(reference, "CHUNK", 5)  # several pieces, and an odd one
    config = configuration(images)
    out = tmp_path / "train.npz"
    reference.make_reference(out, config, "train")
    source = reference.make_source(config.data, "train")
    x0 = np.stack([source[i]["x0"] for i in range(len(source))])
    want = Moments.of(fake_inception(x0, "legacy_pytorch", "weights", False).features)
    found = load_statistics(out)
    assert found.count == len(source) > 5
    np.testing.assert_allclose(found.mean, want.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, want.covariance, rtol=1e-6, atol=1e-6)
    assert frechet_distance(found, want) < 1e-6 * np.trace(want.covariance)
    with np.load(out) as saved:  # as pytorch-fid reads it
        theirs = np.cov(x0.reshape(len(x0), -1)[:, :6].T)
        np.testing.assert_allclose(saved["sigma"][:6, :6], theirs, rtol=1e-6)
        assert saved["mu"].shape == (FEATURES,) and str(saved["split"]) == "train"
    assert f"{len(source)}/{len(source)}" in capsys.readouterr().out
    few = reference.make_reference(tmp_path / "few.npz", config, "test", images=2)
    assert few.count == load_statistics(tmp_path / "few.npz").count == 2


def test_what_the_command_refuses(images, tmp_path, without_network, monkeypatch, capsys):
    config = configuration(images)
    for count in (1, 1000):
        with pytest.raises(ValueError, match=f"--images is {count}: it must be 2 to"):
            reference.make_reference(tmp_path / "no.npz", config, "train", count)

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["reference", *map(str, argv)])
        code = reference.main()
        return code, capsys.readouterr().err

    assert run(tmp_path / "no.npz") == (
        1, "error: Say whose data: --config=superres, for example.\n",
    )  # fmt: skip
    there = tmp_path / "there.npz"
    there.write_bytes(b"mine")
    code, said = run(there, "--config=configs/inpaint.py")
    assert code == 1 and "is there already: give another name, or --force" in said
    assert there.read_bytes() == b"mine"
    code, said = run(tmp_path / "no.npz", "--config=configs/inpaint.py", "--split=val")
    assert code == 1 and "invalid choice" in said
    code, said = run(there / "no.npz", "--config=configs/inpaint.py")
    assert code == 1 and "there.npz is no folder that can be written to" in said
    code, said = run(tmp_path / "no.npz", "--config=configs/inpaint.py", "--hosts=many")
    assert code == 1 and "--hosts is 'many': choose one of" in said
    assert not (tmp_path / "no.npz").exists()


def test_without_weights_the_address_is_told_before_any_image_is_read(images, tmp_path):
    config = tiny(images, **{"evaluate.weights": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="https://"):
        reference.make_reference(tmp_path / "no.npz", config)
    assert list(tmp_path.iterdir()) == []


def test_a_reference_resized_in_another_way_is_refused(images, tmp_path, without_network):
    path = tmp_path / "s.npz"
    random = np.random.default_rng(0).normal(size=(9, FEATURES))
    save_statistics(path, Moments.of(random), resize="legacy_tensorflow")
    assert statistics_resize(path) == "legacy_tensorflow"
    changes = {"evaluate.metrics": ("fid",), "evaluate.reference": str(path)}
    config = configuration(images, **changes).evaluate
    with pytest.raises(ValueError, match="resized as legacy_tensorflow, but the protocol own"):
        measure_module.check_metrics(config)
    config.protocol = "ddbm"
    measure_module.check_metrics(config)


@pytest.mark.slow
def test_the_fid_of_a_set_to_its_own_statistics_is_zero(tmp_path, monkeypatch):
    """End to end through Inception with random weights, and as a user types it."""
    golden = Path(__file__).parent / "golden"
    monkeypatch.syspath_prepend(str(golden))
    import gzip

    from jax_bridges.io.safetensors import write_safetensors
    from tests.golden import feature_nets_weights as given

    layouts = json.loads(gzip.decompress((golden / "feature_nets_layouts.json.gz").read_bytes()))
    weights = tmp_path / "inception.safetensors"
    write_safetensors(weights, given.make(layouts["inception"]))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, image in enumerate(given.images(40, 64)):
        Image.fromarray(image).save(photos / f"{i:02}.png")
    out = tmp_path / "test.npz"
    keys = {
        "data.name": "folder",
        "data.path": photos,
        "data.size": 64,
        "data.test_fraction": 0.5,
        "evaluate.weights": weights,
    }
    argv = [f"--config.{key}={value}" for key, value in keys.items()]
    with started(
        ["-m", "jax_bridges.reference", out, "--config=configs/inpaint.py", "--split=test", *argv],
        devices=1,
    ) as processes:
        ((code, said, errors),) = ended(processes)
    assert code == 0 and f"--config.evaluate.reference={out}" in said, said + errors
    config = tiny(photos, **{"data.size": 64, "evaluate.weights": str(weights)})
    config.evaluate.update({"metrics": ("fid",), "reference": str(out)})
    source = reference.make_source(config.data, "test")
    x0 = np.stack([source[i]["x0"] for i in range(len(source))])
    trace = np.trace(load_statistics(out).covariance)
    assert measure_images(config.evaluate, x0, x0)["fid"] < 1e-4 * trace
    worse = measure_images(config.evaluate, 255 - x0, x0)["fid"]
    assert worse > 0.05 * trace


# -- several hosts -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_two_hosts_share_the_work_and_have_the_same():
    at = f"127.0.0.1:{free_port()}"
    with started(*([__file__, str(i), at] for i in range(2))) as processes:
        results = ended(processes)
    want = pixels().reshape(COUNT, -1) / 255.0 @ matrix()
    moments = Moments.of(want)
    for code, said, errors in results:
        assert code == 0, said + errors
        out = json.loads(next(w for w in said.splitlines() if "RESULT " in w).split("RESULT ")[1])
        np.testing.assert_allclose(out["features"], want, rtol=1e-5, atol=1e-5)
        assert out["batch"] == [BATCH] and out["bits"]
        assert out["computed"] == 32  # images: six batches of twelve, in two rounds of four devices
        assert out["count"] == COUNT
        np.testing.assert_allclose(out["mean"], moments.mean, rtol=1e-6)
        np.testing.assert_allclose(out["covariance"], moments.covariance, rtol=1e-5, atol=1e-5)


def main(process: int, coordinator: str) -> None:
    """What one of the two processes does."""
    hosts.start(hosts.find_hosts("auto", coordinator, 2, process))
    computed = []  # of each device's call, which may come at once

    def counted(variables, x):
        def see(count):
            computed.append(int(count))

        jax.debug.callback(see, x.shape[0])
        return network(variables, x)

    features, more = in_batches((flat, counted), matrix(), (pixels(),), BATCH)
    jax.effects_barrier()
    # What a host reads by itself, as the command does.
    first, last = (COUNT * (process + k) // 2 for k in (0, 1))
    own, _ = in_batches((flat, network), matrix(), (pixels()[first:last],), BATCH, shared=False)
    moments = over_hosts(Moments.of(own), 5)
    exact = np.array([1 / 3 + process, np.nextafter(1e7, 2e7)])
    both = np.array([1 / 3, np.nextafter(1e7, 2e7), 4 / 3, np.nextafter(1e7, 2e7)])
    result = {
        "features": features.tolist(),
        "batch": sorted(set(more[:, 2].tolist())),
        "computed": sum(computed),
        "count": moments.count,
        "mean": moments.mean.tolist(),
        "covariance": moments.covariance.tolist(),
        "bits": bool((hosts.gather(exact) == both).all()),
    }
    print("RESULT " + json.dumps(result), flush=True)
    hosts.barrier("end")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
