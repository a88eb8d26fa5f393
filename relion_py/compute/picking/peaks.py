"""Peaks of figure-of-merit maps, thinned out to one per particle.

Source: RELION 5, autopicker.cpp (peakSearch, prunePeakClusters, removeTooCloselyNeighbouringPeaks).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.picking.kernels import clusters, keep_apart, lonely, peaks_of
from relion_py.compute.picking.micrograph import Geometry, Image

Area = tuple[slice, slice]
"""Rows and columns of a map."""


@dataclass(frozen=True)
class Peaks:
    """Peaks at work: row and column int64 (N,), figure of merit float32, psi (degrees) float32, reference (from 0)."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    merit: Image
    psi: Image
    reference: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: NDArray[np.generic]) -> Peaks:
        return Peaks(
            self.row[index], self.column[index], self.merit[index], self.psi[index], self.reference[index]
        )  # fmt: skip

    @property
    def points(self) -> NDArray[np.float64]:
        """Rows and columns (N, 2)."""
        return np.stack([self.row, self.column], 1).astype(np.float64)


def joined(parts: list[Peaks]) -> Peaks:
    """One list after the other."""
    names = ("row", "column", "merit", "psi", "reference")
    return Peaks(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def work_area(geometry: Geometry, side: int) -> Area:
    """Rows and columns at work where picks may be; side: pixels of the micrograph left out at its edges."""
    side = max(1, int(side * np.float32(geometry.scale)))
    area = []
    for pixels in (geometry.rows, geometry.columns):
        # as RELION: the micrograph's pixels at work, rounded down, around the centre
        length = int(np.float32(pixels) * np.float32(geometry.scale))
        start = geometry.work // 2 - length // 2
        area.append(slice(start + side, max(start + side, start + length - side)))
    return area[0], area[1]


def widened(area: Area, work: int) -> Area:
    """An area and its direct neighbours in a map of `work` pixels; nothing around an empty one."""
    rows, columns = (slice(max(0, one.start - 1), min(work, one.stop + 1)) for one in area)
    return (rows, columns) if all(one.stop > one.start for one in area) else area


def find_peaks(
    merit: Image, psi: Image, allowed: NDArray[np.bool_], area: Area, threshold: float, shrunk: bool,
    reference: int,
) -> Peaks:  # fmt: skip
    """Pixels of an area that no direct neighbour exceeds, at least `threshold` high, and where it is allowed.

    merit, psi, allowed: (work, work). shrunk: whether the map has fewer pixels than the micrograph; where it has as
    many, all four neighbours must reach the threshold, too.
    """
    rows, columns = area
    least = np.float32(threshold)
    beside, room = np.float32(-np.inf) if shrunk else least, 1024
    while True:
        row, column = np.empty((2, room), np.int64)
        found = peaks_of(
            merit, allowed, rows.start, rows.stop, columns.start, columns.stop, least, beside, row, column
        )  # fmt: skip
        if found <= room:
            break
        room = found
    row, column = row[:found], column[:found]
    return Peaks(row, column, merit[row, column], psi[row, column], np.full(len(row), reference))


def prune_clusters(peaks: Peaks, radius: float, distance: float) -> Peaks:
    """The best peak of each cluster, and its next best beyond `distance` (pixels at work) of those already taken.

    Peaks are of one cluster if steps of less than `radius` lead from one to the other.
    """
    if not len(peaks):
        return peaks
    points = peaks.points
    # clusters in the order of their first peaks
    first, kept = np.arange(len(points)), np.ones(len(points), bool)
    clusters(points, np.argsort(points[:, 0]), radius * radius - 1e-6, first)
    order = np.lexsort((-peaks.merit, first))
    keep_apart(points[order], first[order], distance, kept)
    return peaks[order[kept]]


def remove_crowded(peaks: Peaks, distance: float) -> Peaks:
    """Only the peaks that have no other within `distance` (pixels at work)."""
    if len(peaks) < 2:
        return peaks
    points, alone = peaks.points, np.ones(len(peaks), bool)
    lonely(points, np.argsort(points[:, 0]), float(np.float32(distance) ** 2 + 1e-6), alone)
    return peaks[alone]
