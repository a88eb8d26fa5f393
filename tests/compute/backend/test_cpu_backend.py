"""The CPU backend shares out work, can be stopped in the middle, and its kernels are what their formulas say."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import estep_problem
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relion_py.compute.backend import estep_numba as kernels
from relion_py.compute.backend import selection_numba as selection
from relion_py.compute.backend.cpu import UNEVEN, CpuBackend
from relion_py.compute.backend.kernels_numba import project
from relion_py.compute.backend.selection_numba import BINS_PER_LOG, LOG_RANGE
from relion_py.compute.backend.work import Shifted, Slices
from relion_py.compute.errors import Aborted


@given(st.integers(0, 500), st.integers(1, 40))
def test_ranges_cover_everything_once_and_are_of_equal_length(n: int, pieces: int) -> None:
    found = CpuBackend(2).ranges(n, pieces)
    assert [i for a, b in found for i in range(a, b)] == list(range(n))
    lengths = [b - a for a, b in found]
    assert all(lengths) and (not lengths or max(lengths) - min(lengths) <= 1) and len(found) <= pieces


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 8))
def test_ranges_of_groups_are_even_and_cut_a_block_only_for_that(sizes: list[int], pieces: int) -> None:
    block = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    cost = np.ones(len(block), np.int64)
    found = CpuBackend(2).group_ranges(block, cost, pieces)
    assert [i for a, b in found for i in range(a, b)] == list(range(len(block))) and len(found) <= pieces
    share = len(block) / pieces
    assert all(b - a <= share * (1 + 2 * UNEVEN) + 2 for a, b in found)
    begins = set(np.cumsum([0, *sizes]).tolist())
    wanted = np.arange(1, pieces) * share
    for a, _ in found:
        if a not in begins:  # then no block begins near enough to where this range should
            ideal = wanted[np.argmin(np.abs(wanted - a))]
            assert min(abs(ideal - start) for start in begins) > UNEVEN * share


@pytest.mark.parametrize("chains", [1, 3])
def test_tasks_in_order_never_meet_in_a_chain(chains: int) -> None:
    done: list[list[int]] = [[] for _ in range(chains)]
    inside = [0] * chains

    def work(i: int) -> None:
        inside[i % chains] += 1
        assert inside[i % chains] == 1
        time.sleep(0.002 * (i % 4))
        done[i % chains].append(i)
        inside[i % chains] -= 1

    with CpuBackend(4) as backend:
        backend.map_in_order(work, [(i,) for i in range(20)], chains)
        assert done == [list(range(i, 20, chains)) for i in range(chains)]
        with pytest.raises(ZeroDivisionError):
            backend.map_in_order(lambda i: 1 / i, [(2,), (0,), (3,)], chains)


@pytest.mark.parametrize("threads", [1, 3])
def test_every_task_is_done_once_and_an_error_is_raised_here(threads: int) -> None:
    done = []
    with CpuBackend(threads) as backend:
        backend.map(lambda i: done.append(i), [(i,) for i in range(20)])
        assert sorted(done) == list(range(20))
        with pytest.raises(ZeroDivisionError):
            backend.map(lambda i: 1 / i, [(2,), (0,), (3,)])


def test_a_run_has_the_same_threads_throughout() -> None:
    """Memory that malloc keeps for a thread is lost with it."""
    seen: list[set[int]] = []
    for _ in range(4):
        both = threading.Barrier(2)
        seen.append(set())
        with CpuBackend(2) as backend:
            backend.map(
                lambda _, ids=seen[-1], both=both: (both.wait(5), ids.add(threading.get_native_id())), [(0,), (1,)]
            )
    assert len(seen[0]) == 2 and all(ids == seen[0] for ids in seen)


@pytest.mark.parametrize("kind", ["seeded", "few", "correlate", "turned"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_coarse_pass_in_pieces_finds_the_same(kind: str, dimensions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = estep_problem.make(kind, dimensions, noise=0.02)
    whole = estep_problem.solve(CpuBackend(2), problem)
    monkeypatch.setattr("relion_py.compute.refine.expectation.FEWEST", 3)
    monkeypatch.setattr(CpuBackend, "work_bytes", lambda _: 4)
    sizes: list[int] = []
    select = CpuBackend.select
    monkeypatch.setattr(CpuBackend, "select", lambda *a: (sizes.append(a[2]), select(*a))[1])
    estep_problem.assert_same(estep_problem.solve(CpuBackend(2), problem), whole)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_request_to_stop_drops_the_work_that_waits(threads: int, ordered: bool) -> None:
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
        if ordered:
            backend.map_in_order(work, [(i,) for i in range(200)], threads)
        else:
            backend.map(work, [(i,) for i in range(200)])
    assert time.monotonic() - began < 1.0 and len(done) < (40 if ordered else 12)


def test_rows_are_shifted_by_their_phases() -> None:
    rng = np.random.default_rng(1)
    box, kx, ky = 32, np.arange(0, 9, dtype=np.int32), np.arange(-4, 5, dtype=np.int32)
    images = (rng.normal(size=(3, 9)) + 1j * rng.normal(size=(3, 9))).astype(np.complex64)
    rows = np.array([2, 0, 0, 1], np.int32)
    shift = rng.uniform(-6, 6, (4, 2))
    out = np.empty((4, 2, 9), np.float32)
    source = images.view(np.float32).reshape(3, 9, 2)
    kernels.shift_rows(source, rows, shift[:, 0].copy(), shift[:, 1].copy(), kx, ky, box, out)
    phase = np.exp(-2j * np.pi * (shift[:, :1] * kx + shift[:, 1:] * ky) / box)
    np.testing.assert_allclose(out[:, 0] + 1j * out[:, 1], images[rows] * phase, atol=2e-5)


@pytest.mark.parametrize(("kind", "pairs"), [("disc", 11), ("even", 8), ("one", 1), ("lopsided", 22)])
def test_shifts_are_a_centre_and_pairs_of_opposite_ones(kind: str, pairs: int) -> None:
    """Regular ones, as of a search, share their phases with the opposite ones; others are taken as they are."""
    rng = np.random.default_rng(7)
    kx, ky, box = np.array([0, 3, 7, 2, 5]), np.array([1, 0, -4, 6, -2]), 20
    images = (rng.normal(size=(3, 5)) + 1j * rng.normal(size=(3, 5))).astype(np.complex64)
    y, x = (0.7 * np.mgrid[-3:4, -3:4]).reshape(2, -1)
    disc = np.hypot(x, y) < 1.7
    x, y = {
        "disc": (x[disc] + 0.31, y[disc] - 1.2), "even": (0.3 + np.arange(16) % 4, np.arange(16) // 4 - 0.8),
        "one": (np.array([1.3]), np.array([-0.4])), "lopsided": (np.append(x[disc], 9.0), np.append(y[disc], 0.3)),
    }[kind]  # fmt: skip
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    rows, which = np.repeat(np.arange(3, dtype=np.int32), len(x)), np.tile(np.arange(len(x)), 3)
    with CpuBackend() as backend:
        at = backend.at_shifts(images, rows, x, y, which, kx, ky, box)
    assert len(at.cosine) == len(at.sine) == pairs
    found = (at.images[:, :5] + 1j * at.images[:, 5:])[rows]
    found = found * (at.cosine[at.pair] + 1j * at.sign[:, None] * at.sine[at.pair])
    phase = np.exp(-2j * np.pi * (np.outer(x, kx) + np.outer(y, ky)) / box)
    np.testing.assert_allclose(found, images[rows] * phase[which], atol=2e-5)


@pytest.mark.parametrize("correlate", [False, True])
@pytest.mark.parametrize("angles", [6, 5])
def test_dense_scores_are_those_of_the_definition(
    angles: int, correlate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an even number of angles half are scored with the projections of the others; of an odd one, none."""
    monkeypatch.setattr("relion_py.compute.backend.cpu.DENSE_COLUMNS", 9)
    problem = estep_problem.make()
    tables, images, pixels = problem.tables, problem.images, problem.images.coarse
    k, d, n, t = len(problem.volumes), tables.directions, len(images), len(tables.shifts)
    rng = np.random.default_rng(5)
    psi = np.deg2rad(7 + np.arange(angles) * 360.0 / angles)
    psi_table = np.stack([np.cos(psi), np.sin(psi)], axis=-1)[:, None].astype(np.float32)
    slices = Slices(
        problem.volumes, np.float32(estep_problem.PAD), np.float32(estep_problem.PAD * pixels.r_max), pixels.kx,
        pixels.ky, pixels.shell, tables.coarse_mats, psi_table, np.eye(2, dtype=np.float32),
    )  # fmt: skip
    turned = replace(tables, coarse_psi=psi_table)
    image = np.ascontiguousarray(images.masked[:, images.coarse_in_fine])
    ctf2 = rng.uniform(0.1, 1.0, image.shape).astype(np.float32)
    shift = rng.uniform(-3, 3, (t, 2))
    phases = np.exp(-2j * np.pi * (shift[:, :1] * pixels.kx + shift[:, 1:] * pixels.ky) / estep_problem.BOX)
    prior, shift_prior = rng.normal(size=k * d * angles).astype(np.float32), rng.normal(size=(k, n * t))
    with CpuBackend(2) as backend:
        rows, place = np.repeat(np.arange(n, dtype=np.int32), t), np.tile(shift, (n, 1))
        x, y = np.ascontiguousarray(place[:, 0]), np.ascontiguousarray(place[:, 1])
        moved = backend.shift_rows(image, rows, x, y, pixels.kx, pixels.ky, estep_problem.BOX)
        table = Shifted(moved, np.arange(n + 1) * t, 1, shift_prior.astype(np.float32), ctf2)
        found, best = backend.dense_scores(slices, turned.coarse_rotations, d * angles, prior, table, correlate)
    projections = np.empty((k, d * angles, pixels.size), np.complex64)
    for volume, out in zip(problem.volumes, projections, strict=True):
        project(volume, turned.coarse_rotations(0, d * angles), pixels.kx, pixels.ky, slices.pad, slices.r_max, out)
    wanted = np.einsum("krp,np,tp->krnt", projections.conj(), image.astype(complex), phases, optimize=True).real
    norm = np.einsum("krp,np->krn", np.abs(projections.astype(complex)) ** 2, ctf2)[..., None]
    if correlate:
        wanted = wanted / np.sqrt(norm)
    else:
        wanted = wanted - 0.5 * norm + prior.reshape(k, -1, 1, 1) + shift_prior.reshape(k, 1, n, t)
    wanted = wanted.reshape(k * d, angles, n, t)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
    np.testing.assert_array_equal(best, found.max(axis=-1))


def test_exponentials_are_right_down_to_the_smallest_that_count() -> None:
    below = np.append(np.linspace(0, 31, 20001), [np.nan, np.inf])
    line = (100 - below).astype(np.float32)
    exact = np.exp(line.astype(float) - 100)
    counts = np.float32(100) - line < LOG_RANGE
    bins, powers = np.empty((2, len(line)), np.int32)
    selection._exponentials(line, np.float32(100), bins, powers)
    np.testing.assert_allclose(line[counts], exact[counts], rtol=3e-6)
    assert line[0] == 1 and not line[~counts].any() and counts[:-2].sum() == 19355
    assert np.all(np.diff(bins[counts]) >= 0) and bins[counts].max() == LOG_RANGE * BINS_PER_LOG - 1
