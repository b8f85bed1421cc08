"""restore.py: models on pictures of any size, from Python."""

from __future__ import annotations

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges import export
from jax_bridges.corruptions import keep_known
from jax_bridges.data.images import BadImage
from jax_bridges.keys import PictureStream
from jax_bridges.players import read_player
from jax_bridges.restore import Restorer, Task
from jax_bridges.restoring import restorer as restorers
from jax_bridges.restoring.jobs import surroundings
from jax_bridges.restoring.models import noise_field, tile_seeds
from jax_bridges.restoring.notes import RestoreNote, scale_notes, training_command
from jax_bridges.restoring.pictures import Picture
from jax_bridges.samplers import sample_few_step
from jax_bridges.times import student_grid
from jax_bridges.training.system import Pair, System
from tests.support.restorers import BOX, TILE, freed, left_behind, photograph, save_player, tiny

pytestmark = pytest.mark.filterwarnings("ignore::jax_bridges.restoring.notes.RestoreNote")


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory):
    """A model of one fixed hole, zeros in it, conditional."""
    return left_behind(tmp_path_factory.mktemp("inpaint"), tiny())


@pytest.fixture(scope="module")
def freeform(tmp_path_factory):
    corruption = {"name": "inpaint_freeform", "fill": "noise", "count": 2}
    return left_behind(tmp_path_factory.mktemp("freeform"), tiny(corruption=corruption))


@pytest.fixture(scope="module")
def superres(tmp_path_factory):
    corruption = {"name": "superres", "factor": 4}
    return left_behind(tmp_path_factory.mktemp("superres"), tiny(corruption=corruption))


@pytest.fixture(scope="module")
def restorer(inpaint):
    return Restorer(inpaint, nfe=2, batch=4)


@pytest.fixture(scope="module")
def freeform_restorer(freeform):
    return Restorer(freeform, nfe=1, batch=32)


@pytest.fixture(scope="module")
def enlarger(superres):
    return Restorer(superres, nfe=1, batch=8)


def odd_hole(height, width, seed=0):
    """A blob larger than a tile, a scratch, dust, and pixels at the very edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    hole = (y - height * 0.6) ** 2 + (x - width * 0.3) ** 2 < (0.2 * min(height, width)) ** 2
    hole |= np.abs(y - 0.5 * x) < 1.5
    hole |= rng.random((height, width)) < 0.003
    hole[0, -1] = hole[-1, -1] = True
    return hole


def test_the_field_of_noise_belongs_to_places():
    """Overlapping tiles see the same noise; samples, streams, draws and seeds see others."""

    def field(seed, sample, stream, draw, origin, size=(6, 5)):
        @jax.jit
        def drawn(seed, sample, draw, origin):
            return noise_field(jax.random.key(seed), sample, origin, size)(stream)(draw)

        return np.asarray(drawn(seed, jnp.array([sample]), draw, jnp.array([origin], jnp.int32)))[0]

    whole = field(0, 0, 0, 0, (-2, 0), (40, 50))
    np.testing.assert_array_equal(field(0, 0, 0, 0, (10, 7)), whole[12:18, 7:12])
    for change in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, -1)):
        other = field(*change, (-2, 0), (40, 50))
        assert abs(np.corrcoef(other.ravel(), whole.ravel())[0, 1]) < 0.05
    assert abs(whole.mean()) < 0.04 and abs(whole.std() - 1) < 0.04
    # Neighbours are independent, along both axes and across channels.
    for a, b in ((whole[1:], whole[:-1]), (whole[:, 1:], whole[:, :-1])):
        assert abs((a * b).mean()) < 0.05
    assert abs((whole[..., 0] * whole[..., 1]).mean()) < 0.06
    seeds = tile_seeds(0, np.array([0, 0, 1]), np.array([[0, 0], [0, 1], [0, 0]]))
    assert seeds.dtype == np.uint32 and len(set(seeds.tolist())) == 3


def test_a_tile_with_the_trained_hole_gets_what_the_student_gives(inpaint, restorer):
    """Against the sampler called by hand with the same noise."""
    image = photograph(TILE, TILE)
    hole = np.zeros((TILE, TILE), bool)
    hole[BOX[0] : BOX[2], BOX[1] : BOX[3]] = True
    system = System.create(tiny())
    _, params = read_player(inpaint, "student")
    mask = jnp.asarray(hole, jnp.float32)[None, ..., None]
    x0 = jnp.asarray(image, jnp.float32)[None] / 127.5 - 1
    xT = jnp.where(mask > 0, 0.0, x0)
    noise = noise_field(
        jax.random.key(5), jnp.zeros(1, int), jnp.zeros((1, 2), jnp.int32), (TILE, TILE)
    )
    pair = Pair(x0, xT, mask, noise(PictureStream.STEPS))
    answer = sample_few_step(
        system.generator(params, pair), system.bridge, xT,
        student_grid(system.bridge, 2, 4, tiny().distill.first_time), pair.keys, clip=True,
    )  # fmt: skip
    expected = np.asarray(keep_known(answer, x0, mask))[0]
    done = restorer(image, hole, seed=5)
    np.testing.assert_allclose(done.to_float()[hole], expected[hole], atol=0.006)
    np.testing.assert_array_equal(done.pixels[~hole], image[~hole])
    assert expected[hole].std() > 0.05  # the network has something to say
    np.testing.assert_array_equal(restorer(image, boxes=[(4, 4, 8, 8)], seed=5).pixels, done.pixels)


def some_holes(height, width):
    """A box, a scratch, a whole edge, and two parts one of which is in a corner."""
    for places in (
        [(slice(30, 50), slice(100, 113))],
        [(slice(9, 11), slice(60, 90))],
        [(slice(None), slice(-1, None))],
        [(slice(-3, None), slice(-9, None)), (slice(-40, -38), slice(-60, -50))],
    ):
        hole = np.zeros((height, width), bool)
        for place in places:
            hole[place] = True
        yield hole


@pytest.mark.parametrize(
    "kind", ["restorer", pytest.param("freeform_restorer", marks=pytest.mark.slow)]
)
def test_what_is_far_from_the_hole_changes_nothing(kind, request, monkeypatch):
    """Bit for bit: the part of the picture that is looked at gives what the whole would."""
    restorer = request.getfixturevalue(kind)
    image, cut = photograph(161, 301), []
    for hole in some_holes(161, 301):
        cut.append([s.stop - s.start for s in surroundings(hole, restorer.model.size)])
        part = restorer(image, hole).pixels
        with monkeypatch.context() as patch:
            patch.setattr(
                restorers, "surroundings", lambda hole, tile: (slice(0, 161), slice(0, 301))
            )
            whole = restorer(image, hole).pixels
        np.testing.assert_array_equal(part, whole)
        assert (whole != image).any(-1)[hole].mean() > 0.9
    assert sum(rows * columns < 161 * 301 / 3 for rows, columns in cut) >= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_size_and_mask_keeps_known_pixels_bit_for_bit(restorer, dtype):
    for height, width in ((53, 70), (9, 33), (16, 16)):
        image, hole = photograph(height, width, dtype=dtype), odd_hole(height, width)
        done = restorer(image, hole)
        assert done.pixels.dtype == dtype and done.size == (height, width)
        np.testing.assert_array_equal(done.pixels[~hole], image[~hole])
        assert (done.pixels != image).any(-1)[hole].mean() > 0.9
        # What the picture holds in the hole is never looked at.
        other = np.where(hole[..., None], np.iinfo(dtype).max - image, image)
        np.testing.assert_array_equal(restorer(other, hole).pixels, done.pixels)


def test_gray_stays_gray_and_alpha_stays(restorer):
    hole = odd_hole(20, 30)
    gray = photograph(20, 30, channels=1, dtype=np.uint16)
    done = restorer(gray, hole)
    assert done.pixels.shape == (20, 30, 1)
    np.testing.assert_array_equal(done.pixels[~hole], gray[~hole])
    clear = photograph(20, 30, channels=4)
    done = restorer(clear, hole)
    np.testing.assert_array_equal(done.alpha, clear[..., 3:])


def test_seeds_and_samples_differ(restorer):
    image, hole = photograph(20, 30), odd_hole(20, 30)
    one, again, other, sample = (
        restorer(image, hole, seed=s, sample=k).pixels for s, k in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    np.testing.assert_array_equal(one, again)
    for different in (other, sample):
        assert np.abs(one.astype(int) - different)[hole].mean() > 0.5
        np.testing.assert_array_equal(one[~hole], different[~hole])


@pytest.mark.parametrize("kind", [pytest.param("inpaint", marks=pytest.mark.slow), "superres"])
def test_results_depend_on_neither_batch_nor_company(kind, request):
    path = request.getfixturevalue(kind)
    pictures = [photograph(12 + i, 40 - i, seed=i) for i in range(3)]
    masks = [odd_hole(12 + i, 40 - i) for i in range(3)] if kind == "inpaint" else [None] * 3
    one, many = Restorer(path, nfe=1, batch=1), Restorer(path, nfe=1, batch=32)
    tasks = [Task(p, m, sample=i) for i, (p, m) in enumerate(zip(pictures, masks, strict=True))]
    together = dict(many.many(tasks, seed=3))
    assert sorted(together) == [0, 1, 2]
    for i, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        alone = one(picture, mask, seed=3, sample=i).pixels.astype(int)
        difference = np.abs(alone - together[i].pixels)
        assert difference.max() <= 1 and difference.mean() < 0.01


@pytest.mark.slow
def test_freeform_models_take_any_mask(freeform):
    restorer = Restorer(freeform, nfe=1, batch=8)
    image, hole = photograph(40, 60), odd_hole(40, 60)
    done = restorer(image, hole)
    np.testing.assert_array_equal(done.pixels[~hole], image[~hole])
    assert (done.pixels != image).any(-1)[hole].mean() > 0.9
    assert not any("seen a hole" in note.text for note in restorer.notes(done, hole))


def test_superresolution_enlarges_whole_blocks(enlarger, superres):
    small = photograph(11, 19, channels=4)
    done = enlarger(small)
    assert done.size == (44, 76)
    np.testing.assert_array_equal(done.alpha[::4, ::4], small[..., 3:])
    big = small.repeat(4, 0).repeat(4, 1)
    ready = copy.copy(enlarger)
    ready.enlarge = 1
    np.testing.assert_array_equal(ready(big).pixels, freed(enlarger)(small).pixels)
    with pytest.raises(ValueError, match="--enlarge=3: this model takes 1 or 4"):
        Restorer(superres, enlarge=3)


@pytest.mark.parametrize(
    ("data", "picture", "said"),
    [
        ({"name": "earth"}, (16, 16), "has seen nothing but maps"),
        ({"name": "earth_relief"}, (500, 16), "has seen nothing but maps"),
        ({"name": "folder"}, (100, 80), "whole pictures of 16x16, .*this one of 80x100 .*=random"),
        ({"name": "pairs", "crop": "center"}, (32, 40), "whole pictures of 16x16"),
        ({"name": "folder", "crop": "center"}, (31, 100), ""),
        ({"name": "folder", "crop": "random"}, (1000, 1000), ""),
        ({"name": "folder", "crop": "grid"}, (1000, 1000), ""),
        ({"name": "arrays"}, (1000, 1000), ""),  # of pieces, as far as anybody knows
        ({}, (1000, 1000), ""),  # an import
    ],
)
def test_a_scale_that_a_model_has_not_learned_is_said(data, picture, said):
    found = scale_notes({"data": data}, (16, 16), picture)
    assert re.search(said, str(found[0])) if said else not found


@pytest.mark.slow
def test_a_teacher_with_its_own_sampler(inpaint):
    restorer = Restorer(inpaint, "teacher", nfe=3, sampler="dbim", batch=8)
    image, hole = photograph(20, 30), odd_hole(20, 30)
    done = restorer(image, hole)
    np.testing.assert_array_equal(done.pixels[~hole], image[~hole])
    assert (done.pixels != image).any(-1)[hole].mean() > 0.9
    assert "teacher, 3 network calls" in restorer.model.text


@pytest.mark.slow
def test_an_exported_student_restores_too(inpaint, tmp_path):
    pytest.importorskip("flatbuffers")
    out = tmp_path / "student.bin"
    assert export.main([str(inpaint), str(out), "--nfe=1", "--images=uint8"]) == 0
    restorer = Restorer(out)
    image, hole = photograph(20, 30), odd_hole(20, 30)
    done = restorer(image, hole)
    np.testing.assert_array_equal(done.pixels[~hole], image[~hole])
    assert (done.pixels != image).any(-1)[hole].mean() > 0.9
    np.testing.assert_array_equal(restorer(image, hole).pixels, done.pixels)
    assert np.abs(restorer(image, hole, seed=1).pixels.astype(int) - done.pixels).max() > 1
    with pytest.raises(ValueError, match="exported with 1 network calls: leave --nfe out"):
        Restorer(out, nfe=2)
    with pytest.raises(ValueError, match="--model=teacher goes with the WORKDIR"):
        Restorer(out, "teacher")
    data = out.read_bytes()
    (tmp_path / "old.bin").write_bytes(data.partition(b"\njax_bridges.export ")[0])
    with pytest.raises(ValueError, match="export the run again"):
        Restorer(tmp_path / "old.bin")
    (tmp_path / "bad.bin").write_bytes(data[100:])
    with pytest.raises(ValueError, match="is damaged"):
        Restorer(tmp_path / "bad.bin")


def test_models_that_are_asked_for_what_they_cannot(
    inpaint, superres, restorer, enlarger, tmp_path
):
    with pytest.raises(FileNotFoundError, match="There is no .*nowhere: give the WORKDIR"):
        Restorer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no student in"):
        Restorer(tmp_path)
    with pytest.raises(ValueError, match="trained for 1 to 4 calls; nfe = 5"):
        Restorer(inpaint, nfe=5)
    with pytest.raises(ValueError, match="--sampler is of a teacher"):
        Restorer(inpaint, sampler="dbim")
    with pytest.raises(ValueError, match="Unknown sampler 'dbin'"):
        Restorer(inpaint, "teacher", sampler="dbin")
    with pytest.raises(ValueError, match="leave --tile out"):
        Restorer(inpaint, tile=32)
    with pytest.raises(ValueError, match="no classes: leave --label out"):
        Restorer(inpaint, label=1)
    with pytest.raises(ValueError, match="share of a tile, from 0 to 0.75"):
        Restorer(inpaint, overlap=0.9)
    with pytest.raises(BadImage, match="say where with --mask or --box"):
        restorer(photograph(8, 8))
    with pytest.raises(BadImage, match="restores whole pictures: give it no --mask"):
        enlarger(photograph(8, 8), boxes=[(0, 0, 2, 2)])


def test_the_limits_of_one_fixed_hole_are_said(restorer):
    small = np.zeros((40, 40), bool)
    small[4:12, 20:28] = True
    picture = Picture(photograph(40, 40))
    (maps,) = restorer.notes(picture, small)
    assert "has seen nothing but maps" in maps.text
    assert "--config.data.path=PHOTOGRAPHS" in maps.command
    small[4:13, 20] = True
    said = restorer.notes(picture, small)[1]
    assert "hole of 8x8 pixels in the middle of 16x16" in said.text and "up to 8x9" in said.text
    assert "--config.corruption.name=inpaint_freeform" in said.command == maps.command
    with pytest.warns(RestoreNote) as caught:  # the same when called
        restorer(photograph(40, 40), small)
    assert [str(each.message) for each in caught] == [str(maps), str(said)]
    assert all(each.filename == __file__ for each in caught)


def test_a_note_on_pictures_of_ones_own_gives_the_data_of_the_run():
    """Those that the run was trained on, and none on maps."""
    recorded = {"data": {"name": "folder", "path": "my photos", "size": 64}}
    assert training_command(recorded, "inpaint_freeform").endswith(
        "--config.data.name=folder --config.data.path='my photos' --config.data.size=64 "
        "--workdir=runs/inpaint_freeform"
    )


def test_what_is_transparent_is_the_hole(restorer):
    """A soft eraser too: nothing of half the old colour stays, and the result is opaque."""
    for dtype in (np.uint8, np.uint16):
        image, hole = photograph(20, 30, dtype=dtype), odd_hole(20, 30)
        alpha = np.full((20, 30), np.iinfo(dtype).max, dtype)
        alpha[hole] = np.where(np.arange(hole.sum()) % 2, 0, np.iinfo(dtype).max - 1)
        done = restorer(np.dstack([image, alpha]), "alpha")
        assert done.alpha is None
        np.testing.assert_array_equal(done.pixels, restorer(image, hole).pixels)
    for picture in (image, np.dstack([image, np.full((20, 30), 65535, np.uint16)])):
        with pytest.raises(BadImage, match="nothing in it is transparent"):
            restorer(picture, "alpha")
    with pytest.raises(BadImage, match="leave --invert out"):
        restorer(np.dstack([image, alpha]), "alpha", invert=True)


@pytest.mark.slow
def test_an_import_must_be_told_its_tile(tmp_path):
    """A released teacher of pairs, whose folder records neither a size nor a corruption."""
    network = dict(
        name="adm", model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_ds=(2,),
        head_channels=32, conditional=True, dtype="float32",
    )  # fmt: skip
    recorded = {
        "network": network,
        "bridge": {"name": "vp", "t_min": 1e-4, "T": 1.0, "beta_d": 2.0, "beta_min": 0.1},
        "preconditioning": {"name": "bridge_karras"},
        "keep_known": True,
        "source": {"family": "ddbm", "file": "e2h.pt"},
    }
    save_player(tmp_path, "train", "teacher", System.create(tiny(network=network)), recorded)
    with pytest.raises(ValueError, match="--tile=256 .* or --tile=64"):
        Restorer(tmp_path, "teacher")
    restorer = Restorer(tmp_path, "teacher", nfe=2, tile=8, sampler="ode_euler", batch=8)
    assert restorer.model.text == "ddbm teacher, 2 network calls a tile"
    gray = photograph(13, 17, channels=1)
    done = restorer(gray)
    assert done.pixels.shape == (13, 17, 3)  # pairs may make colours
    assert (np.ptp(done.pixels.astype(int), axis=-1) > 0).any()
