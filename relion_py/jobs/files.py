"""The few questions that jobs ask of the disc: what commands depend on, and what checks look at.

Building is a pure function of the values and of a `ProjectFiles`; tests and previews pass their own.
Whatever a STAR file holds is data: nothing in it is run, and only tiny files (a bodies table, a saved form)
are read.
"""

from __future__ import annotations

import glob
import math
import os
import shlex
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

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


def mrc_header(path: Path) -> MrcHeader | None:
    """`read_mrc_header`, remembered while the file does not change."""
    return _remembered(_mrc_headers, path, read_mrc_header)


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


@dataclass(frozen=True)
class ParticleSummary:
    """What the head of a particles STAR file tells: its columns (without the underscore), number of
    particles, and box size (pixels) and pixel size (A) of the first optics group, 0 where they are not
    told."""

    columns: frozenset[str]
    count: int
    box: int
    pixel_size: float


def particle_summary(path: Path) -> ParticleSummary | None:
    """Columns, number, box and pixel size of particles, or None where the file is no STAR file with a table.

    Remembered while the file does not change. Box and pixel size come from the optics table of release 3.1
    and later; where it tells no box, from the header of the first stack.
    """
    return _remembered(_summaries, path, _read_particles)


def node_types(root: Path) -> Mapping[str, str]:
    """Path -> type of the nodes in a project's default_pipeline.star; empty where there is none."""
    return _remembered(_node_types, root / "default_pipeline.star", _read_node_types) or {}


_mrc_headers: dict[Path, tuple[tuple[int, int], MrcHeader | None]] = {}
_summaries: dict[Path, tuple[tuple[int, int], ParticleSummary | None]] = {}
_node_types: dict[Path, tuple[tuple[int, int], dict[str, str] | None]] = {}
_REMEMBERED = 64


def _remembered(store: dict[Path, tuple[tuple[int, int], T]], path: Path, read: Callable[[Path], T]) -> T | None:
    """What `read` made of a file, read again when its size or time of change differ."""
    try:
        stat = path.stat()
    except OSError:
        return None
    stamp = (stat.st_mtime_ns, stat.st_size)
    known = store.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    if len(store) >= _REMEMBERED:
        store.clear()
    result = read(path)
    store[path] = (stamp, result)
    return result


def _tables(lines: Iterable[str]) -> Iterator[tuple[str, list[str], list[list[str]], int]]:
    """Each loop of a STAR file: block name, columns, its first row (in a list), number of rows."""
    columns: list[str] = []
    first: list[list[str]] = []
    block, count, in_loop = "", 0, False
    for raw in lines:
        line = raw.strip()
        if line.startswith("data_") or line == "loop_":
            if in_loop:
                yield block, columns, first, count
            block = line[5:] if line.startswith("data_") else block
            columns, first, count, in_loop = [], [], 0, line == "loop_"
        elif in_loop and line and not line.startswith("#"):
            if line.startswith("_") and not count:
                columns.append(line.split()[0][1:])
            else:
                if not count:
                    first = [line.split()]
                count += 1
    if in_loop:
        yield block, columns, first, count


def _read_particles(path: Path) -> ParticleSummary | None:
    box, pixel = 0, 0.0
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for block, columns, first, count in _tables(stream):
                row = dict(zip(columns, first[0], strict=False)) if first else {}
                if block == "optics":
                    box, pixel = int(_float(row, "rlnImageSize")), _float(row, "rlnImagePixelSize")
                elif "rlnImageName" in columns or block == "particles":
                    image = row.get("rlnImageName", "").rpartition("@")[2]
                    header = None if box or not image else read_mrc_header(_project_of(path) / image)
                    box = box or (header.nx if header else 0)
                    return ParticleSummary(frozenset(columns), count, box, pixel)
    except OSError:
        return None
    return None


def _project_of(path: Path) -> Path:
    """The project directory of a file in a job directory (Type/jobNNN/file), else the file's own."""
    return path.parents[2] if len(path.parents) > 2 and path.parent.name.startswith("job") else path.parent


def _float(row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row.get(column, "0"))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _read_node_types(path: Path) -> dict[str, str] | None:
    types: dict[str, str] = {}
    columns: list[str] = []
    in_table = False
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            for line in (raw.strip() for raw in stream):
                if line.startswith("data_"):
                    in_table, columns = line == "data_pipeline_nodes", []
                elif in_table and line.startswith("_"):
                    columns.append(line.split()[0])
                elif in_table and line and not line.startswith("#") and line != "loop_":
                    row = dict(zip(columns, line.split(), strict=False))
                    kind = row.get("_rlnPipeLineNodeTypeLabel") or row.get("_rlnPipeLineNodeType", "")
                    types[row.get("_rlnPipeLineNodeName", "")] = kind
    except OSError:
        return None
    return types
