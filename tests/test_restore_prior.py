"""restore.py with a diffusion prior: any solver, any operator, pictures of any size."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jax_bridges import restore
from jax_bridges.choices import parse_choice
from jax_bridges.corruptions import Blur, Colorize, Composition, SuperResolution
from jax_bridges.data.images import BadImage
from jax_bridges.restore import PriorRestorer, Task
from jax_bridges.restoring import read_picture
from jax_bridges.restoring.methods import parse_method, parse_operator
from jax_bridges.training.system import System
from tests.support.restorers import TILE, left_behind, photograph, save_player, tiny


def prior_config(**changes):
    config = tiny(**changes)
    config.corruption, config.keep_known = {"name": "identity"}, False
    config.bridge, config.preconditioning = {"name": "ddpm"}, {"name": "unit_variance"}
    config.network.conditional = False
    return config


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A prior of small random weights for tiles of 16x16, whose answers stay within the range."""
    workdir, config = tmp_path_factory.mktemp("prior"), prior_config()
    recorded = json.loads(config.to_json_best_effort())
    save_player(workdir, "train", "teacher", System.create(config), recorded, spread=0.04)
    return workdir


@pytest.fixture(scope="module")
def bridge(tmp_path_factory):
    return str(left_behind(tmp_path_factory.mktemp("bridge"), tiny()))


def some_hole(height, width):
    hole = np.zeros((height, width), bool)
    hole[3:9, 4 : width - 5] = True
    hole[-1, -1] = True
    return hole


# -- what a user writes ------------------------------------------------------------------------------


def test_choices_are_read():
    assert parse_choice("ddnm") == ("ddnm", {})
    assert parse_choice("ddnm:eta=0.5,travel=(10,3),clip=True") == (
        "ddnm",
        {"eta": 0.5, "travel": (10, 3), "clip": True},
    )
    assert parse_choice("superres:kind=pool,factor=2")[1] == {"kind": "pool", "factor": 2}
    operator, inpaint = parse_operator("colorize+superres:kind=pool,factor=2+inpaint")
    pool = SuperResolution(kind="pool", factor=2)
    assert inpaint and operator == Composition(parts=(Colorize(), pool))
    assert parse_operator("blur", simulate=True)[0] == Blur(truncated=True)  # A A^+ A = A
    assert parse_operator("blur:threshold=0.1")[0] == Blur(truncated=True, threshold=0.1)
    config = prior_config()
    levels = System.create(config).bridge
    assert parse_method("ddrm", levels, config.zero_shot).nfe == 20
    assert parse_method("ddrm:nfe=7", levels, config.zero_shot).nfe == 7
    assert parse_method("ddnm:travel=(2,2)", levels, config.zero_shot, nfe=6).nfe == 10
    assert parse_method("pinv", levels, config.zero_shot).nfe == 0
    for text, words in (
        ("superes", "Unknown operator 'superes'.*Did you mean 'superres'"),
        ("jpeg", "Unknown operator 'jpeg'"),
        ("superres:factr=2", "no setting 'factr'"),
        ("superres:factor", "NAME:KEY=VALUE"),
        ("superres:factor=two", "factor is 'two': it must be a whole number"),
        ("superres:factor=1.5", "factor is 1.5: it must be a whole number"),
        ("denoise:std=0.1+colorize", "'denoise' comes after all but 'inpaint'"),
        ("colorize:noise_std=0.2", "give --sigma-y"),
        ("superres+colorize", "no pseudo-inverse in closed form: of superres take kind=pool"),
        ("inpaint:size=2", "has no settings"),
        ("inpaint+colorize", "comes last"),
        ("superres:kind=bicubic+inpaint", "rows are not orthogonal"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_operator(text)
    for text, words in (
        ("ddnn", "Did you mean 'ddnm'"),
        ("ddnm:et=1", "no setting 'et'"),
        ("ddnm:eta=2", "must be a number from 0 to 1"),
        ("ddnm:travel=5", "a tuple of 2, each a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_method(text, levels, config.zero_shot)


def test_a_blurred_picture_of_8_bits_is_sharpened_not_drowned():
    """The pseudo-inverse alone, which every solver starts from: rounding is not blown up."""
    x = jnp.asarray(photograph(48, 64), jnp.float32)[None] / 127.5 - 1
    x = Blur(kind="gauss", taps=3, std=1.0).forward(x)  # a photograph is not all edges
    operator, papers = (parse_operator("blur", simulate=s)[0] for s in (False, True))
    y = jnp.rint((Blur().forward(x) + 1) * 127.5) / 127.5 - 1

    def error(image):
        return float(jnp.sqrt(jnp.square(image - x).mean()))

    assert error(operator.pinv(y)) < 0.8 * error(y) and error(papers.pinv(y)) > 2 * error(y)


# -- pictures ----------------------------------------------------------------------------------------


def as_y(picture):
    return jnp.asarray(picture.to_float())[None]


def same_means(x, pool, image):
    """Blocks of x have the image's pixels for means, but where a pixel was clipped to the range."""
    whole = np.asarray(pool.forward((jnp.abs(x) > 0.9999).astype(float))) == 0
    assert whole.mean() > 0.95
    gap = np.asarray(pool.forward(x) - as_y(read_picture(image)))
    np.testing.assert_allclose(gap[whole], 0, atol=1e-4)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("solver", ["ddnm", pytest.param("repaint:travel=(2,2)", marks=SLOW)])
def test_holes_are_filled_and_the_rest_stays_bit_for_bit(prior, solver):
    restorer = PriorRestorer(prior, solver, nfe=3, batch=4)
    for size, dtype in (((21, 37), np.uint16), ((11, 18), np.uint8)):
        image, hole = photograph(*size, dtype=dtype), some_hole(*size)
        done = restorer(image, hole)
        assert done.pixels.dtype == dtype and done.size == size
        np.testing.assert_array_equal(done.pixels[~hole], image[~hole])
        assert (done.pixels != image).any(-1)[hole].mean() > 0.9
        # What the picture holds in the hole is never looked at; a box is a hole as well.
        other = np.where(hole[..., None], np.iinfo(dtype).max - image, image)
        np.testing.assert_array_equal(restorer(other, hole).pixels, done.pixels)
    assert len(restorer._compiled) == 2


@pytest.mark.parametrize("solver", ["dps", pytest.param("pigdm", marks=SLOW)])
def test_a_solver_in_steps_gives_what_the_whole_of_it_gives(prior, solver):
    """On a CPU: a picture that is smaller than a tile, and one of several tiles."""
    restorer = PriorRestorer(prior, solver, "superres:kind=pool,factor=2", nfe=3, batch=16)
    for size in ((6, 7), (9, 12)):
        run, arguments = restorer._prepared(Task(photograph(*size)), 0)
        whole = jax.jit(restorer._solve)(*arguments)
        stepwise = run(*arguments)
        assert stepwise.shape == whole.shape == (1, 2 * size[0], 2 * size[1], 3)
        assert jnp.std(whole) > 0.05
        np.testing.assert_allclose(stepwise, whole, atol=2e-5)


def test_a_small_picture_is_shrunk_back_to_what_it_was(prior):
    """16 bits, so that rounding is far below what is asserted."""
    restorer = PriorRestorer(prior, "ddnm", "superres:kind=pool,factor=4", nfe=3, batch=4)
    pool = SuperResolution(kind="pool", factor=4)
    image = np.clip(photograph(7, 9, dtype=np.uint16), 28000, 37000)
    done = restorer(image)
    assert done.size == (28, 36)
    x = as_y(done)
    same_means(x, pool, image)
    assert jnp.abs(x - pool.pinv(pool.forward(x))).max() > 0.01  # and something was added
    one, again, other, sample = (
        restorer(image, seed=s, sample=k).pixels for s, k in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    np.testing.assert_array_equal(one, again)
    for different in (other, sample):
        assert np.abs(one.astype(int) - different).mean() > 10


def test_an_old_photograph(prior):
    """Small, grey and scratched: all three at once, and colours come out."""
    restorer = PriorRestorer(prior, "ddnm", "colorize+superres:kind=pool,factor=2+inpaint", nfe=3)
    image, hole = np.clip(photograph(9, 14, channels=1), 90, 160), some_hole(9, 14)
    done = restorer(image, hole)
    assert done.pixels.shape == (18, 28, 3)
    gray = Colorize().forward(as_y(done))
    y = SuperResolution(kind="pool", factor=2).forward(gray)[0, ..., 0]
    want = np.asarray(image[..., 0], np.float32) / 127.5 - 1
    np.testing.assert_allclose(np.asarray(y)[~hole], want[~hole], atol=2 / 255)
    assert np.abs(done.pixels[..., 0].astype(int) - done.pixels[..., 1]).max() > 3
    task = Task(image, hole)
    before, shown = restorer.before(task)
    assert before.size == (18, 28) and shown.sum() == 4 * hole.sum()


@SLOW
@pytest.mark.parametrize(
    ("operator", "solver"),
    [("walsh_hadamard:ratio=0.5", "ddnm"), ("denoise:std=0.1", "ddnm_plus")],
)
def test_a_clean_picture_is_corrupted_first(prior, operator, solver):
    restorer = PriorRestorer(prior, solver, operator, simulate=True, nfe=2, batch=4)
    image = np.clip(photograph(16, 32, dtype=np.uint16), 20000, 45000)
    done, (before, _) = restorer(image), restorer.before(Task(image))
    assert np.abs(before.to_float() - read_picture(image).to_float()).std() > 0.02
    if solver == "ddnm":
        a = restorer.operator
        gap = a.forward(as_y(done)) - a.forward(as_y(read_picture(image)))
        assert jnp.abs(gap).max() < 1e-3
    else:
        assert restorer.sigma_y == 0.1
        noise = before.to_float() - read_picture(image).to_float()
        np.testing.assert_allclose(noise.std(), 0.1, rtol=0.06)


# -- the command -------------------------------------------------------------------------------------


def test_the_command(prior, bridge, tmp_path, capsys):
    photo, mask, out = (tmp_path / n for n in ("photo.png", "mask.png", "new/done.png"))
    image, hole = photograph(20, 30), some_hole(20, 30)
    Image.fromarray(image).save(photo)
    Image.fromarray(hole.astype(np.uint8) * 255).save(mask)
    argv = [str(prior), str(photo), str(out), "--solver=ddnm", "--operator=inpaint", "--nfe=2"]
    assert restore.main([*argv, f"--mask={mask}", "--samples=2", "--compare"]) == 0
    said = capsys.readouterr()
    assert (
        re.search("compiled in .* s", said.out) and "ddnm for inpaint, 2 network calls" in said.out
    )
    assert "continues texture but no large shapes" in said.err
    again = said.err.splitlines()[-1]
    assert again.startswith("  python -m jax_bridges.restore ")
    assert again.endswith(" --compare --coarse=4 --force")
    names = ["done-2.png", "done-compare.png", "done-grid.png", "done.png"]
    assert sorted(p.name for p in out.parent.iterdir()) == names
    one, two = (read_picture(out.with_name(n)).pixels for n in ("done.png", "done-2.png"))
    np.testing.assert_array_equal(one[~hole], image[~hole])
    assert (one != two).any(-1)[hole].mean() > 0.5

    def refused(*changes, words):
        kept = [a for a in argv if not any(a.split("=")[0] == c.split("=")[0] for c in changes)]
        changes = [c for c in changes if not c.endswith("=")]
        assert restore.main([*kept[:2], str(tmp_path / "no.png"), *kept[3:], *changes]) == 1
        shown = capsys.readouterr()
        assert re.search(words, shown.err), shown.err
        assert "compiled" not in shown.out and shown.err.count("\n") == 1
        assert not (tmp_path / "no.png").exists()

    refused(words="the operator 'inpaint' fills holes: say where")
    refused("--operator=colorize", "--box=1,1,2,2", words="a mask goes with the operator 'inpaint'")
    refused("--operator=jpeg", words="Unknown operator 'jpeg'")
    refused("--operator=", words="go together")
    refused(
        "--solver=",
        "--operator=",
        words="diffusion prior or a plain network, no bridge: give --solver",
    )
    refused("--solver=", "--operator=", "--coarse=2", words="--coarse goes with --solver")
    refused("--sampler=heun", words="--sampler is for bridges")
    refused("--model=student", words="--model is for bridges: leave it out with --solver")
    refused("--sigma-y=0.1", words="takes the picture for exact; choose one of ddnm_plus")
    refused("--sigma-y=25", words=r"--sigma-y is 25: .*\[-1, 1\].* 0 and 2 .25 of 255 is 0.196")
    refused("--operator=denoise:std=25", words=r"denoise: std is 25: .*25 of 255 is 0.196")
    refused("--solver=repaint", "--operator=colorize", words="'repaint' fills holes alone")
    refused("--operator=walsh_hadamard", words="its measurements are no picture")
    refused("--operator=walsh_hadamard", "--simulate", words="photo.png: does not suit.*power of 2")
    refused("--operator=denoise:std=0", words="without noise changes nothing")
    refused("--tiling=mask_shift", "--solver=ddrm", words="goes with --solver=ddnm")
    refused("--coarse=3", "--box=1,1,2,2", words="30x20, and --coarse=3 must divide")
    refused("--coarse=2", "--solver=pigdm", words="--coarse goes with --solver=ddnm or ddrm")
    refused("--tile=32", words="records the size it was trained at")
    refused("--label=3", words="has no classes")
    refused("--guidance=2", words="goes with --classifier")
    refused("--classifier=nowhere.pt", "--label=1", words="nowhere.pt")
    refused("--overlap=0.9", words="a share of a tile")
    argv[0] = bridge
    refused("--box=1,1,2,2", words=r"holds a bridge between images \(bridge.name is 'i2sb'\)")
    with pytest.raises(BadImage, match="a mask goes with"):
        PriorRestorer(prior, "ddnm", "colorize").read(Task(image, hole))


@SLOW
@pytest.mark.parametrize("way", [{"tiling": "mask_shift"}, {"coarse": 2}])
def test_other_ways_through_a_large_picture_keep_the_measurement(prior, way):
    restorer = PriorRestorer(prior, "ddnm", "superres:kind=pool,factor=4", nfe=2, **way)
    image = np.clip(photograph(10, 6, dtype=np.uint16), 25000, 40000)
    done = restorer(image)
    pool, x = SuperResolution(kind="pool", factor=4), as_y(done)
    same_means(x, pool, image)
    assert done.size == (40, 24) and jnp.abs(x - pool.pinv(pool.forward(x))).max() > 0.01


@SLOW
def test_the_noise_that_a_tile_is_given_is_the_whole_pictures(prior):
    """A picture of one tile gets what the solver gives, called by hand."""
    from jax_bridges.players import read_player
    from jax_bridges.training.system import Pair
    from jax_bridges.zero_shot import solve_ddnm

    image = np.clip(photograph(TILE, TILE, channels=1), 90, 160)
    restorer = PriorRestorer(prior, "ddnm", "colorize", nfe=2)
    system, (_, params) = System.create(prior_config()), read_player(prior, "teacher")
    x = as_y(read_picture(image))
    denoise = system.denoiser(params, Pair(x, x, None, None))
    key = jax.random.fold_in(jax.random.key(7), 0)[None]
    want = jax.jit(
        lambda y: solve_ddnm(
            lambda x, t: denoise(x, t, x), Colorize(), y, 0.0, system.bridge.levels(2), key
        )
    )(Colorize().forward(x))
    np.testing.assert_allclose(as_y(restorer(image, seed=7)), np.clip(want, -1, 1), atol=0.006)
