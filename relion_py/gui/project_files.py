"""Small readings and writings of a project that only the window wants (no Qt); they run in the worker."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from relion_py.compute.io.atomic import atomic_write
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.project import Project

ALL_NOTES = "project_all_notes.txt"


def size_on_disc(root: Path, paths: Iterable[str]) -> tuple[int, int]:
    """Number of files and bytes of these paths; directories (they end with "/") count with all they hold."""
    files = size = 0
    for path in paths:
        full = root / path
        if path.endswith("/") and not full.is_symlink():
            for directory, _, names in os.walk(full):
                for name in names:
                    files, size = files + 1, size + _size(os.path.join(directory, name))
        else:
            files, size = files + 1, size + _size(str(full))
    return files, size


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def write_all_notes(project: Project) -> tuple[Path, str]:
    """Write the project's note and those of all jobs into one file; returns its path and text."""
    parts = [("Project", project.note())]
    for process in project.graph.processes.values():
        try:
            parts.append((process.display_name, project.note(process.name)))
        except (PipelineError, OSError):
            continue
    text = "\n".join(f"=== {title} ===\n{note.strip()}\n" for title, note in parts if note.strip())
    path = project.root / ALL_NOTES
    atomic_write(path, text.encode("utf-8", "surrogateescape"))
    return path, text
