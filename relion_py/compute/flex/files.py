"""What relion_flex_analyse writes besides maps: weights, components and projections as text, histograms as a PDF.

Names and formats are those of flex_analyser.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.flex.motions import COORDINATES, Components
from relion_py.compute.io.atomic import atomic_file, atomic_write
from relion_py.compute.io.charts import Axes, panels, widened
from relion_py.compute.io.pdf import Page, write_pages

_ROWS, _COLUMNS = 4, 2


def write_weights(path: str, weights: NDArray[np.float64]) -> None:
    """Weights (B, 4) of the coordinates of each body."""
    lines = ["body rot tilt psi offset"]
    lines += [" ".join([str(body), *(f"{value:.6e}" for value in row)]) for body, row in enumerate(weights, 1)]
    _write(path, lines)


def coordinate_names(bodies: int) -> list[str]:
    """Of the columns of the eigenvectors: rot-body-1, tilt-body-1 ..."""
    return [f"{name}-body-{body}" for body in range(1, bodies + 1) for name in COORDINATES]


def write_vectors(path: str, components: Components) -> None:
    """The eigenvectors, one in each line, below the names of the coordinates."""
    lines = ["".join(f"{name} " for name in coordinate_names(len(components.weights)))]
    lines += [" ".join(f"{value:.6e}" for value in vector) for vector in components.vectors]
    _write(path, lines)


def write_projections(path: str, names: Sequence[str], components: Components) -> None:
    """Each particle's image name and its values along all components."""
    _write(
        path,
        [
            f"{name} " + "".join(f"{value:15.6g}" for value in row) + " "
            for name, row in zip(names, components.projections, strict=True)
        ],
    )


def _write(path: str, lines: Sequence[str]) -> None:
    atomic_write(path, ("\n".join(lines) + "\n").encode())


def write_report(path: str, components: Components, bins: int) -> None:
    """The PDF: what part of the variance each component explains, and histograms of the particles along them."""
    count = len(components.variances)
    page = Page()
    page.text(page.width / 2, page.height - 40, f"{len(components.projections)} particles", 13, middle=True)
    axes = Axes(page, *panels(page, 0, 3)[0], "Variance explained by each component")
    percent = 100.0 * components.shares
    axes.scale((0.0, count + 1.0), widened((0.0, float(percent.max())), below=False))
    axes.name("component", "%")
    axes.bars(np.arange(count + 1) + 0.5, percent)
    pages = [page]
    for first in range(0, count, _ROWS * _COLUMNS):
        page = Page()
        page.text(page.width / 2, page.height - 40, "Particles along the components", 13, middle=True)
        for place in range(min(_ROWS * _COLUMNS, count - first)):
            row, column = divmod(place, _COLUMNS)
            k = first + place
            title = f"Component {k + 1} ({percent[k]:.1f} %)"
            axes = Axes(page, *panels(page, row, _ROWS, _COLUMNS)[column], title)
            axes.histogram(components.projections[:, k], bins, "eigenvalue", "particles")
        pages.append(page)
    with atomic_file(path) as file:
        write_pages(file, pages)
