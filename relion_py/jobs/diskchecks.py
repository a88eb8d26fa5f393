"""Problems that only the disc, the machine and the PATH can tell: checked before a job is started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from . import quoting

if TYPE_CHECKING:
    from .spec import JobContext, JobSpec, Option, Problem


def problems(spec: JobSpec, context: JobContext, root: Path) -> list[Problem]:
    """Missing files and programs of a job in the project at `root`."""
    from .spec import Problem

    found: list[Problem] = []
    for option in counting_options(spec, context):
        value = context[option.key]
        if not value or "$$" in value or option.kind not in ("file", "node"):
            continue
        message = (
            executable_complaint(value, root) if option.executable else file_complaint(option, value, root)
        )
        if message:
            found.append(Problem(option.key, message))
    return found


def counting_options(spec: JobSpec, context: JobContext) -> list[Option]:
    """The options whose values this run uses."""
    return [option for key, option in spec.options.items() if spec.counts(key, context)]


def file_complaint(option: Option, value: str, root: Path) -> str:
    """Why an input file is no good, as a sentence, or ""."""
    if any(c in value for c in "*?["):
        return (
            ""
            if any(root.glob(value))
            else f"No file fits '{value}': check the path from the project directory."
        )
    path = root / value
    if not path.exists():
        return f"There is no file '{value}' in the project: check the name, or choose one with Browse."
    if not os.access(path, os.R_OK):
        return f"'{value}' cannot be read: its permissions forbid it."
    return ""


def executable_complaint(value: str, root: Path) -> str:
    """Why a program cannot be run, as a sentence, or ""."""
    if (root / value).is_file():
        ok = os.access(root / value, os.X_OK)
        return "" if ok else f"'{value}' is not executable: run chmod +x on it."
    words = quoting.words(value)
    if words and (shutil.which(words[0]) or os.access(root / words[0], os.X_OK)):
        return ""
    return f"There is no program '{value}': give its path, or put its directory on the PATH."
