"""The few questions that a job asks of the disc while its commands are built, behind one small interface.

Building is a pure function of the values and of a `ProjectFiles`; tests and previews pass their own.
Whatever a STAR file holds is data: nothing in it is run, and only tiny files (a bodies table, a saved form)
are read.
"""

from __future__ import annotations

import glob
import os
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LARGEST_TABLE = 16 * 1024 * 1024


class ProjectFiles(Protocol):
    """What building a command may ask. Paths are relative to the project directory, as in option values."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory of that name is there."""

    def row_count(self, path: str) -> int:
        """Number of rows in the first table of a STAR file; 0 where there is none."""

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Names that match a shell pattern, sorted."""

    def saved_form(self, path: str) -> dict[str, str] | None:
        """Option values of a saved job.star, or None where there is none."""


@dataclass(frozen=True)
class DiskFiles:
    """The files of a real project directory (the current one unless told otherwise)."""

    root: Path = Path()

    def exists(self, path: str) -> bool:
        return bool(path) and os.path.exists(self.root / path)

    def row_count(self, path: str) -> int:
        text = self._read(path)
        return 0 if text is None else star_row_count(text)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return tuple(sorted(glob.glob(pattern, root_dir=self.root)))

    def saved_form(self, path: str) -> dict[str, str] | None:
        text = self._read(path)
        return None if text is None else star_job_values(text)

    def _read(self, path: str) -> str | None:
        full = self.root / path
        try:
            if not path or not full.is_file() or full.stat().st_size > _LARGEST_TABLE:
                return None
            return full.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


@dataclass(frozen=True)
class NamedFiles:
    """Files that exist in name only, all of them empty: for tests and for previews without a project."""

    names: frozenset[str] = frozenset()

    def exists(self, path: str) -> bool:
        return path in self.names

    def row_count(self, path: str) -> int:
        return 0

    def glob(self, pattern: str) -> tuple[str, ...]:
        from fnmatch import fnmatchcase

        return tuple(sorted(name for name in self.names if fnmatchcase(name, pattern)))

    def saved_form(self, path: str) -> dict[str, str] | None:
        return None


def star_row_count(text: str) -> int:
    """Rows of the first data block of a STAR file: lines of its loop, or 1 for a block of single values."""
    rows, in_block, in_loop, singles = 0, False, False, False
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("data_"):
            if in_block and (rows or singles):
                break
            in_block, in_loop, rows, singles = True, False, 0, False
        elif not in_block or not line or line.startswith("#"):
            continue
        elif line == "loop_":
            in_loop = True
        elif line.startswith("_"):
            singles = singles or not in_loop
        elif in_loop:
            rows += 1
    return rows if in_loop else int(singles)


def star_job_values(text: str) -> dict[str, str]:
    """Option values of a job.star: the two columns of its data_joboptions_values table."""
    values: dict[str, str] = {}
    in_table = False
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("data_"):
            in_table = line == "data_joboptions_values"
        elif in_table and line and not line.startswith(("_", "#", "loop_")):
            try:
                fields = shlex.split(line, posix=True)
            except ValueError:
                fields = line.split(None, 1)
            if fields:
                values[fields[0]] = fields[1] if len(fields) > 1 else ""
    return values


@dataclass(frozen=True)
class MrcHeader:
    """Size (pixels: x, y, sections) and pixel size (A along x, 0 where unset) of an MRC file."""

    nx: int
    ny: int
    nz: int
    mode: int
    pixel_size: float


def read_mrc_header(path: Path) -> MrcHeader | None:
    """The 1024-byte header of an MRC map or stack, or None where the file is none.

    Byte order is told from the mode field. Source: MRC2014, Cheng et al., J. Struct. Biol. 192 (2015) 146.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(1024)
    except OSError:
        return None
    if len(head) < 1024:
        return None
    for order in "<>":
        nx, ny, nz, mode = struct.unpack_from(order + "4i", head, 0)
        mx = struct.unpack_from(order + "i", head, 28)[0]
        cell = struct.unpack_from(order + "f", head, 40)[0]
        if 0 < nx < 1 << 20 and 0 < ny < 1 << 20 and 0 < nz < 1 << 30 and 0 <= mode <= 127:
            return MrcHeader(nx, ny, nz, mode, cell / mx if mx > 0 and cell > 0 else 0.0)
    return None
