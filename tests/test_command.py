"""What every command does around its work."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from pathlib import Path

import jax
import pytest
from absl import flags

import jax_bridges.command
from jax_bridges.command import Parser, keep_compiled, run_command
from jax_bridges.validation import validate


def fail(error):
    def work():
        raise error

    return work


def test_work_that_ends_well_is_0_and_silent(capsys):
    done = []
    assert run_command(lambda: done.append(1)) == 0 and done == [1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ValueError("x is 0."), FileNotFoundError("x is 0.")])
def test_what_a_user_can_mend_is_one_sentence(error, monkeypatch, capsys):
    monkeypatch.delenv("JAX_BRIDGES_DEBUG", raising=False)
    assert run_command(fail(error)) == 1
    assert capsys.readouterr() == ("", "error: x is 0.\n")
    assert run_command(fail(error), sentence=lambda e: f"{e} Set x.") == 1
    assert capsys.readouterr().err == "error: x is 0. Set x.\n"
    monkeypatch.setenv("JAX_BRIDGES_DEBUG", "1")
    with pytest.raises(type(error)):
        run_command(fail(error))


def test_errors_of_the_system_name_the_file_and_what_to_do(capsys):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/a.png")
    assert run_command(fail(full)) == 1
    said = capsys.readouterr().err
    assert said == "error: out/a.png: No space left on device: make room there, and start again.\n"
    assert run_command(fail(OSError("a sentence of ours."))) == 1
    assert capsys.readouterr().err == "error: a sentence of ours.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_any_name_can_be_printed(encoding, monkeypatch):
    screens = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", screens[0])
    monkeypatch.setattr(sys, "stderr", screens[1])

    def work():
        print("caf\udce9 and café")
        raise ValueError("no caf\udce9.")

    assert run_command(work) == 1
    for screen in screens:
        screen.flush()
    shown = [screen.buffer.getvalue() for screen in screens]
    assert (
        shown[0]
        == rb"caf\udce9 and caf" + (b"\xc3\xa9" if encoding == "utf-8" else rb"\xe9") + b"\n"
    )
    assert shown[1] == rb"error: no caf\udce9." + b"\n"


def test_what_our_modules_warn_of_is_a_note(capsys):
    def work():
        warnings.warn_explicit("3 are bad.", UserWarning, jax_bridges.command.__file__, 7)
        warnings.warn_explicit("of another", UserWarning, "another/module.py", 7)

    show = warnings.showwarning
    with pytest.warns(UserWarning, match="of another"):
        assert run_command(work) == 0
    assert capsys.readouterr().err == "note: 3 are bad.\n"
    assert warnings.showwarning is show


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(fail(ZeroDivisionError()))
    assert run_command(fail(ZeroDivisionError()), errors=(ArithmeticError,)) == 1


def test_flags_that_are_not_there_are_one_sentence(capsys):
    parser = Parser(prog="p")
    parser.add_argument("--nfe", type=int)
    assert run_command(lambda: parser.parse_args(["--nfe=many"])) == 1
    said = capsys.readouterr().err
    assert said == "error: Argument --nfe: invalid int value: 'many'; --help lists the flags.\n"


def test_the_cache_is_ours_unless_jax_was_told_another(monkeypatch):
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    before = jax.config.jax_compilation_cache_dir
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        jax.config.update("jax_compilation_cache_dir", "/tmp/elsewhere")
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir == "/tmp/elsewhere"
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled()
        ours = os.path.expanduser("~/.cache/jax_bridges")
        assert jax.config.jax_compilation_cache_dir == ours
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


# -- the flags of main -------------------------------------------------------------------------


@pytest.fixture
def parse(monkeypatch):
    """`parse(argument, ...)`, as main parses them; INPAINT is the path of configs/inpaint.py."""
    import jax_bridges.main

    monkeypatch.delenv("JAX_BRIDGES_DEBUG", raising=False)
    inpaint = str(Path(__file__).parents[1] / "configs" / "inpaint.py")

    def parse_flags(*arguments):
        argv = ["jax_bridges", *(each.replace("INPAINT", inpaint) for each in arguments)]
        monkeypatch.setattr(sys, "argv", argv)  # where the flag --config looks for its overrides
        jax_bridges.main.define_flags()
        return jax_bridges.main.parse_flags(argv)

    yield parse_flags
    flags.FLAGS.unparse_flags()
    flags.FLAGS["config"].unparse()
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:  # of its overrides
        delattr(flags.FLAGS, name)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "Say what to run: --config=inpaint, one of compare, edges_to_image, "),
        (["--config=configs/nope.py"], "No such file or directory: 'configs/nope.py'"),
        (["--config=configs/nope.py", "--config.train.steps=3"], "configs/nope.py"),
        (["--config=INPAINT:tiny"], "Unknown variant of configs/inpaint.py 'tiny': choose one of"),
        (
            ["--config=INPAINT", "--config.trian.steps=3"],
            "no key trian.steps. Did you mean train.steps?",
        ),
        (
            ["--config=INPAINT", "--config.train.stepz=3"],
            "no key train.stepz. Did you mean train.steps?",
        ),
        (["--config=INPAINT", "--config.evaluate.teacher_nfe=(1,2"], "(1,2"),
        (
            ["--config=INPAINT", "--config.train.lr=1e-3"],
            "Did you mean train.optimizer.learning_rate?",
        ),
        (["--config=INPAINT", "--config.bridge.steps=3"], "--config.bridge.name=i2sb:steps=VALUE"),
        (["--config=INPAINT", "--config.bridge=vp"], "not 'vp': give --config.bridge.name=NAME."),
        (
            ["--config=INPAINT", "--config.train.steps=many"],
            "train.steps is 'many': it must be a whole",
        ),
        (["--config=INPAINT", "train.steps=3"], "Unexpected argument train.steps=3: settings"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_wrong_flags_are_one_sentence(arguments, words, parse, capsys):
    with pytest.raises(SystemExit) as left:
        parse(*arguments)
    said = capsys.readouterr().err
    assert left.value.code == 1 and said.startswith("error: ") and said.count("\n") == 1
    assert words in said


def test_good_flags_are_taken(parse, capsys):
    assert parse("--config=INPAINT", "--config.train.steps=7") == ["jax_bridges"]
    assert flags.FLAGS.config.train.steps == 7 and flags.FLAGS.config.task == "inpaint"
    assert flags.FLAGS.config.bridge.to_dict() == {"name": "i2sb", "beta_max": 0.3}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "given, part, expected",
    [
        ("bridge.name=vp", "bridge", {"name": "vp"}),
        (
            "bridge.name=brownian:epsilon=0.5,t_min=1e-3",
            "bridge",
            {"name": "brownian", "epsilon": 0.5, "t_min": 1e-3},
        ),
        ("bridge.name=i2sb", "bridge", {"name": "i2sb", "beta_max": 0.3}),
        ("corruption.name=superres:factor=2", "corruption", {"name": "superres", "factor": 2}),
        ("corruption.name=inpaint_freeform", "corruption", {"name": "inpaint_freeform", "fill": "zero"}),
        (
            "network.name=adm:model_channels=32,channel_mult=(1,2)",
            "network",
            {
                "name": "adm", "dropout": 0.0, "conditional": True, "dtype": "float32",
                "model_channels": 32, "channel_mult": (1, 2),
            },
        ),
        (
            "preconditioning.name=bridge_karras:sigma_data=0.3",
            "preconditioning",
            {"name": "bridge_karras", "sigma_data": 0.3},
        ),
    ],
)  # fmt: skip
def test_another_choice_brings_its_own_settings(parse, given, part, expected):
    parse("--config=INPAINT", f"--config.{given}")
    assert flags.FLAGS.config[part].to_dict() == expected
    validate(flags.FLAGS.config)


def test_a_choice_without_its_settings_written_out_is_refused(parse, capsys):
    with pytest.raises(SystemExit):
        parse("--config=INPAINT", "--config.bridge.name=vp:t_min")
    assert capsys.readouterr().err == (
        "error: 'vp:t_min': settings are written NAME:KEY=VALUE,KEY=VALUE.\n"
    )
