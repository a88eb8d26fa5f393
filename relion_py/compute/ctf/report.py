"""The PDF log of CTF estimation: each value over all micrographs, and the poorest fits.

Source for the choice of curves: RELION 5, ctffind_runner.cpp (joinCtffindResults).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.mrc import read_image
from relion_py.compute.io.star import Table

_CURVES = {
    "rlnDefocusU": "Defocus U (A)",
    "rlnDefocusAngle": "Angle of U (degrees)",
    "rlnCtfAstigmatism": "Astigmatism (A)",
    "rlnCtfMaxResolution": "Rings fit to (A)",
    "rlnPhaseShift": "Phase shift (degrees)",
    "rlnCtfFigureOfMerit": "Figure of merit",
    "rlnCtfIceRingDensity": "Ice ring density",
}
_PER_PAGE = 4
_A4 = (8.3, 11.7)
_COLUMNS, _ROWS = 3, 4


def write_report(path: str, micrographs: Table) -> None:
    """Write the PDF. micrographs: the table of `micrographs_ctf.star`, its pictures where it says."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    labels = [label for label in _CURVES if label in micrographs]
    with atomic_file(path) as file, PdfPages(file) as pdf:
        for start in range(0, len(labels), _PER_PAGE):
            figure = Figure(figsize=_A4)
            _curves(figure, micrographs, labels[start : start + _PER_PAGE])
            pdf.savefig(figure)
        figure = Figure(figsize=_A4)
        _pictures(figure, micrographs)
        pdf.savefig(figure)


def _curves(figure: Any, micrographs: Table, labels: list[str]) -> None:
    figure.suptitle(f"CTF estimation: {len(micrographs)} micrographs")
    grid = figure.add_gridspec(_PER_PAGE, 2, hspace=0.5, left=0.1, right=0.96, top=0.93, bottom=0.05)
    for row, label in enumerate(labels):
        values = micrographs.floats(label)
        axis = figure.add_subplot(grid[row, 0])
        axis.plot(np.arange(1, len(values) + 1), values, ".", markersize=3)
        axis.set(title=_CURVES[label], xlabel="micrograph")
        axis = figure.add_subplot(grid[row, 1])
        axis.hist(values, bins=min(50, max(5, int(np.sqrt(len(values)) * 2))))
        axis.set(title=_CURVES[label], ylabel="micrographs")


def _pictures(figure: Any, micrographs: Table) -> None:
    """The fits of the poorest resolution, as tiles of one pair of axes: axes of their own would be slow."""
    figure.suptitle(
        "The poorest fits: right, the spectrum; top left, averaged along the rings; bottom left, the CTF",
        fontsize=10,
    )
    axis = figure.add_axes((0.03, 0.02, 0.94, 0.92))
    axis.set(xlim=(0, _COLUMNS), ylim=(_ROWS, 0), frame_on=False)
    axis.axis("off")
    resolution = micrographs.floats("rlnCtfMaxResolution")
    names, images = micrographs.strings("rlnMicrographName"), micrographs.strings("rlnCtfImage")
    poorest = np.argsort(-resolution, kind="stable")[: _COLUMNS * _ROWS]
    for place, index in enumerate(poorest):
        row, column = divmod(place, _COLUMNS)
        axis.text(column + 0.03, row + 0.06, names[index][-44:], fontsize=5)
        axis.text(column + 0.03, row + 0.11, f"{resolution[index]:.1f} A", fontsize=5)
        try:
            picture = read_image(images[index].removesuffix(":mrc"))[0]
        except UserError:
            continue  # CTFFIND may have left none; the values still count
        low, high = np.percentile(picture, [1, 99])
        extent = (column + 0.03, column + 0.97, row + 0.97, row + 0.13)
        axis.imshow(picture[::2, ::2], cmap="gray", vmin=low, vmax=high, interpolation="nearest", extent=extent)
    axis.set(xlim=(0, _COLUMNS), ylim=(_ROWS, 0), aspect="auto")
