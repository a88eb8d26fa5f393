"""What a person sees of a job type: options, each of its kind, on the tabs of a form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .conditions import Condition
from .numeric import is_number

Kind = Literal["text", "file", "node", "choice", "yes_no", "slider"]

OnContinue = Literal["active", "inactive", "only", "never"]


@dataclass(frozen=True)
class Limits:
    """What a number must be, apart from its slider's reach. `unset` is a value that means "not given"."""

    low: float | None = None
    high: float | None = None
    above_low: bool = False
    integer: bool = False
    even: bool = False
    unset: str = ""
    unset_negative: bool = False

    def complaint(self, text: str) -> str:
        """Why `text` is no good, as the end of a sentence "X must ...", or "" if it is fine."""
        if not is_number(text):
            return f"be a number, not '{text}'" if text.strip() else "be a number, but nothing is given"
        value = float(text)
        if (self.unset and value == float(self.unset)) or (self.unset_negative and value < 0):
            return ""
        if (self.integer or self.even) and value != int(value):
            return f"be a whole number, not {text}"
        if self.even and int(value) % 2:
            return f"be an even number, not {text}"
        if self.low is not None and (value < self.low or (self.above_low and value == self.low)):
            return f"be {'above' if self.above_low else 'at least'} {self.low:g}, not {text}"
        if self.high is not None and value > self.high:
            return f"be at most {self.high:g}, not {text}"
        return ""


@dataclass(frozen=True)
class Option:
    """One entry of a job's form. `minimum`, `maximum` and `step` are a slider's reach, not limits: those are
    in `limits`. `site_default` and `site_maximum` name the SiteEnvironment fields that a site's variables
    fill. `executable`: the file is a program; `without_it` says what is done where the program is not there, if
    that is no fault."""

    key: str
    label: str
    kind: Kind
    default: str
    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    node_type: str = ""
    pattern: str = ""
    on_continue: OnContinue = "active"
    enabled_when: Condition | None = None
    directory: str = ""
    limits: Limits | None = None
    required: bool = False
    executable: bool = False
    without_it: str = ""
    site_default: str = ""
    site_maximum: str = ""


def text(key: str, label: str, default: str = "", **more: object) -> Option:
    """A line of text."""
    return Option(key, label, "text", default, **more)  # type: ignore[arg-type]


def file(key: str, label: str, default: str = "", pattern: str = "", **more: object) -> Option:
    """A file name; Browse offers any file that fits `pattern`."""
    return Option(key, label, "file", default, pattern=pattern, **more)  # type: ignore[arg-type]


def node(key: str, label: str, node_type: str, default: str = "", pattern: str = "", **more: object) -> Option:
    """A file of this project; Browse offers the nodes whose type matches `node_type`."""
    return Option(key, label, "node", default, node_type=node_type, pattern=pattern, **more)  # type: ignore[arg-type]


def choice(key: str, label: str, choices: tuple[str, ...], default: str, **more: object) -> Option:
    """One of several texts."""
    return Option(key, label, "choice", default, choices=choices, **more)  # type: ignore[arg-type]


def yes_no(key: str, label: str, default: bool, **more: object) -> Option:
    """A switch: "Yes" or "No"."""
    return Option(key, label, "yes_no", "Yes" if default else "No", **more)  # type: ignore[arg-type]


def slider(key: str, label: str, default: str, minimum: float, maximum: float, step: float, **more: object) -> Option:
    """A number with a slider from `minimum` to `maximum`; numbers beyond its reach may be typed."""
    return Option(key, label, "slider", default, minimum=minimum, maximum=maximum, step=step, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """Options that share one line of the form under one label."""

    options: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Tab:
    """One tab of the form: option keys from top to bottom."""

    name: str
    options: tuple[str, ...]
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Page:
    """A tab together with the options on it, as a job type declares them."""

    name: str
    options: tuple[Option, ...]
    rows: tuple[Row, ...] = ()

    @property
    def tab(self) -> Tab:
        return Tab(self.name, tuple(option.key for option in self.options), self.rows)


@dataclass(frozen=True)
class Problem:
    """Something a person has to mend; `key` names the option, "" when it belongs to none."""

    key: str
    message: str
