"""The expectation step: posterior weights of orientations and shifts, and the sums that the new map is made of.

Adaptive two-pass scheme of the reference (Scheres 2012, J Struct Biol 180:519; ml_optimiser.cpp,
expectationOneParticle), computed over batches of particles. The coarse pass scores every allowed orientation and
shift at a small image size; the samples that hold `adaptive_fraction` of the weight are oversampled in the fine pass
at the current image size; and those that then hold it are summed. Particles are batched so that each projection
serves many of them and scores are matrix products; the kernels behind are in `backend`.

Angles in degrees, offsets in A, images in pixels; Fourier transforms are divided by box^2 as in the reference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.base import Backend
from relion_py.compute.backend.estep_numba import offset_priors
from relion_py.compute.backend.work import Array, Best, Coarse, Groups, Shifted, Significant, Slices
from relion_py.compute.refine.body_search import BodySearch
from relion_py.compute.refine.clock import Stopwatch
from relion_py.compute.refine.images import DiscPixels, PreparedImages
from relion_py.compute.refine.optics import ImageGeometry
from relion_py.compute.refine.sampling import LocalSearch, OwnPoses, SamplingTables

FEWEST = 8
"""Particles, at least, of a batch and of a coarse pass."""


@dataclass(frozen=True)
class ExpectationSettings:
    """What the expectation step needs to know besides model, sampling and images."""

    adaptive_fraction: float = 0.999
    maximum_significants: int = -1
    correlate: bool = False  # first iteration by cross-correlation: the best pose alone counts
    limited: bool = False  # --strict_highres_exp: the fine pass looks at the coarse pixels, and sums the fine ones
    residual: bool = False  # back-project images less their projections, for a step along the gradient
    sigma2_offset: float = 100.0  # A^2, of the Gaussian prior on offsets
    free_along: bool = False  # offsets along the first axis have no prior: along a helix
    pixel_size: float = 1.0  # A, of the images
    box: int = 0  # pixels, of the images


@dataclass
class WeightedSums:
    """Sums over the particles of one half (or one rank's share of it); K classes, S shells, O optics groups.

    grids (K, Z, Y, X, 3): back-projected numerator (re, im) and weight. The others as in the reference's wsum_model:
    sigma2_noise and ctf2 (O, S), the latter of images that are multiplied with their CTF, sumw_group (O,),
    pdf_direction (K, D), signal_product and reference_power (G,) per scale group, prior_offset (K, 2) A and
    sigma2_offset A^2 of the offsets, and totals of the log-likelihood, Pmax, norm correction and weights.
    """

    grids: NDArray[np.float32]
    sigma2_noise: NDArray[np.float64]
    ctf2: NDArray[np.float64]
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
            ctf2=np.zeros((optics, shells)),
            sumw_group=np.zeros(optics),
            pdf_direction=np.zeros((classes, directions)),
            signal_product=np.zeros(groups),
            reference_power=np.zeros(groups),
            prior_offset=np.zeros((classes, 2)),
        )

    def like(self) -> WeightedSums:
        """Zero sums of the same shapes, with the same grids."""
        zeros: list[Any] = [np.zeros_like(array) for array in self._arrays()]
        return WeightedSums(self.grids, *zeros)

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
            self.ctf2,
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

    @classmethod
    def unknown(cls, n: int) -> Assignments:
        """Of n particles that nothing is known of yet."""
        return cls(
            np.full((n, 3, 3), np.nan), np.zeros((n, 2)), np.zeros(n, np.int32), np.zeros(n), np.zeros(n, np.int64),
            np.zeros(n), np.ones(n), np.zeros(n, np.bool_),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: list[Assignments]) -> Assignments:
        """Of all particles of several batches, one after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class Expectation:
    """One expectation step of one half: references, sampling and noise are fixed, batches of particles go through.

    volumes (K, Z, Y, X): padded transforms; coarse and fine are the pixel lists of `PreparedImages`; log_pdf (K, D)
    log prior of classes and directions (global searches); inv_sigma2 (O, S) reciprocal noise per optics group.
    """

    def __init__(
        self,
        backend: Backend,
        settings: ExpectationSettings,
        volumes: NDArray[np.complex64],
        pad: float,
        r_max_padded: float,
        sampling: SamplingTables,
        log_pdf: NDArray[np.float32],
        inv_sigma2: NDArray[np.float32],
        sums: WeightedSums,
        local: LocalSearch | BodySearch | OwnPoses | None = None,
        clock: Stopwatch | None = None,
        prior_offset: NDArray[np.float64] | None = None,
    ) -> None:
        self.backend, self.settings = backend, settings
        self.classes, self.pad, self.r_max = len(volumes), np.float32(pad), np.float32(r_max_padded)
        self.volumes = backend.references(volumes)
        # the origin, which images have where they are correlated, has no noise to be compared with
        self.log_pdf, self.inv_sigma2 = log_pdf, np.pad(inv_sigma2[:, 1:], ((0, 0), (1, 0)))
        self._inverse_at_origin = inv_sigma2[:, 0]
        self.sums, self.local = sums, local
        self.clock = clock or Stopwatch()
        # of the optics groups of the batch; (2, 2), see `estep_numba.block_rotations`
        self.distortion = np.eye(2, dtype=np.float32)
        self.geometry = ImageGeometry.of(settings.box, settings.pixel_size, settings.box, settings.pixel_size)
        # (K, 2) A: where offsets are expected; classes of 2D references have their own
        self.prior_offset = np.zeros((len(volumes), 2)) if prior_offset is None else prior_offset
        self._accumulators = backend.accumulators(sums.grids)
        self._means = volumes[:, volumes.shape[1] // 2, volumes.shape[2] // 2, 0].real.astype(np.float64)
        self._origins = np.zeros((len(volumes), 2))  # what is to be added to the grids' value and weight there
        self._pixels: dict[int, tuple[DiscPixels, tuple[Array, Array, Array]]] = {}
        self._dense: dict[int, tuple[Groups, NDArray[np.int64], NDArray[np.int64]]] = {}
        self._use(sampling)

    def _use(self, sampling: SamplingTables) -> None:
        self.sampling = sampling
        there = self.backend.to_device
        self._coarse_tables = there(sampling.coarse_mats), there(sampling.coarse_psi)
        self._fine_tables = there(sampling.fine_mats), there(sampling.fine_psi)

    def finish(self) -> None:
        """Brings what was back-projected into the sums."""
        grids = self.sums.grids
        self.backend.collect(self._accumulators, grids)
        grids[:, grids.shape[1] // 2, grids.shape[2] // 2, 0, ::2] += self._origins
        self._origins[:] = 0.0

    def look_at(self, geometry: ImageGeometry, distortion: NDArray[np.float32]) -> None:
        """The next batches' images have this geometry, and a magnification that is undone by `distortion` (2, 2)."""
        self.geometry = geometry
        self.distortion = (distortion / geometry.ratio).astype(np.float32)
        self.settings = replace(self.settings, box=geometry.box, pixel_size=geometry.pixel_size)

    def keep_poses(self, matrices: NDArray[np.float64], and_offsets: bool = True) -> None:
        """The next batch's particles keep these orientations (N, 3, 3) and, if so, their offsets."""
        self._use(OwnPoses.tables(matrices, None if and_offsets else self.sampling))
        self.local = OwnPoses()
        log_class = self.log_pdf[:, :1]
        self.log_pdf = np.repeat(log_class, len(matrices), axis=1)

    # ---- batches ----

    def batch_size(self, coarse_pixels: int, fine_pixels: int, box: int) -> int:
        """Particles that are treated together: projections of the fine pass are shared by all of them.

        On the CPU a global search scores as many of them at a time as its work space has room for, and the batch is
        as large as there is room for its images; other searches score all of a batch at once.
        """
        if self._coarse_in_pieces:
            each = max(4 * box**2 + 24 * fine_pixels, 48 * fine_pixels)  # transforms, CTFs and weights; the images go
            return int(np.clip(self.backend.image_bytes // each, FEWEST, 2048))
        per_particle = self._coarse_bytes(coarse_pixels) + 24 * (coarse_pixels + fine_pixels)
        return int(np.clip(self.backend.work_bytes() // max(per_particle, 4 * box**2), FEWEST, 2048))

    @property
    def _coarse_in_pieces(self) -> bool:
        return self.backend.image_bytes > 0 and self.local is None and not self.settings.free_along

    def _coarse_bytes(self, pixels: int) -> float:
        """Of a particle's coarse scores and of its image at all shifts."""
        if self.local is None:
            orientations, table = float(self.sampling.orientations), 8 * pixels
        else:
            shared = not self.settings.free_along  # else each segment has its own frame
            orientations, table = self.local.orientations, self.backend.bytes_at_shifts(pixels, shared)
        return (4 * orientations * self.classes + table) * len(self.sampling.shifts)

    def run(self, images: PreparedImages, only_class: NDArray[np.int32] | None = None) -> Assignments:
        """Scores, weighs and sums one batch; adds to the sums and returns the particles' new assignments.

        only_class (N,): the one class that each particle is compared with, or -1 for all.
        """
        n = len(images)
        try:
            found = self._coarse_pass(images, only_class)
        except Exception as error:
            if n < 2 or not self.backend.out_of_memory(error):
                raise
        else:
            best = Assignments.unknown(n)
            best.nr_significant[:] = found.count
            best.failed |= ~np.isfinite(found.threshold)
            for first, last in self._fine_batches(found, images):
                self._fine_pass_in_pieces(images, first, last, found, best)
            self._finish_particles(images, best)
            return best
        # outside of the except clause, whose error holds on to what filled the memory
        self.backend.release()
        halves = []
        for part in (slice(0, n // 2), slice(n // 2, n)):
            step = self._of_particles(part)
            only = None if only_class is None else only_class[part]
            halves.append(step.run(images.part(part.start, part.stop), only))
        return Assignments.joined(halves)

    def _of_particles(self, part: slice) -> Expectation:
        """This step for some particles of a batch, with the same sums: orientations may be the particles' own."""
        if not isinstance(self.local, OwnPoses):
            return self
        step = copy.copy(self)
        tables = self.sampling
        step._use(replace(tables, coarse_mats=tables.coarse_mats[part], fine_mats=tables.fine_mats[part]))
        step.log_pdf = self.log_pdf[:, part]
        return step

    def _fine_pass_in_pieces(
        self, images: PreparedImages, first: int, last: int, found: Significant, best: Assignments
    ) -> None:
        """The fine pass of particles first ... last-1, of half of them at a time where the memory is too small."""
        try:
            self._fine_pass(images, first, last, found, best)
            return
        except Exception as error:
            if last - first < 2 or not self.backend.out_of_memory(error):
                raise
        self.backend.release()
        middle = (first + last) // 2
        for a, b in ((first, middle), (middle, last)):
            if found.group_start[b] > found.group_start[a]:
                self._fine_pass_in_pieces(images, a, b, found, best)

    # ---- coarse pass ----

    def _coarse_pass(self, images: PreparedImages, only_class: NDArray[np.int32] | None) -> Significant:
        """The samples that matter, of all particles."""
        n, s, t = len(images), self.settings, len(self.sampling.shifts)
        size = n
        if self._coarse_in_pieces:
            most = max(FEWEST, int(self.backend.work_bytes() // self._coarse_bytes(images.coarse.size)))
            size = -(-n // -(-n // most))  # pieces of one size
        found = []
        for first in range(0, n, size):
            piece = images.part(first, min(first + size, n))
            coarse = self._score_coarse(piece)
            if only_class is not None:
                coarse = coarse.of_classes(only_class[first : first + size], self.sampling.directions)
            self.clock.lap("coarse")
            found.append(
                self.backend.select(coarse, len(piece), t, s.adaptive_fraction, s.maximum_significants, s.correlate)
            )
            self.clock.lap("selection")
        return Significant.joined(found)

    def _slices(self, pixels: DiscPixels, coarse: bool) -> Slices:
        if id(pixels) not in self._pixels:
            there = self.backend.to_device
            self._pixels[id(pixels)] = pixels, (there(pixels.kx), there(pixels.ky), there(pixels.shell))
        mats, psi = self._coarse_tables if coarse else self._fine_tables
        kx, ky, shell = self._pixels[id(pixels)][1]
        return Slices(self.volumes, self.pad, self.r_max, kx, ky, shell, mats, psi, self.distortion)

    def _weighted(self, images: PreparedImages, coarse: bool) -> tuple[Array, Array]:
        """CTF X / sigma2 (N, P) complex64 and CTF^2 / sigma2 (N, P) float32, without sigma2 when correlating."""
        if not coarse:
            return self._ctf_terms(images, images.masked, images.ctf, images.fine)
        take = self.backend.to_device(images.coarse_in_fine)
        return self._ctf_terms(images, images.masked[:, take], images.ctf[:, take], images.coarse)

    def _ctf_terms(
        self, images: PreparedImages, transforms: Array, ctf: Array, pixels: DiscPixels, noise: bool | None = None
    ) -> tuple[Array, Array]:
        """CTF X / sigma2 and CTF^2 / sigma2, both (N, P) in row order; noise: whether to divide by sigma2."""
        xp = self.backend.xp
        # indexing along an axis gives arrays in column order; kernels want rows
        transforms, ctf = xp.ascontiguousarray(transforms), xp.ascontiguousarray(ctf)
        if self.settings.correlate if noise is None else not noise:
            times = self.backend.to_device(pixels.multiplicity())
            return transforms * (ctf * times), ctf * ctf * times
        inverse = self.backend.to_device(np.ascontiguousarray(self.inv_sigma2[:, pixels.shell]))
        weight = ctf * inverse[self.backend.to_device(images.optics)]
        return transforms * weight, ctf * weight

    def _inserted(self, images: PreparedImages, ctf2: Array) -> tuple[Array, Array]:
        """What is back-projected and its weight, (N, P): CTF X / sigma2 of unmasked images and ctf2 = CTF^2 / sigma2.

        Images that have the CTF in them already need no second one (acc/cpu/cpu_kernels/BP.h, CTF_PREMULTIPLIED).
        """
        inverse = self.backend.to_device(np.ascontiguousarray(self.inv_sigma2[:, images.fine.shell]))
        inverse = inverse[self.backend.to_device(images.optics)]
        if images.premultiplied:
            return images.unmasked * inverse, images.ctf * inverse
        inverse *= images.ctf
        return images.unmasked * inverse, ctf2

    def _shift_prior(self, images: PreparedImages) -> NDArray[np.float32]:
        """(K, N, T) log of the Gaussian prior on offsets, mean 1 over the shifts as in the reference."""
        total = images.old_offset[:, None, :] + self.sampling.shifts_unperturbed[None]
        prior = np.empty((len(self.prior_offset), *total.shape[:2]), np.float32)
        two_sigma2 = 2.0 * max(self.settings.sigma2_offset, 1e-4)
        offset_priors(self._counted(total), self._counted(self.prior_offset), two_sigma2, prior)
        return prior

    def _counted(self, offset: NDArray[np.float64]) -> NDArray[np.float64]:
        """The components (..., 2 or 1) of offsets that the prior is about."""
        return offset[..., 1:] if self.settings.free_along else offset

    def _in_pixels(self, shift_a: NDArray) -> tuple[NDArray, NDArray]:
        """x and y (R,) pixels of shifts (R, 2) A."""
        shift = shift_a / self.settings.pixel_size
        return np.ascontiguousarray(shift[:, 0]), np.ascontiguousarray(shift[:, 1])

    def _at_shifts(
        self, weighted: Array, images: PreparedImages, rows: NDArray, shifts: NDArray, which: NDArray, slices: Slices
    ) -> Array:
        """weighted[rows] moved by shifts[which] of shifts (U, 2) A in the particles' frames, for groups."""
        if images.turn is not None:  # each has its own
            shifts, which = images.in_image(shifts[which], rows), np.arange(len(rows))
        x, y = self._in_pixels(shifts)
        return self.backend.at_shifts(weighted, rows, x, y, which, slices.kx, slices.ky, self.settings.box)

    def _score_coarse(self, images: PreparedImages) -> Coarse:
        n, tables = len(images), self.sampling
        t = len(tables.shifts)
        slices = self._slices(images.coarse, coarse=True)
        weighted, ctf2 = self._weighted(images, coarse=True)
        rows = np.repeat(np.arange(n, dtype=np.int32), t)
        prior = self._shift_prior(images).reshape(self.classes, n * t)
        start = np.arange(n + 1, dtype=np.int64) * t
        if self.local is not None:
            which = np.tile(np.arange(t), n)
            shifted = self._at_shifts(weighted, images, rows, tables.shifts, which, slices)
            return self._score_coarse_local(images, slices, Shifted(shifted, start, 1, prior, ctf2))
        x, y = self._in_pixels(images.in_image(np.tile(tables.shifts, (n, 1)), rows))
        shifted = self.backend.shift_rows(weighted, rows, x, y, slices.kx, slices.ky, self.settings.box)
        table = Shifted(shifted, start, 1, prior, ctf2)
        d, q = tables.directions, tables.angles
        log_pdf = np.repeat(self.log_pdf.reshape(-1), q)
        scores, row_best = self.backend.dense_scores(
            slices, self._coarse_rotations, d * q, log_pdf, table, self.settings.correlate
        )
        if n not in self._dense:
            self._dense[n] = self._every_orientation(n)
        groups, group_ptr, base = self._dense[n]
        return Coarse(scores.reshape(-1), row_best.reshape(-1), group_ptr, base, n * t, groups)

    def _every_orientation(self, n: int) -> tuple[Groups, NDArray[np.int64], NDArray[np.int64]]:
        """Groups, group_ptr and base of a global search, see `Coarse`; most batches have the same."""
        t, q, blocks = len(self.sampling.shifts), self.sampling.angles, self.classes * self.sampling.directions
        block = np.tile(np.arange(blocks, dtype=np.int32), n)
        particle = np.repeat(np.arange(n, dtype=np.int32), blocks)
        groups = Groups(
            block, particle, np.tile(self.log_pdf.reshape(-1), n), np.zeros(n * blocks, np.int64),
            np.full(n * blocks, q, np.int32), np.zeros(n * blocks, np.int32), np.full(n * blocks, t, np.int32),
            np.zeros(0, np.int64), np.arange(q, dtype=np.int32), np.zeros(q, np.float32),
        )  # fmt: skip
        base = block.astype(np.int64) * (q * n * t) + particle.astype(np.int64) * t
        return groups, np.arange(n + 1, dtype=np.int64) * blocks, base

    def _coarse_rotations(self, first: int, last: int) -> NDArray[np.float32]:
        return self.sampling.coarse_rotations(first, last, self.distortion)

    def _score_coarse_local(self, images: PreparedImages, slices: Slices, table: Shifted) -> Coarse:
        assert self.local is not None
        t = len(self.sampling.shifts)
        groups, group_ptr = self.local.groups(images.index, self.classes, self.log_pdf)
        groups.slot_count[:] = t
        size = groups.psi_count.astype(np.int64) * t
        groups.out_start = np.concatenate([[0], np.cumsum(size)[:-1]]) if len(size) else np.zeros(0, np.int64)
        plan = self.backend.plan(slices, groups)
        scores = self.backend.score_groups(slices, plan, table, int(size.sum()), self.settings.correlate)
        return Coarse(scores, self.backend.row_maxima(scores, t), group_ptr, groups.out_start, t, groups)

    def _fine_batches(self, found: Significant, images: PreparedImages) -> Iterator[tuple[int, int]]:
        """Runs of particles whose fine scores and shifted images fit into the work space: first, last + 1."""
        tables = self.sampling
        samples = np.diff(found.mask_at) * tables.rot_children * tables.shift_children
        per_row = self.backend.bytes_at_shifts(images.fine.size, images.turn is None)
        cost = 4 * samples + found.used.sum(axis=1) * (tables.shift_children * per_row)
        limit = self.backend.work_bytes()
        n, first = len(images), 0
        while first < n:
            last, total = first, 0
            while last < n and (last == first or total + cost[last] <= limit):
                total += cost[last]
                last += 1
            if found.group_start[last] > found.group_start[first]:
                yield first, last
            first = last

    # ---- fine pass ----

    def _fine_pass(self, images: PreparedImages, first: int, last: int, found: Significant, best: Assignments) -> None:
        """Scores, weighs and sums particles first ... last-1 of the batch."""
        s, backend, batch = self.settings, self.backend, images.part(first, last)
        groups, mask, mask_start = found.part(first, last)
        v = self.sampling.shift_children
        fine = self._slices(batch.fine, coarse=False)
        slices = self._slices(batch.coarse, coarse=False) if s.limited else fine
        weighted, ctf2 = self._weighted(batch, coarse=s.limited)
        used = found.used[first:last]
        start = np.concatenate([[0], np.cumsum(used.sum(axis=1) * v)])
        who, shift_index = np.nonzero(used)
        rows = np.repeat(who, v).astype(np.int32)
        which = (shift_index[:, None] * v + np.arange(v)).reshape(-1)
        shifts = self.sampling.child_shifts.reshape(-1, 2)
        slot_prior = np.ascontiguousarray(self._shift_prior(batch)[:, who, shift_index])
        shifted = self._at_shifts(weighted, batch, rows, shifts, which, slices)
        del weighted
        table = Shifted(shifted, start, v, slot_prior, ctf2)
        groups.out_start = mask_start * (slices.children * v)
        plan = backend.plan(slices, groups)
        weights = backend.score_groups(slices, plan, table, len(mask) * slices.children * v, s.correlate)
        self.clock.lap("fine")
        group_ptr = found.group_start[first : last + 1] - found.group_start[first]
        chosen = backend.weigh(
            groups, group_ptr, weights, mask, mask_start, slices.children, v, s.adaptive_fraction, s.correlate
        )
        row_weight, block_weight = backend.marginals(groups, group_ptr, weights, table, self.classes, slices)
        self.clock.lap("weights")
        if s.correlate or s.limited:  # the noise-weighted images and all pixels after all, for the back-projection
            weighted, ctf2 = self._ctf_terms(batch, batch.masked, batch.ctf, batch.fine, noise=True)
            table = replace(table, rows=self._at_shifts(weighted, batch, rows, shifts, which, fine), ctf2=ctf2)
        unmasked, inserted = self._inserted(batch, table.ctf2)
        signal, power = backend.sum_groups(
            fine, plan, weights, table, unmasked, inserted, s.residual, self._accumulators, self.inv_sigma2.shape[1]
        )
        by_direction = block_weight.reshape(self.classes, -1)
        if by_direction.shape != self.sums.pdf_direction.shape:  # particles in their own poses
            by_direction = by_direction.sum(axis=1, keepdims=True)
        self.sums.pdf_direction += by_direction
        self._sum_origins(batch, rows, row_weight, signal, power)
        members = np.arange(first, last)
        self._keep(batch, members, groups, chosen, weights, start, rows, shifts[which], row_weight, signal, power, best)
        self.clock.lap("sums")

    def _sum_origins(
        self, batch: PreparedImages, rows: NDArray, row_weight: NDArray, signal: NDArray, power: NDArray
    ) -> None:
        """Sums the images' means, which are the same at all orientations and shifts (K, R) of the rows (R,).

        They are not compared with the references', but they count in the sums: a map without them would have the
        mean 0, and shell 0 of signal and power (N, S) says how far they are from the references' (RELION:
        acc_ml_optimiser_impl.h, storeWeightedSums, where the origin's weight is set back).
        """
        if batch.origin is None:
            return
        value, ctf, masked = batch.origin.T
        once = 1.0 if batch.premultiplied else ctf
        inverse = self._inverse_at_origin[batch.optics]
        for k, weight in enumerate(row_weight):
            share = np.bincount(rows, weight, len(batch))
            each = share * inverse * once
            rest = value - ctf * self._means[k] if self.settings.residual else value
            self._origins[k] += each @ rest, each @ ctf
            projected = ctf * self._means[k]
            signal[:, 0] += share * projected * masked
            power[:, 0] += share * projected**2

    def _keep(
        self, batch: PreparedImages, members: NDArray, groups: Groups, chosen: Best, weights: Array,
        table_start: NDArray, rows: NDArray, shift: NDArray, row_weight: NDArray, signal: NDArray, power: NDArray,
        best: Assignments,
    ) -> None:  # fmt: skip
        """Statistics per particle into `best`, and the sums over particles that are not maps."""
        s, tables, sums = self.settings, self.sampling, self.sums
        good = ~chosen.bad
        best.failed[members] |= chosen.bad
        # pose of the best sample
        take = self.backend.take
        columns = take(groups.slot_count, chosen.group).astype(np.int64) * tables.shift_children
        row, column = np.divmod(chosen.sample, columns)
        angle, child = np.divmod(row, tables.rot_children)
        block = take(groups.block, chosen.group)
        psi = take(groups.psi_idx, take(groups.psi_start, chosen.group) + angle)
        best.matrix[members] = tables.fine_rotation(block % tables.directions, psi, child)
        best.class_index[members] = block // tables.directions
        first = take(groups.slot_first, chosen.group).astype(np.int64)
        at = table_start[:-1] + first * tables.shift_children + column
        offset = batch.old_offset + shift[np.minimum(at, len(shift) - 1)]
        best.offset[members] = batch.in_image(offset, np.arange(len(batch)))
        pmax = take(weights, take(groups.out_start, chosen.group) + chosen.sample)
        best.pmax[members] = np.where(good, pmax, 0.0)
        # weight within the table of shifts: total per particle, and the spread of offsets
        sum_weight = np.bincount(rows, row_weight.sum(axis=0), len(batch))
        offset = batch.old_offset[rows] + shift
        # sum of w |offset - prior|^2
        of_class, prior, counted = row_weight @ offset, self._counted(self.prior_offset), self._counted(offset)
        spread = row_weight @ np.einsum("rc,rc->r", counted, counted)
        spread -= np.einsum("kc,kc->k", 2.0 * self._counted(of_class) - row_weight.sum(axis=1)[:, None] * prior, prior)
        sums.sigma2_offset += float(spread.sum())
        sums.prior_offset += of_class
        # noise: |X|^2 - 2 Re <X, CTF P> + |CTF P|^2, by shell; signal and power still hold 1/sigma2, but at the origin
        inverse = self.inv_sigma2[batch.optics]
        sigma2 = np.divide(1.0, inverse, out=np.zeros(inverse.shape), where=inverse > 0)
        sigma2[:, 0] = 1.0
        xa, aa = signal * sigma2, power * sigma2
        current = batch.fine.r_max
        own = batch.spectrum * sum_weight[:, None]
        own[:, current + 1 :] = batch.spectrum[:, current + 1 :]
        if batch.origin is not None:
            own[:, 0] = batch.origin[:, 2] ** 2 * sum_weight
        # over all the images' shells, also those that the reference does not have
        total = own.sum(axis=1) + (aa - 2.0 * xa).sum(axis=1)
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
            own = np.abs(self.backend.to_host(batch.masked)) ** 2 @ batch.fine.multiplicity()
            likelihood = chosen.score / np.sqrt(np.maximum(own, np.finfo(np.float32).tiny))
        else:
            shells = slice(1, (batch.coarse.r_max if s.limited else current) + 1)
            inverse_of_shell = self.geometry.of_images(inverse)
            misfit = 0.5 * np.sum(batch.spectrum[:, shells] * inverse_of_shell[:, shells], axis=1)
            misfit += 0.5 * batch.spectrum[:, current + 1 :].sum(axis=1)
            with np.errstate(divide="ignore"):
                normaliser = np.where(sigma2 > 0, np.log(2.0 * np.pi * np.maximum(sigma2, 1e-300)), 0.0)
            counts = self.geometry.pixels_per_shell(2 * batch.fine.r_max)
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
        if images.premultiplied:
            shells = self.inv_sigma2.shape[1]
            ctf2 = self.backend.to_host(images.ctf)
            for group in np.unique(images.optics):
                total = ctf2[(images.optics == group) & good].sum(axis=0, dtype=np.float64)
                self.sums.ctf2[group] += np.bincount(images.fine.shell, total, shells)
