"""Which sampled directions and in-plane angles are near each particle's prior orientation, with which weight.

Facts: RELION 5 ``src/healpix_sampling.cpp`` (``selectOrientationsWithNonZeroPriorProbability``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.jit import njit


@dataclass(frozen=True)
class Selection:
    """For each of N particles some of the sampled items, in compressed rows.

    Particle n has items ``indices[starts[n]:starts[n + 1]]`` (ascending) with prior probabilities
    ``weights[...]`` that sum to 1.  starts: int64 (N + 1,); indices: int32 (K,); weights: float64 (K,).
    """

    starts: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, particle: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The items and prior probabilities of one particle."""
        row = slice(self.starts[particle], self.starts[particle + 1])
        return self.indices[row], self.weights[row]


def mixture(selections: Sequence[Selection]) -> Selection:
    """What any of several selections for the same N particles holds, with the mean of its weights in all of them."""
    particle = np.concatenate([np.repeat(np.arange(len(s)), np.diff(s.starts)) for s in selections])
    index = np.concatenate([s.indices for s in selections])
    items = int(index.max(initial=0)) + 1
    keys, place = np.unique(particle * items + index, return_inverse=True)
    weights = np.bincount(place, np.concatenate([s.weights for s in selections])) / len(selections)
    owner, indices = np.divmod(keys, items)
    counts = np.bincount(owner, minlength=len(selections[0]))
    return Selection(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), indices.astype(np.int32), weights)


def everything(particles: int, items: int) -> Selection:
    """Every item for every particle with equal weight: there is no prior."""
    starts = np.arange(particles + 1, dtype=np.int64) * items
    indices = np.tile(np.arange(items, dtype=np.int32), particles)
    return Selection(starts, indices, np.full(particles * items, 1.0 / items))


# How the distance of a direction from the prior is measured.
BOTH, ONLY_ROT, ONLY_TILT = 0, 1, 2


def near_directions(
    vectors: NDArray[np.float64],
    operators: NDArray[np.float64],
    prior: NDArray[np.float64],
    sigma: float,
    cutoff: float,
    measure: int = BOTH,
) -> Selection:
    """The directions within ``cutoff * sigma`` degrees of each particle's prior, symmetry mates considered.

    vectors: unit vectors (D, 3) of the sampled directions; operators: (M, 3, 3); prior: unit vectors (N, 3)
    of the particles' directions (BOTH, the angle between them), or what ONLY_ROT and ONLY_TILT compare: for
    ONLY_ROT columns (cos rot, sin rot, 0), the reference's distance from the half plane of that rot; for
    ONLY_TILT columns (0, 0, cos tilt).  Weights are Gaussian in the distance.  A particle with no direction
    that near gets the nearest one.
    """
    turned = np.ascontiguousarray(np.einsum("mij,nj->nmi", operators, prior))
    starts, indices, distances = _near(
        np.ascontiguousarray(vectors.T),
        np.ascontiguousarray(operators),
        turned,
        np.ascontiguousarray(prior),
        np.deg2rad(cutoff * sigma),
        measure,
    )
    return Selection(starts, indices, _gaussian_rows(starts, np.rad2deg(distances), sigma))


def near_psis(psis: NDArray[np.float64], prior: NDArray[np.float64], sigma: float, cutoff: float) -> Selection:
    """The in-plane angles (Q,) in degrees within ``cutoff * sigma`` of each particle's (N,); as above."""
    difference = np.abs(psis[None] - prior[:, None])
    difference = np.where(difference > 180.0, np.abs(difference - 360.0), difference)
    near = difference < cutoff * sigma
    lonely = np.flatnonzero(~near.any(axis=1))
    near[lonely, difference[lonely].argmin(axis=1)] = True
    starts = np.concatenate([[0], np.cumsum(near.sum(axis=1))]).astype(np.int64)
    indices = np.nonzero(near)[1].astype(np.int32)
    return Selection(starts, indices, _gaussian_rows(starts, difference[near], sigma))


def _gaussian_rows(starts: NDArray[np.int64], distances: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian weights that sum to 1 in each row (a row of one item gets exactly 1)."""
    # relative to the nearest of the row, lest a far nearest direction has weight 0
    nearest = np.repeat(np.minimum.reduceat(distances, starts[:-1]), np.diff(starts)) if len(distances) else 0.0
    weights = np.exp((nearest**2 - distances**2) / (2.0 * sigma**2))
    if len(weights) == 0:
        return weights
    return weights / np.repeat(np.add.reduceat(weights, starts[:-1]), np.diff(starts))


@njit(cache=True, nogil=True, fastmath=True)
def _best_products(vectors, turned, best):  # type: ignore[no-untyped-def]
    """best (D,): the largest dot product of each direction (3, D) with one of the turned priors (M, 3)."""
    for m in range(turned.shape[0]):
        x, y, z = turned[m]
        if m == 0:
            for d in range(best.shape[0]):
                best[d] = vectors[0, d] * x + vectors[1, d] * y + vectors[2, d] * z
        else:
            for d in range(best.shape[0]):
                best[d] = max(best[d], vectors[0, d] * x + vectors[1, d] * y + vectors[2, d] * z)


@njit(cache=True, nogil=True)
def _least_distances(vectors, operators, prior, measure, best):  # type: ignore[no-untyped-def]
    """best (D,): least distance in radians over the mates by rot alone or by tilt alone."""
    for d in range(best.shape[0]):
        best[d] = 10.0
        for m in range(operators.shape[0]):
            r = operators[m]  # the mate is vector @ r
            if measure == 1:
                x = vectors[0, d] * r[0, 0] + vectors[1, d] * r[1, 0] + vectors[2, d] * r[2, 0]
                y = vectors[0, d] * r[0, 1] + vectors[1, d] * r[1, 1] + vectors[2, d] * r[2, 1]
                across = prior[0] * y - prior[1] * x
                distance = abs(np.arcsin(min(1.0, max(-1.0, across))))
            else:
                z = vectors[0, d] * r[0, 2] + vectors[1, d] * r[1, 2] + vectors[2, d] * r[2, 2]
                distance = abs(np.arccos(min(1.0, max(-1.0, z))) - np.arccos(prior[2]))
            best[d] = min(best[d], distance)


@njit(cache=True, nogil=True)
def _near(vectors, operators, turned, prior, limit, measure):  # type: ignore[no-untyped-def]
    count, number = turned.shape[0], vectors.shape[1]
    starts = np.zeros(count + 1, dtype=np.int64)
    indices = np.empty(max(64, 8 * count), dtype=np.int32)
    distances = np.empty(indices.shape[0])
    best = np.empty(number)
    filled = 0
    cosine = np.cos(min(limit, np.pi))
    for n in range(count):
        if indices.shape[0] - filled < number:
            size = 2 * indices.shape[0] + number
            indices = np.concatenate((indices[:filled], np.empty(size - filled, dtype=np.int32)))
            distances = np.concatenate((distances[:filled], np.empty(size - filled)))
        if measure == 0:
            _best_products(vectors, turned[n], best)
        else:
            _least_distances(vectors, operators, prior[n], measure, best)
        before = filled
        for d in range(number):
            near = best[d] > cosine if measure == 0 else best[d] < limit
            if near:
                indices[filled] = d
                distances[filled] = np.arccos(min(1.0, best[d])) if measure == 0 else best[d]
                filled += 1
        if filled == before:
            nearest = np.argmax(best) if measure == 0 else np.argmin(best)
            indices[filled] = nearest
            distances[filled] = np.arccos(min(1.0, best[nearest])) if measure == 0 else best[nearest]
            filled += 1
        starts[n + 1] = filled
    return starts, indices[:filled].copy(), distances[:filled].copy()
