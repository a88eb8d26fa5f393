"""Which paths a project may touch: names of jobs, aliases and nodes are untrusted text.

Pipeline files, job files and script output come from anywhere; every path that is moved, written or linked
goes through here first, so that nothing leaves the project directory.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from relion_py.pipeline.errors import PipelineError

_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*/job\d{3,}/")
_FORBIDDEN_IN_ALIAS = "*?()/\"\\|#<>&%{}$'`;!~^[]:,="


def has_control_characters(text: str) -> bool:
    """True if the text holds line breaks, tabs, NUL or other control characters."""
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def job_directory(root: Path, name: str) -> Path:
    """The directory of a job, made sure to be a plain `Type/jobNNN/` inside the project.

    Raises PipelineError for any other name, and if its job-type directory is a link that leads out of the
    project.
    """
    if not _JOB_NAME.fullmatch(name):
        raise PipelineError(
            f"{name!r} is not the name of a job directory (like Refine3D/job007/), so it is left alone; "
            "correct it in default_pipeline.star."
        )
    directory = root / name
    parent = Path(os.path.realpath(directory.parent))
    if parent != Path(os.path.realpath(root)) / name.split("/", 1)[0] and not _inside(root, parent):
        raise PipelineError(
            f"{name} lies outside the project, because {directory.parent} is a link to {parent}; "
            "make it a plain directory."
        )
    return directory


def _inside(root: Path, path: Path) -> bool:
    top = os.path.realpath(root)
    return os.path.realpath(path).startswith(top + os.sep)


def node_path_problem(path: str) -> str:
    """Why this cannot be the path of a file that a job made: a sentence, "" if it can."""
    if not path or path.endswith("/"):
        return f"{path!r} is not the name of a file."
    if has_control_characters(path):
        return f"{path!r} contains a line break or another control character."
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        return f"{path!r} leaves the project directory; give a path inside it."
    return ""


def clean_alias(alias: str) -> str:
    """The alias as it is stored, blanks replaced by underscores.

    The rules are RELION's (pipeliner.cpp, setAliasJob) and a few more characters that mean something to
    shells. Raises PipelineError with the rule that was broken.
    """
    alias = alias.strip().rstrip("/").replace(" ", "_")
    if len(alias) < 2:
        raise PipelineError(f"The alias {alias!r} is too short; use at least two characters.")
    if alias.startswith("job"):
        raise PipelineError(
            f"The alias {alias!r} begins with 'job', which is kept for job directories; choose another."
        )
    wrong = sorted({c for c in alias if c in _FORBIDDEN_IN_ALIAS})
    if wrong or has_control_characters(alias):
        listed = " ".join(wrong) or "line breaks or control characters"
        raise PipelineError(f"The alias {alias!r} contains {listed}; use letters, digits, '_', '-', '+' and '.'.")
    if alias.startswith((".", "-")) or alias in ("None", ".."):
        raise PipelineError(f"The alias {alias!r} cannot be used; begin it with a letter or a digit.")
    if len(alias.encode()) > 200:
        raise PipelineError("The alias is too long; use at most 200 characters.")
    return alias
