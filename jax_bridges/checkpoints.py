"""Checkpoints of a stage: orbax, with params, ema, opt, data position and meta as separate items.

Orbax writes into a temporary folder and renames it, or in a bucket writes a file last that says that it
is whole, so that a run killed at any moment leaves only whole checkpoints behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jax_bridges.config import migrate
from jax_bridges.io.bucket import COMMITTED, is_bucket, place, reason, remove_folder
from jax_bridges.training.state import Player, State
from jax_bridges.typing import PyTree

# Whoever loads a model is told of each folder that is only read from, which is as it should be.
logging.getLogger("absl").addFilter(lambda record: "directory is read only" not in str(record.msg))

# Raised when the layout of the items changes. 2: a bridge net is told the call by an input of its own.
FORMAT = 2

# The last two follow from the first; orbax warns when it has to change them.
_READ_ONLY = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)


class NotSaved(OSError):
    """A checkpoint could not be written; the text says which, why, and where the stage goes on.

    `reason` is the why alone.
    """

    def __init__(self, place: Path, reason: str, on: str):
        super().__init__(
            f"{place} could not be written ({reason}): mend that, and start the same command again, "
            f"which goes on {on}."
        )
        self.reason = reason


def whole_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints of a stage's folder, in no order."""
    steps = [each for each in folder.glob("*") if each.name.isdigit()]
    return [int(p.name) for p in steps if not is_bucket(p) or (p / COMMITTED).exists()]


class Checkpoints:
    """The checkpoints of one stage, `WORKDIR/checkpoints/STAGE/STEP`."""

    def __init__(self, folder: str | Path, keep: int = 2, read_only: bool = False):
        """Opens or creates the folder; `keep` of the newest checkpoints stay.

        `read_only` creates and deletes nothing; a folder that is not there has no checkpoints.
        """
        self.folder = place(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        if read_only:
            options = _READ_ONLY
        elif jax.process_index() == 0:
            self._sweep()
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._saving: int | None = None  # the step that is written in the background
        self._failed: int | None = None  # the step that could not be saved

    def _sweep(self) -> None:
        """Removes what a killed run was writing into a bucket, where the next save would join it."""
        if not is_bucket(self.folder):
            return
        whole = whole_steps(self.folder)
        for each in self.folder.glob("*"):
            if each.name.isdigit() and int(each.name) not in whole:
                remove_folder(each)

    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, state: State, meta: dict[str, Any]) -> None:
        """Saves a state in the background; `meta` is kept as JSON beside it.

        Raises:
          NotSaved: this one, or the one before, could not be written.
        """
        step = int(state.step)
        if step == self.latest():
            return
        players = state.players
        self._save(
            step,
            ocp.args.Composite(
                params=ocp.args.StandardSave({name: p.params for name, p in players.items()}),
                ema=ocp.args.StandardSave({name: p.ema for name, p in players.items()}),
                opt=ocp.args.StandardSave({name: p.opt for name, p in players.items()}),
                data=ocp.args.JsonSave({"next_step": step}),
                meta=ocp.args.JsonSave({**meta, "format": FORMAT, "step": step}),
            ),
        )

    def save_weights(self, ema: dict[str, PyTree], meta: dict[str, Any], step: int = 0) -> None:
        """Saves averages alone, `{player: tree}`: an imported teacher. Waits for the disk."""
        self._save(
            step,
            ocp.args.Composite(
                ema=ocp.args.StandardSave(ema),
                meta=ocp.args.JsonSave({**meta, "format": FORMAT, "step": step}),
            ),
        )
        self.wait()

    def _save(self, step: int, items: ocp.args.Composite) -> None:
        self.wait()
        self._saving = step
        try:
            self._manager.save(step, args=items)
        except Exception as error:
            raise self._not_saved(step, error) from error

    def check(self) -> None:
        """Raises NotSaved if what is saved in the background has failed; waits for nothing."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when everything saved is on disk; raises NotSaved if that cannot be."""
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            # Some errors orbax only logs. Other hosts may see what the first has written later.
            if jax.process_index() == 0 and step not in whole_steps(self.folder):
                raise OSError("nothing was left behind")
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise self._not_saved(step, error) from error

    def _not_saved(self, step: int, error: Exception) -> NotSaved:
        """Takes away what was half written, and says so in a sentence."""
        self._failed, self._saving = step, None
        self._take_away(step)
        # Of tensorstore's sentence of many lines, the number of the system's error.
        code = getattr(error, "errno", None) or re.search(r"os_error_code='(\d+)'", str(error))
        code = int(code[1]) if isinstance(code, re.Match) else code
        why = os.strerror(code) if code else _short(error)
        if is_bucket(self.folder):
            why = reason(error, self.folder) or why
        whole = whole_steps(self.folder)
        on = f"at step {max(whole)}, which is whole" if whole else "from the stage's beginning"
        return NotSaved(self.folder / str(step), why, on)

    def _take_away(self, step: int) -> None:
        halves = list(self.folder.glob(f"{step}.*tmp*"))
        if is_bucket(self.folder) and step not in whole_steps(self.folder):
            halves.append(self.folder / str(step))
        for half in halves:
            remove_folder(half)

    def restore(self, like: State, step: int | None = None) -> State:
        """The newest state (or that of `step`), laid out like `like` (arrays or shapes with shardings).

        Raises:
          FileNotFoundError: there is no checkpoint.
          ValueError: it is damaged; the text says what to delete and where the stage then goes on.
        """
        step = self._step(step)

        def item(field: str) -> ocp.args.StandardRestore:
            return ocp.args.StandardRestore({n: getattr(p, field) for n, p in like.players.items()})

        items = {"params": item("params"), "ema": item("ema"), "opt": item("opt")}
        try:
            read = self._manager.restore(
                step, args=ocp.args.Composite(**items, data=ocp.args.JsonRestore())
            )
            done = int(read.data["next_step"])
        except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
            if self.meta(step)["format"] < FORMAT:
                raise ValueError(
                    f"{self.folder} was begun by an earlier version, with other networks: what is finished "
                    "serves, but this cannot go on. Give a new --workdir, and the old one as "
                    "--config.teacher.checkpoint to keep its teacher."
                ) from error
            raise self.damaged(step, error) from error
        players = {
            name: Player(params=read.params[name], ema=read.ema[name], opt=read.opt[name])
            for name in like.players
        }
        count = jax.device_put(jax.numpy.int32(done), like.step.sharding)
        return State(step=count, players=players)

    def damaged(self, step: int, error: BaseException) -> ValueError:
        """The sentence for a checkpoint that a stage cannot read: what to delete, where it then goes on."""
        older = [s for s in self._manager.all_steps() if s < step]
        return ValueError(
            f"{self.folder / str(step)} is damaged ({_short(error)}): delete it and start again; "
            f"the stage then goes on {f'at step {max(older)}' if older else 'from its beginning'}."
        )

    def restore_ema(self, like: dict[str, PyTree], step: int | None = None) -> dict[str, PyTree]:
        """Only the averages, `{player: tree}`, of the players in `like`: what sampling needs.

        Args and errors are those of `restore_weights`.
        """
        return self.restore_weights("ema", like, step)

    def restore_weights(
        self, field: str, like: dict[str, PyTree], step: int | None = None
    ) -> dict[str, PyTree]:
        """Averages ("ema") or raw weights ("params"), `{player: tree}`, of the players in `like`.

        Args:
          field: raw weights are not in an import.
          like: shapes; leaves with a sharding are born where they belong, others are numpy arrays.

        Raises:
          FileNotFoundError: there is no checkpoint.
          ValueError: it does not hold these players with these names and shapes, or is damaged.
        """
        step = self._step(step)

        def how(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
            if leaf.sharding is None:
                return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
            # strict: an array of another shape is refused, not padded or cut.
            return ocp.ArrayRestoreArgs(
                sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype, strict=True
            )

        # A manager of its own, as one that has saved cannot restore a part of what it saved.
        with ocp.CheckpointManager(self.folder, options=_READ_ONLY) as manager:
            item = ocp.args.PyTreeRestore(like, jax.tree.map(how, like), partial_restore=True)
            try:
                ema = manager.restore(step, args=ocp.args.Composite(**{field: item}))[field]
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                raise ValueError(
                    f"The averages of step {step} in {self.folder} cannot be read as "
                    f"{', '.join(like)} of this network: the checkpoint is damaged or of another "
                    f"network ({_short(error)})."
                ) from error
        for (path, leaf), want in zip(
            jax.tree.leaves_with_path(ema), jax.tree.leaves(like), strict=True
        ):
            if leaf.shape != want.shape:
                raise ValueError(
                    f"The averages of step {step} in {self.folder} are of another network: "
                    f"{jax.tree_util.keystr(path, simple=True, separator='/')} has shape "
                    f"{leaf.shape}, not {want.shape}."
                )
        return ema

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """What was saved as `meta`; "config" in it says what the weights are for, in today's keys.

        Raises:
          FileNotFoundError: there is no checkpoint.
          ValueError: it is damaged, or a later version of the library wrote it.
        """
        step = self._step(step)
        try:
            meta = self._manager.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            ).meta
            written = meta["format"]
        except Exception as error:  # no file, or one cut short
            raise ValueError(
                f"{self.folder / str(step)} does not say what it holds ({_short(error)}): it is "
                "damaged, or no checkpoint of jax_bridges."
            ) from error
        if written > FORMAT:
            raise ValueError(
                f"{self.folder} was written in checkpoint format {written}, this version "
                f"reads up to {FORMAT}: update jax_bridges."
            )
        return {**meta, "config": migrate(meta["config"])} if "config" in meta else meta

    def _step(self, step: int | None) -> int:
        step = self.latest() if step is None else step
        if step is None:
            raise FileNotFoundError(
                f"There is no checkpoint in {self.folder}: train this stage first."
            )
        return step

    def close(self) -> None:
        """Waits for pending saves and releases threads; raises NotSaved if a save has failed."""
        try:
            self.wait()
        finally:
            failed = self._failed
            with contextlib.suppress(*(Exception,) * (failed is not None)):  # said once
                self._manager.close()
            if failed is not None:
                self._take_away(failed)  # no other part of it is still being written now

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _short(error: BaseException) -> str:
    """The beginning of an error's text, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
