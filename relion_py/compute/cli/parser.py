"""RELION's rules for arguments, from tables of flags that are cheap to import; argparse writes the usage.

The rules (args.cpp, IOParser): the token after a flag that takes a value is that value, even when it begins
with `-` (another flag's name is that flag besides); of a flag given twice the last counts; what is not known
is warned about and ignored; a program without arguments prints its usage. A flag is known by its full name only.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relion_py import __version__
from relion_py.compute.errors import UserError


class Flag(NamedTuple):
    """One option of a program.

    name: with its dashes. kind: "value" takes the next token; "flag" is on when it is there; "optional"
    takes the next token unless that begins with `--` (such as `--gpu`, `--gpu 0:1`). default: text; for
    "flag" it plays no role. help: a line for people. group: the heading under which it is listed.
    required: a run without it is refused.
    """

    name: str
    kind: str = "value"
    default: str = ""
    help: str = ""
    group: str = "Options"
    required: bool = False


PIPELINE_CONTROL = Flag(
    "--pipeline_control", help="job directory that gets the files RELION_JOB_EXIT_*", group="Pipeline"
)
"""Every program knows it."""

_ABOUT = {"--help": "--help", "-h": "--help", "--version": "--version"}


@dataclass(frozen=True)
class Arguments:
    """A command line after parsing.

    values: flag name -> text, or True/False for switches; every flag of the table is in it. given: the names
    that were on the command line. command_line: the arguments as a person would type them.
    """

    values: Mapping[str, str | bool]
    given: frozenset[str] = frozenset()
    command_line: str = ""
    warnings: tuple[str, ...] = field(default=())

    def text(self, name: str) -> str:
        """The value as it was given, or the default."""
        return str(self.values[name])

    def on(self, name: str) -> bool:
        """Whether the switch (or the flag with an optional value) was given."""
        return name in self.given

    def number(self, name: str) -> float:
        """The value as a number; UserError if it is none."""
        try:
            return float(self.text(name))
        except ValueError:
            raise UserError(f'{name} needs a number, not "{self.text(name)}".') from None

    def integer(self, name: str) -> int:
        """The value as a whole number; UserError if it is none."""
        number = self.number(name)
        if number != number or number in (float("inf"), float("-inf")) or number != int(number):
            raise UserError(f'{name} needs a whole number, not "{self.text(name)}".')
        return int(number)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """UserError for an option that was given and that this release does not have; option -> why."""
        for name, why in reasons.items():
            if name in self.given:
                raise UserError(f"{name} is not available in this release: {why}.")

    def need_positive_integers(self, *names: str) -> None:
        """UserError for one of these options that is not 1 or more."""
        for name in names:
            if self.integer(name) < 1:
                raise UserError(f"{name} must be at least 1, not {self.text(name)}.")


def parse(
    flags: Iterable[Flag],
    argv: Sequence[str] | None = None,
    program: str = "",
    description: str = "",
    quiet: bool = False,
) -> Arguments:
    """Parse `argv` (the words after the program's name; the process's own by default).

    Without arguments, with `--help` or `-h` it prints the usage and ends the program well, with `--version`
    the version. Unknown words are warned about on stderr. UserError for a flag without its value, or a
    required flag that is missing. quiet: print nothing (for all ranks but the first).
    """
    table = {flag.name: flag for flag in (*flags, PIPELINE_CONTROL)}
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--continue"]:  # args.cpp, checkForErrors: as if there were no arguments
        words = []
    found, about, warnings = _read(table, words)
    if "--version" in about:
        if not quiet:
            print(f"relion_py version {__version__}")
        raise SystemExit(0)
    if not words or "--help" in about:
        if not quiet:
            _argparser(table.values(), program, description).print_help()
        raise SystemExit(0)
    for warning in warnings:
        if not quiet:
            print(f"WARNING: {warning}", file=sys.stderr)
    values = {flag.name: False if flag.kind == "flag" else flag.default for flag in table.values()} | found
    missing = [flag.name for flag in table.values() if flag.required and flag.name not in found]
    if missing:
        raise UserError(f"{', '.join(missing)} must be given; --help lists all options.")
    return Arguments(values, frozenset(found), " ".join(map(shlex.quote, words)), tuple(warnings))


def value_of(name: str, argv: Sequence[str], default: str = "") -> str:
    """The value of one flag before anything is parsed: the pipeline's directory is needed even for errors."""
    places = [index for index, word in enumerate(argv[:-1]) if word == name]
    return argv[places[-1] + 1] if places else default


def usage(flags: Iterable[Flag], program: str = "", description: str = "") -> str:
    """The text of `--help`."""
    return _argparser((*flags, PIPELINE_CONTROL), program, description).format_help()


def _read(table: Mapping[str, Flag], words: Sequence[str]) -> tuple[dict[str, str | bool], set[str], list[str]]:
    """The flags given and their values, which of --help and --version were asked for, and warnings."""
    found: dict[str, str | bool] = {}
    about: set[str] = set()
    warnings: list[str] = []
    after_unknown = False
    index = 0
    while index < len(words):
        word = words[index]
        following = words[index + 1] if index + 1 < len(words) else None
        index += 1
        flag = table.get(word)
        if word in _ABOUT and flag is None:
            about.add(_ABOUT[word])
            continue
        if flag is None:
            # the value of an unknown flag is not worth a warning of its own
            if word.startswith("-") or not after_unknown:
                warnings.append(f'"{word}" is not an option of this program and is ignored.')
            after_unknown = word.startswith("-")
            continue
        after_unknown = False
        if word in found:
            warnings.append(f"{word} was given more than once; the last one counts.")
        if flag.kind == "value":
            if following is None:
                raise UserError(f"{word} needs a value after it.")
            found[word] = following
            # args.cpp finds each option for itself: an empty field of a job leaves the next option in the value's place
            index += following not in table
        elif flag.kind == "optional" and following is not None and not following.startswith("--"):
            found[word] = following
            index += 1
        else:
            found[word] = True if flag.kind == "flag" else flag.default
    return found, about, warnings


def _argparser(flags: Iterable[Flag], program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program or None,
        description=description or None,
        usage=f"{program or '%(prog)s'} [options]",
        add_help=False,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=110),
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag in flags:
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        _add(groups[flag.group], flag)
    about = parser.add_argument_group("About")
    about.add_argument("--version", action="store_true", help="print the version", dest=argparse.SUPPRESS)
    about.add_argument("--help", action="store_true", help="print this text", dest=argparse.SUPPRESS)
    return parser


def _add(group: argparse._ArgumentGroup, flag: Flag) -> None:
    text = flag.help.replace("%", "%%")
    if flag.kind == "flag":
        group.add_argument(flag.name, dest=flag.name, action="store_true", help=text or None)
        return
    shown = f" (default: {flag.default})".replace("%", "%%") if flag.default else ""
    optional: dict[str, Any] = {"nargs": "?", "const": flag.default} if flag.kind == "optional" else {}
    group.add_argument(
        flag.name,
        dest=flag.name,
        default=flag.default,
        metavar="VALUE",
        help=(text + shown).strip() or None,
        **optional,
    )
