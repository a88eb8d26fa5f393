"""Filaments on maps of figures of merit: peaks joined to tracks, or amyloids followed step by step, cut in segments.

Some things are put right here that RELION does otherwise: the length along a shrunk filament is in A of the
micrograph, segments of amyloids are evenly spaced, directions are compared around the circle (in RELION 179 and -179
degrees are far apart), and filaments are not lost with discs that were used up in vain (`join_discs`).

Source: RELION 5, autopicker.cpp (pickCCFPeaks, extractHelicalTubes, exportHelicalTubes, pickAmyloids).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import wrapped
from relion_py.compute.io.star import Table
from relion_py.compute.picking.filament_kernels import grow_peaks, next_step, rounded
from relion_py.compute.picking.micrograph import Geometry, Image, round_half_up

_FEWEST_PIXELS, _FEWEST_HIGH = 100, 10
_LARGEST_SHARE = 0.5  # of pixels above the threshold
_FEWEST_PEAKS = 5
_FEWEST_NEAR = 3  # others, where a track begins
_CROSSING = 1e30  # psi of segments that are left out
_FLIP = 0.5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FilamentSettings:
    """What filaments are like.

    diameter: of the filament; particle: of the circle of the references; rise: between segments; shortest filament
    (not positive: any); local: diameter of the circle whose noise is looked at (not positive: the whole box): all A.
    curvature: the largest, times half of the particle's diameter.
    """

    diameter: float
    particle: float
    rise: float
    shortest: float = -1.0
    curvature: float = 0.25
    amyloid: bool = False
    local: float = -1.0

    def __post_init__(self) -> None:
        if not 0.0001 <= self.curvature <= 1.0001:
            raise UserError(f"--helical_tube_kappa_max must lie between 0 and 1, not {self.curvature:g}.")
        if not self.rise > 0:
            raise UserError("--helix needs --min_distance: the distance between segments along the filament (A).")
        if not 0 < self.diameter <= self.particle:
            raise UserError(
                "--helical_tube_outer_diameter must be positive and not larger than the particle diameter, "
                f"{self.particle:g} A; it is {self.diameter:g}."
            )

    @property
    def noise_diameter(self) -> float:
        """Diameter (A) of the circle whose noise is looked at; not positive: the whole box."""
        return 3 * self.diameter if self.amyloid and self.local < 0 else self.local


def noise_ring(box: int, angpix: float, settings: FilamentSettings) -> NDArray[np.bool_]:
    """Where the noise around a filament is looked at, bool (box, box)."""
    axis = np.arange(box) - box // 2
    squared = axis[:, None] ** 2 + axis**2
    ring = squared >= round_half_up(settings.diameter / (2 * angpix)) ** 2
    if settings.noise_diameter > 0:
        ring &= squared <= round_half_up(settings.noise_diameter / (2 * angpix)) ** 2
    return ring


class Frame:
    """The micrograph's pixels at work, from the centre: first and last column and row, less `side` at the edges."""

    def __init__(self, geometry: Geometry, side: int) -> None:
        self.geometry, self.scale = geometry, geometry.scale
        limits = []
        for pixels in (geometry.columns, geometry.rows):
            length = int(np.float32(pixels) * np.float32(geometry.scale))
            limits += [side - length // 2, length - length // 2 - 1 - side]
        self.limits = np.array(limits)

    def within(self, margin: int) -> NDArray[np.int64]:
        """First and last x, y with a margin."""
        return self.limits + np.array([1, -1, 1, -1]) * margin

    def mask(self) -> NDArray[np.bool_]:
        """Where they are, (work, work)."""
        work = self.geometry.work
        left, right, top, bottom = self.limits + work // 2
        mask = np.zeros((work, work), bool)
        mask[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = True
        return mask

    def on_micrograph(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Pixels of the micrograph."""
        top, left = self.geometry.corner
        middle = self.geometry.work // 2
        return (x + middle) / self.scale - left, (y + middle) / self.scale - top


# --------------------------------------------------------------------------------- tracks through peaks


@dataclass
class Track:
    """A filament at work: points (N, 2), x and y from one end to the other, and its length, pixels."""

    points: Array
    length: float


def pick_filaments(
    merit: Image, reference: NDArray[np.int16], allowed: NDArray[np.bool_], threshold: float, side: int,
    geometry: Geometry, settings: FilamentSettings,
) -> Table:  # fmt: skip
    """Segments of filaments. merit, reference (from 0), allowed: (work, work); side: pixels of the micrograph."""
    scale = geometry.scale
    frame = Frame(geometry, int(side * np.float32(scale)))
    to_work = scale / geometry.angpix
    particle, tube, rise = (length * to_work for length in (settings.particle, settings.diameter, settings.rise))
    if not 0.9999 <= rise <= particle:
        raise UserError(
            f"the distance between segments is {rise:.2g} pixels at work; it must be at least one, and not more than "
            f"the particle's diameter, {particle:.1f}: correct --min_distance, or raise --shrink."
        )
    peaks = find_discs(merit, allowed, threshold, particle, frame)
    tracks = join_discs(peaks, particle, tube, settings.curvature / (particle / 2), rise)
    shortest = settings.shortest * to_work
    segments = [cut_track(track.points, rise) for track in tracks]
    _leave_out_crossings(segments, particle / 2)
    rows: list[tuple[float, ...]] = []
    middle = geometry.work // 2
    left, right, top, bottom = frame.within(1)
    number = 0
    for track, points in zip(tracks, segments, strict=True):
        if shortest > particle and track.length < shortest:
            continue
        number += 1
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points[:, :2], axis=0).T))])
        for (x, y, psi), length in zip(points, along, strict=True):
            column, row = rounded(x), rounded(y)
            if abs(psi) > 360 or not (left <= column <= right and top <= row <= bottom):
                continue
            place = row + middle, column + middle
            rows.append((x, y, reference[place] + 1, merit[place], number, -psi, length / to_work))
    return _table(rows, frame, classes=True)


def find_discs(
    merit: Image, allowed: NDArray[np.bool_], threshold: float, particle: float, frame: Frame
) -> Array:  # fmt: skip
    """Discs (N, 5) of high pixels: x, y, radius, number of high pixels, merit; none overlaps the centre of another.

    None where hardly any pixel, or more than half of them, are high: that is no filament.
    """
    inside = frame.mask() & allowed
    free = inside & (merit > threshold)
    if inside.sum() < _FEWEST_PIXELS or not _FEWEST_HIGH <= free.sum() <= _LARGEST_SHARE * inside.sum():
        return np.zeros((0, 5))
    scale = frame.scale
    share = 0.8 if scale >= 0.5 else max(0.2, 0.2 + 2 * (scale - 0.2))
    high = np.flatnonzero(free)
    order = high[np.argsort(-merit.ravel()[high], kind="stable")]
    discs = grow_peaks(free, order, round_half_up(particle / 2), share, frame.within(1))
    discs[:, 4] = merit.ravel()[discs[:, 4].astype(int)]
    discs = discs[np.lexsort((discs[:, 4], discs[:, 2]))]
    return discs[_uppermost(discs, particle / 2, frame)]


def _uppermost(discs: Array, largest: float, frame: Frame) -> NDArray[np.bool_]:
    """Discs on which no stronger one, later in the list, was laid; too small and too large ones are left out."""
    work = frame.geometry.work
    owner = np.full((work, work), -1)
    left, right, top, bottom = frame.within(1)
    good = np.ones(len(discs), bool)
    for index, (x, y, radius, *_) in enumerate(discs):
        reach = math.ceil(radius)
        if reach <= 1 or reach > largest:
            good[index] = False
            continue
        dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        px, py = rounded(x) + dx, rounded(y) + dy
        laid = (dx**2 + dy**2 <= radius**2) & (px >= left) & (px <= right) & (py >= top) & (py <= bottom)
        place = py[laid] + work // 2, px[laid] + work // 2
        under = owner[place]
        good[under[under >= 0]] = False
        owner[place] = index
    return good


def join_discs(discs: Array, particle: float, tube: float, curvature: float, rise: float) -> list[Track]:
    """Tracks through discs, from the strongest on. particle, tube, rise: pixels at work; curvature: one over these.

    In RELION discs are used up where no track begins, and by tracks that turn out too short, so that whole filaments
    may get lost. Here those are tried again, as far as they lie off the tracks that there are.
    """
    tracks: list[Track] = []
    if len(discs) < _FEWEST_PEAKS:
        return tracks
    used, joined = np.zeros(len(discs), bool), np.zeros(len(discs), bool)
    for again in (False, True):
        for start in range(len(discs) - 1, -1, -1):
            if again:
                used = joined.copy()
            if used[start]:
                continue
            mine = np.zeros(len(discs), bool)
            track = _track_from(discs, start, used, mine, particle, tube, curvature)
            if track is None or len(track.points) < 3 or track.length < max(particle, rise):
                continue
            if again and _nearest(discs[mine], discs[joined]) < particle / 2:
                continue
            tracks.append(track)
            joined |= mine
    return tracks


def _nearest(some: Array, others: Array) -> float:
    """The least distance between discs of two kinds; infinite if there are none of one."""
    apart = some[:, None, :2] - others[:, :2]
    return float(np.hypot(apart[..., 0], apart[..., 1]).min(initial=np.inf))


def _track_from(
    discs: Array, start: int, used: NDArray[np.bool_], mine: NDArray[np.bool_], particle: float,
    tube: float, curvature: float,
) -> Track | None:  # fmt: skip
    """The track through a disc, both ways; its discs are marked in `used` and `mine`. None where too few are near."""
    near, psi, distance = _around(discs, discs[start, :2], particle / 2, ~used)
    used[start] = True
    keep = near != start
    near, psi, distance = near[keep], psi[keep], distance[keep]
    if len(near) < _FEWEST_NEAR:
        return None
    weight = np.maximum(discs[near, 3], 1)
    angles = np.arange(1800) * 0.1
    best = angles[np.argmin((_fold(psi[:, None] - angles) * weight[:, None]).sum(0))]
    fits = np.deg2rad(_fold(psi - best)) / distance <= curvature
    ahead = np.abs(wrapped(psi - best)) <= 90
    mine[start] = True
    ends = []
    for way, direction in ((fits & ~ahead, best + 180), (fits & ahead, best)):
        there = direction + wrapped(psi[way] - direction)
        ends.append(_follow(discs, start, there, distance[way], used, mine, particle, tube, curvature))
    (first, first_length), (second, second_length) = ends
    return Track(np.array([*second[::-1], discs[start, :2], *first]), first_length + second_length)


def _around(
    discs: Array, point: Array, radius: float, wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Array, Array]:
    """Discs nearer than a radius: indices, directions (degrees) and distances."""
    apart = discs[:, :2] - point
    distance = np.hypot(apart[:, 0], apart[:, 1])
    near = np.flatnonzero(wanted & (distance < radius))
    return near, np.rad2deg(np.arctan2(apart[near, 1], apart[near, 0])), np.maximum(distance[near], 1e-6)


def _follow(
    discs: Array, start: int, psis: Array, distances: Array, used: NDArray[np.bool_], mine: NDArray[np.bool_],
    particle: float, tube: float, curvature: float,
) -> tuple[list[Array], float]:  # fmt: skip
    """Points of a track in one direction, and their length; discs of it are marked in `used` and `mine`."""
    points: list[Array] = []
    length = 0.0
    if not len(psis):
        return points, length
    psi, reach = float(psis.mean()), float(distances.max())
    here = discs[start, :2]
    while True:
        along = np.array([math.cos(math.radians(psi)), math.sin(math.radians(psi))])
        there = here + along * reach
        length += reach
        points.append(there)
        apart = discs[:, :2] - (here + there) / 2
        ahead, beside = np.abs(apart @ along), np.abs(apart @ np.array([-along[1], along[0]]))
        half = (reach + tube) / 2
        inside = (ahead < half) & (beside < tube / 2) & ((apart**2).sum(1) <= half**2) & ~mine
        fresh = inside & ~used
        mine |= inside
        used |= inside
        if not fresh.any():
            return points, length
        here = there
        near, psis, distances = _around(discs, here, particle / 2, ~mine)
        turns = wrapped(psis - psi)
        fits = np.deg2rad(np.abs(turns)) / distances < curvature
        if not fits.any():
            return points, length
        weight = np.maximum(discs[near[fits], 3], 1)
        psi, reach = psi + float((turns[fits] * weight).sum() / weight.sum()), float(distances[fits].max())


def _fold(degrees: Array) -> Array:
    """Angles between lines without direction, 0 to 90."""
    turned = np.abs(degrees)
    turned = np.where(turned > 180, np.abs(turned - 360), turned)
    return np.where(turned > 90, np.abs(turned - 180), turned)


def cut_track(points: Array, rise: float) -> Array:
    """Segments (N, 3) every `rise` along a track: x, y, psi (degrees, from x to y); the last end is no segment."""
    out = [(*points[0], math.degrees(math.atan2(*(points[1] - points[0])[::-1])))]
    left = 0.0
    for here, there in pairwise(points):
        way = there - here
        distance, psi = math.hypot(*way), math.atan2(way[1], way[0])
        count = math.floor((left + distance) / rise)
        for step in range(1, count + 1):
            ahead = step * rise - left
            out.append((here[0] + math.cos(psi) * ahead, here[1] + math.sin(psi) * ahead, math.degrees(psi)))
        left += distance - count * rise
    out.append((*points[-1], _CROSSING))
    return np.array(out)


def _leave_out_crossings(segments: Sequence[Array], radius: float) -> None:
    """Mark segments that are near another filament."""
    for index, one in enumerate(segments):
        for other in segments[index + 1 :]:
            apart = np.hypot(one[:, 0, None] - other[:, 0], one[:, 1, None] - other[:, 1]) < radius
            one[apart.any(1), 2] = _CROSSING
            other[apart.any(0), 2] = _CROSSING


# ------------------------------------------------------------------------------------------- amyloids


def pick_amyloids(
    merit: Image, psi: Image, allowed: NDArray[np.bool_], threshold: float, side: int, geometry: Geometry,
    settings: FilamentSettings,
) -> Table:  # fmt: skip
    """Segments of amyloids, each followed in steps of its radius. merit: (work, work), changed; psi: degrees."""
    frame = Frame(geometry, 0)
    scale, angpix = geometry.scale, geometry.angpix
    radius = round_half_up(0.5 * settings.diameter / angpix * scale)
    if radius < 1:
        raise UserError("the filament has less than a pixel at work; raise --shrink, or lower --lowpass.")
    turn = math.degrees(2 * settings.curvature)
    ring = _ring(radius, turn)
    bounds = frame.within(round_half_up(side * scale) + 1) - np.array([0, 1, 0, 1])
    merit = merit.astype(np.float64)
    middle = geometry.work // 2
    rows: list[tuple[float, ...]] = []
    number = 0
    while merit.max() >= threshold:
        row, column = np.unravel_index(int(merit.argmax()), merit.shape)
        x, y, angle, high = float(column - middle), float(row - middle), float(psi[row, column]), merit[row, column]
        points = [(x, y, high)]
        while True:
            x, y, angle, high = next_step(merit, psi, x, y, angle, ring, radius, threshold, turn, bounds)
            if not (high > threshold and allowed[rounded(y) + middle, rounded(x) + middle]):
                break
            points.append((x, y, high))
        if len(points) > 1 and settings.diameter * 0.5 * len(points) > settings.shortest:
            number += 1
            rows += _spaced(points[::-1], settings.rise / angpix * scale, settings.rise, number)
    return _table(rows, frame, classes=False)


def _ring(radius: int, turn: float) -> Array:
    """Steps (R, 2) just beyond a radius that turn by less than `turn` degrees from the x axis, either way."""
    reach = radius + 1
    y, x = (grid.ravel() for grid in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    squared = x**2 + y**2
    keep = (squared > radius**2) & (squared <= reach**2) & (_fold(np.rad2deg(np.arctan2(y, x))) < turn)
    return np.stack([x[keep], y[keep]], 1).astype(np.float64)


def _spaced(
    points: list[tuple[float, float, float]], rise: float, rise_in_a: float, number: int
) -> list[tuple[float, ...]]:
    """Rows of segments every `rise` pixels along the points (x, y, merit)."""
    rows: list[tuple[float, ...]] = []
    position = 0.0
    for (x, y, high), (next_x, next_y, _) in pairwise(points):
        dx, dy = next_x - x, next_y - y
        distance = math.hypot(dx, dy)
        while position < distance:
            part = position / distance
            psi = -math.degrees(math.atan2(dy, dx))
            rows.append((x + part * dx, y + part * dy, 0, high, number, psi, len(rows) * rise_in_a))
            position += rise
        position -= distance
    return rows


def _table(rows: Sequence[tuple[float, ...]], frame: Frame, classes: bool) -> Table:
    """Rows of x, y (at work), class, merit, number of the filament, psi and length (A) as coordinates."""
    values = np.array(rows, np.float64).reshape(-1, 7)
    x, y = frame.on_micrograph(values[:, 0], values[:, 1])
    columns: dict[str, object] = {"rlnCoordinateX": x, "rlnCoordinateY": y}
    if classes:
        columns["rlnClassNumber"] = values[:, 2].astype(int)
    same = np.ones(len(values))
    columns |= {
        "rlnAutopickFigureOfMerit": values[:, 3],
        "rlnHelicalTubeID": values[:, 4].astype(int),
        "rlnAngleTiltPrior": 90 * same,
        "rlnAnglePsiPrior": values[:, 5],
        "rlnHelicalTrackLengthAngst": values[:, 6],
        "rlnAnglePsiFlipRatio": _FLIP * same,
        "rlnAngleRotFlipRatio": _FLIP * same,
    }
    return Table(columns)  # type: ignore[arg-type]
