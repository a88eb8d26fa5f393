"""The PDF log of a run: how much each micrograph moved, and the tracks of whole frames and patches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.charts import Curve, Tiles, curve_pages, shortened
from relion_py.compute.io.pdf import BLACK, RED, Page, write_pages
from relion_py.compute.io.star import Table
from relion_py.compute.motion.model import MovieMotion

TRACK_SCALE = 40.0
"""Tracks are drawn that many times longer than they are, as RELION draws them."""

_TILES = Tiles(columns=3, rows=4, step=185.0, left=25.0, below=65.0)
_TITLES = {
    "rlnAccumMotionTotal": "Motion, all frames (px)",
    "rlnAccumMotionEarly": "Motion, early frames (px)",
    "rlnAccumMotionLate": "Motion, late frames (px)",
}


def write_report(path: str, micrographs: Table, motions: Sequence[MovieMotion], tracks: bool = True) -> None:
    """Write the PDF. micrographs: as in `corrected_micrographs.star`. tracks: draw those of `motions`."""
    heading = f"Motion correction: {len(micrographs)} micrographs"
    curves = [
        Curve(title, micrographs.floats(label) if label in micrographs else np.zeros(0))
        for label, title in _TITLES.items()
    ]
    words = f"Tracks, drawn {TRACK_SCALE:g} times as long: blue whole frames, grey patches, black model"
    drawn = _TILES.pages(words, motions if tracks else [], _movie)
    with atomic_file(path) as file:
        write_pages(file, chain(curve_pages(heading, curves, "micrograph"), drawn))


def _movie(page: Page, motion: MovieMotion, left: float, top: float) -> None:
    """A movie's tracks, its first row on top."""
    scale = 0.92 * _TILES.step / max(motion.size_x, motion.size_y)

    def placed(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([left, top]) + points * [scale, -scale]

    wide, high = motion.size_x * scale, motion.size_y * scale
    page.text(left, top + 3, shortened(motion.movie, 44), 6)
    page.frame(left, top - high, wide, high, "0.85 0.85 0.85")
    middle = np.array([motion.size_x, motion.size_y]) / 2
    whole = placed(middle + TRACK_SCALE * motion.shifts[motion.observed()])
    patches = [(placed(observed), placed(fitted)) for observed, fitted in _patch_tracks(motion)]
    page.lines([observed for observed, _ in patches], "0.75 0.75 0.75")
    page.lines([fitted for _, fitted in patches], BLACK)
    page.lines([whole], "0 0 1")
    page.dots(np.concatenate([whole[:1], *(fitted[:1] for _, fitted in patches)]), RED, 1.4)


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
