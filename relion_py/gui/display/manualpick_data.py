"""What manual picking reads and writes: micrographs, one coordinate file per micrograph, the lists of a job.

No Qt. Formats are those of RELION 5 (manualpicker.cpp, initialise, fill and writeOutputStarfiles;
displayer.cpp, pickerViewerCanvas): coordinate files ``<job>/<micrograph>_manualpick.star`` with one unnamed
table, ``micrographs_selected.star``, ``manualpick.star`` with a table ``coordinate_files``, and
``local_selection.star``, from which a continued job takes its selection. Coordinates are in pixels of the
micrograph, (0, 0) being the centre of its first pixel, x to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.gui.display.coordinates import (
    NO_PICKS,
    PickedMicrograph,
    Picks,
    PickSet,
    coordinate_name,
    optics_pixel_size,
)
from relion_py.gui.display.errors import DisplayError
from relion_py.gui.display.selection import save_star
from relion_py.gui.display.series import floats, read_star

MANUAL_PSI = -999.0
"""rlnAnglePsi of a pick that a person made; it has no figure of merit, so no threshold hides it."""
GREEN = 2
"""rlnParticleSelectionType of ordinary manual picks (RELION 5, displayer.cpp, current_selection_type)."""
NO_THRESHOLD = -9999.0
LOCAL_SELECTION = "local_selection.star"


class PickFile:
    """The picks of one micrograph, as a table that can be edited and written back.

    ``scale`` turns the file's coordinates into pixels of the micrograph. Columns that are not understood
    are kept. DisplayError when the file is there and damaged.
    """

    def __init__(self, path: Path, scale: float = 1.0) -> None:
        from relion_py.compute.io import star

        self.path, self.scale = path, scale
        self.blocks: Any = read_star(path) if path.is_file() else {}
        self.block = next((name for name, table in self.blocks.items() if "rlnCoordinateX" in table), None)
        if self.block is None:
            if any(len(table) for table in self.blocks.values()):
                raise DisplayError(f"{path} has no columns rlnCoordinateX and rlnCoordinateY, so it holds no picks")
            self.blocks, self.block = {"": star.Table()}, ""
        self._undo: list[Any] = []

    @property
    def table(self) -> Any:
        """The table of coordinates."""
        return self.blocks[self.block]

    def __len__(self) -> int:
        return len(self.table)

    def picks(self) -> Picks:
        """Coordinates in pixels of the micrograph, with the figures of merit of those picks that have one."""
        table = self.table
        if not len(table):
            return NO_PICKS
        score = floats(table, "rlnAutopickFigureOfMerit")
        if "rlnAnglePsi" in table:
            score = np.where(floats(table, "rlnAnglePsi") == MANUAL_PSI, np.nan, score)
        return Picks(floats(table, "rlnCoordinateX") * self.scale, floats(table, "rlnCoordinateY") * self.scale, score)

    def nearest(self, x: float, y: float, radius: float, among: NDArray[np.int64] | None = None) -> int:
        """Row of the pick nearest to (x, y), in pixels, within ``radius``; -1 where there is none."""
        picks = self.picks()
        rows = np.arange(len(picks)) if among is None else among
        if not len(rows):
            return -1
        distance = np.hypot(picks.x[rows] - x, picks.y[rows] - y)
        best = int(np.argmin(distance))
        return int(rows[best]) if distance[best] <= radius else -1

    def _remember(self) -> None:
        self._undo = [*self._undo[-49:], self.table.copy()]

    def add(self, x: float, y: float) -> int:
        """Add a pick at (x, y) in pixels; its row. Other columns are those of the last pick, without
        orientation (RELION 5, displayer.cpp, pickerViewerCanvas::handle)."""
        self._remember()
        table = self.table
        row = dict(table.row(len(table) - 1)) if len(table) else dict.fromkeys(table.labels, "0")
        for label, value in (("rlnAngleRot", MANUAL_PSI), ("rlnAngleTilt", MANUAL_PSI)):
            if label in row:
                row[label] = value
        for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginX", "rlnOriginY"):
            if label in row:
                row[label] = 0.0
        row["rlnCoordinateX"], row["rlnCoordinateY"] = x / self.scale, y / self.scale
        row["rlnParticleSelectionType"] = GREEN
        row["rlnAnglePsi"], row["rlnAutopickFigureOfMerit"] = MANUAL_PSI, 0.0
        if table.labels:
            fill = {"rlnParticleSelectionType": GREEN, "rlnAnglePsi": 0.0, "rlnAutopickFigureOfMerit": 0.0}
            for label in row:
                if label not in table:
                    table.set(label, [fill[label]] * len(table))
        table.append(row)
        return len(table) - 1

    def move(self, row: int, x: float, y: float, remember: bool = True) -> None:
        """Put a pick at (x, y) in pixels."""
        if remember:
            self._remember()
        for label, value in (("rlnCoordinateX", x), ("rlnCoordinateY", y)):
            texts = self.table.strings(label)
            self.table.set(label, [*texts[:row], value / self.scale, *texts[row + 1 :]])

    def remove(self, rows: Sequence[int]) -> None:
        """Remove picks."""
        self._remember()
        gone = {int(row) for row in rows}
        self.blocks[self.block] = self.table.select([i for i in range(len(self.table)) if i not in gone])

    def replace(self, table: Any) -> None:
        """Take the rows of another table of coordinates."""
        self._remember()
        self.blocks[self.block] = table.copy()

    def undo(self) -> bool:
        """Take the last change back; False when there is none."""
        if not self._undo:
            return False
        self.blocks[self.block] = self._undo.pop()
        return True

    def save(self) -> None:
        """Write the file (whole or not at all). DisplayError when it cannot be written."""
        save_star(self.path, dict(self.blocks.items()))


def above(picks: Picks, minimum: float) -> NDArray[np.int64]:
    """Rows of the picks whose figure of merit is at least ``minimum``, and of those without any."""
    return np.flatnonzero(~(picks.score < minimum))


@dataclass
class PickJob:
    """The micrographs of a picking job and where their picks go.

    ``root`` is the project directory, ``directory`` the job's below it, with a slash at its end.
    """

    root: Path
    directory: str
    pick_name: str
    micrographs: list[PickedMicrograph]
    pixel_size: float  # A
    scale: float = 1.0
    selection_file: str = ""
    may_save: bool = False  # lists of selected micrographs and coordinate files
    table: Any = None
    table_name: str = ""
    optics: Any = None
    selected: list[bool] = field(default_factory=list)

    def path(self, index: int) -> Path:
        """The coordinate file of a micrograph. DisplayError where its name leads out of the project."""
        name = self.micrographs[index].coordinates
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise DisplayError(f"{name} lies outside the project {self.root}, so no picks are written there")
        return path

    def pick_file(self, index: int) -> PickFile:
        """The editable picks of a micrograph."""
        return PickFile(self.path(index), self.scale)

    def pick_set(self) -> PickSet:
        """The same micrographs for a viewer."""
        return PickSet(tuple(self.micrographs), {}, self.pixel_size)

    def count(self, index: int, minimum: float = NO_THRESHOLD) -> int:
        """Number of picks of a micrograph that pass a threshold; -1 where the file is damaged."""
        try:
            if not self.path(index).is_file():
                return 0
            picks = self.pick_file(index).picks()
        except DisplayError:
            return -1
        return len(above(picks, minimum))

    def column(self, label: str) -> list[str]:
        """Texts of a column of the micrographs' table; [] where there is none."""
        return [] if self.table is None or label not in self.table else list(self.table.strings(label))

    def read_selection(self) -> None:
        """Take the selection of an earlier session of this job, where there is one (by micrograph name)."""
        path = self.root / self.directory / LOCAL_SELECTION
        if not path.is_file():
            return
        unselected = set()
        for table in read_star(path).values():
            if "rlnMicrographName" in table and "rlnSelected" in table:
                pairs = zip(table.strings("rlnMicrographName"), table.strings("rlnSelected"), strict=True)
                unselected = {name for name, flag in pairs if flag == "0"}
        self.selected = [m.name not in unselected for m in self.micrographs]

    def save_lists(self) -> int:
        """Write the selected micrographs, the list of their coordinate files, and the selection itself.

        Returns the number of coordinate files listed. Nothing is written when ``may_save`` is off.
        """
        from relion_py.compute.io import star

        if not self.may_save:
            return 0
        rows = [i for i, selected in enumerate(self.selected) if selected]
        if self.table is not None and self.table_name != "coordinate_files":
            chosen = self.table.select(rows)
        else:
            chosen = star.Table({"rlnMicrographName": [self.micrographs[i].name for i in rows]})
        blocks = {"micrographs": chosen} if self.optics is not None else {"": chosen}
        if self.optics is not None:
            blocks = {"optics": self.optics, **blocks}
        selection = self.root / (self.selection_file or f"{self.directory}micrographs_selected.star")
        save_star(self._inside(selection), blocks)
        names = [m.name for m in self.micrographs]
        flags = [int(selected) for selected in self.selected]
        local = star.Table({"rlnMicrographName": names, "rlnSelected": flags})
        save_star(self._inside(self.root / self.directory / LOCAL_SELECTION), {"": local})
        picked = [self.micrographs[i] for i in rows if self.path(i).is_file()]
        listed = star.Table(
            {
                "rlnMicrographName": [m.name for m in picked],
                "rlnMicrographCoordinates": [m.coordinates for m in picked],
            }
        )
        save_star(self._inside(self.root / f"{self.directory}{self.pick_name}.star"), {"coordinate_files": listed})
        return len(picked)

    def _inside(self, path: Path) -> Path:
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise DisplayError(f"{path} lies outside the project {self.root}, so it is not written")
        return path


def read_pick_job(
    source: str, root: Path, directory: str, pick_name: str = "manualpick", pixel_size: float = -1.0
) -> PickJob:
    """The job that picks on the micrographs that ``source`` names.

    ``source``: a STAR file of micrographs (any release), a list of coordinate files, or file names with
    wildcards; relative to ``root``. ``pixel_size`` in A serves where the file gives none. DisplayError when
    there are no micrographs, or no pixel size for a STAR file of micrographs.
    """
    directory = directory if directory.endswith("/") else f"{directory}/"
    if not source.endswith(".star"):
        names = sorted(_relative(path, root) for path in _matching(source, root))
        if not names:
            raise DisplayError(f"No files match {source}; give a STAR file of micrographs, or names such as Mics/*.mrc")
        return _job(root, directory, pick_name, names, [], pixel_size if pixel_size > 0 else 1.0)
    if not (root / source).is_file():
        raise DisplayError(f"{source} is not there")
    blocks = read_star(root / source)
    name, table = _table_of_micrographs(source, blocks)
    names = table.strings("rlnMicrographName")
    listed = table.strings("rlnMicrographCoordinates") if "rlnMicrographCoordinates" in table else []
    known = optics_pixel_size(blocks)
    if known <= 0 and pixel_size <= 0:
        if name != "coordinate_files":
            raise DisplayError(
                f"{source} does not give the pixel size of the micrographs; give it with --angpix (in A)"
            )
        known = 1.0
    job = _job(root, directory, pick_name, names, listed, known if known > 0 else pixel_size)
    job.table, job.table_name, job.optics = table, name, blocks.get("optics")
    if job.optics is not None and "rlnMicrographPixelSize" not in job.optics:
        job.optics = job.optics.copy()
        job.optics.set("rlnMicrographPixelSize", job.pixel_size)
    return job


def job_of_picks(picks: PickSet, root: Path, path: Path) -> PickJob:
    """Editing of the picks that ``path`` lists, without lists of selected micrographs."""
    directory = path.parent.relative_to(root) if path.parent.is_relative_to(root) else path.parent
    micrographs = list(picks.micrographs)
    selected = [True] * len(micrographs)
    return PickJob(root, f"{directory}/", path.stem, micrographs, picks.pixel_size, selected=selected)


def _table_of_micrographs(source: str, blocks: Any) -> tuple[str, Any]:
    for name, table in blocks.items():
        if name != "optics" and "rlnMicrographName" in table and len(table):
            return name, table
    raise DisplayError(f"{source} names no micrographs (no rows with a column rlnMicrographName)")


def _job(
    root: Path, directory: str, pick_name: str, names: Sequence[str], listed: Sequence[str], pixel_size: float
) -> PickJob:
    own = [f"{directory}{coordinate_name(name, pick_name)}" for name in names]
    files = listed or own
    micrographs = [PickedMicrograph(name, path) for name, path in zip(names, files, strict=True)]
    return PickJob(root, directory, pick_name, micrographs, pixel_size, selected=[True] * len(names))


def _matching(pattern: str, root: Path) -> list[Path]:
    if Path(pattern).is_absolute():
        return [path for path in Path("/").glob(pattern.lstrip("/")) if path.is_file()]
    return [path for path in root.glob(pattern) if path.is_file()]


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
