"""What a setting is: a key, its default, what it may be, and what it means.

Rows of settings (`Setting`) are told where they are read: an optimiser's beside the optimisers, a method's
beside its step. Those of a constructor or function are not told twice: `derived` reads its signature and
docstring. `jax_bridges.settings` makes one table of them all.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any

from jax_bridges.hints import did_you_mean


# -- what a value may be --------------------------------------------------------------------------
class Values:
    """What a setting may be. `words` end the sentence "it must be ...".

    This one is for what is checked elsewhere: anything fits.
    """

    words: str = "anything"

    def fits(self, value: Any) -> bool:
        """Whether the setting may be `value`."""
        return True

    def hint(self, value: Any) -> str:
        """ "" or " Did you mean ...?" for a value that does not fit."""
        return ""


@dataclasses.dataclass(frozen=True)
class Number(Values):
    """A finite number within limits, whole or not."""

    whole: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    @property
    def words(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.least is not None and self.most is not None:
            return f"{kind} from {self.least} to {self.most}"
        limits = {
            "of at least": self.least, "above": self.above, "at most": self.most, "below": self.below,
        }  # fmt: skip
        told = " and ".join(f"{k} {v}" for k, v in limits.items() if v is not None)
        return f"{kind} {told}".strip()

    def fits(self, value: Any) -> bool:
        kind = Integral if self.whole else Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        if not isinstance(value, Integral) and not math.isfinite(value):
            return False
        return not (
            (self.least is not None and value < self.least)
            or (self.above is not None and value <= self.above)
            or (self.most is not None and not value <= self.most)
            or (self.below is not None and not value < self.below)
        )


@dataclasses.dataclass(frozen=True)
class Choice(Values):
    """A name from a table; with `named`, one that brings settings: "NAME:KEY=VALUE,KEY=VALUE"."""

    table: Collection[str]
    named: bool = False

    @property
    def words(self) -> str:
        return f"one of {', '.join(map(str, self.table))}"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and self._name(value) in self.table

    def hint(self, value: Any) -> str:
        return did_you_mean(self._name(str(value)), self.table)

    def _name(self, value: str) -> str:
        return value.partition(":")[0].strip() if self.named else value


@dataclasses.dataclass(frozen=True)
class Each(Values):
    """A tuple or list of `of`: `count` of them, or at least `least`; with `unique`, none twice."""

    of: Values
    least: int = 0
    count: int | None = None
    unique: bool = False

    @property
    def words(self) -> str:
        some = "one or more" if self.least == 1 else f"{self.least} or more" if self.least else ""
        many = f" of {self.count or some}" if self.count or some else ""
        each = "" if self.of is ANYTHING else f", each {self.of.words}"
        return f"a tuple{many}{each}" + (", none of them twice" if self.unique else "")

    def fits(self, value: Any) -> bool:
        return (
            isinstance(value, (tuple, list))
            and len(value) >= self.least
            and self.count in (None, len(value))
            and all(self.of.fits(each) for each in value)
            and not (self.unique and len(set(value)) < len(value))
        )

    def hint(self, value: Any) -> str:
        each = value if isinstance(value, (tuple, list)) else ()
        return next((self.of.hint(v) for v in each if not self.of.fits(v)), "")


@dataclasses.dataclass(frozen=True)
class Either(Values):
    """What fits one of several."""

    kinds: tuple[Values, ...]

    @property
    def words(self) -> str:
        return ", or ".join(kind.words for kind in self.kinds)

    def fits(self, value: Any) -> bool:
        return any(kind.fits(value) for kind in self.kinds)


@dataclasses.dataclass(frozen=True)
class Only(Values):
    """One value."""

    value: Any

    @property
    def words(self) -> str:
        return str(self.value)

    def fits(self, value: Any) -> bool:
        return type(value) is type(self.value) and value == self.value


@dataclasses.dataclass(frozen=True)
class Kind(Values):
    """What is of a type."""

    type: type
    words: str = dataclasses.field(kw_only=True)

    def fits(self, value: Any) -> bool:
        return isinstance(value, self.type)


class Named(Values):
    """Settings by name, whatever they are: a dict or ConfigDict."""

    words = "settings by name"

    def fits(self, value: Any) -> bool:
        return hasattr(value, "items")


def whole(**limits: int) -> Number:
    """A whole number; limits are `least`, `above`, `most`, `below`."""
    return Number(True, **limits)


def number(**limits: float) -> Number:
    """A finite number; limits are `least`, `above`, `most`, `below`."""
    return Number(False, **limits)


ANYTHING = Values()
FLAG = Kind(bool, words="True or False")
TEXT = Kind(str, words="a text")
NAMED = Named()
COUNT = whole(least=1)
SHARE = number(least=0, most=1)
DECAY = number(least=0, below=1)  # of an average; a probability that is never certain

# The same as types of parameters, whose values are then checked where they are given by name.
Count = Annotated[int, COUNT]
Natural = Annotated[int, whole(least=0)]
Positive = Annotated[float, number(above=0)]
Share = Annotated[float, SHARE]
Decay = Annotated[float, DECAY]


def values_of(annotation: Any) -> Values:
    """What an annotation allows: Annotated[..., Values] says so itself, other types in general."""
    for told in getattr(annotation, "__metadata__", ()):
        if isinstance(told, Values):
            return told
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return Either(
            tuple(values_of(a) for a in arguments if a is not types.NoneType)
            + ((Only(None),) if types.NoneType in arguments else ())
        )
    if annotation in (int, float):
        return Number(annotation is int)
    if tuple in (origin, annotation) or origin is Sequence:
        many = Ellipsis in arguments or origin is Sequence or not arguments
        each = values_of(arguments[0]) if arguments else ANYTHING
        return Each(each, count=None if many else len(arguments))
    simple = {bool: FLAG, str: TEXT}
    return simple.get(annotation, ANYTHING) if isinstance(annotation, type) else ANYTHING


# -- rows -----------------------------------------------------------------------------------------
class Unset:
    """The default of what must be given."""

    def __repr__(self) -> str:
        return "must be given"


UNSET = Unset()


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row: what a configuration says under `key`.

    Attributes:
      key: dotted; within its part, until `under` puts it below that.
      default: what it is where nothing is said.
      values: what it may be.
      meaning: one sentence, with the unit where there is one.
    """

    key: str
    default: Any
    values: Values
    meaning: str

    def check(self, value: Any, key: str = "") -> None:
        """ValueError of one sentence, which names `key`, if the setting cannot be `value`."""
        if not self.values.fits(value):
            hint = self.values.hint(value)
            raise ValueError(
                f"{key or self.key} is {value!r}: it must be {self.values.words}.{hint}"
            )


def under(part: str, rows: Iterable[Setting], **defaults: Any) -> tuple[Setting, ...]:
    """The rows as keys of `part`, some with another default."""
    rows = tuple(rows)
    unknown = set(defaults) - {row.key for row in rows}
    if unknown:
        raise TypeError(f"{part} has no rows {unknown}")
    return tuple(
        dataclasses.replace(
            row, key=f"{part}.{row.key}", default=defaults.get(row.key, row.default)
        )
        for row in rows
    )


def check(rows: Iterable[Setting], part: str, settings: Any) -> None:
    """ValueError for the first row that the attribute of its name, `config.PART.KEY`, cannot be."""
    for row in rows:
        row.check(getattr(settings, row.key), f"{part}.{row.key}")


def check_known(
    kind: str, name: str, rows: Iterable[Setting], given: Mapping[str, Any], part: str = ""
) -> None:
    """ValueError for what was given to a thing that does not take it, or cannot be that.

    Args:
      kind, name: of the thing, "sampler" and "heun".
      rows: what it takes.
      given: key -> value.
      part: where the keys are, for messages; its name by default.
    """
    known = {row.key: row for row in rows}
    for key, value in given.items():
        if key not in known:
            takes = ", ".join(known) or "none"
            raise ValueError(
                f"The {kind} '{name}' has no setting '{key}': it takes {takes}."
                + did_you_mean(key, known)
            )
        known[key].check(value, f"{part or name}.{key}")


def derived(
    make: Callable[..., Any], like: Callable[..., Any] | None = None
) -> tuple[Setting, ...]:
    """The rows of what makes or does something, by its signature and docstring.

    Args:
      make: a dataclass, flax module or classmethod; or a function, of which the parameters count that are
        given by name and that a text can hold. Values come from the annotations (`values_of`), meanings
        from the docstring's sections "Args:" and "Attributes:".
      like: says what `make` does not say of its parameters.
    """
    told = (meanings(like) if like else {}) | meanings(make)
    plain = getattr(make, "func", make)  # of a partial one
    function = not isinstance(getattr(plain, "__self__", plain), type)
    hints = typing.get_type_hints(getattr(plain, "__func__", plain), include_extras=True)
    rows = []
    for name, parameter in inspect.signature(make).parameters.items():
        values = values_of(hints.get(name))
        if name in ("parent", "name"):  # of every flax module
            continue
        if function and (parameter.kind is not parameter.KEYWORD_ONLY or _vague(values)):
            continue
        default = UNSET if parameter.default is parameter.empty else parameter.default
        rows.append(Setting(name, default, values, told.get(name, "")))
    return tuple(rows)


def _vague(values: Values) -> bool:
    return values is ANYTHING or any(map(_vague, getattr(values, "kinds", ())))


@functools.cache
def meanings(make: Callable[..., Any]) -> dict[str, str]:
    """Parameter -> what the docstrings of `make`, and of the classes it builds on, say of it."""
    make = getattr(make, "func", make)
    owner = getattr(make, "__self__", make)
    classes = owner.__mro__ if isinstance(owner, type) else ()
    found: dict[str, str] = {}
    for documented in dict.fromkeys((make, *classes)):
        for section in re.findall(
            r"^(?:Args|Attributes):\n((?:(?:  .*)?(?:\n|$))+)",
            inspect.getdoc(documented) or "",
            re.M,
        ):
            for names, text in re.findall(r"^  (\w[\w, ]*): (.*(?:\n {4}.*)*)", section, re.M):
                text = re.sub("^(a|[a-z]{2,})(?=[ ,;:])", lambda m: m[0].capitalize(), text)
                for name in names.split(", "):
                    found.setdefault(name, " ".join(text.split()).rstrip(".") + ".")
    return found
