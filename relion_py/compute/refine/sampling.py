"""Tables that the expectation step reads: rotations of directions and in-plane angles, shifts, local searches.

An Euler matrix is the in-plane rotation of its direction's matrix at psi = 0, so that a table of directions and one
of in-plane angles hold every orientation, coarse and oversampled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.estep_numba import block_rotations
from relion_py.compute.backend.work import Groups
from relion_py.compute.geometry.healpix import Sampling, translations
from relion_py.compute.geometry.local_search import Selection, mixture
from relion_py.compute.refine.model import SamplingState

UNDISTORTED = np.eye(2, dtype=np.float32)


def shift_grid(
    state: SamplingState, oversampling: int, perturbation: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The offsets of a sampling in A, as of `healpix.translations`: coarse (T, 2), not perturbed; children (T, V, 2).

    For helices along and across the helix: within half a rise along it, each direction with its own steps
    (healpix_sampling.cpp, setTranslations).
    """
    if state.helical_rise <= 0:
        return translations(state.offset_range, state.offset_step, oversampling, perturbation)
    step, across = state.helical_offset_step, state.offset_step
    x = np.arange(-state.helical_reach, state.helical_reach + 1) * step
    x = x[(x == 0) | (np.abs(x) <= 0.5 * state.helical_rise)]
    reach = ceil(state.offset_range / across)
    y = np.arange(-reach, reach + 1) * across
    y = y[y**2 < state.offset_range**2 + 0.001]
    coarse = np.stack([g.ravel() for g in np.meshgrid(x, y, indexing="ij")], axis=1)
    parts = 2**oversampling
    fine = (np.arange(parts) + 0.5) / parts - 0.5 + perturbation
    children = np.stack([g.ravel() for g in np.meshgrid(fine * step, fine * across, indexing="ij")], axis=1)
    return coarse, coarse[:, None, :] + children[None]


@dataclass(frozen=True)
class SamplingTables:
    """Rotations and shifts of one iteration, random perturbation included.

    coarse_mats (D, 1, 3, 3), fine_mats (D, C, 3, 3) float32: Euler matrices at psi = 0; coarse_psi (Q, 1, 2),
    fine_psi (Q, S, 2) float32: cos and sin of the in-plane angles; shifts (T, 2), child_shifts (T, V, 2) and
    shifts_unperturbed (T, 2) in A, x and y, or along and across a helix.
    """

    coarse_mats: NDArray[np.float32]
    fine_mats: NDArray[np.float32]
    coarse_psi: NDArray[np.float32]
    fine_psi: NDArray[np.float32]
    shifts: NDArray[np.float64]
    shifts_unperturbed: NDArray[np.float64]
    child_shifts: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Sampling, state: SamplingState, oversampling: int) -> SamplingTables:
        """Tables of a grid of orientations (perturbed already) and the offsets of `state`."""
        every = np.arange(grid.n_directions)
        coarse, shifts = shift_grid(state, 0, grid.perturbation)
        _, children = shift_grid(state, oversampling, grid.perturbation)
        return cls(
            _float32(grid.frames(every, 0)),
            _float32(grid.frames(every, oversampling)),
            _cos_sin(grid.child_psis(0)),
            _cos_sin(grid.child_psis(oversampling)),
            np.ascontiguousarray(shifts[:, 0]),
            coarse,
            children,
        )

    @property
    def directions(self) -> int:
        return len(self.coarse_mats)

    @property
    def angles(self) -> int:
        return len(self.coarse_psi)

    @property
    def orientations(self) -> int:
        """Coarse orientations D * Q."""
        return self.directions * self.angles

    @property
    def rot_children(self) -> int:
        """Oversampled orientations per coarse one, C * S."""
        return self.fine_mats.shape[1] * self.fine_psi.shape[1]

    @property
    def shift_children(self) -> int:
        """Oversampled shifts per coarse one, V."""
        return self.child_shifts.shape[1]

    def coarse_rotations(
        self, first: int, last: int, distortion: NDArray[np.float32] = UNDISTORTED
    ) -> NDArray[np.float32]:
        """Euler matrices (last - first, 3, 3) of coarse orientations, the in-plane angle running fastest.

        distortion (2, 2): see `estep_numba.block_rotations`.
        """
        q = self.angles
        first_dir, last_dir = first // q, -(-last // q)
        out = np.empty(((last_dir - first_dir) * q, 3, 3), np.float32)
        psis = np.arange(q, dtype=np.int32)
        for d in range(first_dir, last_dir):
            at = (d - first_dir) * q
            block_rotations(self.coarse_mats[d], self.coarse_psi, psis, q, distortion, out[at : at + q])
        return out[first - first_dir * q : last - first_dir * q]

    def fine_rotation(
        self, direction: NDArray[np.integer], psi: NDArray[np.integer], child: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """Euler matrices (N, 3, 3) of oversampled orientations; child counts as in `estep_numba.block_rotations`."""
        across, around = np.divmod(child, self.fine_psi.shape[1])
        matrix = self.fine_mats[direction, across].astype(np.float64)
        cosine, sine = self.fine_psi[psi, around].astype(np.float64).T
        turn = np.zeros((len(matrix), 3, 3))
        turn[:, 0, 0] = turn[:, 1, 1] = cosine
        turn[:, 0, 1], turn[:, 1, 0], turn[:, 2, 2] = sine, -sine, 1.0
        return turn @ matrix


def _float32(values: NDArray) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)


def _cos_sin(degrees: NDArray[np.float64]) -> NDArray[np.float32]:
    angle = np.deg2rad(degrees)
    return _float32(np.stack([np.cos(angle), np.sin(angle)], axis=-1))


@dataclass(frozen=True)
class LocalSearch:
    """Orientations near each particle's prior, for all particles of a step: `Selection`s in order of `index`.

    position (M,): row of the selections that belongs to particle number i, or -1.
    """

    directions: Selection
    psis: Selection
    position: NDArray[np.int64]

    @classmethod
    def around(
        cls, grid: Sampling, index: NDArray[np.int64], total: int,
        angles: tuple[NDArray, NDArray, NDArray], sigmas: tuple[float, float, float], fold: int = 1,
    ) -> LocalSearch:  # fmt: skip
        """Searches of particles `index` of `total` around (rot, tilt, psi) with standard deviations, all in degrees.

        fold: also around the views that a rotation axis along z of this order makes alike, with equal prior: they
        differ in rot only (healpix_sampling.cpp, findSymmetryMate, for cyclic groups).
        """
        position = np.full(total, -1, np.int64)
        position[index] = np.arange(len(index))
        rot, tilt, psi = angles
        turns = 360.0 / fold * np.arange(fold)
        near = [grid.local_directions(rot + turn, tilt, sigmas[0], sigmas[1]) for turn in turns]
        return cls(near[0] if fold == 1 else mixture(near), grid.local_psis(psi, sigmas[2]), position)

    @property
    def orientations(self) -> float:
        """Orientations of each class that a particle is compared with, on average."""
        each = np.diff(self.directions.starts) * np.diff(self.psis.starts)
        return float(each.sum()) / max(len(each), 1)

    def groups(
        self, index: NDArray[np.int64], classes: int, log_pdf: NDArray[np.float32]
    ) -> tuple[Groups, NDArray[np.int64]]:
        """Coarse-pass groups of particles `index`, particle by particle, and where each particle's begin (N+1,).

        Priors are relative to their mean over the particle's list, as the reference normalises them. With several
        classes each direction occurs once per class.
        """
        rows = self.position[index]
        dir_count = np.diff(self.directions.starts)[rows]
        psi_count = np.diff(self.psis.starts)[rows]
        n_directions = log_pdf.shape[1]
        take_dir = _ranges(self.directions.starts[rows], dir_count)
        take_psi = _ranges(self.psis.starts[rows], psi_count)
        dir_prior = _log(self.directions.weights[take_dir] * np.repeat(dir_count, dir_count))
        psi_prior = _log(self.psis.weights[take_psi] * np.repeat(psi_count, psi_count))
        psi_start = np.concatenate([[0], np.cumsum(psi_count)[:-1]])
        particle = np.repeat(np.arange(len(index), dtype=np.int32), dir_count * classes)
        direction = self.directions.indices[take_dir]
        # one copy of a particle's directions per class, so that blocks ascend within a particle
        order = np.argsort(
            np.repeat(np.repeat(np.arange(len(index)), dir_count)[None], classes, axis=0).ravel(), kind="stable"
        )
        block = (np.arange(classes)[:, None] * n_directions + direction[None]).ravel()[order]
        prior = np.tile(dir_prior, classes)[order]
        total = len(block)
        groups = Groups(
            block.astype(np.int32), particle, prior, psi_start[particle].astype(np.int64),
            psi_count[particle].astype(np.int32), np.zeros(total, np.int32), np.zeros(total, np.int32),
            np.zeros(total, np.int64), self.psis.indices[take_psi], psi_prior,
        )  # fmt: skip
        return groups, np.concatenate([[0], np.cumsum(dir_count * classes)])


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0] ... + counts[0], starts[1] ... + counts[1], ... as one index array."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts - starts, counts)


def _log(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.log(weights).astype(np.float32)


@dataclass(frozen=True)
class OwnPoses:
    """A search in which particles keep their orientations (--skip_rotate), or their offsets, too (--skip_align)."""

    orientations = 1.0

    @staticmethod
    def tables(matrices: NDArray[np.float64], shifts: SamplingTables | None = None) -> SamplingTables:
        """Tables in which direction n is the Euler matrix (N, 3, 3) of the batch's particle n.

        shifts: those of these tables are looked at, else none.
        """
        mats = _float32(matrices)[:, None]
        psi = np.array([[[1.0, 0.0]]], np.float32)
        if shifts is not None:
            return replace(shifts, coarse_mats=mats, fine_mats=mats, coarse_psi=psi, fine_psi=psi)
        still = np.zeros((1, 2))
        return SamplingTables(mats, mats, psi, psi, still, still, still[None])

    def groups(
        self, index: NDArray[np.int64], classes: int, log_pdf: NDArray[np.float32]
    ) -> tuple[Groups, NDArray[np.int64]]:
        """As `LocalSearch.groups`: particle n is compared with direction n of each class, prior log_pdf (K, N)."""
        n = len(index)
        block = (np.arange(classes)[None] * n + np.arange(n)[:, None]).ravel().astype(np.int32)
        particle = np.repeat(np.arange(n, dtype=np.int32), classes)
        zeros, ones = np.zeros(len(block), np.int32), np.ones(len(block), np.int32)
        groups = Groups(
            block,
            particle,
            np.ascontiguousarray(log_pdf.T).ravel(),
            zeros.astype(np.int64),
            ones,
            zeros,
            zeros.copy(),
            zeros.astype(np.int64),
            np.zeros(1, np.int32),
            np.zeros(1, np.float32),
        )
        return groups, np.arange(n + 1, dtype=np.int64) * classes
