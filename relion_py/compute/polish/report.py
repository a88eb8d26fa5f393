"""The PDF log of polishing: B-factors and scale factors of the frames, and the tracks of all micrographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.charts import Axes, Tiles, ends, panels, shortened, widened
from relion_py.compute.io.pdf import BLACK, RED, Page, write_pages
from relion_py.compute.polish.bfactors import FrameFactors

TRACK_SCALE = 30.0
"""Tracks are drawn that many times longer than they are, as RELION draws them."""

_TILES = Tiles(columns=2, rows=3, step=250.0, left=57.0, below=75.0)


@dataclass(frozen=True)
class MicrographTracks:
    """One micrograph: name, size (x, y), places (P, 2) and tracks (P, F, 2), all in pixels of the coordinates."""

    name: str
    size: tuple[float, float]
    places: NDArray[np.float64]
    tracks: NDArray[np.float64]


def write_report(path: str, factors: FrameFactors, first_frame: int, micrographs: Sequence[MicrographTracks]) -> None:
    """Write the PDF. first_frame: number, from 1, of the first frame in use."""
    words = f"Tracks, drawn {TRACK_SCALE:g} times as long: black particles, red starts, blue mean"
    with atomic_file(path) as file:
        write_pages(file, chain([_factors(factors, first_frame)], _TILES.pages(words, micrographs, _micrograph)))


def _factors(factors: FrameFactors, first_frame: int) -> Page:
    page = Page()
    frames = first_frame + np.arange(len(factors.sigma), dtype=np.float64)
    shown = (
        ("Polishing B-factors", "B-factor (Å²)", factors.bfactors()),
        ("Polishing scale factors", "logarithm of the scale factor", np.log(np.maximum(factors.scale, 1e-20))),
    )
    for row, (title, name, values) in enumerate(shown):
        axes = Axes(page, *panels(page, row, 2)[0], title)
        axes.scale(widened(ends(frames)), widened(ends(values)))
        axes.name("movie frame", name)
        axes.curve(frames, values)
        axes.dots(frames, values)
    return page


def _micrograph(page: Page, micrograph: MicrographTracks, left: float, top: float) -> None:
    """A micrograph's tracks, its first row on top."""
    width, height = micrograph.size
    scale = 0.92 * _TILES.step / max(width, height)
    frame = left, top - height * scale, width * scale, height * scale
    tracks = micrograph.places[:, None] + TRACK_SCALE * micrograph.tracks
    mean = np.array([width, height]) / 2 + TRACK_SCALE * micrograph.tracks.mean(axis=0)
    tracks, mean = (np.array([left, top]) + points * [scale, -scale] for points in (tracks, mean))
    page.text(left, top + 4, shortened(micrograph.name, 50), 7)
    with page.within(*frame):
        page.lines(list(tracks), BLACK, 0.6)
        page.dots(tracks[:, 0], RED, 1.4)
        page.lines([mean], "0 0 1", 1.2)
    page.frame(*frame)
