"""Which sampled orientations are near the prior angles of helical segments, with which weight.

Segments of a helix along Z are seen from the side: tilt and psi are known about, rot is not. In searches that are not
local (`mirrored`), tilt and 180 - tilt are alike, rot may be half a turn off, and so may psi where the polarity
of a filament is not known.

Facts: RELION 5, healpix_sampling.cpp (selectOrientationsWithNonZeroPriorProbabilityFor3DHelicalReconstruction).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry import local_search
from relion_py.compute.geometry.euler import direction
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.geometry.local_search import Selection
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.jit import njit

CUTOFF = 3.0
"""Standard deviations from the prior beyond which nothing is searched."""
_FLIPPED = 0.01  # flip ratios above this make psi bimodal
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


def helical_directions(
    grid: Sampling,
    rot: NDArray[np.float64],
    tilt: NDArray[np.float64],
    sigma_rot: float,
    sigma_tilt: float,
    *,
    mirrored: bool,
    rot_flip: NDArray[np.float64] | None = None,
) -> Selection:
    """The directions near prior rot and tilt (degrees, (N,)) of N segments, with Gaussian weights in both angles.

    With a sigma_rot that is not positive, any rot will do; without sigma_tilt, any direction. rot_flip (N,): with
    `mirrored`, the prior probability of rot + 180. A segment with no direction that near gets the nearest.
    """
    if sigma_tilt <= 0.0:
        return local_search.everything(len(rot), grid.n_directions)
    own_rot, own_tilt = grid.directions()
    vectors = [direction(own_rot, own_tilt)]
    if mirrored:
        vectors.append(direction(own_rot, 180.0 - own_tilt))
    mates = np.ascontiguousarray(
        np.concatenate([np.einsum("di,mij->mdj", v, operators(grid.symmetry)) for v in vectors])
    )
    angles = np.rad2deg(np.stack([np.arctan2(mates[..., 1], mates[..., 0]), np.arccos(np.clip(mates[..., 2], -1, 1))]))
    flip = np.full(len(rot), 0.5) if rot_flip is None else rot_flip
    starts, indices, weights = _near_directions(
        mates,
        np.ascontiguousarray(angles),
        np.ascontiguousarray(direction(rot, tilt)),
        np.asarray(rot, np.float64),
        np.asarray(tilt, np.float64),
        np.asarray(flip, np.float64),
        max(sigma_rot, 0.0),
        sigma_tilt,
        mirrored,
    )
    return Selection(starts, indices, _normalised(starts, weights))


def helical_psis(grid: Sampling, psi: NDArray[np.float64], sigma: float, flip_ratio: NDArray[np.float64]) -> Selection:
    """The in-plane angles near prior psi (N,), or half a turn from it with the probability flip_ratio (N,), degrees.

    A flip_ratio of 0 excludes the latter. Without a positive sigma: all of them.
    """
    if sigma <= 0.0:
        return local_search.everything(len(psi), grid.n_psis)
    difference = np.abs(grid.psis()[None] - psi[:, None]) % 360.0
    difference = np.minimum(difference, 360.0 - difference)
    flipped = (difference > 90.0) & (flip_ratio > _FLIPPED)[:, None]
    difference = np.where(flipped, 180.0 - difference, difference)
    near = difference < CUTOFF * sigma
    lonely = np.flatnonzero(~near.any(axis=1))
    near[lonely, difference[lonely].argmin(axis=1)] = True
    probability = np.where(flipped, flip_ratio[:, None], 1.0 - flip_ratio[:, None])
    # relative to the nearest, lest a far nearest angle has weight 0
    exponent = (difference.min(axis=1, keepdims=True) ** 2 - difference**2) / (2.0 * sigma**2)
    weights = np.maximum(probability, 1e-6) * np.exp(np.minimum(exponent, 0.0))
    starts = np.concatenate([[0], np.cumsum(near.sum(axis=1))]).astype(np.int64)
    return Selection(starts, np.nonzero(near)[1].astype(np.int32), _normalised(starts, weights[near]))


def _normalised(starts: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(weights):
        return weights
    return weights / np.repeat(np.add.reduceat(weights, starts[:-1]), np.diff(starts))


@njit(**_OPTIONS)
def _wrapped(angle):  # type: ignore[no-untyped-def]
    """|angle| in degrees, at most 180."""
    angle = abs(angle) % 360.0
    return 360.0 - angle if angle > 180.0 else angle


@njit(**_OPTIONS)
def _difference(mates, angles, d, vector, rot, tilt, by_tilt, mirrored):  # type: ignore[no-untyped-def]
    """Distances in rot and tilt (degrees) of the nearest mate of direction d, and whether rot is half a turn off."""
    if by_tilt:
        least = 999.0
        for m in range(mates.shape[0]):
            least = min(least, _wrapped(angles[1, m, d] - tilt))
        return 0.0, least, False
    best, at = -2.0, 0
    for m in range(mates.shape[0]):
        product = mates[m, d, 0] * vector[0] + mates[m, d, 1] * vector[1] + mates[m, d, 2] * vector[2]
        if product > best:
            best, at = product, m
    across = _wrapped(angles[0, at, d] - rot)
    flipped = mirrored and across > 90.0
    return (180.0 - across if flipped else across), _wrapped(angles[1, at, d] - tilt), flipped


@njit(**_OPTIONS)
def _near_directions(mates, angles, vectors, rot, tilt, flip, sigma_rot, sigma_tilt, mirrored):  # type: ignore[no-untyped-def]
    """Starts (N+1,), indices and weights (not normalised) of the directions near each prior.

    mates (M, D, 3) and angles (2, M, D): unit vectors, rot and tilt of the directions' symmetry mates
    """
    count, number = len(rot), mates.shape[1]
    by_tilt = sigma_rot <= 0.0
    limit_rot, limit_tilt = CUTOFF * sigma_rot, CUTOFF * sigma_tilt
    starts = np.zeros(count + 1, np.int64)
    indices = np.empty(max(64, 8 * count), np.int32)
    weights = np.empty(len(indices))
    filled = 0
    for n in range(count):
        if len(indices) - filled < number:
            size = 2 * len(indices) + number
            indices = np.concatenate((indices[:filled], np.empty(size - filled, np.int32)))
            weights = np.concatenate((weights[:filled], np.empty(size - filled)))
        before = filled
        nearest, closest = 0, 1e9
        for d in range(number):
            # mates of Cn and Dn have this tilt or its mirror image
            away = min(_wrapped(angles[1, 0, d] - tilt[n]), _wrapped(180.0 - angles[1, 0, d] - tilt[n]))
            if away >= limit_tilt and filled > before:
                continue
            across, along, flipped = _difference(mates, angles, d, vectors[n], rot[n], tilt[n], by_tilt, mirrored)
            distance = across * across + along * along
            if distance < closest:
                nearest, closest = d, distance
            if along >= limit_tilt or (not by_tilt and across >= limit_rot):
                continue
            weight = np.exp(-0.5 * (along / sigma_tilt) ** 2)
            if not by_tilt:
                weight *= np.exp(-0.5 * (across / sigma_rot) ** 2)
                if mirrored:
                    weight *= flip[n] if flipped else 1.0 - flip[n]
            if weight > 0.0:
                indices[filled] = d
                weights[filled] = weight
                filled += 1
        if filled == before:
            indices[filled] = nearest
            weights[filled] = 1.0
            filled += 1
        starts[n + 1] = filled
    return starts, indices[:filled].copy(), weights[:filled].copy()
