"""python -m jax_bridges.restore: names as shells and their users give them, and samples that are one."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jax_bridges import paint, restore
from jax_bridges.command import Parser
from jax_bridges.data.errors import BadImage
from jax_bridges.restoring import read_picture
from jax_bridges.restoring.notes import RestoreNote, sample_notes
from jax_bridges.restoring.restorer import Restorer
from tests.support.restorers import left_behind, photograph, tiny
from tests.support.runs import ROOT

FLAGS = ["--nfe=1", "--box=4,4,6,6"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(left_behind(tmp_path_factory.mktemp("inpaint"), tiny()))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The current folder, with a.png and b.png in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.fromarray(photograph(20, 30)).save(name)
    return tmp_path


def refused(capsys, argv, main=restore.main) -> str:
    """The one sentence."""
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said.removeprefix("error: ").rstrip("\n")


def test_flags_stand_between_names(model, photos, capsys):
    assert restore.main([model, "a.png", "--nfe=1", "b.png", "--box", "4,4,6,6", "out"]) == 0
    assert sorted(os.listdir("out")) == ["a.png", "b.png"]
    assert restore.main([*FLAGS, model, "--force", "a.png", "out"]) == 0
    capsys.readouterr()
    assert "required: OUT" in refused(capsys, [model, "--nfe=1", "a.png"])
    assert "arguments: --fast" in refused(capsys, [model, "a.png", "--fast", "out"])
    server, desk, flags = paint.prepare([model, "--nfe=1", model, "--batch=2"])
    server.server_close()
    assert len(desk.tabs) == 2 and flags.batch == 2


def test_a_name_that_looks_like_a_flag_is_said_to(model, photos, capsys):
    Image.fromarray(photograph(20, 30)).save("-lead.png")
    os.mkdir("-photos")
    for names, word in (
        (["-lead.png", "out.png"], "-lead.png"),
        (["a.png", "-out.png"], "-out.png"),  # which is not there yet
        (["-photos", "out"], "-photos"),
        (["-*.png", "out"], "-*.png"),
        (["a.png", "out.png", "--mask", "-m.png"], "-m.png"),
    ):
        said = refused(capsys, [model, *names, *FLAGS])
        assert said == (
            f"{word} begins with - as flags do: for a name, write ./{word}; --help lists the flags."
        )
    assert restore.main([model, "./-lead.png", "./-out.png", *FLAGS]) == 0
    assert restore.main([*FLAGS, "--force", "--", model, "-lead.png", "-out.png"]) == 0
    assert os.path.exists("-out.png")


def test_numbers_and_flags_are_no_names(photos):
    parser = Parser()
    parser.add_argument("--sigma", type=float)
    parser.add_argument("-o")
    (photos / "--sigma").touch()
    for argv in (["--sigma", "-0.5", "-o", "-1"], ["--sigma=-0.5", "-o=-a.png"]):
        assert parser.parse_args(argv).sigma == -0.5


def test_empty_names_are_refused_by_what_they_are(model, photos, capsys):
    """As a shell leaves a variable that is not set."""
    for argv, what in (
        ([model, "a.png", "out.png", "--mask="], "--mask"),
        ([model, "", "out.png", *FLAGS], "IN"),
        ([model, "a.png", "", *FLAGS], "OUT"),
        (["", "a.png", "out.png", *FLAGS], "MODEL"),
        ([model, "a.png", "out.png", *FLAGS, "--classifier", ""], "--classifier"),
    ):
        assert refused(capsys, argv).startswith(f"{what} is empty, where a name is expected"), what
    assert refused(capsys, [model, ""], paint.main).startswith("MODEL is empty")
    with pytest.raises(BadImage, match="its name is empty"):
        read_picture("")


def test_a_pipe_is_refused_instead_of_waited_for(photos):
    """In a process of its own, which could hang."""
    os.mkfifo("pipe.png")
    code = "from jax_bridges.restoring import read_picture\n"
    code += "for name in ('pipe.png', '/dev/zero'):\n"
    code += "    try: read_picture(name)\n    except ValueError as bad: print(bad)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    words = "is no regular file but a pipe or a device; save the picture to a file\n"
    assert done.stdout == 2 * words, done.stderr
    os.symlink("a.png", "link.png")  # which leads to one
    np.testing.assert_array_equal(read_picture("link.png").pixels, photograph(20, 30))


def test_samples_of_a_model_with_one_answer_are_one_file_and_a_note(photos, capsys):
    """One call from a picture without noise; with more calls they differ."""
    argv = ["photos:denoise", "a.png", "out.png", "--samples=3"]
    assert restore.main(argv) == 0
    assert sorted(os.listdir()) == ["a.png", "b.png", "out.png"]
    said = capsys.readouterr()
    assert "1 picture, " in said.out
    note, *helps = said.err.splitlines()
    assert note == (
        "note: a.png: this model makes one network call, and so has one answer, whatever the seed and "
        "however many samples are asked for."
    )
    again = (
        "python -m jax_bridges.restore photos:denoise a.png out.png --samples=3 --nfe=10 --force"
    )
    assert helps == ["Answers that differ:", f"  {again}"]
    assert restore.main(again.split()[3:]) == 0
    names = ["out-2.png", "out-3.png", "out-grid.png", "out.png"]
    assert sorted(name for name in os.listdir() if name.startswith("out")) == names
    one, two = (read_picture(name).pixels for name in ("out.png", "out-2.png"))
    assert (one != two).any() and "one answer" not in capsys.readouterr().err
    # Another seed is no other answer either; in Python as well.
    assert restore.main([*argv[:2], "seed.png", "--seed=7"]) == 0
    assert "one answer" in capsys.readouterr().err
    restorer = Restorer("photos:denoise", batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restorer("a.png")
    for asked in ({"seed": 1}, {"sample": 1}):
        with pytest.warns(RestoreNote, match="one answer, .* Answers that differ: nfe=10"):
            restorer("a.png", **asked)


def test_what_can_be_said_of_a_model_that_never_varies():
    (note,) = sample_notes(SimpleNamespace(varies=False, varies_by_calls=False), 0, 2)
    assert str(note).startswith("this model has one answer") and not (note.add or note.command)
