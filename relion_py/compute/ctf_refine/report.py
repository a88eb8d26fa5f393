"""The PDF log of CTF refinement: fits of optics groups, and what became of the particles' CTFs.

Source for the choice of pages: RELION 5, ctf_refiner.cpp (finalise), defocus_estimator.cpp (writeEPS) and
bfactor_refiner.cpp (writePerParticleEPS).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relion_py.compute.ctf_refine.micrographs import Micrograph
from relion_py.compute.ctf_refine.results import Picture, Results
from relion_py.compute.image.ctf import CtfParams
from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.particles import ParticleTable

_A4 = (8.3, 11.7)
_COLUMNS, _ROWS = 3, 4
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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with atomic_file(path) as file, PdfPages(file) as pdf:
        for picture in results.pictures:
            figure = Figure(figsize=_A4)
            _draw(figure, picture)
            pdf.savefig(figure)
        if fitted:
            figure = Figure(figsize=_A4)
            _histograms(figure, before, results.params, [name for name in _HISTOGRAMS if name in fitted])
            pdf.savefig(figure)
        if "defocus_u" in fitted and "rlnCoordinateX" in table and "rlnCoordinateY" in table:
            figure = Figure(figsize=_A4)
            _micrographs(figure, table, results.params, micrographs)
            pdf.savefig(figure)
        if not results.pictures and not fitted:
            figure = Figure(figsize=_A4)
            figure.suptitle("CTF refinement: nothing was fitted")
            pdf.savefig(figure)


def _draw(figure: Any, picture: Picture) -> None:
    figure.suptitle(picture.title, fontsize=11)
    axes = figure.subplots(-(-len(picture.images) // 2), 2, squeeze=False)
    for axis, (caption, image, scale) in zip(axes.ravel(), picture.images, strict=False):
        axis.imshow(image, cmap="RdBu_r", vmin=-scale, vmax=scale, origin="lower", interpolation="nearest")
        axis.set_title(caption, fontsize=9)
        axis.axis("off")
    figure.subplots_adjust(left=0.04, right=0.96, top=0.92, bottom=0.04, hspace=0.1, wspace=0.06)


def _histograms(figure: Any, before: CtfParams, after: CtfParams, names: list[str]) -> None:
    figure.suptitle(f"CTF refinement: {len(after)} particles")
    axes = figure.subplots(max(2, len(names)), 1, squeeze=False)[:, 0]
    for axis, name in zip(axes, names, strict=False):
        values = getattr(after, name)
        if name == "defocus_u":
            values = 0.5 * (after.defocus_u + after.defocus_v - before.defocus_u - before.defocus_v)
        axis.hist(values, bins=min(80, max(10, int(np.sqrt(len(values)) * 2))))
        axis.set(title=_HISTOGRAMS[name], ylabel="particles")
    for axis in axes[len(names) :]:
        axis.axis("off")
    figure.subplots_adjust(left=0.1, right=0.96, top=0.92, bottom=0.05, hspace=0.45)


def _micrographs(figure: Any, table: ParticleTable, params: CtfParams, micrographs: Sequence[Micrograph]) -> None:
    """Up to twelve micrographs: their particles where they lie, the least defocus blue, the largest orange."""
    shown = [micrographs[i] for i in np.unique(np.linspace(0, len(micrographs) - 1, _COLUMNS * _ROWS).astype(int))]
    figure.suptitle(f"Defocus of particles in {len(shown)} of {len(micrographs)} micrographs, blue to orange")
    axes = figure.subplots(_ROWS, _COLUMNS)
    x, y = table.floats("rlnCoordinateX"), table.floats("rlnCoordinateY")
    mean = 0.5 * (params.defocus_u + params.defocus_v)
    for axis, one in zip(axes.ravel(), shown, strict=False):
        values = mean[one.rows]
        low, high = float(values.min()), float(values.max())
        part = ((values - low) / (high - low) if high > low else np.full(len(values), 0.5))[:, None]
        colours = np.hstack([part, 0.8 * part, 1.0 - part])
        axis.scatter(x[one.rows], y[one.rows], s=9, c=colours)
        axis.set_title(f"{one.name[-34:]}\nrange {high - low:.0f} A", fontsize=6)
        axis.set(xticks=[], yticks=[], aspect="equal")
    for axis in axes.ravel()[len(shown) :]:
        axis.axis("off")
    figure.subplots_adjust(left=0.04, right=0.97, top=0.9, bottom=0.03, hspace=0.3, wspace=0.1)
