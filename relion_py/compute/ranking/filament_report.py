"""The PDF log of a filament selection: which filament has segments in which class, between the two trees.

The picture is that of RELION 5, scripts/filament_selection.in (clusterplot_counts_df, seaborn's cluster map); the line
at the threshold, and the numbers of the clusters, are ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.ranking.filaments import Compositions, Tree, branches, order

MOST = 30
"""Segments of a class in a filament that get the brightest colour, unless there are never so many."""
_INCHES = 12.0
_NAMED = 60  # more names than this on an axis cannot be read
_LEFT, _RIGHT, _BOTTOM, _TOP = 0.17, 0.93, 0.07, 0.77  # of the map, as parts of the page
_BAND = 0.02


def write_report(
    path: str, found: Compositions, trees: tuple[Tree, Tree], labels: NDArray[np.int64], threshold: float
) -> None:
    """Write the PDF. trees: of the classes and of the filaments; labels (F,): cluster of each filament."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES, _INCHES))
    rows, columns = order(trees[0]), order(trees[1])
    wide, high = _RIGHT - _LEFT, _TOP - _BOTTOM
    _map(figure, figure.add_axes((_LEFT, _BOTTOM, wide, high)), found, rows, columns)
    _clusters(figure.add_axes((_LEFT, _TOP + 0.005, wide, _BAND)), labels[columns])
    above = figure.add_axes((_LEFT, _TOP + _BAND + 0.01, wide, 0.93 - _TOP - _BAND))
    _tree(above, trees[1], upright=True)
    above.axhline(threshold, color="tab:red", linestyle="--", linewidth=1)
    _tree(figure.add_axes((0.03, _BOTTOM, _LEFT - 0.035, high)), trees[0], upright=False)
    many = len(np.unique(labels))
    figure.text(
        (_LEFT + _RIGHT) / 2, 0.965, ha="center", fontsize=14,
        s=f"Dendrogram threshold {threshold:g}: {len(labels)} filaments in {many} cluster{'s' * (many > 1)}",
    )  # fmt: skip
    with atomic_file(path) as file, PdfPages(file) as pdf:
        pdf.savefig(figure, dpi=300)


def _map(figure: Any, axes: Any, found: Compositions, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
    """Segments of each class (rows) in each filament (columns)."""
    counts = found.counts[np.ix_(rows, columns)]
    most = min(MOST, counts.max())
    image = axes.imshow(counts, cmap="inferno", vmin=0, vmax=most, aspect="auto", interpolation="none")
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_xlabel("Filament IDs", fontsize=14)
    axes.set_ylabel("2D Class Average Numbers", fontsize=14)
    for axis, names in ((axes.xaxis, columns), (axes.yaxis, found.classes[rows])):
        places = np.arange(0, len(names), max(1, -(-len(names) // _NAMED)))
        axis.set_ticks(places, [str(names[place]) for place in places], fontsize=8)
    axes.tick_params(axis="x", rotation=90)
    bar = figure.add_axes((0.03, _TOP + 0.03, 0.02, 0.15))
    figure.colorbar(image, cax=bar, label="Segments", extend="max" if counts.max() > most else "neither")


def _clusters(axes: Any, labels: NDArray[np.int64]) -> None:
    """A band with a colour for each cluster, and its number where there is room; labels from left to right (F,)."""
    colours = cluster_colours(int(labels.max()))
    axes.imshow(colours[labels - 1][None], aspect="auto", interpolation="none")
    axes.set_axis_off()
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) > 0.02 * len(labels):
            axes.text(places.mean(), 0, str(label), ha="center", va="center", fontsize=9)


def cluster_colours(count: int) -> NDArray[np.float64]:
    """Colours (count, 3), red, green, blue from 0 to 1: hues evenly around the circle, and bright."""
    from matplotlib.colors import hsv_to_rgb

    hues = np.arange(count) / count
    return np.asarray(hsv_to_rgb(np.stack([hues, np.full(count, 0.55), np.full(count, 0.95)], axis=1)))


def _tree(axes: Any, joins: Tree, upright: bool) -> None:
    """The tree above (upright) or on the left of the map."""
    from matplotlib.collections import LineCollection

    lines = branches(joins)[..., :: 1 if upright else -1]
    axes.add_collection(LineCollection(list(lines), colors="black", linewidths=0.6))
    ends, top = (-0.5, len(joins) + 0.5), 1.03 * max(float(joins[:, 2].max()), 1e-6)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    if upright:
        axes.set(xlim=ends, ylim=(0, top), xticks=[], ylabel="Cosine distance")
    else:
        axes.set(xlim=(top, 0), ylim=ends[::-1], xticks=[], yticks=[])
