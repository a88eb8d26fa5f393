"""How far a running job is, from the files that it has written so far (no Qt).

Refinements leave one `run_itNNN_model.star` (or `..._half1_model.star`) an iteration, whose first table tells
the resolution; other jobs tell nothing here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_MODEL = re.compile(r"run(?:_ct\d+)?_it(\d+)_(?:half1_)?model\.star")
_RESOLUTION = re.compile(rb"^_rlnCurrentResolution\s+([0-9.]+)", re.MULTILINE)
HEAD_BYTES = 16_384  # the general table is always within the first few kilobytes


def newest_model(job_directory: Path) -> tuple[int, Path] | None:
    """The number and file of the last iteration; None before the first."""
    try:
        with os.scandir(job_directory) as entries:
            found = [(int(m[1]), e.path) for e in entries if (m := _MODEL.fullmatch(e.name))]
    except OSError:
        return None
    if not found:
        return None
    number, path = max(found)
    return number, Path(path)


def resolution_of_model(path: Path) -> float | None:
    """`_rlnCurrentResolution` (A) of a model STAR file; None if it is not there (yet)."""
    try:
        with open(path, "rb") as file:
            match = _RESOLUTION.search(file.read(HEAD_BYTES))
    except OSError:
        return None
    return float(match[1]) if match else None


def job_progress(job_directory: Path) -> str:
    """A short text such as "iteration 7, 8.4 Å"; "" if the job has not told anything."""
    newest = newest_model(job_directory)
    if newest is None:
        return ""
    number, path = newest
    resolution = resolution_of_model(path)
    text = f"iteration {number}"
    if resolution is not None and 0 < resolution < 999:
        text += f", {resolution:.3g} Å"
    return text
