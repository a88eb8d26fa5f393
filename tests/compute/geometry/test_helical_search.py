"""Orientations near the prior angles of helical segments, against loops over everything."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.geometry.euler import direction
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.geometry.helical_search import helical_directions, helical_psis
from relion_py.compute.geometry.symmetry import operators

ROT, TILT = np.array([20.0, -170.0, 95.0]), np.array([90.0, 82.0, 101.0])


def wrapped(angle: float) -> float:
    return abs((angle + 180) % 360 - 180)


def expected(grid: Sampling, rot: float, tilt: float, sigmas: tuple[float, float], mirrored: bool) -> dict[int, float]:
    """Direction -> weight (sum 1), by the words of the reference."""
    found = {}
    for d, (own_rot, own_tilt) in enumerate(zip(*grid.directions(), strict=True)):
        views = [(own_rot, own_tilt)] + ([(own_rot, 180 - own_tilt)] if mirrored else [])
        mates = [direction(r, t) @ o for r, t in views for o in operators(grid.symmetry)]
        angles = [(np.degrees(np.arctan2(y, x)), np.degrees(np.arccos(np.clip(z, -1, 1)))) for x, y, z in mates]
        if sigmas[0] > 0:
            at = int(np.argmax([m @ direction(rot, tilt) for m in mates]))
            across, along = wrapped(angles[at][0] - rot), wrapped(angles[at][1] - tilt)
            if mirrored and across > 90:
                across = 180 - across
            if across >= 3 * sigmas[0] or along >= 3 * sigmas[1]:
                continue
            weight = np.exp(-0.5 * ((across / sigmas[0]) ** 2 + (along / sigmas[1]) ** 2))
        else:
            along = min(wrapped(t - tilt) for _, t in angles)
            if along >= 3 * sigmas[1]:
                continue
            weight = np.exp(-0.5 * (along / sigmas[1]) ** 2)
        found[d] = weight
    total = sum(found.values())
    return {d: weight / total for d, weight in found.items()}


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2"])
@pytest.mark.parametrize(("sigmas", "mirrored"), [((0, 4), True), ((0, 4), False), ((9, 5), False), ((9, 5), True)])
def test_directions_and_their_weights(symmetry: str, sigmas: tuple[float, float], mirrored: bool) -> None:
    grid = Sampling(2, symmetry=symmetry)
    found = helical_directions(grid, ROT, TILT, *sigmas, mirrored=mirrored)
    for n in range(len(ROT)):
        wanted = expected(grid, ROT[n], TILT[n], sigmas, mirrored)
        indices, weights = found.of(n)
        assert wanted and indices.tolist() == sorted(wanted)
        assert np.allclose(weights, [wanted[d] for d in indices])


def test_a_segment_with_nothing_near_gets_the_nearest_direction() -> None:
    grid = Sampling(0)
    found = helical_directions(grid, ROT, TILT, 0.1, 0.1, mirrored=False)
    for n in range(len(ROT)):
        (only,), weight = found.of(n)
        rots, tilts = grid.directions()
        away = [wrapped(r - ROT[n]) ** 2 + (t - TILT[n]) ** 2 for r, t in zip(rots, tilts, strict=True)]
        assert only == np.argmin(away) and weight == 1


def test_psi_of_unknown_polarity_is_bimodal() -> None:
    grid = Sampling(2)
    psi, ratio = np.array([10.0, 10.0, 10.0]), np.array([0.0, 0.5, 0.2])
    found = helical_psis(grid, psi, 4.0, ratio)
    for n, flip in enumerate(ratio):
        indices, weights = found.of(n)
        away = np.array([wrapped(grid.psis()[q] - 10) for q in indices])
        assert weights.sum() == pytest.approx(1)
        assert weights[away > 90].sum() == pytest.approx(flip, abs=0.02)
        assert np.all((away < 12) | (away > 168))
    assert len(found.of(0)[0]) * 2 == len(found.of(1)[0])
    assert np.all(np.diff(helical_psis(grid, psi, 0.0, ratio).starts) == grid.n_psis)
