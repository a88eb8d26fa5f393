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
            figure = Figure(figsize=(8.3, 11.7), layout="constrained")
            _curves(figure, micrographs, labels[start : start + _PER_PAGE])
            pdf.savefig(figure)
        figure = Figure(figsize=(8.3, 11.7), layout="constrained")
        _pictures(figure, micrographs)
        pdf.savefig(figure)


def _curves(figure: Any, micrographs: Table, labels: list[str]) -> None:
    figure.suptitle(f"CTF estimation: {len(micrographs)} micrographs")
    for row, label in zip(figure.subplots(_PER_PAGE, 2), (*labels, *[""] * _PER_PAGE), strict=False):
        if not label:
            row[0].axis("off")
            row[1].axis("off")
            continue
        values = micrographs.floats(label)
        row[0].plot(np.arange(1, len(values) + 1), values, ".", markersize=3)
        row[0].set(title=_CURVES[label], xlabel="micrograph")
        row[1].hist(values, bins=min(50, max(5, int(np.sqrt(len(values)) * 2))))
        row[1].set(title=_CURVES[label], ylabel="micrographs")


def _pictures(figure: Any, micrographs: Table) -> None:
    """The fits of the poorest resolution."""
    figure.suptitle("The poorest fits: right, the spectrum; top left, averaged along the rings; bottom left, the CTF")
    resolution = micrographs.floats("rlnCtfMaxResolution")
    names, images = micrographs.strings("rlnMicrographName"), micrographs.strings("rlnCtfImage")
    poorest = np.argsort(-resolution, kind="stable")[: _COLUMNS * _ROWS]
    axes = figure.subplots(_ROWS, _COLUMNS).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, poorest, strict=False):
        name = names[index]
        axis.set_title(f"{name[-40:]}\n{resolution[index]:.1f} A", fontsize=5)
        try:
            picture = read_image(images[index].removesuffix(":mrc"))[0]
        except UserError:
            continue  # CTFFIND may have been told to write none; the values still count
        low, high = np.percentile(picture, [1, 99])
        axis.imshow(picture[::2, ::2], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
