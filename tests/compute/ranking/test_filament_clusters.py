"""Trees and clusters of filaments against a join-by-join computation and against SciPy's drawing."""

from itertools import combinations

import numpy as np
import pytest
from scipy.cluster.hierarchy import dendrogram

from relion_py.compute.errors import UserError
from relion_py.compute.io.star import Table
from relion_py.compute.ranking import filaments
from relion_py.compute.ranking.filament_report import cluster_colours


def counts(seed: int = 4) -> np.ndarray:
    """Compositions (30, 7) of three mixtures of classes."""
    rng = np.random.default_rng(seed)
    shares = np.array([[8, 4, 2, 1, 0, 0, 0], [0, 0, 1, 4, 8, 4, 0], [1, 0, 0, 0, 0, 3, 9]]) / 16.0
    return np.stack([rng.multinomial(25, shares[n % 3] / shares[n % 3].sum()) for n in range(30)]).astype(float)


def clusters_by_hand(vectors: np.ndarray, height: float) -> set[frozenset[int]]:
    """Join the two clusters of least mean cosine distance until none is left below the height."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    clusters = [frozenset([n]) for n in range(len(vectors))]
    while len(clusters) > 1:
        mean, a, b = min(
            ((distance[np.ix_(list(a), list(b))].mean(), a, b) for a, b in combinations(clusters, 2)),
            key=lambda found: found[0],
        )
        if mean > height:
            break
        clusters = [c for c in clusters if c not in (a, b)] + [a | b]
    return set(clusters)


@pytest.mark.parametrize("height", [0.03, 0.12, 0.5, 0.95])
def test_clusters_are_those_of_the_definition(height: float) -> None:
    vectors = counts()
    labels = filaments.cut(filaments.tree(vectors), height)
    ours = {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}
    assert ours == clusters_by_hand(vectors, height)
    if height == 0.5:
        assert ours == {frozenset(range(kind, 30, 3)) for kind in range(3)}


def test_the_tree_is_drawn_as_scipy_draws_it() -> None:
    joins = filaments.tree(counts())
    drawn = dendrogram(joins, no_plot=True)
    assert filaments.order(joins).tolist() == drawn["leaves"]
    theirs = np.stack([(np.array(drawn["icoord"]) - 5) / 10, drawn["dcoord"]], axis=-1)
    ours = filaments.branches(joins)
    np.testing.assert_allclose(
        *(lines[np.lexsort((lines[:, 0, 0], lines[:, 1, 1]))] for lines in (ours, theirs)), atol=1e-12
    )


def test_thousands_of_like_filaments_make_no_deep_recursion() -> None:
    joins = filaments.tree(np.tile([3.0, 1.0, 0.0], (3000, 1)))
    assert sorted(filaments.order(joins)) == list(range(3000))
    assert np.isfinite(filaments.branches(joins)).all()
    assert set(filaments.cut(joins, 0.1)) == {1}


def segments(**columns: object) -> Table:
    """Four segments: two filaments of tube 1, in micrographs a and 1a; tube 11 of micrograph a is a third."""
    table = {
        "rlnHelicalTubeID": [1, 1, 11, 1],
        "rlnMicrographName": ["1a", "a", "a", "1a"],
        "rlnHelicalTrackLengthAngst": ["0.5", "0.5", "0.5", "3.5"],
        "rlnClassNumber": [7, 2, 2, 2],
    }
    return Table({**table, **columns})


def test_filaments_and_classes_are_counted() -> None:
    found = filaments.compositions(segments(), "data.star")
    assert found.names == [("1", "1a"), ("1", "a"), ("11", "a")]  # the first and the last have the same letters
    assert found.classes.tolist() == [2, 7]
    assert found.counts.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert found.filament_index.tolist() == [0, 1, 2, 0] and found.class_index.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {"rlnHelicalTrackLengthAngst": ["0.5", "0.5", "0.5", "0.500000"]},
            "1 segment more than once: of tube 1 of 1a",
        ),
        ({"rlnClassNumber": [3, 3, 3, 3]}, "of one class only"),
        (
            {"rlnMicrographName": ["a"] * 4, "rlnHelicalTubeID": [2] * 4, "rlnHelicalTrackLengthAngst": [1, 2, 3, 4]},
            "of one filament",
        ),
    ],
)
def test_what_cannot_be_clustered_is_told(columns: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        filaments.compositions(segments(**columns), "data.star")


def test_every_cluster_has_a_colour_of_its_own() -> None:
    colours = cluster_colours(40)
    apart = np.abs(colours[:, None] - colours[None]).max(axis=-1) + np.eye(40)
    assert apart.min() > 0.02 and colours.min() >= 0 and colours.max() <= 1
