"""Between argument vectors and text: what people read in `note.txt`, and words that people typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def display(command: Iterable[str]) -> str:
    """A command as one line that a POSIX shell would read back as the same argument vector."""
    return shlex.join(command)


def words(text: str) -> tuple[str, ...]:
    """Split typed arguments as a shell would, quotes included; nothing is expanded or run.

    Unbalanced quotes are taken literally (see `is_balanced` for telling the person).
    """
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return tuple(text.split())


def is_balanced(text: str) -> bool:
    """Whether quotes and backslashes in `text` are closed."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True
