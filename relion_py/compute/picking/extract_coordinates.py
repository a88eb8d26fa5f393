"""Where the particles of a micrograph are: coordinate files, and refined particles that are extracted again.

Coordinates are pixels of the micrograph from its first pixel, x along a row.

Facts: RELION 5, preprocessing.cpp (readCoordinates, initialise, getCoordinateMetaDataTable).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.io import star
from relion_py.compute.io.outputs import output_root
from relion_py.compute.io.particles import PIXEL_SIZE_LABELS, read_particles
from relion_py.compute.io.star import StarFile, Table

X, Y = "rlnCoordinateX", "rlnCoordinateY"
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


# ---- picked coordinates ---------------------------------------------------------------------------------------


def listed_files(path: str) -> dict[str, str]:
    """Micrograph -> coordinate file, of a STAR file with the columns rlnMicrographName and
    rlnMicrographCoordinates."""
    for table in star.read(path).values():
        if "rlnMicrographName" in table and "rlnMicrographCoordinates" in table:
            return dict(zip(table.strings("rlnMicrographName"), table.strings("rlnMicrographCoordinates"), strict=True))
    raise UserError(
        f"{path} lists no coordinate files; it needs the columns _rlnMicrographName and _rlnMicrographCoordinates."
    )


def files_with_suffix(micrographs: Sequence[str], directory: str, suffix: str) -> dict[str, str]:
    """Micrograph -> `<directory>/<name without job and extension><suffix>`.

    directory "ASINPUT" is beside the micrograph.
    """
    found = {}
    for name in micrographs:
        if directory == "ASINPUT":
            root = os.path.splitext(name)[0]
        else:
            root = output_root(directory.rstrip("/") + "/", name)
        found[name] = root + suffix
    return found


def read_coordinates(path: str) -> Table:
    """The particles of a coordinate file: a table with at least rlnCoordinateX and rlnCoordinateY.

    `.star`: all columns are kept. `.box` (EMAN): x, y, width, height of whole numbers, corner to centre.
    Others: x and y in the first two columns; a first line that is none is a heading. UserError otherwise.
    """
    if not path.endswith(".star"):
        return _from_text(path)
    file = star.read(path)
    for table in file.values():
        if X in table and Y in table:
            return table.copy()
    if any(len(table) for table in file.values()):
        raise UserError(f"{path} has no coordinates; it needs the columns _{X} and _{Y}.")
    return Table({X: [], Y: []})


def _from_text(path: str) -> Table:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    boxes = path.endswith(".box")
    needed = 4 if boxes else 2
    places: list[tuple[float, float]] = []
    for number, words in enumerate(lines):
        if not words:
            continue
        try:
            values = [int(float(word)) for word in words[:needed]]
            if len(values) < needed:
                raise ValueError
        except (ValueError, OverflowError):
            if number == 0 and not boxes:
                continue
            raise UserError(f'{path}, line {number + 1}: "{" ".join(words)[:60]}" is no coordinate.') from None
        if boxes:
            places.append((float(values[0] + values[2] // 2), float(values[1] + values[3] // 2)))
        else:
            places.append((float(values[0]), float(values[1])))
    return Table({X: [x for x, _ in places], Y: [y for _, y in places]})


# ---- refined particles ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recentring:
    """What becomes of the refined offsets. reset: they are set to 0. recentre: coordinates move by their whole
    pixels, so that `point` (pixels of the reference from its centre: x, y, z) comes to the centre of the box.
    reference_pixel_size: A; 0 or less: that of the particles."""

    reset: bool = False
    recentre: bool = False
    point: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reference_pixel_size: float = -1.0


class RefinedParticles:
    """The particles of a STAR file, by micrograph. UserError if coordinates or micrograph names are missing.

    file: the whole file in RELION 5's form. optics: the table of optics groups.
    """

    def __init__(self, path: str, recentring: Recentring) -> None:
        read = read_particles(path)
        self.path = path
        self.file: StarFile = read.star
        self.optics = read.optics
        self.table = read.particles
        self.recentring = recentring
        needed = ["rlnMicrographName", "rlnOpticsGroup", X, Y]
        if recentring.recentre and not recentring.reset:
            needed += [*ORIGINS, *(ANGLES if any(recentring.point) else ())]
        missing = [f"_{label}" for label in needed if label not in self.table]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}, so its particles cannot be extracted again.")
        label = next(name for name in PIXEL_SIZE_LABELS if name in self.optics)
        self._pixel_sizes = dict(
            zip(self.optics.ints("rlnOpticsGroup").tolist(), self.optics.floats(label).tolist(), strict=True)
        )
        if recentring.recentre and recentring.reference_pixel_size <= 0 and any(recentring.point):
            sizes = list(self._pixel_sizes.values())
            if max(sizes) - min(sizes) > 1e-4:
                raise UserError(
                    f"The optics groups of {path} differ in pixel size; give that of the reference with --ref_angpix."
                )
        self._rows = self._by_file_name()

    @property
    def optics_rows(self) -> dict[int, dict[str, str]]:
        """The rows of data_optics by rlnOpticsGroup."""
        return dict(zip(self.optics.ints("rlnOpticsGroup").tolist(), self.optics.rows(), strict=True))

    def _by_file_name(self) -> dict[str, list[tuple[str, int]]]:
        rows: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for index, name in enumerate(self.table.strings("rlnMicrographName")):
            below = output_root("", name) + os.path.splitext(name)[1]
            rows[os.path.basename(name)].append((below, index))
        return rows

    def indices(self, micrograph: str) -> list[int]:
        """Rows of the particles of a micrograph: names agree from the end on, without the micrograph's job."""
        below = output_root("", micrograph) + os.path.splitext(micrograph)[1]
        candidates = self._rows.get(os.path.basename(micrograph), [])
        return [index for name, index in candidates if name == below or name.endswith("/" + below)]

    def of(self, micrograph: str, pixel_size: float) -> Table:
        """The particles of a micrograph of `pixel_size` A, with coordinates and offsets as `recentring` says."""
        table = self.table.select(self.indices(micrograph))
        if not len(table):
            return table
        if self.recentring.reset:
            for label in ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"):
                if label in table:
                    table.set(label, np.zeros(len(table)))
        elif self.recentring.recentre:
            self._recentre(table, pixel_size)
        return table

    def _recentre(self, table: Table, pixel_size: float) -> None:
        groups = table.ints("rlnOpticsGroup").tolist()
        own = np.array([self._pixel_sizes[group] for group in groups])
        reference = self.recentring.reference_pixel_size
        recentre(table, self.recentring.point, reference if reference > 0 else own, pixel_size)


def recentre(
    table: Table,
    point: tuple[float, float, float],
    reference_pixel_size: float | NDArray[np.float64],
    pixel_size: float,
) -> None:
    """Move the coordinates by whole pixels, so that a point of the reference comes to the centre of the boxes.

    table: refined particles, changed in place; what is left of their offsets stays. point: pixels of the
    reference from its centre (x, y, z). reference_pixel_size: A, one or one a particle. pixel_size: A, of the
    coordinates.
    """
    offsets = np.stack([table.floats(label) for label in ORIGINS])  # A
    if any(point):
        matrices = euler_to_matrix(*(table.floats(label) for label in ANGLES))
        centre = matrices @ np.array(point)  # pixels of the reference, in the image's frame
        offsets -= centre[:, :2].T * reference_pixel_size
    pixels = offsets / pixel_size
    whole = _rounded(pixels)
    for label, origin, move, rest in zip((X, Y), ORIGINS, whole, pixels - whole, strict=True):
        table.set(label, table.floats(label) - move)
        table.set(origin, rest * pixel_size)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest whole numbers; halves go away from zero."""
    return np.trunc(values + np.copysign(0.5, values))
