"""Orientations of a body near its last ones, with a prior on how far it has turned from the consensus pose.

The reference searches a grid of residual angles, so that each particle needs its own projections. Here all particles
search one grid of whole orientations, near their own ones, and share its projections; the prior, a function of the
residual angles, is evaluated at each of them, with the reference's cutoffs.

Source: healpix_sampling.cpp, selectOrientationsWithNonZeroPriorProbability (sigma_tilt_from_ninety,
sigma_psi_from_zero).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.work import Groups
from relion_py.compute.jit import njit
from relion_py.compute.refine.bodies import Body
from relion_py.compute.refine.sampling import SamplingTables

CUTOFF = 3.0
"""Standard deviations within which orientations are looked at."""


@dataclass(frozen=True)
class BodySearch:
    """Searches for one body of all particles of a step.

    matrices (D, 3, 3): of the sampled directions at psi = 0; psis (Q,) in-plane angles, radians; consensus and last
    (M, 3, 3): Euler matrices of the particles and of their bodies; position (T,): row of these of particle number i.
    sigma_tilt, sigma_psi: local Gaussians (degrees) around the last orientation; 0 for none.
    """

    body: Body
    matrices: NDArray[np.float64]
    psis: NDArray[np.float64]
    consensus: NDArray[np.float64]
    last: NDArray[np.float64]
    position: NDArray[np.int64]
    sigma_tilt: float
    sigma_psi: float
    orientations = 64.0 * 64.0
    """That a particle is compared with: hardly ever more, but known only when they are looked up."""

    @classmethod
    def around(
        cls, tables: SamplingTables, index: NDArray[np.int64], total: int, body: Body,
        consensus: NDArray[np.float64], residual: NDArray[np.float64], sigmas: tuple[float, float],
    ) -> BodySearch:  # fmt: skip
        """Searches of particles `index` of `total`, with their consensus and residual Euler matrices (M, 3, 3)."""
        position = np.full(total, -1, np.int64)
        position[index] = np.arange(len(index))
        cosine, sine = tables.coarse_psi[:, 0].astype(np.float64).T
        return cls(
            body, np.ascontiguousarray(tables.coarse_mats[:, 0], np.float64), np.arctan2(sine, cosine),
            consensus, body.own_matrices(consensus, residual), position, *sigmas,
        )  # fmt: skip

    def groups(
        self, index: NDArray[np.int64], classes: int, log_pdf: NDArray[np.float32]
    ) -> tuple[Groups, NDArray[np.int64]]:
        """As `sampling.LocalSearch.groups`, for one class: each direction has in-plane angles of its own."""
        rows = self.position[index]
        starts, block, psi_start, psi_idx, log_prior = _near(
            self.matrices,
            self.matrices @ self.body.frame.T,
            self.psis,
            self.last[rows],
            self.consensus[rows],
            np.ascontiguousarray(np.swapaxes(self.body.left(self.consensus[rows]), 1, 2)),
            np.deg2rad([self.sigma_tilt, self.sigma_psi, self.body.sigma_tilt, self.body.sigma_psi]),
            CUTOFF,
        )
        particle = np.repeat(np.arange(len(index), dtype=np.int32), np.diff(starts))
        n = len(block)
        groups = Groups(
            block, particle, np.zeros(n, np.float32), psi_start[:-1].copy(), np.diff(psi_start).astype(np.int32),
            np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int64), psi_idx, log_prior,
        )  # fmt: skip
        return groups, starts


@njit(cache=True, nogil=True)
def _angle_between(first, second):  # type: ignore[no-untyped-def]
    """Radians between unit vectors (3,), exact for small angles too."""
    chord = 0.0
    for i in range(3):
        chord += (first[i] - second[i]) ** 2
    return 2.0 * math.asin(min(1.0, 0.5 * math.sqrt(chord)))


@njit(cache=True, nogil=True)
def _wrapped(angle):  # type: ignore[no-untyped-def]
    """The angle (radians) in -pi ... pi."""
    return angle - 2.0 * math.pi * math.floor(angle / (2.0 * math.pi) + 0.5)


@njit(cache=True, nogil=True)
def _log_body_prior(left, turned, cosine, sine, sigmas, cutoff):  # type: ignore[no-untyped-def]
    """Log of the prior on the residual angles of left (L^T) @ Rz(psi) @ turned (M R^T); -inf beyond the cutoff."""
    # rows 0 and 1 of Rz @ turned, and the elements of the residual matrix that tell its angles
    third = np.zeros(3)
    across = np.zeros(2)
    for c in range(3):
        x = cosine * turned[0, c] + sine * turned[1, c]
        y = cosine * turned[1, c] - sine * turned[0, c]
        z = turned[2, c]
        third[c] = left[2, 0] * x + left[2, 1] * y + left[2, 2] * z
        if c == 2:
            across[0] = left[0, 0] * x + left[0, 1] * y + left[0, 2] * z
            across[1] = left[1, 0] * x + left[1, 1] * y + left[1, 2] * z
    third[0] -= 1.0  # from the direction of rot 0, tilt 90
    chord = math.sqrt(third[0] ** 2 + third[1] ** 2 + third[2] ** 2)
    away = 2.0 * math.asin(min(1.0, 0.5 * chord))
    psi = math.atan2(across[1], -across[0])
    if away > cutoff * sigmas[2] or abs(psi) > cutoff * sigmas[3]:
        return -np.inf
    return -0.5 * ((away / sigmas[2]) ** 2 + (psi / sigmas[3]) ** 2)


@njit(cache=True, nogil=True)
def _best_psi(own, matrix):  # type: ignore[no-untyped-def]
    """In-plane angle (radians) at which a direction's matrix comes nearest to an orientation."""
    parallel = across = 0.0
    for c in range(3):
        parallel += own[0, c] * matrix[0, c] + own[1, c] * matrix[1, c]
        across += own[0, c] * matrix[1, c] - own[1, c] * matrix[0, c]
    return math.atan2(across, parallel)


@njit(cache=True, nogil=True)
def _nearest_turns(psis, middle):  # type: ignore[no-untyped-def]
    """Radians (Q,) from an in-plane angle to each of the sampled ones."""
    away = np.empty(psis.shape[0])
    for q in range(psis.shape[0]):
        away[q] = _wrapped(psis[q] - middle)
    return away


@njit(cache=True, nogil=True)
def _near(matrices, turned, psis, last, consensus, left, sigmas, cutoff):  # type: ignore[no-untyped-def]
    """Where each particle's directions begin (N+1,), they, where each one's psis begin (+1), these, and log priors.

    sigmas: local tilt and psi (0: none), the body's tilt and psi, radians. A particle without any sample that the
    prior allows gets the one nearest to its last orientation.
    """
    count, directions, angles = last.shape[0], matrices.shape[0], psis.shape[0]
    local = sigmas[0] > 0.0
    if local:
        reach_direction, reach_psi = cutoff * sigmas[0], cutoff * sigmas[1]
    else:  # all that the prior may allow: a turn by both of its angles
        reach_direction = reach_psi = cutoff * math.sqrt(sigmas[2] ** 2 + sigmas[3] ** 2)
    nearest_cosine = math.cos(min(reach_direction, math.pi))
    starts = np.zeros(count + 1, np.int64)
    block = np.empty(64 * count + 64, np.int32)
    psi_start = np.zeros(64 * count + 65, np.int64)
    psi_idx = np.empty(512 * count + angles + 1, np.int32)
    log_prior = np.empty(512 * count + angles + 1, np.float32)
    filled = pairs = 0
    for n in range(count):
        centre = last[n] if local else consensus[n]
        if filled + 1 >= block.shape[0]:
            block = np.concatenate((block, np.empty(block.shape[0], np.int32)))
            psi_start = np.concatenate((psi_start, np.empty(psi_start.shape[0], np.int64)))
        nearest, nearest_direction = -2.0, 0
        first_pair = pairs
        top = -np.inf
        for d in range(directions):
            cosine = (
                matrices[d, 2, 0] * centre[2, 0] + matrices[d, 2, 1] * centre[2, 1] + matrices[d, 2, 2] * centre[2, 2]
            )
            if cosine > nearest:
                nearest, nearest_direction = cosine, d
            if cosine <= nearest_cosine:
                continue
            away = _angle_between(matrices[d, 2], centre[2])
            middle = _best_psi(centre, matrices[d])
            if filled + 1 >= block.shape[0]:
                block = np.concatenate((block, np.empty(block.shape[0], np.int32)))
                psi_start = np.concatenate((psi_start, np.empty(psi_start.shape[0], np.int64)))
            if pairs + angles + count >= psi_idx.shape[0]:
                more = psi_idx.shape[0] + angles + count
                psi_idx = np.concatenate((psi_idx, np.empty(more, np.int32)))
                log_prior = np.concatenate((log_prior, np.empty(more, np.float32)))
            before = pairs
            for q in range(angles):
                off = _wrapped(psis[q] - middle)
                if away > reach_direction or abs(off) > reach_psi:
                    continue
                value = _log_body_prior(left[n], turned[d], math.cos(psis[q]), math.sin(psis[q]), sigmas, cutoff)
                if local:
                    value -= 0.5 * ((away / sigmas[0]) ** 2 + (off / sigmas[1]) ** 2)
                if value > -np.inf:
                    psi_idx[pairs], log_prior[pairs] = q, value
                    top = max(top, value)
                    pairs += 1
            if pairs > before:
                block[filled] = d
                filled += 1
                psi_start[filled] = pairs
        if pairs == first_pair:
            block[filled] = nearest_direction
            filled += 1
            off = np.abs(_nearest_turns(psis, _best_psi(centre, matrices[nearest_direction])))
            psi_idx[pairs], log_prior[pairs] = np.argmin(off), 0.0
            pairs += 1
            psi_start[filled] = pairs
        else:  # relative to the mean, as the priors of other searches
            mean = 0.0
            for i in range(first_pair, pairs):
                mean += math.exp(log_prior[i] - top)
            shift = top + math.log(mean / (pairs - first_pair))
            for i in range(first_pair, pairs):
                log_prior[i] -= shift
        starts[n + 1] = filled
    return (
        starts,
        block[:filled].copy(),
        psi_start[: filled + 1].copy(),
        psi_idx[:pairs].copy(),
        log_prior[:pairs].copy(),
    )
