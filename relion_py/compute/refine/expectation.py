"""The expectation step: posterior weights of orientations and shifts, and the sums that the new map is made of.

Adaptive two-pass scheme of the reference (Scheres 2012, J Struct Biol 180:519; ml_optimiser.cpp,
expectationOneParticle), computed over batches of particles. The coarse pass scores every allowed orientation and
shift at a small image size; the samples that hold `adaptive_fraction` of the weight are oversampled in the fine pass
at the current image size; and those that then hold it are summed. Particles are batched so that each projection
serves many of them and scores are matrix products; the kernels behind are in `backend`.

Angles in degrees, offsets in A, images in pixels; Fourier transforms are divided by box^2 as in the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend import estep_numba as kernels
from relion_py.compute.backend import selection_numba as selection
from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.images import DiscPixels, PreparedImages
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.sampling import Groups, LocalSearch, OwnPoses, SamplingTables

MIB = 1 << 20
SUM_ROUNDS = 8
"""Rounds in which a batch is summed; between them a request to stop is seen."""


@dataclass(frozen=True)
class ExpectationSettings:
    """What the expectation step needs to know besides model, sampling and images."""

    adaptive_fraction: float = 0.999
    maximum_significants: int = -1
    correlate: bool = False  # first iteration by cross-correlation: the best pose alone counts
    residual: bool = False  # back-project images less their projections, for a step along the gradient
    sigma2_offset: float = 100.0  # A^2, of the Gaussian prior on offsets
    free_along: bool = False  # offsets along the first axis have no prior: along a helix
    pixel_size: float = 1.0  # A, of the images
    box: int = 0  # pixels, of the images
    work_mib: int = 256  # cap of the work space of one batch
    grids_mib: int = 4096  # cap of the threads' accumulators together


@dataclass
class WeightedSums:
    """Sums over the particles of one half (or one rank's share of it); K classes, S shells, O optics groups.

    grids (K, Z, Y, X, 3): back-projected numerator (re, im) and weight. The others as in the reference's wsum_model:
    sigma2_noise (O, S) and sumw_group (O,), pdf_direction (K, D), signal_product and reference_power (G,) per scale
    group, prior_offset (K, 2) A and sigma2_offset A^2 of the offsets, and totals of the
    log-likelihood, Pmax, norm correction and weights.
    """

    grids: NDArray[np.float32]
    sigma2_noise: NDArray[np.float64]
    sumw_group: NDArray[np.float64]
    pdf_direction: NDArray[np.float64]
    signal_product: NDArray[np.float64]
    reference_power: NDArray[np.float64]
    prior_offset: NDArray[np.float64]
    sigma2_offset: float = 0.0
    log_likelihood: float = 0.0
    sum_pmax: float = 0.0
    avg_norm_correction: float = 0.0
    sum_weight: float = 0.0
    failed: list[int] = field(default_factory=list)

    @classmethod
    def zeros(
        cls,
        grid_shape: tuple[int, int, int],
        classes: int,
        directions: int,
        shells: int,
        optics: int,
        groups: int,
    ) -> WeightedSums:
        """All-zero sums; grid_shape (Z, Y, X)."""
        return cls(
            grids=np.zeros((classes, *grid_shape, 3), np.float32),
            sigma2_noise=np.zeros((optics, shells)),
            sumw_group=np.zeros(optics),
            pdf_direction=np.zeros((classes, directions)),
            signal_product=np.zeros(groups),
            reference_power=np.zeros(groups),
            prior_offset=np.zeros((classes, 2)),
        )

    def pack(self) -> NDArray[np.float64]:
        """Everything but the grids as one vector, for a sum over ranks; `unpack` is its inverse."""
        scalars = [
            self.sigma2_offset, self.log_likelihood, self.sum_pmax, self.avg_norm_correction, self.sum_weight,
        ]  # fmt: skip
        return np.concatenate([scalars, *(a.ravel() for a in self._arrays())])

    def unpack(self, packed: NDArray[np.float64]) -> None:
        """Sets everything but the grids from what `pack` made."""
        (
            self.sigma2_offset, self.log_likelihood, self.sum_pmax, self.avg_norm_correction, self.sum_weight,
        ) = (float(v) for v in packed[:5])  # fmt: skip
        at = 5
        for array in self._arrays():
            array[...] = packed[at : at + array.size].reshape(array.shape)
            at += array.size

    def _arrays(self) -> list[NDArray[np.float64]]:
        return [
            self.sigma2_noise,
            self.sumw_group,
            self.pdf_direction,
            self.signal_product,
            self.reference_power,
            self.prior_offset,
        ]


@dataclass
class Assignments:
    """The best pose and the statistics of each particle of a batch, in the order of the batch.

    matrix (N, 3, 3) Euler matrices; offset (N, 2) A, total; class_index (N,) from 0; NaN poses where failed.
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    class_index: NDArray[np.int32]
    pmax: NDArray[np.float64]
    nr_significant: NDArray[np.int64]
    log_likelihood: NDArray[np.float64]
    norm_correction: NDArray[np.float64]
    failed: NDArray[np.bool_]


@dataclass
class _Coarse:
    """Scores of the coarse pass as strided views: group g's angle i and shift t at base[g] + i * row_stride + t.

    row_best: the largest of each row of T shifts.
    """

    scores: NDArray[np.float32]
    row_best: NDArray[np.float32]
    group_ptr: NDArray[np.int64]
    base: NDArray[np.int64]
    row_stride: int
    groups: Groups

    def of_classes(self, only: NDArray[np.int32], directions: int) -> _Coarse:
        """The same without the groups of other classes than only[n], where that is not -1."""
        g = self.groups
        wanted = only[g.particle]
        keep = (wanted < 0) | (g.block // directions == wanted)
        groups = g.selected(keep)
        group_ptr = np.concatenate([[0], np.cumsum(np.bincount(groups.particle, minlength=len(only)))])
        return _Coarse(self.scores, self.row_best, group_ptr, self.base[keep], self.row_stride, groups)


class Expectation:
    """One expectation step of one half: references, sampling and noise are fixed, batches of particles go through.

    volumes (K, Z, Y, X): padded transforms; coarse and fine are the pixel lists of `PreparedImages`; log_pdf (K, D)
    log prior of classes and directions (global searches); inv_sigma2 (O, S) reciprocal noise per optics group.
    """

    def __init__(
        self,
        backend: CpuBackend,
        settings: ExpectationSettings,
        volumes: NDArray[np.complex64],
        pad: float,
        r_max_padded: float,
        sampling: SamplingTables,
        log_pdf: NDArray[np.float32],
        inv_sigma2: NDArray[np.float32],
        sums: WeightedSums,
        local: LocalSearch | OwnPoses | None = None,
        clock: Stopwatch | None = None,
        prior_offset: NDArray[np.float64] | None = None,
    ) -> None:
        self.backend, self.settings = backend, settings
        self.volumes, self.pad, self.r_max = volumes, np.float32(pad), np.float32(r_max_padded)
        self.sampling, self.log_pdf, self.inv_sigma2 = sampling, log_pdf, inv_sigma2
        self.sums, self.local = sums, local
        self.clock = clock or Stopwatch()
        # of the optics groups of the batch; (2, 2), see `estep_numba.block_rotations`
        self.distortion = np.eye(2, dtype=np.float32)
        self.geometry = ImageGeometry.of(settings.box, settings.pixel_size, settings.box, settings.pixel_size)
        # (K, 2) A: where offsets are expected; classes of 2D references have their own
        self.prior_offset = np.zeros((len(volumes), 2)) if prior_offset is None else prior_offset
        # accumulators, one a thread as far as memory goes; the first is the sum itself
        spare = settings.grids_mib * MIB // max(sums.grids.nbytes, 1)
        count = int(np.clip(spare, 1, backend.threads))
        self._grids = [sums.grids] + [np.zeros_like(sums.grids) for _ in range(count - 1)]

    def finish(self) -> None:
        """Adds the threads' accumulators together, always in the same order."""
        for grid in self._grids[1:]:
            self.sums.grids += grid
        del self._grids[1:]

    def look_at(self, geometry: ImageGeometry, distortion: NDArray[np.float32]) -> None:
        """The next batches' images have this geometry, and a magnification that is undone by `distortion` (2, 2)."""
        self.geometry = geometry
        self.distortion = (distortion / geometry.ratio).astype(np.float32)
        self.settings = replace(self.settings, box=geometry.box, pixel_size=geometry.pixel_size)

    def keep_poses(self, matrices: NDArray[np.float64]) -> None:
        """The next batch's particles keep these orientations (N, 3, 3) and their offsets."""
        self.sampling, self.local = OwnPoses.tables(matrices), OwnPoses()
        log_class = self.log_pdf[:, :1]
        self.log_pdf = np.repeat(log_class, len(matrices), axis=1)

    # ---- batches ----

    def batch_size(self, coarse_pixels: int, fine_pixels: int) -> int:
        """Particles that fit into the work space of one coarse pass."""
        t = len(self.sampling.shifts)
        scores = 4 * t * (64 * 64 if self.local else self.sampling.orientations * len(self.volumes))
        per_particle = scores + 8 * coarse_pixels * t + 24 * (coarse_pixels + fine_pixels)
        return int(np.clip(self.settings.work_mib * MIB // per_particle, 8, 2048))

    def run(self, images: PreparedImages, only_class: NDArray[np.int32] | None = None) -> Assignments:
        """Scores, weighs and sums one batch; adds to the sums and returns the particles' new assignments.

        only_class (N,): the one class that each particle is compared with, or -1 for all.
        """
        n = len(images)
        best = Assignments(
            np.full((n, 3, 3), np.nan), np.zeros((n, 2)), np.zeros(n, np.int32), np.zeros(n), np.zeros(n, np.int64),
            np.zeros(n), np.ones(n), np.zeros(n, np.bool_),
        )  # fmt: skip
        coarse = self._score_coarse(images)
        if only_class is not None:
            coarse = coarse.of_classes(only_class, self.sampling.directions)
        self.clock.lap("coarse")
        fine, trans_used, threshold = self._select(coarse, n, best)
        del coarse
        self.clock.lap("selection")
        for members, groups, mask, mask_start in self._fine_batches(fine, trans_used, threshold, images):
            self._fine_pass(images, members, groups, mask, mask_start, trans_used, best)
        self._finish_particles(images, best)
        return best

    # ---- coarse pass ----

    def _weighted(self, images: PreparedImages, coarse: bool) -> tuple[NDArray, NDArray]:
        """CTF X / sigma2 (N, P) complex64 and CTF^2 / sigma2 (N, P) float32, without sigma2 when correlating."""
        pixels = images.coarse if coarse else images.fine
        take = images.coarse_in_fine if coarse else slice(None)
        # indexing along an axis gives arrays in column order; kernels want rows
        ctf = np.ascontiguousarray(images.ctf[:, take])
        masked = np.ascontiguousarray(images.masked[:, take])
        if self.settings.correlate:
            return masked * ctf, ctf * ctf
        return self._times_ctf(masked, ctf, images.optics, pixels)

    def _times_ctf(
        self, transforms: NDArray, ctf: NDArray, optics: NDArray, pixels: DiscPixels
    ) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """CTF X / sigma2 and CTF^2 / sigma2, both (N, P) in row order."""
        weight = ctf * np.ascontiguousarray(self.inv_sigma2[:, pixels.shell])[optics]
        return transforms * weight, ctf * weight

    def _shift_prior(self, images: PreparedImages) -> NDArray[np.float32]:
        """(K, N, T) log of the Gaussian prior on offsets, mean 1 over the shifts as in the reference."""
        total = images.old_offset[:, None, :] + self.sampling.shifts_unperturbed[None]
        away = self._counted(total[None] - self.prior_offset[:, None, None, :])
        log_prior = -np.sum(away**2, axis=-1) / (2.0 * max(self.settings.sigma2_offset, 1e-4))
        peak = log_prior.max(axis=-1, keepdims=True)
        mean = np.log(np.mean(np.exp(log_prior - peak), axis=-1, keepdims=True)) + peak
        return (log_prior - mean).astype(np.float32)

    def _counted(self, offset: NDArray[np.float64]) -> NDArray[np.float64]:
        """The components (..., 2 or 1) of offsets that the prior is about."""
        return offset[..., 1:] if self.settings.free_along else offset

    def _shift_table(
        self, weighted: NDArray[np.complex64], rows: NDArray, shift_a: NDArray, pixels: DiscPixels
    ) -> NDArray[np.float32]:
        """weighted[rows] shifted by shift_a (R, 2) A -> (R, P, 2) float32."""
        kx, ky = pixels.kx, pixels.ky
        out = np.empty((len(rows), len(kx), 2), np.float32)
        source = np.ascontiguousarray(weighted).view(np.float32).reshape(*weighted.shape, 2)
        shift = shift_a / self.settings.pixel_size
        x, y = np.ascontiguousarray(shift[:, 0]), np.ascontiguousarray(shift[:, 1])

        def work(a: int, b: int) -> None:
            kernels.shift_rows(source, rows[a:b], x[a:b], y[a:b], kx, ky, self.settings.box, out[a:b])

        self.backend.map(work, self.backend.ranges(len(rows)))
        return out

    def _score_coarse(self, images: PreparedImages) -> _Coarse:
        n, tables = len(images), self.sampling
        t = len(tables.shifts)
        weighted, ctf2 = self._weighted(images, coarse=True)
        rows = np.repeat(np.arange(n, dtype=np.int32), t)
        shifts = images.in_image(np.tile(tables.shifts, (n, 1)), rows)
        shifted = self._shift_table(weighted, rows, shifts, images.coarse)
        prior = self._shift_prior(images)
        if self.local is not None:
            return self._score_coarse_local(images, shifted, prior, ctf2)
        classes, d, q = len(self.volumes), tables.directions, tables.angles
        scores = np.empty((classes * d * q, n, t), np.float32)
        row_best = np.empty((classes * d * q, n), np.float32)
        log_pdf = np.repeat(self.log_pdf.reshape(-1), q)
        self.backend.dense_scores(
            self.volumes, float(self.pad), float(self.r_max), images.coarse.kx, images.coarse.ky,
            self._coarse_rotations, d * q,
            log_pdf, shifted, prior, ctf2, self.settings.correlate, scores, row_best,
        )  # fmt: skip
        blocks = classes * d
        block = np.tile(np.arange(blocks, dtype=np.int32), n)
        particle = np.repeat(np.arange(n, dtype=np.int32), blocks)
        groups = Groups(
            block, particle, np.tile(self.log_pdf.reshape(-1), n), np.zeros(n * blocks, np.int64),
            np.full(n * blocks, q, np.int32), np.zeros(n * blocks, np.int32), np.full(n * blocks, t, np.int32),
            np.zeros(0, np.int64), np.arange(q, dtype=np.int32), np.zeros(q, np.float32),
        )  # fmt: skip
        base = block.astype(np.int64) * (q * n * t) + particle.astype(np.int64) * t
        group_ptr = np.arange(n + 1, dtype=np.int64) * blocks
        return _Coarse(scores.reshape(-1), row_best.reshape(-1), group_ptr, base, n * t, groups)

    def _coarse_rotations(self, first: int, last: int) -> NDArray[np.float32]:
        return self.sampling.coarse_rotations(first, last, self.distortion)

    def _score_coarse_local(self, images: PreparedImages, shifted: NDArray, prior: NDArray, ctf2: NDArray) -> _Coarse:
        assert self.local is not None
        n, t = len(images), len(self.sampling.shifts)
        groups, group_ptr = self.local.groups(images.index, len(self.volumes), self.log_pdf)
        groups.slot_count[:] = t
        size = groups.psi_count.astype(np.int64) * t
        groups.out_start = np.concatenate([[0], np.cumsum(size)[:-1]]) if len(size) else np.zeros(0, np.int64)
        scores = np.empty(int(size.sum()), np.float32)
        starts = np.arange(n + 1, dtype=np.int64) * t
        self._score(
            groups.sorted_by_block(), images.coarse, self.sampling.coarse_mats, self.sampling.coarse_psi,
            prior.reshape(len(prior), -1), starts, shifted, 1, ctf2, scores,
        )  # fmt: skip
        row_best = np.empty(len(scores) // t, np.float32)

        def best_of_rows(a: int, b: int) -> None:
            selection.row_maxima(scores, t, row_best, a, b)

        self.backend.map(best_of_rows, self.backend.ranges(len(row_best)))
        return _Coarse(scores, row_best, group_ptr, groups.out_start, t, groups)

    def _score(
        self, groups: Groups, pixels: DiscPixels, dir_mats: NDArray, psi_table: NDArray, slot_prior: NDArray,
        table_start: NDArray, shifted: NDArray, n_shifts: int, ctf2: NDArray, out: NDArray,
    ) -> None:  # fmt: skip
        g = groups
        kx, ky = pixels.kx, pixels.ky

        def work(a: int, b: int) -> None:
            kernels.score_groups(
                self.volumes, self.pad, self.r_max, kx, ky, self.distortion, dir_mats, psi_table,
                g.block, g.particle, g.prior,
                g.psi_start, g.psi_count, g.psi_idx, g.psi_prior, g.slot_first, g.slot_count, g.out_start, slot_prior,
                table_start, shifted, n_shifts, ctf2, self.settings.correlate, out, a, b,
            )  # fmt: skip

        self.backend.map(work, self.backend.block_ranges(g.block, g.work(), 4 * self.backend.threads))

    # ---- selection ----

    def _select(
        self, coarse: _Coarse, n: int, best: Assignments
    ) -> tuple[tuple[Groups, NDArray, NDArray, NDArray], NDArray, NDArray]:
        """Fine groups, particle by particle, with their significance masks, and the (N, T) shifts in use."""
        s, c, t = self.settings, coarse.groups, len(self.sampling.shifts)
        threshold = np.empty(n, np.float32)
        n_groups, n_angles = np.zeros(n, np.int64), np.zeros(n, np.int64)
        used = np.zeros((n, t), np.bool_)

        def find(a: int, b: int) -> None:
            selection.find_significant(
                coarse.scores, coarse.row_best, coarse.group_ptr, coarse.base, coarse.row_stride, c.psi_count, t,
                s.adaptive_fraction, s.maximum_significants, s.correlate,
                threshold, best.nr_significant, n_groups, n_angles, used, a, b,
            )  # fmt: skip

        ranges = self.backend.ranges(n, 4 * self.backend.threads)
        self.backend.map(find, ranges)
        slot_of_trans = np.where(used, np.cumsum(used, axis=1) - 1, -1).astype(np.int32)
        group_start = np.concatenate([[0], np.cumsum(n_groups)])
        psi_start = np.concatenate([[0], np.cumsum(n_angles)])
        total, angles = int(group_start[-1]), int(psi_start[-1])
        fine = Groups(
            np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.float32),
            np.empty(total, np.int64),
            np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int32), np.empty(0, np.int64),
            np.empty(angles, np.int32), np.empty(angles, np.float32),
        )  # fmt: skip

        def fill(a: int, b: int) -> None:
            selection.list_significant(
                coarse.scores, coarse.row_best, coarse.group_ptr, coarse.base, coarse.row_stride, c.block, c.prior,
                c.psi_start, c.psi_count, c.psi_idx, c.psi_prior, t, threshold, slot_of_trans, group_start, psi_start,
                fine.block, fine.particle, fine.prior, fine.psi_start, fine.psi_count, fine.psi_idx, fine.psi_prior,
                fine.slot_first, fine.slot_count, a, b,
            )  # fmt: skip

        self.backend.map(fill, ranges)
        size = fine.psi_count.astype(np.int64) * fine.slot_count
        mask_start = np.concatenate([[0], np.cumsum(size)])
        mask = np.zeros(int(mask_start[-1]), np.uint8)

        def mark(a: int, b: int) -> None:
            selection.mark_significant(
                coarse.scores, coarse.row_best, coarse.group_ptr, coarse.base, coarse.row_stride, c.psi_start,
                c.psi_count, c.psi_idx, c.block, t, threshold, slot_of_trans, group_start,
                fine.block, fine.psi_count, fine.slot_first,
                fine.slot_count, mask_start, mask, a, b,
            )  # fmt: skip

        self.backend.map(mark, ranges)
        best.failed |= ~np.isfinite(threshold)
        return (fine, group_start, mask, mask_start), used, threshold

    def _fine_batches(
        self,
        fine: tuple[Groups, NDArray, NDArray, NDArray],
        used: NDArray,
        threshold: NDArray,
        images: PreparedImages,
    ) -> Iterator[tuple[NDArray, Groups, NDArray, NDArray]]:
        """Runs of particles whose fine scores and shifted images fit into the work space."""
        groups, group_start, mask, mask_start = fine
        tables = self.sampling
        samples = np.diff(mask_start[group_start]) * tables.rot_children * tables.shift_children
        cost = 4 * samples + used.sum(axis=1) * (tables.shift_children * 16 * images.fine.size)
        limit = self.settings.work_mib * MIB
        n, first = len(images), 0
        while first < n:
            last, total = first, 0
            while last < n and (last == first or total + cost[last] <= limit):
                total += cost[last]
                last += 1
            a, b = group_start[first], group_start[last]
            if b > a:
                p0 = groups.psi_start[a]
                p1 = groups.psi_start[b - 1] + groups.psi_count[b - 1]
                part = Groups(
                    groups.block[a:b], groups.particle[a:b] - first, groups.prior[a:b], groups.psi_start[a:b] - p0,
                    groups.psi_count[a:b], groups.slot_first[a:b], groups.slot_count[a:b], np.zeros(0, np.int64),
                    groups.psi_idx[p0:p1], groups.psi_prior[p0:p1],
                )  # fmt: skip
                m0, m1 = mask_start[a], mask_start[b]
                yield np.arange(first, last), part, mask[m0:m1], mask_start[a:b] - m0
            first = last

    # ---- fine pass ----

    def _fine_pass(
        self, images: PreparedImages, members: NDArray, groups: Groups, mask: NDArray, mask_start: NDArray,
        trans_used: NDArray, best: Assignments,
    ) -> None:  # fmt: skip
        batch = images.subset(members)
        n, tables = len(batch), self.sampling
        v = tables.shift_children
        weighted, ctf2 = self._weighted(batch, coarse=False)
        slots = trans_used[members].sum(axis=1)
        table_start = np.concatenate([[0], np.cumsum(slots * v)])
        who, shift_index = np.nonzero(trans_used[members])
        rows = np.repeat(who, v).astype(np.int32)
        shift = tables.child_shifts[shift_index].reshape(-1, 2)
        shifted = self._shift_table(weighted, rows, batch.in_image(shift, rows), batch.fine)
        slot_prior = np.ascontiguousarray(self._shift_prior(batch)[:, who, shift_index])
        groups.out_start = mask_start * (tables.rot_children * v)
        scores = np.empty(len(mask) * tables.rot_children * v, np.float32)
        by_block = groups.sorted_by_block()
        self._score(
            by_block, batch.fine, tables.fine_mats, tables.fine_psi, slot_prior, table_start, shifted, v, ctf2, scores,
        )  # fmt: skip
        self.clock.lap("fine")
        group_ptr = np.searchsorted(groups.particle, np.arange(n + 1)).astype(np.int64)
        chosen = _Best.zeros(n)
        self._weigh(groups, group_ptr, scores, mask, mask_start, chosen)
        row_weight = np.zeros((len(self.volumes), int(table_start[-1])))
        ranges = self.backend.ranges(n)
        block_weight = np.zeros((len(ranges), len(self.volumes) * tables.directions))

        def add_up(i: int, a: int, b: int) -> None:  # a particle's shifts are its own; blocks are shared
            selection.marginals(
                scores, group_ptr, groups.block, groups.psi_count, groups.slot_first, groups.slot_count,
                groups.out_start, tables.rot_children, v, tables.directions, table_start, row_weight, block_weight[i],
                a, b,
            )  # fmt: skip

        self.backend.map(add_up, [(i, a, b) for i, (a, b) in enumerate(ranges)])
        self.clock.lap("weights")
        if self.settings.correlate:  # the noise-weighted images after all, for the back-projection
            weighted, ctf2 = self._times_ctf(batch.masked, batch.ctf, batch.optics, batch.fine)
            shifted = self._shift_table(weighted, rows, batch.in_image(shift, rows), batch.fine)
        signal, power = self._sum(batch, by_block, scores, table_start, shifted, ctf2, rows, shift, row_weight)
        by_direction = block_weight.sum(axis=0).reshape(len(self.volumes), -1)
        if by_direction.shape != self.sums.pdf_direction.shape:  # particles in their own poses
            by_direction = by_direction.sum(axis=1, keepdims=True)
        self.sums.pdf_direction += by_direction
        self._keep(batch, members, groups, chosen, scores, table_start, rows, shift, row_weight, signal, power, best)
        self.clock.lap("sums")

    def _weigh(
        self,
        groups: Groups,
        group_ptr: NDArray,
        scores: NDArray,
        mask: NDArray,
        mask_start: NDArray,
        chosen: _Best,
    ) -> None:
        s, tables = self.settings, self.sampling

        def work(a: int, b: int) -> None:
            selection.weigh_samples(
                scores, group_ptr, groups.psi_count, groups.slot_count, groups.out_start, mask, mask_start,
                tables.rot_children, tables.shift_children, s.adaptive_fraction, s.correlate,
                chosen.log_sum, chosen.score, chosen.group, chosen.sample, chosen.bad, a, b,
            )  # fmt: skip

        self.backend.map(work, self.backend.ranges(len(group_ptr) - 1, 4 * self.backend.threads))

    def _sum(
        self, batch: PreparedImages, by_block: Groups, weights: NDArray, table_start: NDArray, shifted: NDArray,
        ctf2: NDArray, rows: NDArray, shift: NDArray, row_weight: NDArray,
    ) -> tuple[NDArray, NDArray]:  # fmt: skip
        """Back-projections, and sums of signal and reference power, (N, S) each, still divided by sigma2."""
        tables, g, pixels = self.sampling, by_block, batch.fine
        in_use = row_weight.sum(axis=0) > 0
        used = np.nonzero(in_use)[0]
        recon_row = np.full(len(in_use), -1, np.int64)
        recon_row[used] = np.arange(len(used))
        unmasked, _ = self._times_ctf(batch.unmasked, batch.ctf, batch.optics, pixels)
        recon = self._shift_table(unmasked, rows[used], batch.in_image(shift[used], rows[used]), pixels)
        threads = len(self._grids)
        signal = np.zeros((threads, len(batch), self.inv_sigma2.shape[1]))
        power = np.zeros_like(signal)

        def work(thread: int, a: int, b: int) -> None:
            kernels.sum_groups(
                self.volumes, self.pad, self.r_max, pixels.kx, pixels.ky, pixels.shell, self.distortion,
                tables.fine_mats, tables.fine_psi,
                g.block, g.particle, g.psi_start, g.psi_count, g.psi_idx, g.slot_first, g.slot_count, g.out_start,
                table_start, shifted, tables.shift_children, recon_row, recon, ctf2, weights, self.settings.residual,
                self._grids[thread], signal[thread], power[thread], a, b,
            )  # fmt: skip

        # in rounds, each thread keeping its accumulator, so that a request to stop is seen between them
        ranges = self.backend.block_ranges(g.block, g.work(), SUM_ROUNDS * threads)
        for first in range(0, len(ranges), threads):
            self.backend.map(work, [(i, a, b) for i, (a, b) in enumerate(ranges[first : first + threads])])
        return signal.sum(axis=0), power.sum(axis=0)

    def _keep(
        self, batch: PreparedImages, members: NDArray, groups: Groups, chosen: _Best, weights: NDArray,
        table_start: NDArray, rows: NDArray, shift: NDArray, row_weight: NDArray, signal: NDArray, power: NDArray,
        best: Assignments,
    ) -> None:  # fmt: skip
        """Statistics per particle into `best`, and the sums over particles that are not maps."""
        s, tables, sums = self.settings, self.sampling, self.sums
        good = ~chosen.bad
        best.failed[members] |= chosen.bad
        # pose of the best sample
        columns = groups.slot_count[chosen.group].astype(np.int64) * tables.shift_children
        row, column = np.divmod(chosen.sample, columns)
        angle, child = np.divmod(row, tables.rot_children)
        block = groups.block[chosen.group]
        psi = groups.psi_idx[groups.psi_start[chosen.group] + angle]
        best.matrix[members] = tables.fine_rotation(block % tables.directions, psi, child)
        best.class_index[members] = block // tables.directions
        at = table_start[:-1] + groups.slot_first[chosen.group].astype(np.int64) * tables.shift_children + column
        offset = batch.old_offset + shift[np.minimum(at, len(shift) - 1)]
        best.offset[members] = batch.in_image(offset, np.arange(len(batch)))
        best.pmax[members] = np.where(good, weights[groups.out_start[chosen.group] + chosen.sample], 0.0)
        # weight within the table of shifts: total per particle, and the spread of offsets
        sum_weight = np.bincount(rows, row_weight.sum(axis=0), len(batch))
        offset = batch.old_offset[rows] + shift
        for k, prior in enumerate(self.prior_offset):
            sums.sigma2_offset += float(np.sum(row_weight[k] * np.sum(self._counted(offset - prior) ** 2, axis=1)))
        sums.prior_offset += row_weight @ offset
        # noise: |X|^2 - 2 Re <X, CTF P> + |CTF P|^2, by shell; signal and power still hold 1/sigma2
        inverse = self.inv_sigma2[batch.optics]
        sigma2 = np.divide(1.0, inverse, out=np.zeros(inverse.shape), where=inverse > 0)
        xa, aa = signal * sigma2, power * sigma2
        current = batch.fine.r_max
        own = batch.spectrum * sum_weight[:, None]
        own[:, current + 1 :] = batch.spectrum[:, current + 1 :]
        # over all the images' shells, also those that the reference does not have
        total = own[:, 1:].sum(axis=1) + (aa - 2.0 * xa).sum(axis=1)
        noise = self.geometry.to_reference(own) + aa - 2.0 * xa
        noise[chosen.bad] = 0.0
        np.add.at(sums.sigma2_noise, batch.optics, noise)
        np.add.at(sums.sumw_group, batch.optics, sum_weight)
        norm = np.sqrt(np.maximum(2.0 * total, 0.0)) / self.geometry.gain
        best.norm_correction[members] = np.where(good, norm, 1.0)
        use = batch.scale_shells
        np.add.at(sums.signal_product, batch.group, np.where(use, xa, 0.0).sum(axis=1) / batch.scale)
        np.add.at(sums.reference_power, batch.group, np.where(use, aa, 0.0).sum(axis=1) / batch.scale**2)
        sums.sum_weight += float(sum_weight.sum())
        # log-likelihood: the constant terms that the scores leave out
        if s.correlate:
            likelihood = chosen.score.astype(np.float64)
        else:
            shells = slice(1, current + 1)
            inverse_of_shell = self.geometry.of_images(inverse)
            misfit = 0.5 * np.sum(batch.spectrum[:, shells] * inverse_of_shell[:, shells], axis=1)
            misfit += 0.5 * batch.spectrum[:, current + 1 :].sum(axis=1)
            with np.errstate(divide="ignore"):
                normaliser = np.where(sigma2 > 0, np.log(2.0 * np.pi * np.maximum(sigma2, 1e-300)), 0.0)
            counts = np.bincount(batch.fine.shell, minlength=inverse.shape[1])
            likelihood = chosen.log_sum - misfit - (normaliser * counts)[:, 1:].sum(axis=1)
        best.log_likelihood[members] = np.where(good, likelihood, 0.0)

    def _finish_particles(self, images: PreparedImages, best: Assignments) -> None:
        good = ~best.failed
        # the old correction was applied to the image already (ml_optimiser.cpp, storeWeightedSums)
        best.norm_correction *= images.applied_norm
        self.sums.avg_norm_correction += float(best.norm_correction[good].sum())
        self.sums.log_likelihood += float(best.log_likelihood[good].sum())
        self.sums.sum_pmax += float(best.pmax[good].sum())
        self.sums.failed.extend(int(i) for i in images.index[best.failed])


@dataclass
class _Best:
    """The best sample of each particle of a fine batch: its group, its place in the group's scores, log-weights."""

    log_sum: NDArray[np.float64]
    score: NDArray[np.float32]
    group: NDArray[np.int64]
    sample: NDArray[np.int64]
    bad: NDArray[np.bool_]

    @classmethod
    def zeros(cls, n: int) -> _Best:
        return cls(
            np.zeros(n),
            np.zeros(n, np.float32),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.bool_),
        )
