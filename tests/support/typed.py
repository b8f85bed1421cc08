"""Commands of the documentation, read as a shell and the program would read them, and not carried out."""

from __future__ import annotations

import argparse
import configparser
import contextlib
import copy
import os
import re
import runpy
import shlex
import sys

import pytest
from absl import flags

import jax_bridges.main
from jax_bridges import hosts
from jax_bridges.__main__ import COMMANDS
from jax_bridges.command_line import (
    ERRORS,
    define_config,
    given_keys,
    read_command_line,
    read_config,
    sentence,
)
from jax_bridges.restoring.methods import parse_operator
from jax_bridges.validation import check_given, validate
from jax_bridges.zero_shot import SOLVERS
from tests.support import ROOT
from tests.support.scripts import call

# Programs of others, in the forms that the pages use.
OTHERS = (
    r"python3 -m venv \.venv",
    r"\. \.venv/bin/activate",
    r"export( [A-Z_]+=[\w.-]+)+",
    r"pre-commit install",
    r"pip install (pre-commit|'skypilot\[gcp\]>=[\d.]+')",
    r"(gcloud|sky|kubectl|tensorboard) .*",
    r"docker push .*",
    r"xpk cluster create .*",
    r"ruff check --fix \.",
    r"ruff format \.",
    r"lint-imports",
    r"jax_bridges --version",  # tests/test_configurations.py
    r"mkdocs (build --strict|serve)",
    r"gcloud (auth|config set|services enable|storage (buckets create|ls|cp)) .*",
    r"docker push [\w/:]+",
    # By their own parsers in test_launch_engines.py.
    r"pip install 'skypilot\[gcp\]>=0\.14'",
    r"(sky (check|jobs)|xpk (cluster|workload)) .*",
)


class Read(Exception):
    """A parser has read its command line: its answer, and what it has left to another."""


def check(command: str) -> None:
    """Fails unless the command could be given as it is; nothing is computed, installed or written."""
    words = shlex.split(command, comments=True)
    if words[-2:-1] == [">"]:  # its output goes to a file
        words = words[:-2]
    plain = shlex.join(words)
    if any(re.fullmatch(form, plain) for form in OTHERS):
        return
    program, *arguments = words
    if program == "pip" and arguments[0] == "install":
        check_installed(arguments[1:])
    elif program == "xpk":  # what it starts
        started = [word for word in arguments if word.startswith("--command=")]
        check(started[0].removeprefix("--command="))
    elif program == "jax_bridges" and arguments[0] in COMMANDS:
        check_module(f"jax_bridges.{arguments[0]}", *arguments[1:])
    elif program == "jax_bridges":
        check_main(arguments)
    elif program == "python" and arguments[:2] == ["-m", "pytest"]:
        files = [word for word in arguments[2:] if word.startswith("tests/")]
        assert all((ROOT / file).exists() for file in files), command
    elif program == "python" and arguments[0] == "-m":
        check_module(*arguments[1:])
    elif program.startswith("launch/"):
        check_script(program.removeprefix("launch/"), arguments)
    elif program.startswith(("benchmarks/", ".ci/")):
        assert os.access(ROOT / program, os.X_OK), command
    else:
        pytest.fail(f"No one knows whether this works: {command}")


def check_installed(arguments: list[str]) -> None:
    """pip: every extra that is named is there."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    targets = [word for word in arguments if not word.startswith("-")]
    for target in targets:
        own = re.fullmatch(r"(?:\.|jax_bridges)(?:\[([\w,]+)\])?", target)
        assert own, f"pip install {target}"
        asked = set(own[1].split(",")) if own[1] else set()
        assert asked <= set(setup["options.extras_require"]), target


def check_script(script: str, arguments: list[str]) -> None:
    """launch/: a dry run, and what it hands on to the program."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    done = call(shlex.join([script, *arguments[:cut], "--dry-run", *arguments[cut:]]))
    assert done.returncode == 0, done.stderr
    if arguments[cut + 1 :]:
        check_main(arguments[cut + 1 :])


def check_main(arguments: list[str]) -> None:
    """`python -m jax_bridges.main`: flags, configuration, settings, and what goes together."""
    values = flags.FlagValues()
    define_config(values)
    jax_bridges.main.define_flags()
    for name in ("workdir", "seeds", *hosts.FLAGS):
        values[name] = copy.deepcopy(flags.FLAGS[name])
    with as_typed("main", arguments):
        try:
            read_command_line(values, ["main", *arguments])
        except ERRORS as error:
            pytest.fail(f"{shlex.join(arguments)}: {sentence(error)}")
    config = values["config"].value
    assert config is not None, arguments
    if "data.path" in given_keys(values):  # a folder of the reader's
        config.data.path = str(ROOT)
    with contextlib.suppress(FileNotFoundError):  # weights of a metric, which its reader has
        validate(config)
    check_given(config, given_keys(values))


def check_module(module: str, *arguments: str) -> None:
    """`python -m MODULE`: its own parser, and that of the configuration for what it leaves."""
    if module == "jax_bridges.main":
        return check_main(list(arguments))
    with as_typed(module, arguments), pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax_bridges.starting.begin", lambda: None)
        parser = argparse.ArgumentParser
        known = parser.parse_known_args

        def read_known(self, args=None, namespace=None):
            raise Read(*known(self, args, namespace))

        def reads_whole(whole):
            def read(self, args=None, namespace=None):
                with pytest.MonkeyPatch.context() as inner:
                    inner.setattr(parser, "parse_known_args", known)
                    raise Read(whole(self, args, namespace), [])

            return read

        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(parser, name, reads_whole(getattr(parser, name)))
        patch.setattr(parser, "parse_known_args", read_known)
        patch.delitem(sys.modules, module, raising=False)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except Read as read:
            given, rest = read.args
        except SystemExit as end:  # --list and --help answer at once
            assert not end.code, (module, arguments)
            return
        if rest or getattr(given, "config", None):
            read_config(rest)
    if getattr(given, "operator", None):
        parse_operator(given.operator)
        assert given.solver.partition(":")[0] in SOLVERS


def check_settings(text: str, configs: tuple[str, ...]) -> None:
    """`--config.KEY=VALUE ...`, which one of the configurations at least must take."""
    refused = []
    for config in configs:
        arguments = [f"--config={config}", *shlex.split(text)]
        with as_typed("main", arguments):
            try:
                read_config(arguments)
                return
            except ValueError as error:
                refused.append(str(error))
    pytest.fail(f"{text}: {refused[0]}")


class as_typed(pytest.MonkeyPatch):
    """Within, sys.argv is this command, and the root of the clone the folder."""

    def __init__(self, program: str, arguments):
        super().__init__()
        self.line = [program, *arguments]

    def __enter__(self):
        self.setattr(sys, "argv", self.line)
        self.chdir(ROOT)

    def __exit__(self, *error):
        self.undo()
