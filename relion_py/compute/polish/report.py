"""The PDF log of polishing: B-factors and scale factors of the frames, and the tracks of all micrographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.polish.bfactors import FrameFactors

TRACK_SCALE = 30.0
"""Tracks are drawn that many times longer than they are, as RELION draws them."""

_COLUMNS, _ROWS = 2, 3
_A4 = (8.3, 11.7)


@dataclass(frozen=True)
class MicrographTracks:
    """One micrograph: name, size (x, y), places (P, 2) and tracks (P, F, 2), all in pixels of the coordinates."""

    name: str
    size: tuple[float, float]
    places: NDArray[np.float64]
    tracks: NDArray[np.float64]


def write_report(path: str, factors: FrameFactors, first_frame: int, micrographs: Sequence[MicrographTracks]) -> None:
    """Write the PDF. first_frame: number, from 1, of the first frame in use."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with atomic_file(path) as file, PdfPages(file) as pdf:
        figure = Figure(figsize=_A4, layout="constrained")
        _factors(figure, factors, first_frame)
        pdf.savefig(figure)
        per_page = _COLUMNS * _ROWS
        for start in range(0, len(micrographs), per_page):
            figure = Figure(figsize=_A4)
            figure.subplots_adjust(left=0.03, right=0.97, bottom=0.02, top=0.93, wspace=0.05, hspace=0.12)
            figure.suptitle(f"Tracks, drawn {TRACK_SCALE:g} times as long: black particles, red starts, blue mean")
            axes = figure.subplots(_ROWS, _COLUMNS).ravel()
            for axis in axes:
                axis.set_axis_off()
            for axis, micrograph in zip(axes, micrographs[start : start + per_page], strict=False):
                _tracks(axis, micrograph)
            pdf.savefig(figure)


def _factors(figure: Any, factors: FrameFactors, first_frame: int) -> None:
    upper, lower = figure.subplots(2, 1)
    frames = first_frame + np.arange(len(factors.sigma))
    upper.plot(frames, factors.bfactors(), "o-", markersize=3)
    upper.set(title="Polishing B-factors", xlabel="movie frame", ylabel="B-factor (A$^2$)")
    lower.plot(frames, np.log(np.maximum(factors.scale, 1e-20)), "o-", markersize=3)
    lower.set(title="Polishing scale factors", xlabel="movie frame", ylabel="logarithm of the scale factor")


def _tracks(axis: Any, micrograph: MicrographTracks) -> None:
    from matplotlib.collections import LineCollection

    width, height = micrograph.size
    axis.set_axis_on()
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axis.set_title(_short(micrograph.name), fontsize=7)
    lines = micrograph.places[:, None] + TRACK_SCALE * micrograph.tracks
    axis.add_collection(LineCollection(list(lines), colors="black", linewidths=0.6))
    axis.plot(*lines[:, 0].T, "r.", markersize=2)
    mean = np.array([width, height]) / 2 + TRACK_SCALE * micrograph.tracks.mean(axis=0)
    axis.plot(*mean.T, "b-", linewidth=1.2)


def _short(name: str) -> str:
    return name if len(name) <= 50 else "..." + name[-47:]
