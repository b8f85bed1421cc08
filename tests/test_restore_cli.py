"""python -m jax_bridges.restore: files and folders in and out, refusals, and a real student."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from jax_bridges import restore
from jax_bridges.restoring import read_picture, seam_jump
from jax_bridges.tiling import positions
from tests.support.restorers import bad_files, files_of_at_most, left_behind, photograph, tiny
from tests.support.runs import ROOT, start
from tests.support.runs import tiny as tiny_run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(left_behind(tmp_path_factory.mktemp("inpaint"), tiny()))


@pytest.fixture(scope="module")
def enlarger(tmp_path_factory):
    config = tiny(corruption={"name": "superres", "factor": 4})
    config.data.name = "folder"
    return str(left_behind(tmp_path_factory.mktemp("superres"), config))


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(photograph(20, 30)).save(tmp_path / "photo.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[5:12, 6:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.smoke
def test_one_picture_with_samples_and_sheets(model, photo, capsys):
    out = photo / "new" / "done.png"
    argv = [model, str(photo / "photo.png"), str(out), f"--mask={photo / 'mask.png'}", "--nfe=1"]
    argv += ["--box=25,15,3,4", "--samples=3", "--compare"]
    assert restore.main(argv) == 0
    said = capsys.readouterr().out
    assert re.search(r"3 pictures, 0.00 megapixels in .* megapixels/s", said)
    names = ["done-2.png", "done-3.png", "done-compare.png", "done-grid.png", "done.png"]
    assert files(out.parent) == names
    image, mask = read_picture(photo / "photo.png").pixels, read_picture(photo / "mask.png").pixels
    hole = mask[..., 0] > 0
    hole[15:19, 25:28] = True
    samples = [read_picture(out.with_name(n)).pixels for n in ("done.png", *names[:2])]
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sample[~hole], image[~hole])
        for other in samples[:i]:
            assert (sample != other).any(-1)[hole].mean() > 0.5
    assert Image.open(out.with_name("done-grid.png")).size[0] > 2 * 128
    # The same again is refused, and then forced; the input is refused even so.
    assert restore.main(argv) == 1 and "exists already" in capsys.readouterr().err
    assert restore.main([*argv, "--force"]) == 0
    np.testing.assert_array_equal(read_picture(out).pixels, samples[0])
    argv[2] = argv[1]
    assert restore.main([*argv, "--force"]) == 1
    assert "never overwritten" in capsys.readouterr().err
    np.testing.assert_array_equal(read_picture(photo / "photo.png").pixels, image)


def test_a_folder_keeps_its_shape_and_leaves_bad_files_out_if_told(enlarger, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    (source / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "deep/b.tif", "deep/c.webp")):
        Image.fromarray(photograph((5, 6, 8)[i], 9, seed=i)).save(source / name)
    (source / "bad.jpg").write_text("no picture")
    (source / "notes.txt").write_text("not looked at")
    assert restore.main([enlarger, str(source), str(out), "--nfe=1"]) == 1
    said = capsys.readouterr().err
    assert "bad.jpg: not a picture" in said and "Nothing was written" in said
    assert not out.exists()
    argv = [enlarger, str(source), str(out), "--nfe=1", "--on-bad-file=skip"]
    assert restore.main(argv) == 0
    said = capsys.readouterr().err
    assert "skipped: " in said
    # Twice as large as a tile, once it is enlarged; the other two are not.
    assert f"note: {source / 'deep/c.webp'}: this model has learned from whole pictures" in said
    assert files(out) == ["a.png", "deep/b.png", "deep/c.png"]
    assert [read_picture(out / n).size for n in files(out)] == [(20, 36), (24, 36), (32, 36)]
    # A second time the results themselves are not taken for pictures.
    assert restore.main([*argv, "--force"]) == 0
    assert files(out) == ["a.png", "deep/b.png", "deep/c.png"]


def test_a_folder_of_masks(model, tmp_path, capsys):
    for name in ("a", "b"):
        for kind in ("in", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(photograph(18, 20)).save(tmp_path / "in" / f"{name}.png")
        mask = np.zeros((18, 20), np.uint8)
        mask[4:8, 3 : 6 if name == "a" else 9] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.bmp")
    argv = [model, str(tmp_path / "in"), str(tmp_path / "out"), f"--mask={tmp_path / 'masks'}"]
    assert restore.main([*argv, "--nfe=1"]) == 0
    image = photograph(18, 20)
    for name, width in (("a", 3), ("b", 6)):
        changed = (read_picture(tmp_path / "out" / f"{name}.png").pixels != image).any(-1)
        assert changed.any(0).nonzero()[0].max() == 3 + width - 1
    (tmp_path / "masks" / "b.bmp").unlink()
    capsys.readouterr()
    assert restore.main([*argv, "--force"]) == 1
    assert "holds no mask for b.png: it must hold one of the same name" in capsys.readouterr().err


def test_a_broken_picture_without_mask_is_left_out_if_told(model, photo, capsys):
    for name in ("a", "b"):
        (photo / name).mkdir()
    for name in ("good.png", "lonely.png"):
        Image.fromarray(photograph(20, 30)).save(photo / "a" / name)
    (photo / "a" / "broken.png").write_text("no picture")
    (photo / "b" / "good.png").write_bytes((photo / "mask.png").read_bytes())
    argv = [model, str(photo / "a"), str(photo / "out"), f"--mask={photo / 'b'}", "--nfe=1"]
    assert restore.main(argv) == 1
    said = capsys.readouterr().err
    assert "no mask for broken.png" in said and "no mask for lonely.png" in said
    assert "Nothing was written" in said and not (photo / "out").exists()
    assert restore.main([*argv, "--on-bad-file=skip"]) == 0
    said = capsys.readouterr().err
    assert said.count("skipped: ") == 2 and "lonely.png: " in said
    assert files(photo / "out") == ["good.png"]


def test_names_that_cannot_be_printed_are_restored_all_the_same(model, photo, monkeypatch):
    """A terminal that is strict about its encoding, and a name that is no UTF-8."""
    source = photo / "in"
    source.mkdir()
    for name in (b"a.png", b"caf\xe9.png", b"z.png"):
        place = os.path.join(os.fsencode(source), name)
        with open(place, "wb") as file:
            file.write((photo / "photo.png").read_bytes())
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", screen)
    assert restore.main([model, str(source), str(photo / "out"), "--nfe=1", "--box=3,3,4,4"]) == 0
    names = sorted(os.listdir(os.fsencode(photo / "out")))
    assert names == [b"a.png", b"caf\xe9.png", b"z.png"]
    screen.flush()
    assert rb"caf\udce9.png" in screen.buffer.getvalue()


def test_long_names_are_written_and_too_long_ones_refused_at_once(model, photo, capsys):
    most = os.pathconf(photo, "PC_NAME_MAX")
    long = "y" * (most - 4) + ".png"
    (photo / "in").mkdir()
    (photo / "in" / long).write_bytes((photo / "photo.png").read_bytes())
    argv = [model, str(photo / "in"), str(photo / "out"), "--nfe=1", "--box=3,3,4,4"]
    assert restore.main(argv) == 0 and files(photo / "out") == [long]
    capsys.readouterr()
    for flags in (["--compare"], ["--samples=2"]):
        argv[2] = str(photo / "out2")
        said = refused(capsys, *argv, *flags)
        assert f"bytes, and {most} is the most: give it a shorter name" in said
        assert not (photo / "out2").exists()
    deep = photo.joinpath("o" * 200, *["p" * 200] * 19)  # no folder takes a path so long
    said = refused(capsys, model, photo / "photo.png", deep / "x.png", "--box=3,3,4,4")
    assert "The path to write for" in said


def test_what_a_result_lacks_is_said_once(model, photo, capsys):
    source = photo / "in"
    source.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile[:16] + b"CMYK" + profile[20:]
    for name in ("a", "b", "c"):
        Image.new("CMYK", (20, 18)).save(source / f"{name}.tif", icc_profile=profile)
    argv = [model, str(source), str(photo / "out"), "--nfe=1", "--box=3,3,4,4"]
    assert restore.main(argv) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "what is written" in line]
    (line,) = said
    assert line == (
        f"note: {source / 'a.tif'} and 2 more: what is written lacks its profile, which is for CMYK "
        "and not for RGB."
    )


def test_a_full_disk_is_one_sentence_that_names_the_file(model, photo, capsys):
    """A limit of the size of files stands for it: the system's error comes from the same place."""
    out = photo / "out.png"
    argv = [model, str(photo / "photo.png"), str(out), "--nfe=1", "--box=3,3,4,4"]
    with files_of_at_most(64):
        assert restore.main(argv) == 1
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"error: {out}: {os.strerror(errno.EFBIG)}."
    assert files(photo) == ["mask.png", "photo.png"]  # nothing half-written


def test_several_inputs_patterns_and_jpegs(enlarger, tmp_path, capsys):
    """As a shell without patterns leaves them; each picture once, whatever names lead to it."""
    base = tmp_path / "in"
    for name in ("a.png", "deep/b.jpg", "deep/deeper/c.jpg", "deep/notes.txt", "d.png"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (base / name).write_text("not looked at")
        else:
            Image.fromarray(photograph(5, 9, seed=len(name))).save(base / name)
    argv = [enlarger, str(base / "a.png"), str(base / "**/*.*"), str(tmp_path / "out"), "--nfe=1"]
    assert restore.main([*argv, "--quality=90"]) == 0
    said = capsys.readouterr()
    assert "4 pictures" in said.out and "a JPEG changes known pixels too" in said.err
    assert files(tmp_path / "out") == ["a.jpg", "d.jpg", "deep/b.jpg", "deep/deeper/c.jpg"]
    one = Image.open(tmp_path / "out" / "deep" / "b.jpg")
    assert one.format == "JPEG" and one.size == (36, 20)
    # One picture, samples and sheets: answers are JPEGs, sheets are not.
    argv = [enlarger, str(base / "a*"), str(tmp_path / "x.jpg"), "--nfe=1", "--samples=2"]
    assert restore.main(argv) == 0
    assert files(tmp_path)[-3:] == ["x-2.jpg", "x-grid.png", "x.jpg"]


def test_quiet_says_nothing_but_errors(model, photo, capsys):
    argv = [model, str(photo / "photo.png"), str(photo / "out.png"), "--nfe=1", "--box=1,1,18,18"]
    assert restore.main([*argv, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert restore.main([*argv, "--quiet"]) == 1
    assert "exists already" in capsys.readouterr().err


def test_notes_give_the_command_to_run(model, photo, capsys):
    argv = [model, str(photo / "photo.png"), str(photo / "out.png"), "--nfe=1", "--box=1,1,18,18"]
    assert restore.main(argv) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said[:2]] == ["note", "note"]
    assert "nothing but maps" in said[0] and "8x8 pixels in the middle of 16x16" in said[1]
    commands = [line.strip() for line in said if line.startswith("  ")]
    assert commands and len(set(commands)) == 1
    assert commands[0].startswith("python -m jax_bridges.main --config=inpaint ")


def refused(capsys, *argv) -> str:
    """The sentence; restore.main must not get as far as compiling."""
    assert restore.main([str(a) for a in argv]) == 1
    shown = capsys.readouterr()
    assert "compiled" not in shown.out and shown.err.startswith("error: ")
    return shown.err


def test_bad_files_are_refused_with_a_sentence_and_nothing_is_written(
    model, enlarger, photo, tmp_path, capsys
):
    out = tmp_path / "out"
    (tmp_path / "bad").mkdir()
    seen = 0
    for name, path, words in bad_files(tmp_path / "bad"):
        if name == "folder":
            words = "holds no picture"
        elif name == "absent":
            words = "There is no"
        said = refused(capsys, enlarger, path, out)
        assert re.search(words, said) and path.name in said and said.count("\n") == 1, said
        seen += 1
    assert seen == 12
    good, mask = photo / "photo.png", photo / "mask.png"
    small = tmp_path / "small.png"
    Image.fromarray(np.full((20, 31), 255, np.uint8)).save(small)
    cases = [
        ([model, good, out], "this model fills holes: say where"),
        ([enlarger, good, out, f"--mask={mask}"], "this model restores whole pictures"),
        ([model, good, out, f"--mask={small}"], "is 31x20, and the upright picture 30x20"),
        ([model, good, out, "--box=28,0,4,4"], "leaves the picture, which is 30x20"),
        ([model, good, out, "--box=1,2,3"], "must be LEFT,TOP,WIDTH,HEIGHT"),
        ([model, good, out, f"--mask={tmp_path / 'no.png'}"], "--mask is a picture, or a folder"),
        ([model, good, tmp_path / "out.gif", f"--mask={mask}"], "written as PNG"),
        ([model, good, out / "a.png", "--box=0,0,4,4", "--quality=90"], "has no quality"),
        ([model, good, out, "--box=0,0,4,4", "--quality=101"], "of a JPEG it is 1 to 100"),
        ([model, good, mask, tmp_path / "x.png", "--box=0,0,4,4"], "There are 2 pictures, so"),
        ([model, tmp_path / "no*.png", out, "--box=0,0,4,4"], "matches no picture"),
        ([model, good, out, "--mask=alpha"], "nothing in it is transparent"),
        ([model, tmp_path / "bad", tmp_path / "x.png", f"--mask={mask}"], "must be one too"),
        ([tmp_path / "nowhere", good, out], "give the WORKDIR of a run or an exported file"),
        ([model, good, out, "--box=0,0,4,4", "--samples=0"], "--samples=0: it must be at least 1"),
        ([model, good, out, "--box=0,0,4,4", "--batch=0"], "--batch=0"),
        ([model, good, out, "--box=0,0,4,4", "--seed=-1"], "--seed=-1"),
        (
            [model, good, out, "--box=0,0,4,4", "--invert"],
            "--invert says what is missing in a --mask",
        ),
        ([model, good, out, "--speed=2"], "Unrecognized arguments: --speed=2"),
    ]
    for argv, words in cases:
        said = refused(capsys, *argv)
        assert words in said and said.count("\n") == 1, said
    Image.fromarray(photograph(8, 8)).save(tmp_path / "bad" / "twin.webp")
    (tmp_path / "bad" / "twin.bmp").write_bytes((tmp_path / "bad" / "twin.webp").read_bytes())
    assert "would both become" in refused(capsys, enlarger, tmp_path / "bad", out)
    assert not out.exists() and not (tmp_path / "x.png").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can step down")
def test_a_place_that_may_not_be_written(enlarger, photo, capsys):
    locked = photo / "locked"
    locked.mkdir(mode=0o555)
    parents = [p for p in locked.parents if p.stat().st_mode & 0o777 == 0o700]
    try:
        for p in parents:
            p.chmod(0o755)
        os.seteuid(65534)
        with pytest.raises(ValueError, match="locked cannot be written to"):
            restore.find_orders(photo / "photo.png", locked / "a.png")
    finally:
        os.seteuid(0)
        for p in parents:
            p.chmod(0o700)


@pytest.mark.slow
def test_a_distilled_student_restores_a_photograph(tmp_path):
    """Trained, distilled, and put on 1021x763 pixels with an odd mask, as a person would."""
    (tmp_path / "images").mkdir()
    for i in range(24):
        Image.fromarray(photograph(16, 16, seed=i)).save(tmp_path / "images" / f"{i}.png")
    workdir = tmp_path / "run"
    run = start(tiny_run(tmp_path / "images"), workdir, tmp_path)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == 0, said
    image = photograph(763, 1021)
    y, x = np.mgrid[:763, :1021]
    hole = (y - 400) ** 2 / 4 + (x - 300) ** 2 < 60**2  # an ellipse, scratches and dust
    hole |= (np.abs(y - 0.7 * x) < 3) | (np.random.default_rng(0).random(hole.shape) < 0.0005)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    done = subprocess.run(
        [sys.executable, "-m", "jax_bridges.restore", workdir, "photo.png", "out.png"]
        + ["--mask=mask.png", "--batch=64"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "has only ever seen a hole of 8x8 pixels in the middle of 16x16" in done.stderr
    speed = re.search(r"1 picture, 0.78 megapixels in .* s: (.*) megapixels/s", done.stdout)
    assert speed and float(speed[1]) > 0
    restored = read_picture(tmp_path / "out.png").pixels
    assert restored.shape == image.shape and restored.dtype == np.uint8
    np.testing.assert_array_equal(restored[~hole], image[~hole])
    assert (restored != image).any(-1)[hole].mean() > 0.9
    borders = [positions(n, 8, 2) for n in hole.shape]
    jump = seam_jump(restored, *borders, where=hole)
    print(f"{speed[0]}; steps at the borders of boxes against elsewhere in the hole: {jump:.2f}")
    assert 0.5 < jump < 1.3
