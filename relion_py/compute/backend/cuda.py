"""The CUDA backend: cuBLAS and cuFFT through CuPy, and the kernels of `kernels/*.cu` for the rest.

Everything is done for a whole batch of particles at a time; no loop over particles launches anything. The arrays that
are large stay on the device: images, tables of shifted images, scores, weights, work lists and the back-projections.
What is small (one number a particle, the prior of shifts) is NumPy's, as in `refine.expectation`, which is the same
for all backends. Maps are reconstructed on the host.

The device, its memory and launches are `cuda_arrays`'. Sums of weights do not depend on the order of threads; the
voxels of a back-projection do, in their last bits, as atomic additions come in any order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.cuda_arrays import DeviceArrays
from relion_py.compute.backend.kernel_sources import THREADS
from relion_py.compute.backend.work import Array, Best, Coarse, Groups, Shifted, Significant, Slices
from relion_py.compute.image.ctf import CtfParams, ctf_terms
from relion_py.compute.image.masks import soft_mask
from relion_py.compute.refine.images import DiscPixels, transform_images

TILE = 8
"""Orientations, and shifts, that a block of score_groups does, as TILE_ROWS and TILE_COLUMNS in scores.cu."""
ALIGNED = 4
"""Complex numbers that rows of a product for tensor cores have a multiple of: 32 bytes."""
FAR = 1 << 14
"""A frequency beyond any transform: the value there is 0."""
BYTES_PER_IMAGE_PIXEL = 40
"""While images are prepared: the image, moved and masked, with their transforms and what the FFT itself needs."""


@dataclass(frozen=True)
class AtShifts:
    """Images at their shifts, moved (R, P) complex64, and how to move others alike: see `CudaBackend.shift_rows`."""

    moved: Array
    image_of_row: Array
    x: Array
    y: Array
    box: int


@dataclass
class Plan:
    """Groups on the device, sorted by block, and the coarse orientations ("slots") that they need, sorted.

    A pair is an angle of a group: pair_start (G,), group_of_pair and slot_of_pair (pairs,). keys (slots,): block * Q +
    in-plane angle; volume_of (slots,): class.
    """

    groups: Groups
    pair_start: Array
    group_of_pair: Array
    slot_of_pair: Array
    keys: Array
    volume_of: Array


class CudaBackend(DeviceArrays):
    """Computes on one device; use as a context manager. The methods are those of `CpuBackend`, which describes them."""

    name = "cuda"
    image_bytes = 0

    # ---- images ----

    def staged(self, images: NDArray[np.float32]) -> Array:
        """Images of a later batch on the device, if they take little of its memory; in any thread."""
        if images.nbytes > self.work_bytes() // 4:
            return images
        try:
            return self.to_device(images)
        except self.device.memory_errors:
            return images

    def transform_images(
        self, images: Array, shift: NDArray, factor: NDArray, mask_radius: float, mask_edge: float,
        pixels: DiscPixels, noise: NDArray[np.float32] | None = None, tubes: tuple[NDArray, float] | None = None,
    ) -> tuple[Array, Array, NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Unmasked and masked transforms, spectra and means (NumPy's), see `refine.images.transform_images`.

        images: NumPy's, or on the device already. Segments of helices get their tubes on the host.
        """
        if tubes is not None:
            unmasked, masked, spectrum, means = transform_images(
                images, shift, factor, mask_radius, mask_edge, pixels, noise=noise, tubes=tubes
            )
            return self.to_device(unmasked), self.to_device(masked), spectrum, means
        n, box = images.shape[:2]
        unmasked = self.xp.empty((n, pixels.size), np.complex64)
        masked = self.xp.empty((n, pixels.size), np.complex64)
        spectrum, means = np.zeros((n, box // 2 + 1)), np.zeros(n)
        size = max(1, int(self.work_bytes() // (BYTES_PER_IMAGE_PIXEL * box * box)))
        first = 0
        while first < n:
            part = slice(first, min(first + size, n))
            self._check()
            try:
                spectrum[part], means[part] = self._transform_part(
                    images[part], shift[part], factor[part], (mask_radius, mask_edge), pixels,
                    None if noise is None else noise[part], unmasked[part], masked[part],
                )  # fmt: skip
                first = part.stop
                continue
            except Exception as error:
                if not self.out_of_memory(error) or size == 1:
                    raise
            self.release()
            size = max(1, size // 2)
        return unmasked, masked, spectrum, means

    def _transform_part(
        self, images: Array, shift: NDArray, factor: NDArray, mask: tuple[float, float], pixels: DiscPixels,
        noise: NDArray | None, unmasked: Array, masked: Array,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        n, box = images.shape[:2]
        moved = self.xp.empty((n, box, box), np.float32)
        self._launch(
            "move_images", moved.size, self.to_device(images), self.to_device(shift.astype(np.int64)),
            self.to_device(np.asarray(factor, np.float32)), box, moved.size, moved,
        )  # fmt: skip
        self._cut(moved, pixels, unmasked)
        background = _outside(box, *mask)
        outside = self._constant(("outside", box, *mask), background, lambda: background)
        mean = self.xp.empty(n, np.float64)
        self._launch_blocks("background_mean", (n, 1, 1), moved, outside, background.sum(), box * box, mean)
        other = moved if noise is None else self.to_device(np.asarray(noise, np.float32))
        self._launch("fill_outside", moved.size, moved, outside, mean, other, noise is not None, box * box, moved.size)
        transforms = self._cut(moved, pixels, masked)
        shells = box // 2 + 1
        spectrum = self.xp.empty((n, shells), np.float64)
        by_shell, shell_ptr = (
            self._constant(("shells", box, i), None, functools.partial(_half_plane_by_shell(box).__getitem__, i))
            for i in range(2)
        )
        self._launch_blocks("shell_power", (n * shells, 1, 1), transforms, by_shell, shell_ptr, shells, box, spectrum)
        means = transforms[:, 0, 0].real / np.float32(box * box)
        return self.to_host(spectrum), self.to_host(means)

    def _cut(self, images: Array, pixels: DiscPixels, out: Array) -> Array:
        """The images' transforms; their disc pixels go to `out`."""
        transforms = self.xp.fft.rfft2(images).astype(np.complex64, copy=False)
        kx, ky = self._pixels(pixels)
        self._launch("gather_disc", out.size, transforms, kx, ky, images.shape[1], pixels.size, out.size, out)
        return transforms

    def _pixels(self, pixels: DiscPixels) -> tuple[Array, Array]:
        return (
            self._constant((id(pixels), "x"), pixels, lambda: pixels.kx),
            self._constant((id(pixels), "y"), pixels, lambda: pixels.ky),
        )

    def ctf_values(self, params: CtfParams, kx: NDArray, ky: NDArray, box: int, angpix: float, **options: Any) -> Array:
        """CTFs (N, P) of particles, see `image.ctf.ctf_values`."""
        terms = ctf_terms(params, kx, ky, box, angpix, **options)
        out = self.xp.empty((len(params), len(terms.x)), np.float32)
        x, y = self.to_device(terms.x), self.to_device(terms.y)
        offset = self.to_device(terms.gamma_offset) if len(terms.gamma_offset) else x
        self._launch(
            "ctf_values", out.size, self.to_device(terms.coefficients), x, y, offset, len(terms.gamma_offset) > 0,
            terms.intact, terms.form, terms.damping, len(terms.x), out.size, out,
        )  # fmt: skip
        return out

    def shift_rows(self, images: Array, rows: Array, x: Array, y: Array, kx: Array, ky: Array, box: int) -> Array:
        """images[rows] (N, P) moved by x, y (R,) pixels -> (R, P) complex64."""
        out = self.xp.empty((len(rows), len(kx)), np.complex64)
        there = self.to_device
        self._launch(
            "shift_rows", out.size, images, there(rows), there(x), there(y), kx, ky, box, len(kx), out.size, out,
        )  # fmt: skip
        return out

    def at_shifts(
        self, images: Array, rows: NDArray, x: NDArray, y: NDArray, which: NDArray, kx: Array, ky: Array, box: int
    ) -> AtShifts:
        """images[rows] (N, P) moved by shift `which` (R,) of x, y (U,) pixels."""
        rows, x, y = (self.to_device(values) for values in (rows, x[which], y[which]))
        return AtShifts(self.shift_rows(images, rows, x, y, kx, ky, box), rows, x, y, box)

    def bytes_at_shifts(self, pixels: int, shared: bool) -> int:
        """Memory for each row of :meth:`at_shifts`, and for what :meth:`sum_groups` makes of the unmasked images."""
        return 16 * pixels

    # ---- scores ----

    def _project(self, slices: Slices, axes: Array, volume_of: Array, children: int) -> Array:
        """Projections (R, P) along axes (R, 6); `children` rows share a volume."""
        out = self.xp.empty((len(axes), slices.pixels), np.complex64)
        _, depth, height, width = slices.volumes.shape
        self._launch(
            "project_rows", out.size, slices.volumes, depth, height, width, volume_of, children, axes, slices.kx,
            slices.ky, slices.pixels, slices.r_max, out.size, out,
        )  # fmt: skip
        return out

    def _axes(self, slices: Slices, keys: Array) -> Array:
        """Axes (slots * children, 6) of all children of coarse orientations."""
        rows = len(keys) * slices.children
        out = self.xp.empty((rows, 6), np.float32)
        self._launch(
            "slice_axes", rows, keys, slices.dir_mats, slices.psi_table, slices.directions, len(slices.psi_table),
            slices.dir_mats.shape[1], slices.psi_table.shape[1], *slices.distortion.ravel(), slices.pad, rows, out,
        )  # fmt: skip
        return out

    def dense_scores(
        self, slices: Slices, rotations_of: Callable[[int, int], NDArray[np.float32]], per_class: int,
        orientation_prior: NDArray[np.float32], table: Shifted, correlate: bool,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Log-weights of all orientations for all particles: (K * per_class, N, T), and row_best (K * per_class, N).

        The device turns the orientations itself, and takes no rotations_of. Posterior weights come from the fine
        pass, so that these scores, which say where it looks, may be rough.
        """
        xp = self.xp
        classes, n = len(slices.volumes), len(table.ctf2)
        t = table.prior.shape[1] // n
        slices, images, ctf2 = self._aligned(slices, table)
        flat = images.view(np.float32).reshape(n * t, 2 * slices.pixels)
        priors = self.to_device(table.prior.reshape(classes, n, t))
        orientation_priors = self.to_device(orientation_prior)
        out = xp.empty((classes * per_class, n, t), np.float32)
        row_best = xp.empty((classes * per_class, n), np.float32)
        # a projection, its power and the particles' norms
        step = int(np.clip(self.work_bytes() // (4 * (24 * slices.pixels + 4 * n)), 64, per_class))
        for k in range(classes):
            for a in range(0, per_class, step):
                self._check()
                b = min(a + step, per_class)
                keys = xp.arange(b - a, dtype=np.int64) + (k * per_class + a)
                volume_of = xp.zeros(b - a, np.int32) + k
                rows = self._project(slices, self._axes(slices, keys), volume_of, 1)
                here = slice(k * per_class + a, k * per_class + b)
                products = out[here].reshape(b - a, n * t)
                factors = rows.view(np.float32).reshape(b - a, 2 * slices.pixels)
                self.device.products(factors, flat, products, rough=not correlate)
                norms = xp.dot(rows.real**2 + rows.imag**2, ctf2.T)
                self._launch(
                    "add_dense_terms", norms.size, products, norms, orientation_priors[here], priors[k], n, t,
                    correlate, norms.size, row_best[here],
                )  # fmt: skip
        return out, row_best

    def _aligned(self, slices: Slices, table: Shifted) -> tuple[Slices, Array, Array]:
        """Slices, shifted images (R, P') and CTF^2 / sigma2 (N, P') with empty pixels at the end, so that every row
        begins where tensor cores want it to."""
        xp, more = self.xp, -slices.pixels % ALIGNED
        if not more:
            return slices, table.rows, table.ctf2
        kx = xp.concatenate([slices.kx, xp.zeros(more, np.int32) + FAR])
        ky = xp.concatenate([slices.ky, xp.zeros(more, np.int32)])
        wide = []
        for array in (table.rows, table.ctf2):
            out = xp.zeros((len(array), slices.pixels + more), array.dtype)
            out[:, : slices.pixels] = array
            wide.append(out)
        return replace(slices, kx=kx, ky=ky), wide[0], wide[1]

    def _uploaded(self, groups: Groups) -> Groups:
        """The groups on the device; the coarse ones are kept, as batches of a global search have the same."""
        if not isinstance(groups.block, np.ndarray):
            return groups
        return self._kept(
            "groups", groups, lambda: Groups(**{k: self.to_device(v) for k, v in vars(groups).items()})
        )  # fmt: skip

    def plan(self, slices: Slices, groups: Groups) -> Any:
        """The groups sorted by block, and the orientations that they need."""
        xp, there = self.xp, self._uploaded(groups)
        order = self._order(there.block)
        values: dict[str, Any] = vars(there)
        g = Groups(**{k: v if k in ("psi_idx", "psi_prior") else v[order] for k, v in values.items()})
        pair_end = xp.cumsum(g.psi_count.astype(np.int64))
        pairs, pair_start = int(pair_end[-1]), pair_end - g.psi_count
        keys, group_of_pair = xp.empty(pairs, np.int64), xp.empty(pairs, np.int32)
        q = len(slices.psi_table)
        self._launch(
            "list_pairs", len(g.block), g.block, g.psi_start, g.psi_count, g.psi_idx, pair_start, q, len(g.block),
            keys, group_of_pair,
        )  # fmt: skip
        self._room_to_sort(keys)
        keys, slot_of_pair = xp.unique(keys, return_inverse=True)
        volume_of = (keys // (q * slices.directions)).astype(np.int32)
        return Plan(g, pair_start, group_of_pair, slot_of_pair.astype(np.int32), keys, volume_of)

    def _tiles(self, plan: Plan, slots: int, angles: int) -> Iterator[tuple[int, int, int, int]]:
        """Ranges of groups and of slots (first, last + 1 of each) that cut no block and have `slots`, if one can."""
        total = len(plan.keys)
        if total <= slots:
            yield 0, len(plan.groups.block), 0, total
            return
        block_of_slot = self.to_host(plan.keys) // angles
        ends = np.append(np.nonzero(np.diff(block_of_slot))[0] + 1, total)
        # both lists hold the same blocks in the same order
        group_ends = np.searchsorted(self.to_host(plan.groups.block), block_of_slot[ends - 1], side="right")
        first_group = first_slot = 0
        while first_slot < total:
            at = max(
                int(np.searchsorted(ends, first_slot + slots, side="right")) - 1,
                int(np.searchsorted(ends, first_slot, side="right")),
            )
            yield first_group, int(group_ends[at]), first_slot, int(ends[at])
            first_group, first_slot = int(group_ends[at]), int(ends[at])

    def score_groups(self, slices: Slices, plan: Any, table: Shifted, size: int, correlate: bool) -> Array:
        """Log-weights (size,) of all samples of the groups of a plan."""
        xp, g, children = self.xp, plan.groups, slices.children
        out = xp.empty(size, np.float32)
        prior, start = self.to_device(table.prior), self.to_device(table.start)
        capacity = max(1, self.work_bytes() // (2 * 8 * slices.pixels * children))
        # groups differ much in size: every block of threads looks up which tile of which one is its own
        across = (g.slot_count * table.children + (TILE - 1)) // TILE
        tile_end = xp.cumsum(((g.psi_count * children + (TILE - 1)) // TILE * across).astype(np.int64))
        tile_start = xp.concatenate([xp.zeros(1, np.int64), tile_end])
        group_of_tile = xp.empty(int(tile_end[-1]), np.int32)
        self._launch("list_tiles", len(g.block), tile_start, len(g.block), group_of_tile)
        for first_group, last_group, first_slot, last_slot in self._tiles(plan, capacity, len(slices.psi_table)):
            self._check()
            keys, volume_of = plan.keys[first_slot:last_slot], plan.volume_of[first_slot:last_slot]
            rows = self._project(slices, self._axes(slices, keys), volume_of, children)
            first_tile, last_tile = int(tile_start[first_group]), int(tile_start[last_group])
            self._launch_blocks(
                "score_groups", (last_tile - first_tile, 1, 1), rows, first_slot, plan.slot_of_pair,
                plan.pair_start, children, g.block, g.particle, g.prior, g.psi_start, g.psi_count, g.psi_prior,
                g.slot_first, g.slot_count, g.out_start, prior, prior.shape[1], start, table.rows.moved,
                table.children, table.ctf2, slices.directions, slices.pixels, correlate, tile_start, group_of_tile,
                first_tile, out,
            )  # fmt: skip
        return out

    def row_maxima(self, scores: Array, columns: int) -> Array:
        """The largest of each row of so many scores; NaN is passed over."""
        out = self.xp.empty(scores.size // columns, np.float32)
        self._launch("row_maxima", out.size, scores, columns, out.size, out)
        return out

    # ---- selection ----

    def select(self, coarse: Coarse, n: int, t: int, fraction: float, max_count: int, best_only: bool) -> Significant:
        """The samples of n particles that hold `fraction` of the weight."""
        xp, there = self.xp, self.to_device
        c = self._uploaded(coarse.groups)
        base = self._kept("base", coarse.base, lambda: there(coarse.base))
        threshold, count = xp.empty(n, np.float32), xp.zeros(n, np.int64)
        used = xp.zeros((n, t), np.uint8)
        longest = int(coarse.groups.psi_count.max()) if len(coarse.groups.psi_count) else 0
        self._launch_blocks(
            "find_significant", (n, 1, 1), coarse.scores, coarse.row_best, there(coarse.group_ptr), base,
            coarse.row_stride, c.psi_count, max(longest, 1), t, fraction, max_count, best_only, threshold, count, used,
        )  # fmt: skip
        shifts_used = self.to_host(used).astype(np.bool_)
        slot_of_trans = there(np.where(shifts_used, np.cumsum(shifts_used, axis=1) - 1, -1).astype(np.int32))
        groups = len(coarse.base)
        n_angles = xp.empty(groups, np.int64)
        slot_first, slot_count = xp.empty(groups, np.int32), xp.empty(groups, np.int32)
        rows = coarse.scores, coarse.row_best, c.particle, base, coarse.row_stride, c.psi_count, t
        self._launch(
            "count_significant", groups, *rows, threshold, slot_of_trans, groups, n_angles, slot_first, slot_count
        )
        ends = [
            xp.cumsum(each) for each in ((n_angles > 0).astype(np.int64), n_angles, n_angles * slot_count)
        ]  # of groups, angles and marks
        group_start, angle_start, mask_at = (self._at_particles(end, coarse.group_ptr) for end in ends)
        total, angles, marks = int(group_start[-1]), int(angle_start[-1]), int(mask_at[-1])
        fine = Groups(
            xp.empty(total, np.int32), xp.empty(total, np.int32), xp.empty(total, np.float32),
            xp.empty(total, np.int64), xp.empty(total, np.int32), xp.empty(total, np.int32),
            xp.empty(total, np.int32), xp.empty(0, np.int64), xp.empty(angles, np.int32),
            xp.empty(angles, np.float32),
        )  # fmt: skip
        mask, mask_start = xp.zeros(marks, np.uint8), xp.empty(total, np.int64)
        self._launch(
            "fill_significant", groups, *rows, threshold, slot_of_trans, c.block, c.prior, c.psi_start, c.psi_idx,
            c.psi_prior, n_angles, slot_first, slot_count, ends[0] - 1, ends[1] - n_angles,
            ends[2] - n_angles * slot_count, groups, fine.block, fine.particle, fine.prior, fine.psi_start,
            fine.psi_count, fine.slot_first, fine.slot_count, mask_start, fine.psi_idx, fine.psi_prior, mask,
        )  # fmt: skip
        return Significant(
            fine, mask, mask_start, group_start, angle_start, mask_at, shifts_used, self.to_host(threshold),
            self.to_host(count),
        )  # fmt: skip

    def _at_particles(self, ends: Array, group_ptr: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of a running sum over groups, what comes before each particle's groups (N + 1,)."""
        if not len(ends):
            return np.zeros(len(group_ptr), np.int64)
        before = self.take(ends, np.maximum(group_ptr - 1, 0))
        return np.where(group_ptr > 0, before, 0)

    def weigh(
        self, groups: Groups, group_ptr: NDArray, scores: Array, mask: Array, mask_start: Array,
        rot_children: int, shift_children: int, fraction: float, best_only: bool,
    ) -> Best:  # fmt: skip
        """Turns the fine scores into posterior weights, in place."""
        xp, n, count = self.xp, len(group_ptr) - 1, len(groups.block)
        self._launch_blocks(
            "mask_scores", (count, 1, 1), scores, groups.out_start, groups.psi_count, groups.slot_count, mask,
            mask_start, rot_children, shift_children,
        )  # fmt: skip
        first = self.take(groups.out_start, np.minimum(group_ptr, count - 1))
        sample_ptr = self.to_device(np.where(group_ptr < count, first, scores.size))
        log_sum, best_score = xp.zeros(n, np.float64), xp.empty(n, np.float32)
        best_at, bad = xp.empty(n, np.int64), xp.empty(n, np.uint8)
        self._launch_blocks(
            "weigh_samples", (n, 1, 1), scores, sample_ptr, fraction, best_only, log_sum, best_score, best_at, bad
        )
        group = self.to_host(xp.searchsorted(groups.out_start, best_at, side="right")) - 1
        failed = self.to_host(bad).astype(np.bool_)
        group = np.where(failed, 0, group)
        sample = np.where(failed, 0, self.to_host(best_at) - self.take(groups.out_start, group))
        return Best(self.to_host(log_sum), self.to_host(best_score), group, sample, failed)

    def marginals(
        self, groups: Groups, group_ptr: NDArray, weights: Array, table: Shifted, classes: int, slices: Slices
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Posterior weight of each shift, (K, R), and of each block, (K * D,)."""
        rows = int(table.start[-1])
        row_weight = self.xp.zeros((classes, rows), np.float64)
        particle = np.repeat(np.arange(len(group_ptr) - 1, dtype=np.int32), np.diff(table.start))
        there, g = self.to_device, groups
        self._launch(
            "row_weights", rows, weights, there(group_ptr), g.block, g.psi_count, g.slot_first, g.slot_count,
            g.out_start, slices.children, table.children, slices.directions, there(table.start), there(particle),
            rows, row_weight,
        )  # fmt: skip
        block_weight = self.xp.zeros(classes * slices.directions, np.float64)
        self._launch_blocks(
            "block_weights", (len(g.block), 1, 1), weights, g.block, g.psi_count, g.slot_count, g.out_start,
            slices.children, table.children, block_weight,
        )  # fmt: skip
        return self.to_host(row_weight), self.to_host(block_weight)

    # ---- sums ----

    def sum_groups(
        self, slices: Slices, plan: Any, weights: Array, table: Shifted, unmasked: Array, inserted: Array,
        residual: bool, accumulators: list[Array], shells: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Back-projections of the unmasked images, with the weights inserted; signal and reference power (N, shells).

        The grids change in the last step, which needs no more memory: a batch that failed before can be repeated.
        """
        xp, there, g = self.xp, self.to_device, plan.groups
        n, children, pixels = len(table.ctf2), slices.children, slices.pixels
        _, depth, height, width = slices.volumes.shape
        pairs, slots, chunks = len(plan.slot_of_pair), len(plan.keys), -(-slices.pixels // THREADS)
        start, at = there(table.start), table.rows
        totals, row_used = xp.empty(pairs * children, np.float32), xp.zeros(slots * children, np.uint8)
        shift_used = xp.zeros(len(at.moved), np.uint8)
        self._launch(
            "row_totals", totals.size, weights, plan.group_of_pair, plan.pair_start, plan.slot_of_pair, g.particle,
            g.slot_first, g.slot_count, g.out_start, children, table.children, start, totals.size, totals, row_used,
            shift_used,
        )  # fmt: skip
        in_use = xp.nonzero(shift_used)[0]
        plain_row = xp.zeros(len(shift_used), np.int64)
        plain_row[in_use] = xp.arange(len(in_use), dtype=np.int64)
        plain = self.shift_rows(
            unmasked, at.image_of_row[in_use], at.x[in_use], at.y[in_use], slices.kx, slices.ky, at.box
        )
        used = xp.nonzero(row_used)[0]
        row_place = xp.zeros(slots * children, np.int32)
        row_place[used] = xp.arange(len(used), dtype=np.int32)
        axes, volume_of = self._axes(slices, plan.keys)[used], plan.volume_of[used // children]
        by_particle = self._order(g.particle)
        group_ptr = xp.searchsorted(g.particle[by_particle], xp.arange(n + 1, dtype=np.int32))
        signal, power = xp.empty((n, pixels), np.float32), xp.empty((n, pixels), np.float32)
        self._launch_blocks(
            "signal_and_power", (n * chunks, 1, 1), chunks, group_ptr, by_particle, plan.pair_start, g.psi_count,
            plan.slot_of_pair, totals, weights, g.slot_first, g.slot_count, g.out_start, children, table.children,
            start, at.moved, table.ctf2, slices.volumes, volume_of, axes, row_place, depth, height, width,
            slices.kx, slices.ky, pixels, slices.r_max, signal, power,
        )  # fmt: skip
        sums = self._shell_sums(signal, slices, shells), self._shell_sums(power, slices, shells)
        pairs_by_slot = self._order(plan.slot_of_pair)
        slot_ptr = xp.searchsorted(plan.slot_of_pair[pairs_by_slot], xp.arange(slots + 1, dtype=np.int32))
        self._check()
        self._launch_blocks(
            "sum_and_insert", (len(used) * chunks, 1, 1), used, chunks, slot_ptr, pairs_by_slot, plan.group_of_pair,
            plan.pair_start, totals, weights, g.particle, g.slot_first, g.slot_count, g.out_start, children,
            table.children, start, plain_row, plain, inserted, slices.volumes, volume_of, axes, depth, height,
            width, slices.kx, slices.ky, pixels, slices.r_max, residual, accumulators[0],
        )  # fmt: skip
        return sums

    def _shell_sums(self, values: Array, slices: Slices, shells: int) -> NDArray[np.float64]:
        """values (N, P) summed over the pixels of each shell, (N, shells)."""
        by_shell = self._constant((id(slices.shell), "order"), slices.shell, lambda: self._order(slices.shell))
        shell_ptr = self.xp.searchsorted(slices.shell[by_shell], self.xp.arange(shells + 1, dtype=np.int32))
        out = self.xp.empty((len(values), shells), np.float64)
        self._launch("shell_sums", out.size, values, by_shell, shell_ptr, shells, slices.pixels, out.size, out)
        return self.to_host(out)


@functools.lru_cache(maxsize=4)
def _outside(box: int, radius: float, edge: float) -> NDArray[np.float64]:
    """How much of each pixel of an image (box * box,) is background."""
    return (1.0 - soft_mask(box, radius, edge, 2)).ravel().astype(np.float64)


@functools.lru_cache(maxsize=4)
def _half_plane_by_shell(box: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where the pixels of each shell are in a half transform (box * (box // 2 + 1),), and where shells begin there.

    The origin is in none, and pixels with kx = 0 count for ky >= 0 only.
    """
    columns = box // 2 + 1
    kx, ky = np.arange(columns), np.arange(box)
    ky[box // 2 + 1 :] -= box
    shell = np.rint(np.hypot(kx, ky[:, None])).astype(np.int64)
    shell[(kx == 0) & (ky[:, None] < 0)] = columns
    shell[0, 0] = columns
    flat = shell.ravel()
    order = np.argsort(flat, kind="stable")
    return order.astype(np.int32), np.searchsorted(flat[order], np.arange(columns + 1)).astype(np.int32)
