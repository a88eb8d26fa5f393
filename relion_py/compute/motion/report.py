"""The PDF log of a run: how much each micrograph moved, and the tracks of whole frames and patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.star import Table
from relion_py.compute.motion.model import MovieMotion

TRACK_SCALE = 40.0
"""Tracks are drawn that many times longer than they are, as RELION draws them."""

_COLUMNS, _ROWS = 3, 4
_TITLES = {
    "rlnAccumMotionTotal": "Motion, all frames (px)",
    "rlnAccumMotionEarly": "Motion, early frames (px)",
    "rlnAccumMotionLate": "Motion, late frames (px)",
}


def write_report(path: str, micrographs: Table, motions: Sequence[MovieMotion], tracks: bool = True) -> None:
    """Write the PDF. micrographs: as in `corrected_micrographs.star`. tracks: draw those of `motions`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with atomic_file(path) as file, PdfPages(file) as pdf:
        figure = Figure(figsize=(8.3, 11.7), layout="constrained")
        _statistics(figure, micrographs)
        pdf.savefig(figure)
        per_page = _COLUMNS * _ROWS
        for start in range(0, len(motions) if tracks else 0, per_page):
            figure = Figure(figsize=(8.3, 11.7))
            _tracks(figure, motions[start : start + per_page])
            pdf.savefig(figure)


def _statistics(figure: Any, micrographs: Table) -> None:
    axes = figure.subplots(3, 2)
    for (values_axis, histogram_axis), (label, title) in zip(axes, _TITLES.items(), strict=True):
        values = micrographs.floats(label) if label in micrographs else np.zeros(0)
        values_axis.plot(np.arange(1, len(values) + 1), values, ".", markersize=3)
        values_axis.set(title=title, xlabel="micrograph", ylabel="px")
        if len(values):
            histogram_axis.hist(values, bins=min(50, max(5, int(np.sqrt(len(values)) * 2))))
        histogram_axis.set(title=title, xlabel="px", ylabel="micrographs")
    figure.suptitle(f"Motion correction: {len(micrographs)} micrographs")


def _tracks(figure: Any, motions: Sequence[MovieMotion]) -> None:
    """All tracks of a page in one pair of axes, a tile for each movie: axes of their own would be slow."""
    from matplotlib.collections import LineCollection

    axis = figure.add_axes((0.02, 0.02, 0.96, 0.93))
    axis.set(xlim=(0, _COLUMNS), ylim=(_ROWS, 0), xticks=[], yticks=[], frame_on=False)
    figure.suptitle(f"Tracks, drawn {TRACK_SCALE:g} times as long: blue whole frames, grey patches, black model")
    groups: dict[str, list[NDArray[np.float64]]] = {"silver": [], "black": [], "blue": [], "gainsboro": []}
    starts = []
    for place, motion in enumerate(motions):
        row, column = divmod(place, _COLUMNS)
        side = max(motion.size_x, motion.size_y)

        def tile(points: NDArray[np.float64], at: Any = (column, row), side: int = side) -> NDArray[np.float64]:
            return np.asarray(at) + [0.03, 0.1] + 0.88 * points / side

        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * (motion.size_x, motion.size_y)
        groups["gainsboro"].append(tile(corners))
        middle = np.array([motion.size_x, motion.size_y]) / 2
        whole = middle + TRACK_SCALE * motion.shifts[motion.observed()]
        groups["blue"].append(tile(whole))
        starts.append(tile(whole[:1]))
        for observed, fitted in _patch_tracks(motion):
            groups["silver"].append(tile(observed))
            groups["black"].append(tile(fitted))
            starts.append(tile(fitted[:1]))
        axis.text(column + 0.03, row + 0.07, _short(motion.movie), fontsize=6, clip_on=True)
    for colour, lines in groups.items():
        axis.add_collection(LineCollection(lines, colors=colour, linewidths=0.7))
    axis.plot(*np.concatenate(starts).T, "r.", markersize=2)


def _patch_tracks(motion: MovieMotion) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each patch the observed and the fitted track, points (n, 2) in pixels."""
    local = motion.local
    if local is None or not len(local.frame):
        return []
    centres = np.stack([local.x, local.y], axis=1)
    observed = centres + TRACK_SCALE * np.stack([local.shift_x, local.shift_y], axis=1)
    fitted = centres.copy()
    if motion.model is not None:
        place = (local.x / motion.size_x - 0.5, local.y / motion.size_y - 0.5)
        shifts = motion.model.shifts(local.frame - motion.first_frame, *place)
        fitted += TRACK_SCALE * motion.binning * shifts.T
    breaks = np.nonzero((np.diff(centres, axis=0) != 0).any(axis=1))[0] + 1
    return list(zip(np.split(observed, breaks), np.split(fitted, breaks), strict=True))


def _short(name: str) -> str:
    return name if len(name) <= 44 else "..." + name[-41:]
