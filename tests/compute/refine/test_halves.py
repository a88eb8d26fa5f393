"""What happens between the sums of the two halves: joining, comparing, reconstructing, becoming one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.parallel.comm import SerialComm
from relion_py.compute.refine.backprojector import BackProjector
from relion_py.compute.refine.halves import Division, Halves
from relion_py.compute.refine.images import DiscPixels

BOX, SIZE, PIXEL = 24, 20, 3.0


def random_rotations(rng: np.random.Generator, n: int) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.random(n, random_state=np.random.RandomState(rng.integers(1 << 30))).as_matrix()


@pytest.fixture
def halves() -> Halves:
    """Two halves of projections of one blob off the centre, with noise that grows with the frequency."""
    both = Halves(Division(SerialComm(), (SerialComm(), SerialComm()), False), 1)
    pixels = DiscPixels.of_size(SIZE)
    for half in (0, 1):
        rng = np.random.default_rng(half)
        rotations = random_rotations(rng, 400)
        place = np.array([2.0, -1.0, 3.0])
        seen = rotations @ place
        phase = np.exp(-2j * np.pi * (np.outer(seen[:, 0], pixels.kx) + np.outer(seen[:, 1], pixels.ky)) / BOX)
        noise = rng.normal(size=(2, *phase.shape)) * (0.05 * pixels.shell**2)
        images = (phase + noise[0] + 1j * noise[1]).astype(np.complex64)
        sums = BackProjector(BOX, SIZE, 2.0, operators("C1"))
        sums.insert(images, np.ones(phase.shape, np.float32), rotations, pixels.kx, pixels.ky)
        both.reduce(half, sums)
    both.symmetrise()
    return both


def test_low_shells_become_those_of_the_mean_and_high_ones_stay(halves: Halves) -> None:
    before = halves.fsc()
    resolution = 18.0
    shell = math.ceil(BOX * PIXEL / resolution)
    halves.join_low_resolution(resolution, PIXEL)
    after = halves.fsc()
    np.testing.assert_allclose(after[1 : shell - 1], 1.0, atol=1e-5)
    np.testing.assert_allclose(after[shell + 2 :], before[shell + 2 :], atol=1e-6)
    assert before[1 : shell - 1].max() < 0.99999


def test_the_fsc_falls_with_the_noise(halves: Halves) -> None:
    fsc = halves.fsc()
    assert len(fsc) == BOX // 2 + 1
    assert fsc[1:4].min() > 0.9 > 0.75 > fsc[8:10].max()


def test_the_blob_is_found_where_it_is_by_each_half(halves: Halves) -> None:
    for half in (0, 1):
        volume = halves.unregularised(half)
        assert volume is not None and volume.shape == (BOX,) * 3
        z, y, x = np.unravel_index(int(np.argmax(volume)), volume.shape)
        assert (x - BOX // 2, y - BOX // 2, z - BOX // 2) == (2, -1, 3)


def test_the_joined_half_holds_the_sums_of_both(halves: Halves) -> None:
    first, second = halves.mine(0), halves.mine(1)
    assert first is not None and second is not None
    total = first.grid + second.grid
    halves.join()
    np.testing.assert_allclose(halves.mine(0).grid, total)
    assert halves.mine(1) is None


def test_a_tight_mask_gets_no_credit_for_itself(halves: Halves) -> None:
    """Halves that agree nowhere: a mask alone makes them agree at low resolution, the correction takes that away."""
    rng = np.random.default_rng(9)
    maps = [rng.normal(size=(BOX,) * 3).astype(np.float32) for _ in (0, 1)]
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    mask = np.exp(-(x**2 + y**2 + z**2) / 18.0).astype(np.float32)
    curve = halves.solvent_corrected_fsc(mask, list(maps), SIZE, 1)
    assert np.abs(curve[3 : SIZE // 2]).mean() < 0.5
    assert (curve[SIZE // 2 + 1 :] == 0.0).all()
    # and halves that do agree keep their agreement
    same = halves.solvent_corrected_fsc(mask, [maps[0], maps[0] + 0.05 * maps[1]], SIZE, 1)
    assert same[1 : SIZE // 2].min() > 0.95
