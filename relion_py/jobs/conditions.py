"""Conditions on option values: when an argument is given, an entry is active, or a job is refused.

A condition is called with the values (a mapping of option key to text) and says True or False. It can also
be looked into: `str(condition)` reads as a sentence and `condition.keys` names the options it depends on, so
that the window knows which entries to watch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .numeric import parse_number

Values = Mapping[str, str]


class NotANumber(ValueError):
    """An option that must be a number is not one; `key` names it."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"'{text}' is not a number")
        self.key = key
        self.text = text


def number(values: Values, key: str) -> float:
    """The option's value as a number (see `parse_number`); NotANumber where it is none."""
    text = values.get(key, "")
    parsed = parse_number(text)
    if parsed is None:
        raise NotANumber(key, text)
    return parsed


class Condition:
    """Something that values fulfil or do not."""

    keys: frozenset[str] = frozenset()

    def __call__(self, values: Values) -> bool:
        raise TypeError(f"{type(self).__name__} does not say how it is judged")

    def __and__(self, other: Condition) -> Condition:
        return all_of(self, other)

    def __or__(self, other: Condition) -> Condition:
        return any_of(self, other)

    def __invert__(self) -> Condition:
        return not_(self)


@dataclass(frozen=True)
class _Equals(Condition):
    key: str
    value: str

    @property
    def keys(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset((self.key,))

    def __call__(self, values: Values) -> bool:
        return values.get(self.key, "") == self.value

    def __str__(self) -> str:
        return f"{self.key} is {self.value or 'empty'}"


@dataclass(frozen=True)
class _Above(Condition):
    key: str
    limit: float
    lenient: bool

    @property
    def keys(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset((self.key,))

    def __call__(self, values: Values) -> bool:
        if self.lenient:
            return (parse_number(values.get(self.key, "")) or 0.0) > self.limit
        return number(values, self.key) > self.limit

    def __str__(self) -> str:
        return f"{self.key} is above {self.limit:g}"


@dataclass(frozen=True)
class _All(Condition):
    parts: tuple[Condition, ...]

    @property
    def keys(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(part.keys for part in self.parts))

    def __call__(self, values: Values) -> bool:
        return all(part(values) for part in self.parts)

    def __str__(self) -> str:
        return " and ".join(f"({p})" if isinstance(p, _Any) else str(p) for p in self.parts) or "always"


@dataclass(frozen=True)
class _Any(Condition):
    parts: tuple[Condition, ...]

    @property
    def keys(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(part.keys for part in self.parts))

    def __call__(self, values: Values) -> bool:
        return any(part(values) for part in self.parts)

    def __str__(self) -> str:
        return " or ".join(f"({p})" if isinstance(p, _All) else str(p) for p in self.parts) or "never"


@dataclass(frozen=True)
class _Not(Condition):
    part: Condition

    @property
    def keys(self) -> frozenset[str]:  # type: ignore[override]
        return self.part.keys

    def __call__(self, values: Values) -> bool:
        return not self.part(values)

    def __str__(self) -> str:
        if isinstance(self.part, _Equals):
            return f"{self.part.key} is not {self.part.value or 'empty'}"
        return f"not ({self.part})"


@dataclass(frozen=True)
class _Continuing(Condition):
    def __call__(self, values: Values) -> bool:
        return bool(getattr(values, "is_continue", False))

    def __str__(self) -> str:
        return "the job is continued"


@dataclass(frozen=True)
class _That(Condition):
    test: Callable[[Values], bool]
    text: str
    key_names: tuple[str, ...]

    @property
    def keys(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset(self.key_names)

    def __call__(self, values: Values) -> bool:
        return self.test(values)

    def __str__(self) -> str:
        return self.text


def on(key: str) -> Condition:
    """The yes/no option is Yes."""
    return _Equals(key, "Yes")


def off(key: str) -> Condition:
    """The yes/no option is anything but Yes."""
    return not_(on(key))


def equals(key: str, value: str) -> Condition:
    """The option has exactly this value."""
    return _Equals(key, value)


def empty(key: str) -> Condition:
    """The option holds no text."""
    return _Equals(key, "")


def filled(key: str) -> Condition:
    """The option holds some text."""
    return not_(_Equals(key, ""))


def above(key: str, limit: float = 0.0, *, lenient: bool = False) -> Condition:
    """The option's number is above `limit`. Lenient: text that is no number counts as 0."""
    return _Above(key, limit, lenient)


def below(key: str, limit: float) -> Condition:
    """The option's number is below `limit`."""
    return that(lambda values: number(values, key) < limit, f"{key} is below {limit:g}", key)


def all_of(*parts: Condition) -> Condition:
    """Every part holds; judged from the left, stopping at the first that does not."""
    return _All(parts)


def any_of(*parts: Condition) -> Condition:
    """At least one part holds; judged from the left, stopping at the first that does."""
    return _Any(parts)


def not_(part: Condition) -> Condition:
    """The part does not hold."""
    return part.part if isinstance(part, _Not) else _Not(part)


def that(test: Callable[[Values], bool], text: str, *keys: str) -> Condition:
    """A condition that no table expresses: a pure function of the values, with its wording and its option
    keys."""
    return _That(test, text, keys)


always: Condition = _All(())
continuing: Condition = _Continuing()
new_job: Condition = _Not(continuing)
