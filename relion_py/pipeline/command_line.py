"""Command lines of relion_pipeliner and relion_schemer: options in groups, as RELION's IOParser shows them.

As there (args.cpp), the word after an option is its value even if it begins with a minus, the last of two wins, and
unknown options are warned about.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from relion_py import __version__
from relion_py.pipeline.errors import PipelineError


@dataclass(frozen=True)
class Option:
    """An option that takes a value, or, where `default` is None, a flag."""

    name: str
    default: str | None
    help: str

    @property
    def is_flag(self) -> bool:
        return self.default is None


@dataclass(frozen=True)
class CommandLine:
    """What a program can be asked; `interrupted` is what it says when it is stopped with Ctrl-C."""

    program: str
    usage: str
    groups: Mapping[str, tuple[Option, ...]]
    examples: str = ""
    interrupted: str = ""

    @property
    def options(self) -> dict[str, Option]:
        """All options by name."""
        return {option.name: option for group in self.groups.values() for option in group}

    def run(self, action: Callable[[dict[str, str]], int], argv: list[str] | None = None) -> int:
        """Call `action` with the options that were given; returns the program's exit status."""
        arguments = sys.argv[1:] if argv is None else argv
        if not arguments or arguments[0] in ("--help", "-h"):
            print(self.help())
            return 0 if arguments else 1
        if arguments[0] == "--version":
            print(f"relion_py version {__version__}")
            return 0
        try:
            return action(self.parse(arguments))
        except PipelineError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            if self.interrupted:
                print(self.interrupted, file=sys.stderr)
            return 130

    def help(self) -> str:
        """The usage, every option with its default, and examples."""
        lines = [f"usage: {self.program} {self.usage}, in a project directory"]
        for title, options in self.groups.items():
            lines.append(f"====== {title} ===== ")
            for option in options:
                shown = option.name if option.is_flag else f"{option.name} ({option.default})"
                lines.append(f"{shown:>32} : {option.help}")
        return "\n".join(lines) + self.examples

    def parse(self, arguments: list[str]) -> dict[str, str]:
        """The options that were given: name -> value ("yes" for flags)."""
        given: dict[str, str] = {}
        rest = iter(arguments)
        for word in rest:
            option = self.options.get(word)
            if option is None:
                print(f"WARNING: {word} is not an option of {self.program}; it is passed over.", file=sys.stderr)
            elif option.is_flag:
                given[word] = "yes"
            else:
                value = next(rest, None)
                if value is None:
                    raise PipelineError(f"{word} must be followed by a value.")
                given[word] = value
        return given

    def defaults(self) -> dict[str, str]:
        """The value of every option that is not given: its default, "" for flags."""
        return {name: option.default or "" for name, option in self.options.items()}
