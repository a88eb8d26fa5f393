"""The PDF log of automatic picking: particles and figures of merit over all micrographs.

Source for the choice of curves: RELION 5, autopicker.cpp (generatePDFLogfile).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.charts import Curve, curve_pages
from relion_py.compute.io.pdf import write_pages
from relion_py.compute.picking.autopick_files import Done


def write_report(path: str, done: Sequence[Done]) -> None:
    """Write the PDF. done: the micrographs with coordinates, at least one."""
    particles = np.array([one.particles for one in done], np.float64)
    curves = [
        Curve("Particles per micrograph", particles),
        Curve("Mean figure of merit", np.array([one.merit for one in done])),
    ]
    heading = f"Automatic picking: {particles.sum():.0f} particles on {len(done)} micrographs"
    with atomic_file(path) as file:
        write_pages(file, curve_pages(heading, curves, "micrograph"))
