"""Outputs of programs that work on many micrographs or movies: their names, the list of those that failed.

Source: RELION 5, filename.cpp (decomposePipelineFileName, getOutputFileWithNewUniqueDate).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table

_JOB = re.compile(r"^(?:[^/]+/)*?job\d{3}[^/]*/")


def output_root(directory: str, source: str) -> str:
    """The path of a micrograph's outputs without their endings: below `directory`, whatever the name is.

    The type and number of the job that it comes from are left out, as RELION does. UserError for a name that
    leads out of the directory.
    """
    below = _JOB.sub("", source).lstrip("/")
    root = os.path.splitext(below)[0]
    if ".." in below.split("/") or not root or any(ord(letter) < 32 for letter in root):
        raise UserError(f"{source!r} is no name for a micrograph: its outputs would lie outside {directory}.")
    return directory + root


def check_distinct(names: Iterable[str], what: str, root_of: Callable[[str, str], str] = output_root) -> None:
    """UserError if outputs (`what`: such as "particles") of two micrographs would have the same name."""
    seen: dict[str, str] = {}
    for name in names:
        root = root_of("", name)
        if root in seen:
            raise UserError(f"{seen[root]} and {name} would give {what} of the same name; rename one of them.")
        seen[root] = name


def write_failures(path: str, failures: Mapping[str, str], label: str = "rlnMicrographName") -> None:
    """List the micrographs (`label`: or movies) without a result, and why; without any, an old list goes away."""
    if failures:
        columns = {label: list(failures), "relionpyFailure": list(failures.values())}
        star.write(path, StarFile([("failed", Table(columns))]))
    elif os.path.exists(path):
        os.unlink(path)
