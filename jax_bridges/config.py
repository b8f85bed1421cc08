"""Configurations: the base, how two of them differ, and what an older one means today."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from jax_bridges import settings
from jax_bridges.choices import parse_choice
from jax_bridges.hints import suggest


def base_config() -> ConfigDict:
    """A complete configuration: centre inpainting of 32x32 pieces of the Earth. Tasks change a few keys.

    >>> import jax_bridges as jb
    >>> config = jb.base_config()
    >>> config.corruption = {"name": "superres", "factor": 4}
    >>> config.task, config.train.steps = "enlarge", 2000
    >>> config.bridge.name, config.data.size
    ('i2sb', 32)

    Every key with its default, its range and what it means: `jax_bridges.settings`, docs/settings.md.
    """
    config = ConfigDict()
    for row in settings.rows():
        part, (*parts, name) = config, row.key.split(".")
        for each in parts:
            if each not in part:
                part[each] = ConfigDict(allow_dotted_keys=each == "corruption")
            part = part[each]
        part[name] = ConfigDict(row.default) if isinstance(row.default, dict) else row.default
    config.data.size = FieldReference(config.data.size, field_type=object)  # one number, or two
    return config


def take_names(config: ConfigDict, given: Collection[str]) -> None:
    """Lets the names of bridge, preconditioning, corruption and network be changed on the command line.

    A name that was given brings its settings with it, "brownian:epsilon=0.5,t_min=1e-3"; of those of the
    configuration that it replaces it keeps what it takes.

    Args:
      config: changed in place.
      given: keys that were given by hand.

    Raises:
      ValueError: settings that are not written as KEY=VALUE.
    """
    for part, table in settings.PARTS.items():
        if f"{part}.name" not in given:
            continue
        name, new = parse_choice(config[part].name)
        kept = {k: v for k, v in config[part].items() if k != "name"}
        if name in table:  # else `validate` says so
            takes = {row.key: row.values for row in settings.part_rows(part, name)}
            kept = {
                k: v
                for k, v in kept.items()
                if (k in takes and takes[k].fits(v)) or f"{part}.{k}" in given
            }
        config[part] = ConfigDict({"name": name, **kept, **new}, allow_dotted_keys=True)


# Keys that may change between two starts of the same run: they do not alter what is trained.
FREE_KEYS = (
    "evaluate.", "compare.students", "compare.baselines", "compare.samplers", "compare.teacher_nfe",
    "compare.prior", "distill.temperature", "zero_shot.", "em.baselines", "em.ambient.scale", "parallel.",
    "profile.", "log_every", "checkpoint_every", "checkpoints_kept", "pictures_every", "data.cache_mb",
    "seeds",
)  # fmt: skip


def changed(old: dict, new: dict) -> dict[str, tuple[Any, Any]]:
    """key -> (old, new) of keys that differ and may not (see FREE_KEYS), sorted."""
    flat_old, flat_new = (dict(settings.flatten(tree)) for tree in (old, new))
    found = {}
    for key in sorted(flat_old.keys() | flat_new.keys()):
        before, after = (
            list(value) if isinstance(value, tuple) else value
            for value in (flat_old.get(key, "(absent)"), flat_new.get(key, "(absent)"))
        )
        if before != after and not key.startswith(FREE_KEYS):
            found[key] = (before, after)
    return found


def differences(old: dict, new: dict) -> list[str]:
    """Lines `key: old -> new` for `changed`, with what may have been meant."""
    flat_new = dict(settings.flatten(new))
    known = dict(settings.flatten(base_config().to_dict()))  # what was meant then
    lines = []
    for key, (before, after) in changed(old, new).items():
        meant = [] if key in flat_new or key in known else suggest(key, flat_new, 1)
        hint = f" (did you mean {meant[0]}?)" if meant else ""
        lines.append(f"{key}: {before} -> {after}{hint}")
    return lines


# Settings of a network that leave the meaning of its weights alone.
FREE_SETTINGS = {
    "unet": ("dropout", "dtype"),
    "adm": ("dropout", "dtype", "param_dtype", "remat", "attention"),
}


def model_differences(old: dict, new: dict, parts: tuple[str, ...] = ()) -> list[str]:
    """Lines `key: old -> new` where a teacher's weights would mean something else, sorted.

    Compared are network, bridge, preconditioning (both with all defaults filled in: they say how the
    network's input, output and time are scaled), keep_known, and what fills a hole; or `parts` alone.
    """
    old, new = _model(old), _model(new)
    if None in (old["corruption"]["fill"], new["corruption"]["fill"]):
        del old["corruption"], new["corruption"]  # another task, or one without a hole
    kept = parts or tuple(old | new)
    return differences(
        {k: v for k, v in old.items() if k in kept}, {k: v for k, v in new.items() if k in kept}
    )


def _model(config: dict) -> dict:
    full = {}
    for part, table in settings.PARTS.items():
        said = dict(config.get(part, {}))
        known = settings.part_rows(part, said["name"]) if said.get("name") in table else ()
        full[part] = {row.key: row.default for row in known} | said
    for key in FREE_SETTINGS.get(full["network"].get("name"), ()):
        full["network"].pop(key, None)
    full["corruption"] = {"fill": full["corruption"].get("fill")}
    return full | {"keep_known": config.get("keep_known", True)}


# -- what older runs and imports recorded -------------------------------------------------------------
# Of a recorded configuration; raised where a key moves, together with a step of MIGRATIONS.
FORMAT = 3


def _without_bootstrap(recorded: dict) -> dict:
    """To format 2: intervals are made by leaving folds out, `evaluate.folds`, and not by resampling."""
    recorded.get("evaluate", {}).pop("bootstrap", None)
    return recorded


def _with_defaults_of_then(recorded: dict) -> dict:
    """To format 3: by default IBMD makes its cheaper step."""
    if "distill" in recorded:
        then = {"detach_xt": False, "call_per": "example"}
        recorded["distill"] = then | recorded["distill"]
    return recorded


# Format -> what makes one of the next format of it, `step(recorded) -> recorded`; none: only keys were added.
# Commit a011160 and those before it wrote no number, which is 0.
MIGRATIONS: dict[int, Callable[[dict], dict]] = {1: _without_bootstrap, 2: _with_defaults_of_then}


def record(config: ConfigDict) -> dict[str, Any]:
    """A configuration as config.json and checkpoints hold it: JSON's types, and the number of its format."""
    return {"format": FORMAT, **json.loads(config.to_json_best_effort())}


def migrate(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration as this version would have recorded it, without the number.

    Keys that have moved are where they are now. What a run does not say, because there was no such key, has
    its default, which is what was done before; where it is not, a migration says so. Imports record but
    the parts that say what their weights are for, and stay so.

    Raises:
      ValueError: a later version wrote it.
    """
    now: dict[str, Any] = json.loads(json.dumps(recorded))  # a copy
    written = now.pop("format", 0)
    if written > FORMAT:
        raise ValueError(
            f"A configuration was recorded in format {written}, this version reads up to {FORMAT}: update "
            "jax_bridges."
        )
    for number in range(written, FORMAT):
        now = MIGRATIONS.get(number, dict)(now)
    if "task" in now:  # a run's
        for row in settings.rows():
            part, (*parts, name) = now, row.key.split(".")
            if row.key.split(".")[0] not in settings.PARTS:
                for each in parts:
                    part = part.setdefault(each, {})
                part.setdefault(name, json.loads(json.dumps(row.default)))
    return now
