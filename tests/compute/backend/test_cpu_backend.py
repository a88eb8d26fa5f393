"""The CPU backend shares out work: nothing twice, nothing left out, and it can be stopped in the middle."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relion_py.compute.backend import estep_numba as kernels
from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.errors import Aborted


@given(st.integers(0, 500), st.integers(1, 40))
def test_ranges_cover_everything_once_and_are_of_equal_length(n: int, pieces: int) -> None:
    found = CpuBackend(2).ranges(n, pieces)
    assert [i for a, b in found for i in range(a, b)] == list(range(n))
    lengths = [b - a for a, b in found]
    assert all(lengths) and (not lengths or max(lengths) - min(lengths) <= 1) and len(found) <= pieces


@given(st.lists(st.integers(1, 6), max_size=30), st.integers(1, 8))
def test_ranges_of_groups_never_cut_a_block(sizes: list[int], pieces: int) -> None:
    block = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    cost = np.ones(len(block), np.int64)
    found = CpuBackend(2).block_ranges(block, cost, pieces)
    assert [i for a, b in found for i in range(a, b)] == list(range(len(block)))
    assert all(a == 0 or block[a] != block[a - 1] for a, _ in found) and len(found) <= pieces


@pytest.mark.parametrize("threads", [1, 3])
def test_every_task_is_done_once_and_an_error_is_raised_here(threads: int) -> None:
    done = []
    with CpuBackend(threads) as backend:
        backend.map(lambda i: done.append(i), [(i,) for i in range(20)])
        assert sorted(done) == list(range(20))
        with pytest.raises(ZeroDivisionError):
            backend.map(lambda i: 1 / i, [(2,), (0,), (3,)])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_request_to_stop_drops_the_work_that_waits(threads: int) -> None:
    done: list[int] = []
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise Aborted("stop")

    def work(i: int) -> None:
        time.sleep(0.02)
        done.append(i)
        if i == 3:
            asked.set()

    began = time.monotonic()
    with CpuBackend(threads, check) as backend, pytest.raises(Aborted):
        backend.map(work, [(i,) for i in range(200)])
    assert time.monotonic() - began < 1.0 and len(done) < 12


def test_rows_are_shifted_by_their_phases() -> None:
    rng = np.random.default_rng(1)
    box, kx, ky = 32, np.arange(0, 9, dtype=np.int32), np.arange(-4, 5, dtype=np.int32)
    images = (rng.normal(size=(3, 9)) + 1j * rng.normal(size=(3, 9))).astype(np.complex64)
    rows = np.array([2, 0, 0, 1], np.int32)
    shift = rng.uniform(-6, 6, (4, 2))
    out = np.empty((4, 9, 2), np.float32)
    source = images.view(np.float32).reshape(3, 9, 2)
    kernels.shift_rows(source, rows, shift[:, 0].copy(), shift[:, 1].copy(), kx, ky, box, out)
    phase = np.exp(-2j * np.pi * (shift[:, :1] * kx + shift[:, 1:] * ky) / box)
    np.testing.assert_allclose(out[..., 0] + 1j * out[..., 1], images[rows] * phase, atol=2e-5)
