"""Where the segments of helices are: filaments from their ends, cut at whole numbers of rises, or picked segments.

The angles are those of a projection whose helix lies along Z: tilt 90, and psi from the filament's direction
in the image (minus its angle from X towards Y). Segments of a filament share rlnHelicalTubeID.

Facts: RELION 5, helix.cpp (convertHelicalTubeCoordsToMetaDataTable, convertHelicalSegmentCoordsToMetaDataTable and
their Eman and Ximdisp siblings) and preprocessing.cpp (readHelicalCoordinates).
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.star import Table

X, Y = "rlnCoordinateX", "rlnCoordinateY"
TUBE, PITCH = "rlnHelicalTubeID", "rlnHelicalTubePitch"
TILT_PRIOR, PSI_PRIOR = "rlnAngleTiltPrior", "rlnAnglePsiPrior"
TRACK, FLIP_RATIO = "rlnHelicalTrackLengthAngst", "rlnAnglePsiFlipRatio"
_FIRST = 0.01  # steps from a filament's end to its first segment
_HELIX_LINE = re.compile(r"#helix:\s*\(([^,]+),([^)]+)\)\s*,\s*\(([^,]+),([^)]+)\)")


@dataclass(frozen=True)
class HelixOptions:
    """How helical segments are extracted.

    outer: diameter (A) of the tube, outside which is background. tubes: the coordinates are the ends of
    filaments. cut: cut these into segments, every `units` x `rise` A; without it their middles are taken.
    bimodal: psi and psi + 180 degrees are both possible (flip ratio 0.5).
    """

    outer: float
    tubes: bool = False
    cut: bool = False
    units: int = 1
    rise: float = 0.0
    bimodal: bool = False

    def check(self) -> None:
        """UserError if filaments cannot be cut with these numbers."""
        if self.tubes and self.units < 1:
            raise UserError(f"--helical_nr_asu must be at least 1, not {self.units}.")
        if self.tubes and self.rise < 0.001:
            raise UserError("--helical_tubes needs --helical_rise, the distance (A) between asymmetric units.")

    @property
    def flip_ratio(self) -> float:
        """Prior probability of psi + 180 degrees."""
        return 0.5 if self.bimodal else 0.0


@dataclass(frozen=True)
class _Filament:
    """Two ends (pixels), a number, and a pitch (A) if there is one."""

    x1: float
    y1: float
    x2: float
    y2: float
    number: int
    pitch: float | None = None

    @property
    def psi(self) -> float:
        return -math.degrees(math.atan2(self.y2 - self.y1, self.x2 - self.x1))


def read_helical_coordinates(
    path: str, options: HelixOptions, shape: tuple[int, int], box: int, pixel_size: float
) -> Table:
    """The segments of a coordinate file: coordinates, tube, prior angles, track length, flip ratio.

    path: `.star`, `.box` (EMAN2) or `.coords` (XIMDISP). shape: rows and columns of the micrograph; segments
    whose box (pixels) would reach beyond its edges are left out. pixel_size: A. UserError for other files,
    and for segments without their prior angles.
    """
    if min(shape) < box or box < 2:
        raise UserError(f"A box of {box} pixels is larger than the micrograph of {shape[1]} x {shape[0]} pixels.")
    readers: dict[str, tuple[Callable[[str], list[_Filament]], Callable[..., Table]]] = {
        ".star": (_ends_from_star, _segments_from_star),
        ".box": (_ends_from_eman, _segments_from_eman),
        ".coords": (_ends_from_ximdisp, _segments_from_ximdisp),
    }
    ending = os.path.splitext(path)[1]
    if ending not in readers:
        raise UserError(f"{path} is no list of helical coordinates; .star, .box (EMAN2) and .coords (XIMDISP) are.")
    ends, segments = readers[ending]
    if options.tubes:
        return _cut_filaments(ends(path), options, shape, box, pixel_size)
    table = segments(path, pixel_size)
    table.set(FLIP_RATIO, np.full(len(table), options.flip_ratio))
    keep = _inside(table.floats(X), table.floats(Y), shape, box) if len(table) else np.zeros(0, bool)
    if not keep.all():
        lost = int((~keep).sum())
        print(f"WARNING: {lost} segments of {path} are too close to the edge and are left out.", file=sys.stderr)
    return table.select(keep)


def _inside(x: NDArray, y: NDArray, shape: tuple[int, int], box: int) -> NDArray[np.bool_]:
    """Which boxes around x, y lie wholly in the micrograph."""
    half = 0.5 * box
    return (x >= half) & (x <= shape[1] - half) & (y >= half) & (y <= shape[0] - half)


def _cut_filaments(
    filaments: list[_Filament], options: HelixOptions, shape: tuple[int, int], box: int, pixel_size: float
) -> Table:
    """The segments, or middles, of filaments."""
    columns: dict[str, list[float] | list[int]] = {
        label: [] for label in (X, Y, TUBE, TILT_PRIOR, PSI_PRIOR, TRACK, FLIP_RATIO)
    }
    with_pitch = any(filament.pitch is not None for filament in filaments)
    if with_pitch:
        columns[PITCH] = []
    step = options.units * options.rise / pixel_size
    for filament in filaments:
        x, y, track = _places(filament, step if options.cut else 0.0)
        if options.cut:
            keep = _inside(x, y, shape, box)
            x, y, track = x[keep], y[keep], track[keep]
        columns[X] += x.tolist()
        columns[Y] += y.tolist()
        columns[TRACK] += (track * pixel_size).tolist()
        same = {TUBE: filament.number, TILT_PRIOR: 90.0, PSI_PRIOR: filament.psi, FLIP_RATIO: options.flip_ratio}
        if with_pitch:
            same[PITCH] = filament.pitch or 0.0
        for label, value in same.items():
            columns[label] += [value] * len(x)
    return Table(columns)


def _places(filament: _Filament, step: float) -> tuple[NDArray, NDArray, NDArray]:
    """x, y and distance from the first segment, all in pixels; with a step of 0 the middle alone."""
    if not step:
        middle = 0.5 * (filament.x1 + filament.x2), 0.5 * (filament.y1 + filament.y2)
        return np.array(middle[:1]), np.array(middle[1:]), np.zeros(1)
    dx, dy = filament.x2 - filament.x1, filament.y2 - filament.y1
    length = math.hypot(dx, dy)
    if not length:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    along = np.arange(math.floor(length / step - _FIRST) + 1) * step
    reach = (along + _FIRST * step) / length
    return filament.x1 + dx * reach, filament.y1 + dy * reach, along


# ---- STAR -------------------------------------------------------------------------------------------------------


def _star_table(path: str, needed: tuple[str, ...]) -> Table | None:
    """The first table with the columns; None without any row in the file."""
    file = star.read(path)
    for table in file.values():
        if all(label in table for label in needed):
            return table.copy()
    if any(len(table) for table in file.values()):
        raise UserError(f"{path} lacks columns; it needs {', '.join('_' + label for label in needed)}.")
    return None


def _ends_from_star(path: str) -> list[_Filament]:
    table = _star_table(path, (X, Y))
    if table is None:
        return []
    if len(table) % 2:
        print(f"WARNING: {path} is ignored: it has an uneven number of filament ends.", file=sys.stderr)
        return []
    x, y = table.floats(X).tolist(), table.floats(Y).tolist()
    count = len(x) // 2
    numbers = table.ints(TUBE).tolist()[::2] if TUBE in table else range(1, count + 1)
    pitches = table.floats(PITCH).tolist()[::2] if PITCH in table else [None] * count
    ends = zip(x[::2], y[::2], x[1::2], y[1::2], numbers, pitches, strict=True)
    return [_Filament(*end) for end in ends]


def _segments_from_star(path: str, pixel_size: float) -> Table:
    table = _star_table(path, (X, Y, TUBE, TILT_PRIOR, PSI_PRIOR, TRACK))
    return Table({X: [], Y: []}) if table is None else table


# ---- EMAN2 and XIMDISP ------------------------------------------------------------------------------------------


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines up to the first empty one, with their numbers."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    return
                yield number, line
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _numbers(path: str, number: int, line: str, count: int) -> list[float]:
    words = line.split()
    try:
        if len(words) != count:
            raise ValueError
        return [float(word) for word in words]
    except ValueError:
        raise UserError(f'{path}, line {number}: "{line.strip()[:60]}" must be {count} numbers.') from None


def _ends_from_eman(path: str) -> list[_Filament]:
    """Two lines per filament: corner x, y, width, height, and -1 for the first, -2 for the second end; the
    ends are cut off by half a box."""
    lines = [_numbers(path, number, line, 5) for number, line in _lines(path)]
    if len(lines) % 2 or any(
        first[4] != -1 or second[4] != -2 for first, second in zip(lines[::2], lines[1::2], strict=False)
    ):
        raise UserError(f"{path} does not list filaments: the last column must be -1 and -2 in turns.")
    filaments = []
    for count, (first, second) in enumerate(zip(lines[::2], lines[1::2], strict=True), 1):
        half = 0.5 * first[2]
        x1, y1, x2, y2 = first[0] + half, first[1] + half, second[0] + half, second[1] + half
        angle = math.atan2(y2 - y1, x2 - x1)
        cut_x, cut_y = half * math.cos(angle), half * math.sin(angle)
        filaments.append(_Filament(x1 + cut_x, y1 + cut_y, x2 - cut_x, y2 - cut_y, count))
    return filaments


def _ends_from_ximdisp(path: str) -> list[_Filament]:
    """Six lines per filament: a heading, the four corners of a rectangle around it, and the first again."""
    lines = list(_lines(path))
    filaments: list[_Filament] = []
    for start in range(0, len(lines) - 4, 6):
        corners = [_numbers(path, number, line, 2) for number, line in lines[start + 1 : start + 5]]
        (xa, ya), (xb, yb), (xc, yc), (xd, yd) = corners
        ends = (xa + xb) / 2, (ya + yb) / 2, (xc + xd) / 2, (yc + yd) / 2
        filaments.append(_Filament(*ends, len(filaments) + 1))
    return filaments


def _segment_table(rows: list[tuple[float, float, int, float, float]]) -> Table:
    """From x, y, tube, psi prior (degrees) and track length (A)."""
    x, y, tubes, psis, tracks = ([row[n] for row in rows] for n in range(5))
    return Table({X: x, Y: y, TUBE: tubes, TILT_PRIOR: [90.0] * len(rows), PSI_PRIOR: psis, TRACK: tracks})


def _segments_from_eman(path: str, pixel_size: float) -> Table:
    """Lines of x and y below "#helix: (x1, y1),(x2, y2),width" of their filament."""
    rows: list[tuple[float, float, int, float, float]] = []
    tube, psi, track = 0, 0.0, 0.0
    before: tuple[float, float] | None = None
    for number, line in _lines(path):
        if line.startswith("#"):
            if match := _HELIX_LINE.match(line):
                x1, y1, x2, y2 = map(float, match.groups())
                psi, tube, track, before = -math.degrees(math.atan2(y2 - y1, x2 - x1)), tube + 1, 0.0, None
            continue
        x, y = _numbers(path, number, line, 2)
        if before:
            track += math.hypot(x - before[0], y - before[1])
        before = x, y
        rows.append((x, y, tube, psi, pixel_size * track))
    return _segment_table(rows)


def _segments_from_ximdisp(path: str, pixel_size: float) -> Table:
    """After a heading, lines of x, y and the filament's angle; another angle is another filament."""
    rows: list[tuple[float, float, int, float, float]] = []
    tube, track = 0, 0.0
    before = (0.0, 0.0, math.inf)
    for number, line in list(_lines(path))[1:]:
        x, y, angle = _numbers(path, number, line, 3)
        if abs(angle - before[2]) > 0.1:
            tube, track = tube + 1, 0.0
        else:
            track += math.hypot(x - before[0], y - before[1])
        before = x, y, angle
        rows.append((x, y, tube, -angle, pixel_size * track))
    return _segment_table(rows)
