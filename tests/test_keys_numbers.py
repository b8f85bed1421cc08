"""The numbers of the ledger of randomness: what they are, and that they stand there alone."""

from __future__ import annotations

import ast

import jax.numpy as jnp
import numpy as np
import pytest

from jax_bridges.keys import HostStream, Purpose, StepDraws, Stream, host_generator
from jax_bridges.metrics import folds_of, kernel_distance, paired_interval
from tests.support.ledger import PACKAGE


def test_draws_of_a_loop_are_numbered_without_overlap():
    draws = StepDraws("noise", "known", "jump", first=("start", "other"))
    names = [draws("start"), draws("other")]
    names += [draws(name, k) for k in range(5) for name in ("noise", "known", "jump")]
    assert [*names, draws.after(5)] == list(range(18))
    np.testing.assert_array_equal(draws("jump", jnp.arange(3)), [4, 7, 10])
    for name, step in (("start", 0), ("noise", None)):  # one of each is not one of the others
        with pytest.raises(ValueError, match="not in tuple"):
            draws(name, step)


def test_numbers_that_old_runs_were_made_with():
    """Each is part of what a seed means: another would be another training, another table."""
    assert {p.name: int(p) for p in Purpose} == {
        "INIT_TEACHER": 0, "INIT_STUDENT": 1, "EVALUATE": 2, "WATCH": 3, "OBSERVE": 4, "ROUNDS": 5, "TRAIN_TEACHER": 100, "TRAIN_STUDENT": 101
    }  # fmt: skip
    assert {s.name: int(s) for s in Stream} == {
        "AUGMENT": 0, "CORRUPT": 1, "TIME": 2, "NOISE": 3, "STUDENT": 4, "COUPLE": 5, "CALL": 6,
        "DROPOUT": 7, "RENOISE": 8, "REDRAW": 9, "SAMPLE": 10, "REAL": 11,
        "CHAIN": 12, "MEASURE": 13, "HIDE": 14, "FURTHER": 16, "PROBE": 17, "ANSWER": 20,
    }  # fmt: skip
    ours, plain = host_generator(HostStream.SUBSETS, 5), np.random.default_rng(5)
    assert ours.integers(2**60) == plain.integers(2**60)


def test_no_file_but_the_ledger_has_a_number_of_its_own():
    """Streams and draws are named; noise comes from `keys`, or is drawn by place, or is no result's."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = str(file.relative_to(PACKAGE))
        if name != "keys.py":
            found += bare_numbers(name, file.read_text())
    assert not found
    text = (
        "from jax_bridges import keys as random\nfrom jax_bridges.keys import fold, normal as n\n"
        "fold(k, 1)\nn(k, 2 * i, x)\nrandom.randint(k, i + 1, 4)\njax.random.fold_in(k, 0)\n"
        "run.key(3)\njax.random.uniform(k)\nfold(k, D('z', i - 1))\nn(k, D, 3)\n"
    )
    assert bare_numbers("x.py", text) == [f"x.py:{line}" for line in range(3, 9)]


def bare_numbers(name, text):
    """Lines that call the ledger's functions with a number, or draw past them."""
    tree, direct, modules = ast.parse(text), {}, {"jax.random"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "jax_bridges.keys":
            direct |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "jax_bridges":
            modules |= {a.asname or a.name for a in node.names if a.name == "keys"}
    own_draws = ("restoring/models.py", "benchmark.py")  # noise by place; inputs to be timed
    folds, draws = ("fold", "fold_in"), ("normal", "uniform", "randint", "bits", "bernoulli")
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        owner, _, called = ast.unparse(node.func).rpartition(".")
        known = direct.get(called) in folds + draws if not owner else owner in modules
        number = known and called in (*folds, *draws, *direct) and len(node.args) > 1
        bad = number and has_number(node.args[1]) and not (called == "normal" and name in own_draws)
        bad |= owner == "jax.random" and called in draws and name not in own_draws
        bad |= called == "key" and owner not in ("", "jax.random") and has_number(node.args[0])
        found += [f"{name}:{node.lineno}"] * bool(bad)
    return found


def has_number(node):
    """Whether an expression has a number of its own, outside of what it calls."""
    if isinstance(node, ast.Call):
        return False
    number = isinstance(node, ast.Constant) and isinstance(node.value, int)
    return number or any(has_number(child) for child in ast.iter_child_nodes(node))


def test_figures_are_resampled_by_numbers_of_their_own(monkeypatch):
    """A kernel distance picks its subsets by other bits than those that pick a resample's images."""
    made, plain = [], np.random.default_rng

    def recorded(seed):
        if not isinstance(seed, np.random.Generator):  # scipy asks once more for what it is given
            made.append(seed)
        return plain(seed)

    monkeypatch.setattr(np.random, "default_rng", recorded)
    features = plain(3).normal(size=(2, 20, 3))
    kernel_distance(*features, subset=5, subsets=2)

    folds_of(np.arange(5), 2)
    paired_interval(*plain(4).normal(size=(2, 200)))
    states = {tuple(np.random.SeedSequence(seed).generate_state(4)) for seed in made}
    assert len(made) == len(states) == len(HostStream) == 3
