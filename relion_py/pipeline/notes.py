"""`note.txt` of each job: what was executed and when, and what people write about it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from relion_py.compute.io.atomic import atomic_write
from relion_py.jobs.quoting import display

NOTE = "note.txt"
PROJECT_NOTE = "project_note.txt"


def execution_entry(commands: Sequence[Sequence[str]], when: float | None = None) -> str:
    """The paragraph that an execution adds to the note (layout of pipeliner.cpp, runJob).

    Each command stands on a line of its own, quoted so that a shell reads it back as it was run.
    """
    moment = time.ctime(when)
    lines = "".join(display(command) + "\n" for command in commands)
    return f"\n ++++ Executing new job on {moment}\n ++++ with the following command(s): \n{lines} ++++ \n"


def append(path: Path, text: str) -> None:
    """Add text at the end of a note."""
    with open(path, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def read(path: Path) -> str:
    """The text of a note; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def write(path: Path, text: str) -> None:
    """Replace a note whole."""
    atomic_write(path, text.encode("utf-8", "surrogateescape"))
