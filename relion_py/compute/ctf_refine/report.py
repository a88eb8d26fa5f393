"""The PDF log of CTF refinement: fits of optics groups, and what became of the particles' CTFs.

Source for the choice of pages: RELION 5, ctf_refiner.cpp (finalise), defocus_estimator.cpp (writeEPS) and
bfactor_refiner.cpp (writePerParticleEPS).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine.micrographs import Micrograph
from relion_py.compute.ctf_refine.results import Picture, Results
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.charts import Axes, panels
from relion_py.compute.io.particles import ParticleTable
from relion_py.compute.io.pdf import Page, write_pages

_COLUMNS, _ROWS, _TILE = 3, 4, 185.0
_SHADES = 20
_BLUE_TO_RED = np.array(
    [
        (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
        (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
    ]
)  # fmt: skip
"""Cynthia Brewer's diverging colours from blue to red."""
_HISTOGRAMS = {
    "defocus_u": "Change of the mean defocus (A)",
    "phase_shift": "Phase shift (degrees)",
    "cs": "Spherical aberration (mm)",
    "bfactor": "B-factor (A²)",
    "scale": "Scale of the CTF",
}


def write_report(
    path: str,
    table: ParticleTable,
    before: CtfParams,
    results: Results,
    micrographs: Sequence[Micrograph],
    fitted: Sequence[str],
) -> None:
    """Write the PDF. before: the CTFs that the job began with; fitted: fields of CtfParams that it changed."""
    pages = [_picture_page(picture) for picture in results.pictures]
    if fitted:
        pages.append(_histograms(before, results.params, [name for name in _HISTOGRAMS if name in fitted]))
    if "defocus_u" in fitted and "rlnCoordinateX" in table and "rlnCoordinateY" in table:
        pages.append(_micrographs(table, results.params, micrographs))
    with atomic_file(path) as file:
        write_pages(file, pages or [_titled("CTF refinement: nothing was fitted")])


def _titled(words: str) -> Page:
    page = Page()
    page.text(page.width / 2, page.height - 40, words, 12, middle=True)
    return page


def _picture_page(picture: Picture) -> Page:
    """Images in two columns, each with its caption above, the first row at the bottom; blue below zero."""
    page, side = _titled(picture.title), 262.0
    rows = -(-len(picture.images) // 2)
    step = min(side + 30, (page.height - 80) / rows)
    side = min(side, step - 20)
    for place, (caption, image, scale) in enumerate(picture.images):
        row, column = divmod(place, 2)
        left, bottom = 25 + column * 280, page.height - 75 - row * step - side
        page.text(left + side / 2, bottom + side + 5, caption, 9, middle=True)
        page.picture(left, bottom, side, side, _coloured(image[::-1], scale))
    return page


def _coloured(image: NDArray[np.float32], scale: float) -> NDArray[np.uint8]:
    """Values from -scale to scale in colours, uint8 (s, s, 3)."""
    part = np.nan_to_num(np.clip(image / (scale or 1.0), -1, 1))
    levels = np.linspace(-1, 1, len(_BLUE_TO_RED))
    return np.stack([np.interp(part, levels, channel) for channel in _BLUE_TO_RED.T], axis=-1).astype(np.uint8)


def _histograms(before: CtfParams, after: CtfParams, names: list[str]) -> Page:
    page = _titled(f"CTF refinement: {len(after)} particles")
    for row, name in enumerate(names):
        values = np.asarray(getattr(after, name), np.float64)
        if name == "defocus_u":
            values = 0.5 * (after.defocus_u + after.defocus_v - before.defocus_u - before.defocus_v)
        bins = min(80, max(10, int(np.sqrt(len(values)) * 2)))
        place = panels(page, row, max(2, len(names)))[0]
        Axes(page, *place, _HISTOGRAMS[name]).histogram(values, bins, "", "particles")
    return page


def _micrographs(table: ParticleTable, params: CtfParams, micrographs: Sequence[Micrograph]) -> Page:
    """Up to twelve micrographs: their particles where they lie, the least defocus blue, the largest orange."""
    shown = [micrographs[i] for i in np.unique(np.linspace(0, len(micrographs) - 1, _COLUMNS * _ROWS).astype(int))]
    page = _titled(f"Defocus of particles in {len(shown)} of {len(micrographs)} micrographs, blue to orange")
    places = np.stack([table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")], axis=1)
    mean = 0.5 * (params.defocus_u + params.defocus_v)
    for number, one in enumerate(shown):
        row, column = divmod(number, _COLUMNS)
        left, bottom, side = 25 + column * _TILE, page.height - 75 - (row + 1) * _TILE + 0.12 * _TILE, 0.88 * _TILE
        values, points = mean[one.rows], places[one.rows]
        low, high = float(values.min()), float(values.max())
        page.text(left, bottom + side + 10, one.name[-44:], 6)
        page.text(left, bottom + side + 3, f"range {high - low:.0f} A", 6)
        page.frame(left, bottom, side, side)
        corner, extent = points.min(axis=0), float(np.ptp(points, axis=0).max())
        points = np.array([left, bottom]) + 0.04 * side + (points - corner) * (0.92 * side / (extent or 1.0))
        shade = np.rint((values - low) / (high - low) * _SHADES) if high > low else np.full(len(values), _SHADES / 2)
        for level in np.unique(shade):
            part = level / _SHADES
            page.dots(points[shade == level], f"{part:.3f} {0.8 * part:.3f} {1 - part:.3f}", 3.0)
    return page
