"""The PDF log of automatic picking: particles and figures of merit over all micrographs.

Source for the choice of curves: RELION 5, autopicker.cpp (generatePDFLogfile).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.picking.autopick_files import Done

_A4 = (8.3, 11.7)


def write_report(path: str, done: Sequence[Done]) -> None:
    """Write the PDF. done: the micrographs with coordinates, at least one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    particles = np.array([one.particles for one in done])
    curves = {
        "Particles per micrograph": particles,
        "Mean figure of merit": np.array([one.merit for one in done]),
    }
    figure = Figure(figsize=_A4)
    figure.suptitle(f"Automatic picking: {particles.sum()} particles on {len(done)} micrographs")
    axes = figure.subplots(2, 2, squeeze=False)
    for row, (title, values) in enumerate(curves.items()):
        axes[row, 0].plot(np.arange(1, len(values) + 1), values, ".", markersize=3)
        axes[row, 0].set(title=title, xlabel="micrograph")
        axes[row, 1].hist(values, bins=min(50, max(5, int(np.sqrt(len(values)) * 2))))
        axes[row, 1].set(title=title, ylabel="micrographs")
    figure.subplots_adjust(hspace=0.25, left=0.1, right=0.96, top=0.92, bottom=0.06)
    with atomic_file(path) as file:
        figure.savefig(file, format="pdf")
