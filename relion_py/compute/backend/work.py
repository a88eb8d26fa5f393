"""What the expectation step and its backends hand to each other: work lists, tables, scores.

Arrays marked (b) belong to the backend: NumPy's on the CPU, the device's otherwise. All others are NumPy's.
Sizes as in `estep_numba`: N particles, K classes, D directions, Q in-plane angles, C and S their children, T coarse
translations, V their children, P pixels, S shells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
"""An array of the backend."""


@dataclass
class Groups:
    """Work list: particle x block (class and direction), see `estep_numba.score_groups`."""

    block: NDArray[np.int32]
    particle: NDArray[np.int32]
    prior: NDArray[np.float32]
    psi_start: NDArray[np.int64]
    psi_count: NDArray[np.int32]
    slot_first: NDArray[np.int32]
    slot_count: NDArray[np.int32]
    out_start: NDArray[np.int64]
    psi_idx: NDArray[np.int32]
    psi_prior: NDArray[np.float32]

    def selected(self, which: NDArray) -> Groups:
        """The groups at these indices, or under this mask, in that order."""
        per_group = ("block", "particle", "prior", "psi_start", "psi_count", "slot_first", "slot_count", "out_start")
        values = {name: getattr(self, name) for name in per_group}
        # out_start may not be known yet
        chosen = {k: np.ascontiguousarray(v[which]) if len(v) == len(self.block) else v for k, v in values.items()}
        return replace(self, **chosen)

    def sorted_by_block(self) -> Groups:
        """The same groups ordered by block, so that one projection serves all its particles."""
        return self.selected(np.argsort(self.block, kind="stable"))

    def work(self) -> NDArray[np.int64]:
        """Relative cost of each group: its samples, with a share for its projections."""
        return self.psi_count.astype(np.int64) * (self.slot_count + 2)


@dataclass(frozen=True)
class Slices:
    """What projections are made of: volumes (b) and pixels (b), rotations (b), and how positions are scaled.

    volumes (K, Z, Y, X); kx, ky, shell (P,); dir_mats (D, C, 3, 3) at psi = 0 and psi_table (Q, S, 2);
    distortion (2, 2), see `estep_numba.block_rotations`.
    """

    volumes: Array
    pad: np.float32
    r_max: np.float32
    kx: Array
    ky: Array
    shell: Array
    dir_mats: Array
    psi_table: Array
    distortion: NDArray[np.float32]

    @property
    def pixels(self) -> int:
        return len(self.kx)

    @property
    def directions(self) -> int:
        return len(self.dir_mats)

    @property
    def children(self) -> int:
        """Oversampled orientations of a coarse one, C * S."""
        return int(self.dir_mats.shape[1] * self.psi_table.shape[1])


@dataclass(frozen=True)
class Shifted:
    """Images of a batch at their shifts: row start[n] + slot * children + child of rows (b) is CTF X / sigma2 of
    particle n. rows: what the backend's `shift_rows` makes, for dense scores, or its `at_shifts`, for groups.
    start (N+1,); prior (K, R / children) log, of each slot; ctf2 (b) (N, P) = CTF^2 / sigma2.
    """

    rows: Array
    start: NDArray[np.int64]
    children: int
    prior: NDArray[np.float32]
    ctf2: Array


@dataclass
class Coarse:
    """Scores (b) of the coarse pass as strided views: group g's angle i and shift t at base[g] + i * row_stride + t.

    row_best (b): the largest of each row of T shifts. group_ptr (N+1,): where each particle's groups begin.
    """

    scores: Array
    row_best: Array
    group_ptr: NDArray[np.int64]
    base: NDArray[np.int64]
    row_stride: int
    groups: Groups

    def of_classes(self, only: NDArray[np.int32], directions: int) -> Coarse:
        """The same without the groups of other classes than only[n], where that is not -1."""
        g = self.groups
        wanted = only[g.particle]
        keep = (wanted < 0) | (g.block // directions == wanted)
        groups = g.selected(keep)
        group_ptr = np.concatenate([[0], np.cumsum(np.bincount(groups.particle, minlength=len(only)))])
        return Coarse(self.scores, self.row_best, group_ptr, self.base[keep], self.row_stride, groups)


@dataclass
class Significant:
    """What the coarse pass leaves to the fine one, particle by particle.

    groups (arrays (b), out_start empty) with mask (b): which (angle, slot) of group g matter, row-major from
    mask_start[g] (b). group_start, angle_start, mask_at (N+1,): where each particle's groups, angles and marks begin.
    used (N, T): shifts in use; threshold (N,): the smallest log-weight that counts, NaN where no score is finite;
    count (N,): samples above it.
    """

    groups: Groups
    mask: Array
    mask_start: Array
    group_start: NDArray[np.int64]
    angle_start: NDArray[np.int64]
    mask_at: NDArray[np.int64]
    used: NDArray[np.bool_]
    threshold: NDArray[np.float32]
    count: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[Significant]) -> Significant:
        """What several coarse passes leave, of all their particles; NumPy's arrays, those of the parts are changed."""
        if len(parts) == 1:
            return parts[0]
        starts = ("mask_start", "group_start", "angle_start", "mask_at")
        particles = 0
        for before, part in pairwise(parts):
            particles += len(before.used)
            part.groups.particle += np.int32(particles)
            part.groups.psi_start += before.angle_start[-1]
            for name in starts:
                getattr(part, name)[:] += getattr(before, name)[-1]

        def of_all(name: str) -> NDArray:
            *others, last = (getattr(part, name) for part in parts)
            return np.concatenate([each[:-1] if name in starts else each for each in others] + [last])

        groups = Groups(*(np.concatenate([getattr(part.groups, f.name) for part in parts]) for f in fields(Groups)))
        return cls(groups, *(of_all(f.name) for f in fields(cls) if f.name != "groups"))

    def part(self, first: int, last: int) -> tuple[Groups, Array, Array]:
        """Groups, mask and mask_start of particles first ... last-1, counted from `first`."""
        a, b = int(self.group_start[first]), int(self.group_start[last])
        p0, p1 = int(self.angle_start[first]), int(self.angle_start[last])
        m0, m1 = int(self.mask_at[first]), int(self.mask_at[last])
        g = self.groups
        groups = Groups(
            g.block[a:b], g.particle[a:b] - first, g.prior[a:b], g.psi_start[a:b] - p0, g.psi_count[a:b],
            g.slot_first[a:b], g.slot_count[a:b], g.out_start, g.psi_idx[p0:p1], g.psi_prior[p0:p1],
        )  # fmt: skip
        return groups, self.mask[m0:m1], self.mask_start[a:b] - m0


@dataclass
class Best:
    """The best sample of each particle of a fine batch: its group, its place in the group's scores, log-weights."""

    log_sum: NDArray[np.float64]
    score: NDArray[np.float32]
    group: NDArray[np.int64]
    sample: NDArray[np.int64]
    bad: NDArray[np.bool_]

    @classmethod
    def zeros(cls, n: int) -> Best:
        """Of n particles."""
        return cls(
            np.zeros(n),
            np.zeros(n, np.float32),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.bool_),
        )
