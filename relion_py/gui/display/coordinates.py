"""Which micrographs a set of picks belongs to, and where the picks are: every way in which RELION has
written it.

RELION 4 and 5: ``autopick.star`` with a table ``coordinate_files`` (micrograph, file of its picks). RELION
2 and 3: ``coords_suffix_autopick.star``, whose text names the micrographs' STAR file, the picks lying
beside it as ``<micrograph>_autopick.star``. Also understood: particle STAR files with rlnMicrographName,
and one coordinate file of its own. Coordinates are in pixels of the micrograph, x to the right and y
downwards from the first row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.series import floats, read_star


@dataclass(frozen=True)
class Picks:
    """Coordinates in pixels of the micrograph, shape (n,); ``score`` is nan where there is no figure of
    merit."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)


NO_PICKS = Picks(*(np.empty(0) for _ in range(3)))


@dataclass(frozen=True)
class PickedMicrograph:
    """A micrograph by its name in the project, and its coordinate file ("" where it has none)."""

    name: str
    coordinates: str


@dataclass(frozen=True)
class PickSet:
    """Micrographs with picks. ``inline`` holds the picks that came in one table for all micrographs."""

    micrographs: tuple[PickedMicrograph, ...]
    inline: dict[str, Picks]
    pixel_size: float  # A, 0 where unknown

    def picks(self, root: Path, micrograph: PickedMicrograph) -> Picks:
        """The picks of one micrograph (none where its file is absent); DisplayError where the file is
        damaged."""
        if micrograph.name in self.inline:
            return self.inline[micrograph.name]
        if not micrograph.coordinates:
            return NO_PICKS
        path = root / micrograph.coordinates
        return read_coordinates(path) if path.is_file() else NO_PICKS


def read_coordinates(path: Path) -> Picks:
    """The picks in a coordinate STAR, ``.box`` (EMAN: corner and size) or plain text file of x and y."""
    if path.suffix.lower() != ".star":
        return _read_text_coordinates(path)
    for table in read_star(path).values():
        if "rlnCoordinateX" in table and "rlnCoordinateY" in table:
            return Picks(
                floats(table, "rlnCoordinateX"),
                floats(table, "rlnCoordinateY"),
                floats(table, "rlnAutopickFigureOfMerit"),
            )
    raise DisplayError(f"{path} has no columns rlnCoordinateX and rlnCoordinateY, so it holds no picks")


def _read_text_coordinates(path: Path) -> Picks:
    try:
        rows = [line.split() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        values = np.asarray([[float(v) for v in row[:4]] for row in rows if not row[0].startswith("#")])
    except (OSError, ValueError) as error:
        raise DisplayError(f"{path} cannot be read as coordinates: {error}") from error
    if values.size == 0:
        return NO_PICKS
    x, y = values[:, 0], values[:, 1]
    if path.suffix.lower() == ".box" and values.shape[1] >= 4:
        x, y = x + values[:, 2] / 2, y + values[:, 3] / 2
    return Picks(x, y, np.full(len(x), np.nan))


def read_pick_set(path: Path, root: Path) -> PickSet:
    """The micrographs and picks that ``path`` stands for (see the head of this file).

    A STAR file of micrographs gives them without picks. DisplayError when the file is none of these.
    """
    if path.name.startswith("coords_suffix_"):
        return _from_suffix_file(path, root)
    blocks = read_star(path)
    if "coordinate_files" in blocks:
        table = blocks["coordinate_files"]
        pairs = zip(table.strings("rlnMicrographName"), table.strings("rlnMicrographCoordinates"), strict=True)
        found = tuple(PickedMicrograph(mic, coords) for mic, coords in pairs)
        return PickSet(found, {}, _pixel_size_of_job(root, found))
    return _from_table(path, blocks)


def _from_table(path: Path, blocks: Any) -> PickSet:
    pixel = optics_pixel_size(blocks)
    for name, table in blocks.items():
        if name == "optics" or not len(table):
            continue
        label = next((c for c in ("rlnMicrographName", "rlnMicrographMovieName") if c in table), None)
        if label is None:
            continue
        names = table.strings(label)
        inline: dict[str, Picks] = {}
        if "rlnCoordinateX" in table and "rlnCoordinateY" in table:
            inline = _split_by_micrograph(names, table)
        unique = tuple(PickedMicrograph(mic, "") for mic in dict.fromkeys(names))
        return PickSet(unique, inline, pixel)
    raise DisplayError(f"{path} names no micrographs (no column rlnMicrographName)")


def _split_by_micrograph(names: list[str], table: Any) -> dict[str, Picks]:
    x, y = floats(table, "rlnCoordinateX"), floats(table, "rlnCoordinateY")
    score = floats(table, "rlnAutopickFigureOfMerit")
    unique, inverse = np.unique(np.asarray(names), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(len(unique) + 1))
    return {
        str(mic): Picks(x[rows], y[rows], score[rows])
        for i, mic in enumerate(unique)
        for rows in (order[bounds[i] : bounds[i + 1]],)
    }


def _from_suffix_file(path: Path, root: Path) -> PickSet:
    """RELION 3, gui_mainwindow.cpp, cb_display_io_node_i: the suffix file's text is the micrographs' STAR
    file."""
    try:
        words = path.read_text(errors="replace").split()
    except OSError as error:
        raise DisplayError(f"{path} cannot be read: {error.strerror}") from error
    if not words or not (root / words[0]).is_file():
        raise DisplayError(f"{path} names no STAR file of micrographs that is there")
    suffix = path.stem.removeprefix("coords_suffix_")
    micrographs = read_pick_set(root / words[0], root)
    folder = path.parent if not path.is_relative_to(root) else path.parent.relative_to(root)
    found = []
    for mic in micrographs.micrographs:
        found.append(PickedMicrograph(mic.name, str(folder / coordinate_name(mic.name, suffix))))
    return PickSet(tuple(found), {}, micrographs.pixel_size)


def coordinate_name(micrograph: str, suffix: str) -> str:
    """The coordinate file of a micrograph, relative to the picking job's directory: its path without the job
    directory that made it, ``Movies/mic1_autopick.star`` (RELION 5, manualpicker.cpp, fill)."""
    parts = Path(micrograph).parts
    inside = Path(*parts[2:]) if len(parts) > 2 and parts[1].startswith("job") else Path(micrograph)
    if inside.is_absolute():
        inside = inside.relative_to(inside.anchor)
    return str(inside.with_name(f"{inside.stem}_{suffix}.star"))


def optics_pixel_size(blocks: Any) -> float:
    """Pixel size in A that an optics table (or the table itself, before release 3.1) gives; 0 where it does
    not."""
    for table in blocks.values():
        for label in ("rlnMicrographPixelSize", "rlnImagePixelSize", "rlnMicrographOriginalPixelSize"):
            if label in table and len(table):
                value = float(floats(table, label)[0])
                if np.isfinite(value) and value > 0:
                    return value
    return 0.0


def _pixel_size_of_job(root: Path, micrographs: tuple[PickedMicrograph, ...]) -> float:
    """The pixel size that the job which made the micrographs wrote in its micrographs' STAR file; 0 if none
    did."""
    if not micrographs:
        return 0.0
    parts = Path(micrographs[0].name).parts
    folder = root.joinpath(*parts[:2])
    for name in ("corrected_micrographs.star", "micrographs_ctf.star", "micrographs.star"):
        if (folder / name).is_file():
            try:
                return optics_pixel_size(read_star(folder / name))
            except DisplayError:
                return 0.0
    return 0.0


def count_picks(root: Path, picks: PickSet) -> list[int]:
    """Number of picks per micrograph, in order; -1 where the coordinate file is damaged."""
    counts = []
    for micrograph in picks.micrographs:
        try:
            counts.append(len(picks.picks(root, micrograph)))
        except DisplayError:
            counts.append(-1)
    return counts
