"""The PDF log of CTF estimation: each value over all micrographs, and the poorest fits.

Source for the choice of curves: RELION 5, ctffind_runner.cpp (joinCtffindResults).
"""

from __future__ import annotations

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.charts import Curve, curve_pages
from relion_py.compute.io.mrc import read_image
from relion_py.compute.io.pdf import Page, write_pages
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
_COLUMNS, _ROWS, _TILE = 3, 4, 185.0


def write_report(path: str, micrographs: Table) -> None:
    """Write the PDF. micrographs: the table of `micrographs_ctf.star`, its pictures where it says."""
    heading = f"CTF estimation: {len(micrographs)} micrographs"
    curves = [Curve(title, micrographs.floats(label)) for label, title in _CURVES.items() if label in micrographs]
    with atomic_file(path) as file:
        write_pages(file, [*curve_pages(heading, curves, "micrograph"), _pictures(micrographs)])


def _pictures(micrographs: Table) -> Page:
    """The fits of the poorest resolution."""
    page = Page()
    words = "The poorest fits: right, the spectrum; top left, averaged along the rings; bottom left, the CTF"
    page.text(page.width / 2, page.height - 40, words, 12, middle=True)
    resolution = micrographs.floats("rlnCtfMaxResolution")
    names, images = micrographs.strings("rlnMicrographName"), micrographs.strings("rlnCtfImage")
    poorest = np.argsort(-resolution, kind="stable")[: _COLUMNS * _ROWS]
    for place, index in enumerate(poorest):
        row, column = divmod(place, _COLUMNS)
        left, top, side = 25 + column * _TILE, page.height - 75 - row * _TILE, 0.9 * _TILE
        page.text(left, top + 9, names[index][-44:], 6)
        page.text(left, top + 3, f"{resolution[index]:.1f} A", 6)
        try:
            picture = read_image(images[index].removesuffix(":mrc"))[0]
        except UserError:
            continue  # CTFFIND may have left none; the values still count
        low, high = np.percentile(picture, [1, 99])
        grey = np.clip((picture[::2, ::2] - low) * (255.0 / max(high - low, 1e-30)), 0, 255)
        page.picture(left, top - side, side, side, grey.astype(np.uint8))
    return page
