"""The expectation step on a CUDA device, emulated or real, against the CPU's (whose witness is a sum in float64)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from emulated_device import EmulatedDevice
from estep_problem import assert_same, folded, make, solve

from relion_py.compute.backend import cuda_arrays
from relion_py.compute.backend.cpu import CpuBackend
from relion_py.compute.backend.cuda import CudaBackend
from relion_py.compute.errors import UserError

KINDS = ("global", "local", "correlate", "residual", "few", "seeded", "own", "distorted", "premultiplied", "turned")


@pytest.mark.parametrize("dimensions", [3, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_assignments_and_sums_are_those_of_the_cpu(device, kind: str, dimensions: int) -> None:
    if kind == "local" and dimensions == 2:
        pytest.skip("local searches are for maps")
    problem = make(kind, dimensions)
    assert_same(solve(CudaBackend(device), problem), solve(CpuBackend(), problem))


@pytest.mark.parametrize("oversampling", [0, 2])
def test_any_oversampling(device, oversampling: int) -> None:
    problem = make("local", oversampling=oversampling)
    assert_same(solve(CudaBackend(device), problem), solve(CpuBackend(), problem))


def test_a_broad_posterior_in_small_batches_and_tiles(device, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make(noise=0.06)
    wanted = solve(CpuBackend(), problem)
    assert wanted[0].nr_significant.min() > 500, "many poses are possible"
    assert_same(solve(CudaBackend(device), problem), wanted)
    # so little work space that particles go one by one, and projections are made for a few directions at a time
    tiles = []
    cut = CudaBackend._tiles

    def recorded(self, plan, slots, angles):
        found = list(cut(self, plan, slots, angles))
        tiles.append(len(found))
        assert found[0][::2] == (0, 0) and found[-1][1::2] == (len(plan.groups.block), len(plan.keys))
        assert all(a[1::2] == b[::2] for a, b in pairwise(found))
        return iter(found)

    monkeypatch.setattr(CudaBackend, "_tiles", recorded)
    monkeypatch.setattr(cuda_arrays, "MOST_WORK", 600_000)
    assert_same(solve(CudaBackend(device), problem), wanted)
    assert len(tiles) > 3 and max(tiles) > 3


@pytest.mark.parametrize("dimensions", [3, 2])
def test_tensor_cores_change_where_the_fine_pass_looks_by_little(dimensions: int) -> None:
    """Coarse scores of rounded factors: a sample at the very limit is in or out, and nothing else."""
    problem = make(noise=0.02, dimensions=dimensions)
    wanted, sums = solve(CpuBackend(), problem)
    found, rough_sums = solve(CudaBackend(EmulatedDevice(tensor_cores=True)), problem)
    np.testing.assert_allclose(found.nr_significant, wanted.nr_significant, rtol=0.01, atol=2)
    assert wanted.nr_significant.max() > 100
    found.nr_significant = wanted.nr_significant
    np.testing.assert_array_equal(found.matrix, wanted.matrix)
    np.testing.assert_array_equal(found.offset, wanted.offset)
    np.testing.assert_allclose(found.pmax, wanted.pmax, atol=1e-4)
    ours, theirs = folded(rough_sums.grids), folded(sums.grids)
    assert np.abs(ours - theirs).max() < 2e-4 * np.abs(theirs).max()


def test_a_particle_without_finite_pixels_is_set_aside(device) -> None:
    problem = make()
    broken = problem.images.masked.copy()
    broken[1] = np.nan
    problem.images = replace(problem.images, masked=broken)
    found, sums = solve(CudaBackend(device), problem)
    assert list(np.nonzero(found.failed)[0]) == [1] and sums.failed == [1]
    assert np.isfinite(sums.grids).all() and np.isfinite(sums.pack()).all()
    assert_same((found, sums), solve(CpuBackend(), problem))


def test_an_empty_image_counts_once_in_a_correlation(device) -> None:
    """It correlates with nothing, at all poses alike: one of them is taken, not all."""
    problem = make("correlate")
    empty = problem.images.masked.copy()
    empty[1] = 0.0
    problem.images = replace(problem.images, masked=empty)
    ours, wanted = solve(CudaBackend(device), problem), solve(CpuBackend(), problem)
    for _, sums in (ours, wanted):
        assert sums.sum_weight == len(problem.images)
        assert np.array_equal(sums.sumw_group, np.bincount(problem.images.optics, minlength=len(sums.sumw_group)))
    assert_same(ours, wanted)


def test_nothing_is_launched_once_per_particle() -> None:
    one, many = EmulatedDevice(), EmulatedDevice()
    problem = make()
    solve(CudaBackend(many), problem)
    problem.images = problem.images.part(0, 1)
    solve(CudaBackend(one), problem)
    assert many.launches == one.launches


@pytest.mark.parametrize("kind", ["global", "own"])
def test_memory_that_is_too_small_halves_the_batch(kind: str) -> None:
    """Wherever it shows, also several times: nothing is lost and nothing counted twice."""
    problem = make(kind)
    wanted = solve(CpuBackend(), problem)
    plain = EmulatedDevice()
    solve(CudaBackend(plain), problem)
    for number, kernel in enumerate(plain.launches):
        if number % 2 == 0 or kernel == "sum_and_insert":  # which takes no memory
            continue
        device = EmulatedDevice(fail_at=(number, number + 3))
        assert_same(solve(CudaBackend(device), problem), wanted)
        assert device.released > 1
        assert len(device.launches) > len(plain.launches), kernel


def test_memory_that_is_too_small_for_one_particle_is_told() -> None:
    problem = make()
    with pytest.raises(MemoryError):
        solve(CudaBackend(EmulatedDevice(fail_at=tuple(range(2, 40)))), problem)

    class Full(EmulatedDevice):
        class xp:
            @staticmethod
            def asarray(array):
                raise MemoryError

    backend = CudaBackend(Full(free=1 << 20))
    with pytest.raises(UserError, match=r"^GPU emulation has too little free memory for the references: .*\.$"):
        backend.references(problem.volumes)


def test_images_of_the_next_batch_go_ahead_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.ones((4, 8, 8), np.float32)
    device = EmulatedDevice()
    backend = CudaBackend(device)
    backend.use()
    there = backend.staged(images)
    np.testing.assert_array_equal(backend.to_host(there), images)
    assert backend.to_device(there) is there
    assert CudaBackend(device, budget=1000).staged(images) is images

    def full(array: np.ndarray) -> None:
        raise MemoryError

    monkeypatch.setattr(device.xp, "asarray", full)
    assert backend.staged(images) is images


def test_the_work_space_is_a_share_of_what_is_left() -> None:
    device = EmulatedDevice(free=3 << 30)
    assert CudaBackend(device).work_bytes() == 1 << 30
    assert CudaBackend(device, budget=600 << 20).work_bytes() == 200 << 20, "ranks share a device"
    assert CudaBackend(EmulatedDevice(free=1 << 40)).work_bytes() == cuda_arrays.MOST_WORK
