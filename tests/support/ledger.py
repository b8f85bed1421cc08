"""Records every key that a program draws from, and which line of the package asked for it."""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import flax.core.scope
import jax
import jax.numpy as jnp
import numpy as np

PACKAGE = Path(__file__).parents[2] / "jax_bridges"


class Ledger:
    """What was drawn while `recording`; keys are told by the compiled programs themselves.

    Attributes:
      drawn: key -> the places (`file:function:line`) that drew from it, one a draw.
      parents: keys that numbers were folded into.
    """

    def __init__(self):
        self.drawn: dict[bytes, list[str]] = collections.defaultdict(list)
        self.parents: set[bytes] = set()

    @contextlib.contextmanager
    def recording(self, monkeypatch):
        """Within, the draws and folds of jax.random are written down, and what flax draws from.

        No key depends on what is drawn: zeros stand for it, which compile in no time.
        """
        fold_in, make_rng = jax.random.fold_in, flax.core.scope.Scope.make_rng

        def watched(function):
            def draw(key, *args, **kwargs):
                self._note(key, _place())
                out = jax.eval_shape(lambda k: function(k, *args, **kwargs), key)
                return jnp.zeros(out.shape, out.dtype)

            return draw

        def watched_fold_in(key, number):
            _tell(lambda k: self.parents.add(k), key)
            return fold_in(key, number)

        def watched_make_rng(scope, name="params"):
            key = make_rng(scope, name)
            self._note(key, f"flax:{name}:{'/'.join(scope.path)}")
            return key

        with monkeypatch.context() as patch:
            for name in ("normal", "uniform", "randint"):
                patch.setattr(jax.random, name, watched(getattr(jax.random, name)))
            patch.setattr(jax.random, "fold_in", watched_fold_in)
            patch.setattr(flax.core.scope.Scope, "make_rng", watched_make_rng)
            yield
            jax.effects_barrier()

    def run(self, monkeypatch, program: Callable, *args) -> Ledger:
        """Records `program(*args)`, of which no more is computed than its keys."""

        def keys_alone(*args):
            program(*args)
            return ()

        with self.recording(monkeypatch):
            jax.jit(keys_alone)(*args)
        return self

    def check(self, *same: str) -> Ledger:
        """Refuses a key that is drawn from twice, or drawn from and folded into.

        Args:
          same: parts of places that see the same noise by design.

        Raises:
          AssertionError: with the places.
        """
        assert self.drawn, "nothing was drawn"
        for key, places in self.drawn.items():
            meant = all(any(part in place for part in same) for place in places)
            assert len(places) == 1 or meant, f"one key is drawn from by {' and '.join(places)}"
            assert key not in self.parents, f"{places[0]} draws from a key that others come from"
        return self

    def keys(self, part: str = "") -> set[bytes]:
        """Those that were drawn from by places with this part in their name."""
        return {key for key, places in self.drawn.items() if any(part in p for p in places)}

    def _note(self, key, place: str) -> None:
        _tell(lambda k: self.drawn[k].append(place), key)


def _tell(write: Callable[[bytes], None], key) -> None:
    """Writes the key's data when the program runs, each of a batch."""
    jax.debug.callback(lambda k: write(np.asarray(k).tobytes()), jax.random.key_data(key))


def _place() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if PACKAGE in file.parents and file.name != "keys.py":
            code = frame.f_code
            return f"{file.relative_to(PACKAGE)}:{code.co_qualname}:{frame.f_lineno}"
        frame = frame.f_back
    return "test"
