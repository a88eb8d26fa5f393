"""The CPU backend: NumPy and BLAS for dense products, Numba kernels for the rest, a few Python threads.

The kernels release the GIL; each thread works on its own range, and everything that is summed has one accumulator a
thread, so that results do not depend on the timing of the threads. BLAS itself is kept to one thread: many threads
in small products slow each other down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from relion_py.compute.backend import estep_numba as kernels
from relion_py.compute.backend.kernels_numba import project


class CpuBackend:
    """Runs kernels over ranges in `threads` threads; use as a context manager.

    check() is called between pieces of work, by the thread that waits for them, and may raise to stop.
    """

    name = "cpu"

    def __init__(self, threads: int = 1, check: Callable[[], None] | None = None) -> None:
        self.threads = max(1, threads)
        self._check = check or (lambda: None)
        self._stack = ExitStack()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> CpuBackend:
        self._stack.enter_context(threadpool_limits(limits=1, user_api="blas"))
        if self.threads > 1:
            self._pool = self._stack.enter_context(ThreadPoolExecutor(self.threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._pool = None

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

    def block_ranges(self, block: NDArray[np.int32], cost: NDArray, pieces: int) -> list[tuple[int, int]]:
        """Ranges of groups (sorted by block) of nearly equal cost that do not cut through a block."""
        if not len(block):
            return []
        starts = np.concatenate([[0], np.nonzero(np.diff(block))[0] + 1, [len(block)]])
        total = np.concatenate([[0.0], np.cumsum(cost, dtype=np.float64)])
        at_start = total[starts]
        wanted = np.linspace(0, total[-1], pieces + 1)
        cuts = np.unique(np.concatenate([[0], starts[np.searchsorted(at_start, wanted[1:-1])], [len(block)]]))
        return [(int(a), int(b)) for a, b in pairwise(cuts)]

    def dense_scores(
        self,
        volumes: NDArray[np.complex64],
        pad: float,
        r_max: float,
        kx: NDArray[np.int32],
        ky: NDArray[np.int32],
        rotations_of: Callable[[int, int], NDArray[np.float32]],
        per_class: int,
        orientation_prior: NDArray[np.float32],
        shifted: NDArray[np.float32],
        shift_prior: NDArray[np.float32],
        ctf2: NDArray[np.float32],
        correlate: bool,
        out: NDArray[np.float32],
        row_best: NDArray[np.float32],
    ) -> None:
        """Log-weights of all orientations for all particles: out (K * per_class, N, T), see score_groups.

        rotations_of(first, last): Euler matrices (last - first, 3, 3) of orientations within a class;
        orientation_prior (K * per_class,) and shift_prior (K, N, T) log; shifted (N * T, P, 2); ctf2 (N, P);
        row_best (K * per_class, N): the largest score over the shifts.
        """
        _, n, t = shift_prior.shape
        flat = shifted.reshape(n * t, -1)

        def score(k: int, first: int, last: int) -> None:
            rows = np.empty((last - first, len(kx)), np.complex64)
            project(volumes[k], rotations_of(first, last), kx, ky, np.float32(pad), np.float32(r_max), rows)
            target = out[k * per_class + first : k * per_class + last]
            np.matmul(rows.view(np.float32), flat.T, out=target.reshape(last - first, n * t))
            norms = (rows.real**2 + rows.imag**2) @ ctf2.T
            prior = orientation_prior[k * per_class + first : k * per_class + last]
            best = row_best[k * per_class + first : k * per_class + last]
            kernels.add_dense_terms(target, norms, prior, shift_prior[k], correlate, best)

        step = max(64, min(1024, -(-per_class // self.threads)))
        tasks = [(k, a, min(a + step, per_class)) for k in range(len(volumes)) for a in range(0, per_class, step)]
        self.map(score, tasks)
