"""The CPU backend: NumPy and BLAS for dense products, Numba kernels for the rest, a few Python threads.

The kernels release the GIL; each thread works on its own range, and everything that is summed has one accumulator a
thread, so that results do not depend on the timing of the threads. BLAS itself is kept to one thread: many threads
in small products slow each other down.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from relion_py.compute.backend import estep_numba as kernels
from relion_py.compute.backend import selection_numba as selection
from relion_py.compute.backend.kernels_numba import project
from relion_py.compute.backend.work import Best, Coarse, Groups, Shifted, Significant, Slices
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.refine.images import DiscPixels, transform_images

MIB = 1 << 20
SUM_PIECES = 8
"""Pieces of a batch that each thread sums: where one takes longer than its share, another takes less."""
WAIT_SECONDS = 0.2
"""After so long the thread that waits for others looks for a request to stop."""
SAME_PLACE = 1e-6
"""Shifts are opposite each other within so many pixels."""
UNEVEN = 0.1
"""Share of a piece of work by which it may be longer or shorter so that no block is cut."""
DENSE_ROWS, DENSE_COLUMNS = 256, 1024
"""Orientations and shifted images in one matrix product; its result stays in the processor's cache."""
IMAGES_AT_A_TIME, IMAGES_MIB = 32, 2
"""So many images at most, of so much memory, are masked and transformed at once; intermediate arrays stay small."""
GRIDS_MIB = 4096
"""Cap of the threads' accumulators together."""


@dataclass(frozen=True)
class AtShifts:
    """Images (N, 2P) and the shifts that they are looked at, as `estep_numba.score_groups` takes them; float32.

    The images' last axis holds real parts, then imaginary ones; they are moved to the shifts' centre by the phases
    `centre` (P,) complex64. Row r has the phases cosine[pair[r]] + i sign[r] sine[pair[r]], (H, P) each, of its shift
    from there: the two products that a shift takes are those of the opposite one, too.
    """

    images: NDArray[np.float32]
    centre: NDArray[np.complex64]
    cosine: NDArray[np.float32]
    sine: NDArray[np.float32]
    pair: NDArray[np.int64]
    sign: NDArray[np.float32]


class CpuBackend:
    """Runs kernels over ranges in `threads` threads; use as a context manager.

    check() is called between pieces of work, by the thread that waits for them, and may raise to stop; work_mib caps
    the work space of one batch (0: 16 for each thread, at least 32). image_bytes: what the images of a batch may take
    where its coarse scores are made piece by piece; 0 if they never are. `cuda.CudaBackend` offers the same methods.
    """

    name = "cpu"
    xp = np

    def __init__(self, threads: int = 1, check: Callable[[], None] | None = None, work_mib: int = 0) -> None:
        self.threads = max(1, threads)
        self.work_mib = work_mib or max(32, 16 * self.threads)
        self.image_bytes = max(16, 8 * self.threads) * MIB
        self._check = check or (lambda: None)
        self.members: list[Any] = [self]
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None
        self._work = np.empty(0, np.float32)

    def __enter__(self) -> CpuBackend:
        self._stack.enter_context(threadpool_limits(limits=1, user_api="blas"))
        if self.threads > 1:
            self._pool = _pool_of(self.threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._pool = None
        self.release()

    def use(self) -> None:
        """Makes this thread work with the backend's device; there is only one here."""

    def side_by_side(self, function: Callable[[Any], None], steps: Sequence[Any]) -> None:
        """function(step) for each, at the same time where each has a device of its own."""
        for step in steps:
            function(step)

    def map(self, function: Callable[..., object], tasks: Sequence[tuple]) -> None:
        """function(*task) for each task, in the threads; the first exception is raised here, and drops what waits."""
        if self._pool is None or len(tasks) < 2:
            for task in tasks:
                self._check()
                function(*task)
            return
        futures = [self._pool.submit(function, *task) for task in tasks]
        try:
            for future in futures:
                self._check()
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def ranges(self, n: int, pieces: int | None = None) -> list[tuple[int, int]]:
        """Disjoint ranges that cover 0 ... n, of nearly equal length; none is empty."""
        edges = np.linspace(0, n, min(pieces or self.threads, max(n, 1)) + 1).astype(np.int64)
        return [(int(a), int(b)) for a, b in pairwise(edges) if b > a]

    def map_in_order(self, function: Callable[..., object], tasks: Sequence[tuple], chains: int) -> None:
        """As :meth:`map`, but task i is done after task i - chains: what they add to is never used by two at a time."""
        if self._pool is None:
            self.map(function, tasks)
            return
        stop = threading.Event()

        def go_through(own: Sequence[tuple]) -> None:
            for task in own:
                if stop.is_set():
                    return
                function(*task)

        waiting = {self._pool.submit(go_through, tasks[i::chains]) for i in range(chains)}
        try:
            while waiting:
                self._check()
                done, waiting = wait(waiting, WAIT_SECONDS, FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            stop.set()

    def group_ranges(self, block: NDArray[np.int32], cost: NDArray, pieces: int) -> list[tuple[int, int]]:
        """Ranges of groups (sorted by block) of nearly equal cost.

        A block is cut only where they would be uneven otherwise, as its projections are then made twice: 2D classes
        are a block each.
        """
        if not len(block):
            return []
        starts = np.concatenate([[0], np.nonzero(np.diff(block))[0] + 1, [len(block)]])
        total = np.concatenate([[0.0], np.cumsum(cost, dtype=np.float64)])
        wanted = np.linspace(0, total[-1], pieces + 1)[1:-1]
        exact = np.searchsorted(total, wanted)
        after = starts[np.searchsorted(starts, exact)]
        before = starts[np.searchsorted(starts, exact, "right") - 1]
        whole = np.where(total[after] - wanted < wanted - total[before], after, before)
        even = np.abs(total[whole] - wanted) <= UNEVEN * total[-1] / pieces
        cuts = np.unique(np.concatenate([[0], np.where(even, whole, exact), [len(block)]]))
        return [(int(a), int(b)) for a, b in pairwise(cuts)]

    # ---- arrays ----

    def to_device(self, array: NDArray) -> NDArray:
        """The array where the kernels read it: here, where it is."""
        return array

    def to_host(self, array: NDArray) -> NDArray:
        """The array where NumPy reads it."""
        return array

    def take(self, array: NDArray, index: NDArray) -> NDArray:
        """NumPy's array of array[index]."""
        return array[index]

    def work_bytes(self) -> int:
        """Work space that one batch may take."""
        return self.work_mib * MIB

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that a batch was too large; here that ends a run."""
        return False

    def release(self) -> None:
        """Gives back memory that is kept for later use."""
        self._work = np.empty(0, np.float32)

    def _reused(self, size: int, behind: int = 0) -> NDArray[np.float32]:
        """Work space (size,), always the same, `behind` so many numbers: fresh memory costs as much as filling it."""
        if behind + size > len(self._work):
            self._work = np.empty(max(behind + size, self.work_bytes() // 4), np.float32)
        return self._work[behind : behind + size]

    # ---- images ----

    def transform_images(
        self, images: NDArray[np.float32], shift: NDArray, factor: NDArray, mask_radius: float, mask_edge: float,
        pixels: DiscPixels, noise: NDArray[np.float32] | None = None, tubes: tuple[NDArray, float] | None = None,
    ) -> tuple[NDArray, NDArray, NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Unmasked and masked transforms, spectra and means (NumPy's), see `refine.images.transform_images`."""
        n, box = len(images), images.shape[-1]
        unmasked, masked = np.empty((n, pixels.size), np.complex64), np.empty((n, pixels.size), np.complex64)
        spectra, means = np.empty((n, box // 2 + 1)), np.empty(n)

        def work(a: int, b: int) -> None:
            unmasked[a:b], masked[a:b], spectra[a:b], means[a:b] = transform_images(
                images[a:b], shift[a:b], factor[a:b], mask_radius, mask_edge, pixels,
                noise=None if noise is None else noise[a:b],
                tubes=None if tubes is None else (tubes[0][a:b], tubes[1]),
            )  # fmt: skip

        at_a_time = int(np.clip(IMAGES_MIB * MIB // (4 * box**2), 1, IMAGES_AT_A_TIME))
        self.map(work, self.ranges(n, max(self.threads, n // at_a_time)))
        return unmasked, masked, spectra, means

    def ctf_values(
        self, params: CtfParams, kx: NDArray, ky: NDArray, box: int, angpix: float, **options: Any
    ) -> NDArray:
        """CTFs (N, P) of particles, see `image.ctf.ctf_values`."""
        out = np.empty((len(params), len(kx)), np.float32)

        def work(a: int, b: int) -> None:
            out[a:b] = ctf_values(params[a:b], kx, ky, box, angpix, **options)

        self.map(work, self.ranges(len(params)))
        return out

    # ---- the expectation step ----

    def shift_rows(
        self, images: NDArray, rows: NDArray, x: NDArray, y: NDArray, kx: NDArray, ky: NDArray, box: int
    ) -> NDArray[np.float32]:
        """images[rows] (N, P) complex64 moved by x, y (R,) pixels -> (R, 2, P), see `estep_numba.shift_rows`.

        They are in the work space: groups' scores, and the next shifted rows, overwrite these; dense scores are put
        behind them.
        """
        out = self._reused(2 * len(rows) * len(kx)).reshape(len(rows), 2, len(kx))
        self._shift_rows(images, rows, x, y, kx, ky, box, out)
        return out

    def _shift_rows(
        self, images: NDArray, rows: NDArray, x: NDArray, y: NDArray, kx: NDArray, ky: NDArray, box: int,
        out: NDArray[np.float32],
    ) -> None:  # fmt: skip
        source = np.ascontiguousarray(images).view(np.float32).reshape(*images.shape, 2)

        def work(a: int, b: int) -> None:
            kernels.shift_rows(source, rows[a:b], x[a:b], y[a:b], kx, ky, box, out[a:b])

        self.map(work, self.ranges(len(rows)))

    def at_shifts(
        self, images: NDArray, rows: NDArray, x: NDArray, y: NDArray, which: NDArray, kx: NDArray, ky: NDArray, box: int
    ) -> AtShifts:
        """images[rows] (N, P) moved by shift `which` (R,) of x, y (U,) pixels, for groups."""
        (x0, y0), pair, sign = opposite_shifts(x, y)
        one_of = np.unique(pair, return_index=True)[1]
        x, y = np.append(x[one_of] - x0, x0), np.append(y[one_of] - y0, y0)
        ones, zero = np.ones((1, len(kx)), np.complex64), np.zeros(len(x), np.int32)
        phases = np.empty((len(x), 2, len(kx)), np.float32)
        self._shift_rows(ones, zero, x, y, kx, ky, box, phases)
        cosine, sine = np.ascontiguousarray(phases[:-1, 0]), phases[:-1, 1] * sign[one_of, None]
        centre = phases[-1, 0] + np.complex64(1j) * phases[-1, 1]
        return AtShifts(_split(images, centre), centre, cosine, sine, pair[which], sign[which])

    def bytes_at_shifts(self, pixels: int, shared: bool) -> int:
        """Memory for each row of :meth:`at_shifts`, and for what :meth:`sum_groups` makes of the unmasked images.

        shared: the shifts are the same for all images.
        """
        return 0 if shared else 16 * pixels

    def dense_scores(
        self,
        slices: Slices,
        rotations_of: Callable[[int, int], NDArray[np.float32]],
        per_class: int,
        orientation_prior: NDArray[np.float32],
        table: Shifted,
        correlate: bool,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log-weights of all orientations for all particles: (K * per_class, N, T), see score_groups, and row_best.

        rotations_of(first, last): Euler matrices (last - first, 3, 3) of orientations within a class;
        orientation_prior (K * per_class,) log; table: every particle at every shift.
        row_best (K * per_class, N): the largest score over the shifts. The next scores overwrite these.
        """
        classes, n = len(slices.volumes), len(table.ctf2)
        t, directions, pixels = table.prior.shape[1] // n, slices.directions, slices.pixels
        angles, blocks = per_class // directions, classes * directions
        # a projection at an angle 180 degrees further on is the conjugate: two angles from one product
        opposite = kernels.opposite_angles(slices.psi_table)
        half = angles // 2 if opposite else angles
        real, imaginary = table.rows[:, 0].T, table.rows[:, 1].T
        shift_prior = table.prior.reshape(classes, n, t)
        prior = orientation_prior.reshape(blocks, angles)
        behind = table.rows.size if table.rows.base is self._work else 0
        out = self._reused(blocks * angles * n * t, behind).reshape(blocks, angles, n, t)
        row_best = np.empty((blocks, angles, n), np.float32)

        def project_blocks(first: int, last: int) -> NDArray[np.complex64]:
            rows = np.empty((last - first, half, pixels), np.complex64)
            for k in range(first // directions, (last - 1) // directions + 1):
                a, b = max(first, k * directions), min(last, (k + 1) * directions)
                at = (a - k * directions) * angles, (b - k * directions) * angles
                rotations = np.ascontiguousarray(rotations_of(*at).reshape(b - a, angles, 3, 3)[:, :half])
                own = rows[a - first : b - first].reshape(-1, pixels)
                kx, ky, pad, r_max = slices.kx, slices.ky, slices.pad, slices.r_max
                project(slices.volumes[k], rotations.reshape(-1, 3, 3), kx, ky, pad, r_max, own)
            return rows.reshape(-1, pixels)

        def score(first: int, last: int) -> None:
            rows = project_blocks(first, last)
            norms = (rows.real**2 + rows.imag**2) @ table.ctf2.T
            split = np.empty((len(rows), 2 * pixels), np.float32)
            kernels.split(rows, split)
            step = max(1, DENSE_COLUMNS // t)
            for a in range(0, n, step):
                b = min(a + step, n)
                kernels.join_dense_scores(
                    split[:, :pixels] @ real[:, a * t : b * t], split[:, pixels:] @ imaginary[:, a * t : b * t],
                    np.ascontiguousarray(norms[:, a:b]), prior, shift_prior, directions, correlate, opposite, first, a,
                    out, row_best,
                )  # fmt: skip

        step = int(np.clip(-(-blocks // self.threads), 1, max(1, DENSE_ROWS // half)))
        self.map(score, [(a, min(a + step, blocks)) for a in range(0, blocks, step)])
        return out, row_best

    def plan(self, slices: Slices, groups: Groups) -> Any:
        """The groups in the order in which they are gone through."""
        return groups.sorted_by_block()

    def score_groups(
        self, slices: Slices, plan: Any, table: Shifted, size: int, correlate: bool
    ) -> NDArray[np.float32]:
        """Log-weights (size,) of all samples of the groups of a plan, see `estep_numba.score_groups`.

        The next scores overwrite these.
        """
        g, at = plan, table.rows
        out = self._reused(size)

        def work(a: int, b: int) -> None:
            kernels.score_groups(
                slices.volumes, slices.pad, slices.r_max, slices.kx, slices.ky, slices.distortion, slices.dir_mats,
                slices.psi_table, g.block, g.particle, g.prior, g.psi_start, g.psi_count, g.psi_idx, g.psi_prior,
                g.slot_first, g.slot_count, g.out_start, table.prior, table.start, at.images, at.cosine,
                at.sine, at.pair, at.sign, table.children, table.ctf2, correlate, out, a, b,
            )  # fmt: skip

        self.map(work, self.group_ranges(g.block, g.work(), 4 * self.threads))
        return out

    def row_maxima(self, scores: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
        """The largest of each row of so many scores; NaN is passed over."""
        out = np.empty(len(scores) // columns, np.float32)

        def work(a: int, b: int) -> None:
            selection.row_maxima(scores, columns, out, a, b)

        self.map(work, self.ranges(len(out)))
        return out

    def select(self, coarse: Coarse, n: int, t: int, fraction: float, max_count: int, best_only: bool) -> Significant:
        """The samples of n particles that hold `fraction` of the weight, see `selection_numba.find_significant`."""
        c = coarse.groups
        threshold, count = np.empty(n, np.float32), np.zeros(n, np.int64)
        n_groups, n_angles = np.zeros(n, np.int64), np.zeros(n, np.int64)
        used = np.zeros((n, t), np.bool_)

        def find(a: int, b: int) -> None:
            selection.find_significant(
                coarse.scores, coarse.row_best, coarse.group_ptr, coarse.base, coarse.row_stride, c.psi_count, t,
                fraction, max_count, best_only, threshold, count, n_groups, n_angles, used, a, b,
            )  # fmt: skip

        ranges = self.ranges(n, 4 * self.threads)
        self.map(find, ranges)
        slot_of_trans = np.where(used, np.cumsum(used, axis=1) - 1, -1).astype(np.int32)
        group_start = np.concatenate([[0], np.cumsum(n_groups)])
        angle_start = np.concatenate([[0], np.cumsum(n_angles)])
        total, angles = int(group_start[-1]), int(angle_start[-1])
        fine = Groups(
            np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.float32),
            np.empty(total, np.int64),
            np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int32), np.empty(0, np.int64),
            np.empty(angles, np.int32), np.empty(angles, np.float32),
        )  # fmt: skip

        def fill(a: int, b: int) -> None:
            selection.list_significant(
                coarse.scores, coarse.row_best, coarse.group_ptr, coarse.base, coarse.row_stride, c.block, c.prior,
                c.psi_start, c.psi_count, c.psi_idx, c.psi_prior, t, threshold, slot_of_trans, group_start, angle_start,
                fine.block, fine.particle, fine.prior, fine.psi_start, fine.psi_count, fine.psi_idx, fine.psi_prior,
                fine.slot_first, fine.slot_count, a, b,
            )  # fmt: skip

        self.map(fill, ranges)
        mask_start = np.concatenate([[0], np.cumsum(fine.psi_count.astype(np.int64) * fine.slot_count)])
        mask = np.zeros(int(mask_start[-1]), np.uint8)

        def mark(a: int, b: int) -> None:
            selection.mark_significant(
                coarse.scores, coarse.row_best, coarse.group_ptr, coarse.base, coarse.row_stride, c.psi_count,
                c.block, t, threshold, slot_of_trans, group_start,
                fine.block, fine.slot_first, fine.slot_count, mask_start, mask, a, b,
            )  # fmt: skip

        self.map(mark, ranges)
        return Significant(
            fine, mask, mask_start, group_start, angle_start, mask_start[group_start], used, threshold, count
        )

    def weigh(
        self, groups: Groups, group_ptr: NDArray, scores: NDArray, mask: NDArray, mask_start: NDArray,
        rot_children: int, shift_children: int, fraction: float, best_only: bool,
    ) -> Best:  # fmt: skip
        """Turns the fine scores into posterior weights, in place, see `selection_numba.weigh_samples`."""
        best = Best.zeros(len(group_ptr) - 1)

        def work(a: int, b: int) -> None:
            selection.weigh_samples(
                scores, group_ptr, groups.psi_count, groups.slot_count, groups.out_start, mask, mask_start,
                rot_children, shift_children, fraction, best_only,
                best.log_sum, best.score, best.group, best.sample, best.bad, a, b,
            )  # fmt: skip

        self.map(work, self.ranges(len(group_ptr) - 1, 4 * self.threads))
        return best

    def marginals(
        self, groups: Groups, group_ptr: NDArray, weights: NDArray, table: Shifted, classes: int, slices: Slices
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Posterior weight of each shift, (K, R), and of each block, (K * D,)."""
        row_weight = np.zeros((classes, int(table.start[-1])))
        ranges = self.ranges(len(group_ptr) - 1)
        block_weight = np.zeros((len(ranges), classes * slices.directions))

        def work(i: int, a: int, b: int) -> None:  # a particle's shifts are its own; blocks are shared
            selection.marginals(
                weights, group_ptr, groups.block, groups.psi_count, groups.slot_first, groups.slot_count,
                groups.out_start, slices.children, table.children, slices.directions, table.start, row_weight,
                block_weight[i], a, b,
            )  # fmt: skip

        self.map(work, [(i, a, b) for i, (a, b) in enumerate(ranges)])
        return row_weight, block_weight.sum(axis=0)

    def references(self, volumes: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """The references' transforms where the kernels read them."""
        return volumes

    def accumulators(self, sums: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Where back-projections are added, one a thread as far as memory goes; the first is the sum itself."""
        spare = GRIDS_MIB * MIB // max(sums.nbytes, 1)
        return [sums] + [np.zeros_like(sums) for _ in range(int(np.clip(spare, 1, self.threads)) - 1)]

    def collect(self, accumulators: list[NDArray[np.float32]], sums: NDArray[np.float32]) -> None:
        """Adds the accumulators together in `sums`, always in the same order."""
        for grid in accumulators[1:]:
            sums += grid
        accumulators.clear()

    def sum_groups(
        self, slices: Slices, plan: Any, weights: NDArray, table: Shifted, unmasked: NDArray, inserted: NDArray,
        residual: bool, accumulators: list[NDArray[np.float32]], shells: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
        """Back-projections, and signal and reference power (N, shells), see `estep_numba.sum_groups`.

        The table's images, masked as they were for the scores, give the powers; unmasked (N, P) complex64, usually
        CTF X / sigma2 as well, are what is back-projected, at the table's shifts, with the weights inserted (N, P).
        """
        g, at = plan, table.rows
        plain = _split(unmasked, at.centre)
        threads = len(accumulators)
        signal = np.zeros((threads, len(table.ctf2), shells))
        power = np.zeros_like(signal)

        def work(thread: int, a: int, b: int) -> None:
            kernels.sum_groups(
                slices.volumes, slices.pad, slices.r_max, slices.kx, slices.ky, slices.shell, slices.distortion,
                slices.dir_mats, slices.psi_table,
                g.block, g.particle, g.psi_start, g.psi_count, g.psi_idx, g.slot_first, g.slot_count, g.out_start,
                table.start, at.images, plain, at.cosine, at.sine, at.pair, at.sign, table.children, table.ctf2,
                inserted, weights, residual, accumulators[thread], signal[thread], power[thread], a, b,
            )  # fmt: skip

        ranges = self.group_ranges(g.block, g.work(), SUM_PIECES * threads)
        self.map_in_order(work, [(i % threads, a, b) for i, (a, b) in enumerate(ranges)], threads)
        return signal.sum(axis=0), power.sum(axis=0)


@functools.cache
def _pool_of(threads: int) -> ThreadPoolExecutor:
    """Threads for the whole run: malloc would keep for new ones, in each iteration, what the old ones had."""
    return ThreadPoolExecutor(threads)


def opposite_shifts(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray[np.int64], NDArray[np.float32]]:
    """Centre (2,) of the shifts x, y (U,), the number of the pair that each is of, (U,), and its sign there, (U,).

    Shifts of a pair lie opposite each other. Where they are not symmetrical about a centre each is a pair of its own.
    """
    place = np.stack([x, y], axis=1)
    centre = (place.min(axis=0) + place.max(axis=0)) / 2.0
    order = np.lexsort(np.rint((place - centre) / SAME_PLACE).T)
    there = (place - centre)[order]
    n = len(order)
    if np.abs(there + there[::-1]).max() > SAME_PLACE:
        return np.zeros(2), np.arange(n), np.ones(n, np.float32)
    pair, sign = np.empty(n, np.int64), np.empty(n, np.float32)
    pair[order] = np.minimum(np.arange(n), np.arange(n)[::-1])
    sign[order] = np.where(np.arange(n) < (n + 1) // 2, 1.0, -1.0)
    return centre, pair, sign


def _split(images: NDArray[np.complex64], phases: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Images (N, P) times phases (P,) as the kernels of groups take them, (N, 2P): real, then imaginary parts."""
    out = np.empty((len(images), 2 * images.shape[1]), np.float32)
    kernels.turn_and_split(images, phases, out)
    return out
