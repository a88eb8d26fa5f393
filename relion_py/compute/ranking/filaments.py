"""Filaments told apart by the 2D classes of their segments: hierarchical clustering of class compositions.

A filament is described by how many of its segments are in each 2D class. Filaments whose compositions point the
same way (cosine distance) are joined first; the tree of the joins, cut at a height, gives clusters. The classes are
ordered by a tree of the same kind, so that classes of one type of filament lie side by side.

Facts: D. Li's FilamentTools in RELION 5, scripts/filament_selection.in (compute_particle_counts_df,
clusterplot_counts_df, typecluster_compute_dendrogram_threshold_labels); average linkage (UPGMA) as SciPy has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy

from relion_py.compute.errors import UserError
from relion_py.compute.io.star import Table

TUBE, MICROGRAPH, TRACK, CLASS = (
    "rlnHelicalTubeID",
    "rlnMicrographName",
    "rlnHelicalTrackLengthAngst",
    "rlnClassNumber",
)
Tree = NDArray[np.float64]


@dataclass(frozen=True)
class Compositions:
    """What the filaments are made of.

    classes: numbers (from 1) of the classes that have segments, ascending, (K,). counts: segments of each class
    in each filament, float64 (K, F). class_index, filament_index: of each segment (N,), from 0; filaments are
    numbered as they first appear. names: of each filament, its tube's number and its micrograph.
    """

    classes: NDArray[np.int64]
    counts: NDArray[np.float64]
    class_index: NDArray[np.int64]
    filament_index: NDArray[np.int64]
    names: list[tuple[str, str]]


def compositions(segments: Table, where: str) -> Compositions:
    """Classes and filaments of helical segments; `where` names their file in errors.

    Raises UserError for segments without filament or class, for a segment that is listed twice, and where there are
    fewer than two filaments or classes, so that nothing can be told apart.
    """
    missing = [f"_{label}" for label in (TUBE, MICROGRAPH, TRACK, CLASS) if label not in segments]
    if missing:
        raise UserError(
            f"{where} has no {', '.join(missing)}: filaments can be selected after a 2D classification of helical "
            "segments only."
        )
    numbers: dict[tuple[str, str], int] = {}
    pairs = zip(map(str, segments.ints(TUBE)), segments.strings(MICROGRAPH), strict=True)
    filament_index = np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs], np.int64)
    _refuse_copies(segments, filament_index, where)
    classes, class_index = np.unique(segments.ints(CLASS), return_inverse=True)
    if len(classes) < 2 or len(numbers) < 2:
        few = "one filament" if len(numbers) == 1 else "one class" if len(classes) == 1 else "no filament"
        raise UserError(f"The segments of {where} are of {few} only: there is nothing to tell filaments apart by.")
    counts = np.zeros((len(classes), len(numbers)))
    np.add.at(counts, (class_index, filament_index), 1.0)
    return Compositions(classes, counts, class_index, filament_index, list(numbers))


def _refuse_copies(segments: Table, filament_index: NDArray[np.int64], where: str) -> None:
    """Two segments at the same place of a filament would count twice (hash_particle_df asserts there are none)."""
    places = np.stack([filament_index.astype(np.float64), segments.floats(TRACK)], axis=1)
    _, first, times = np.unique(places, axis=0, return_index=True, return_counts=True)
    if (times > 1).any():
        row = int(first[times > 1].min())
        copies = int((times - 1).sum())
        raise UserError(
            f"{where} has {copies} segment{'s' * (copies > 1)} more than once: of tube "
            f"{segments.strings(TUBE)[row]} of {segments.strings(MICROGRAPH)[row]}, for one, two lie at "
            f"{segments.strings(TRACK)[row]} A. "
            "Remove the duplicates first (Subset selection can)."
        )


def tree(vectors: NDArray[np.float64]) -> Tree:
    """Joins of vectors (N, M) by average linkage of cosine distances, in SciPy's form (N - 1, 4)."""
    return np.asarray(hierarchy.linkage(vectors, method="average", metric="cosine"))


def order(joins: Tree) -> NDArray[np.int64]:
    """Vectors (from 0) from left to right under the tree (N,)."""
    return hierarchy.leaves_list(joins).astype(np.int64)


def cut(joins: Tree, height: float) -> NDArray[np.int64]:
    """Number (from 1) of each vector's cluster when all joins above a height are undone (N,)."""
    return hierarchy.fcluster(joins, t=height, criterion="distance").astype(np.int64)


def branches(joins: Tree) -> NDArray[np.float64]:
    """The tree as lines to draw: (N - 1, 4, 2), each join an inverted U of four points (place, height).

    The vector that is number i from the left stands at place i. Not recursive, as SciPy's `dendrogram` is, which
    fails with some thousands of filaments of the same composition.
    """
    count = len(joins) + 1
    place, height = np.zeros(2 * count - 1), np.zeros(2 * count - 1)
    place[order(joins)] = np.arange(count)
    lines = np.empty((count - 1, 4, 2))
    for number, (left, right, top, _) in enumerate(joins):
        a, b = int(left), int(right)
        lines[number] = (place[a], height[a]), (place[a], top), (place[b], top), (place[b], height[b])
        place[count + number], height[count + number] = (place[a] + place[b]) / 2.0, top
    return lines
