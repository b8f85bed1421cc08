"""What every command does around its work."""

from __future__ import annotations

import os

import jax
import pytest

from jax_bridges.command import Parser, keep_compiled, run_command


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


def test_the_cache_is_ours_unless_jax_was_told_another():
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", "/tmp/elsewhere")
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir == "/tmp/elsewhere"
        jax.config.update("jax_compilation_cache_dir", None)
        keep_compiled()
        ours = os.path.expanduser("~/.cache/jax_bridges")
        assert jax.config.jax_compilation_cache_dir == ours
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
