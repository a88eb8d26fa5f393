"""Compiled transforms against NumPy's in double precision."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.picking import micrograph, transform_kernels
from relion_py.compute.picking.decimation import sieve_of
from relion_py.compute.picking.micrograph import Standard
from relion_py.compute.picking.transform_kernels import LANES, map_of_harmonic, stages_of

RANDOM = np.random.default_rng(0)
# all factors that are written out, one that is not, the least size, and odd ones
FEWER = [(242, 50), (243, 32), (408, 40), (600, 50), (1000, 26)]  # of which rows are left out
SIZES = [8, 45, 60, 66, 91, 128, 142, 182]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(("size", "work"), [(size, size // 3 * 2) for size in SIZES] + [(64, 64), (262, 20)] + FEWER)
def test_the_lowest_frequencies_of_a_micrograph(size, work, squared):
    image = RANDOM.standard_normal((size, size)).astype(np.float32)
    whole = np.fft.rfft2(image.astype(float) ** (2 if squared else 1)) / size**2
    ky = np.fft.fftfreq(work, 1 / work).astype(int)
    expected = whole[ky, : work // 2 + 1]
    if work < size:  # the highest frequency is kept as a positive one
        expected[work // 2] = whole[work // 2, : work // 2 + 1]
    got = micrograph.window(image, work, squared)
    assert got.dtype == np.complex64 and got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=5e-7 * np.abs(expected).max())
    kept = size // sieve_of(size, work).step
    assert (stages_of(kept)[0].max() > micrograph.LARGEST_FACTOR) == (size == 262)  # SciPy's turn


@pytest.mark.parametrize(("size", "work"), FEWER)
def test_what_has_no_place_among_the_lowest_frequencies_vanishes(size, work):
    """One wave after the other, higher and higher ones, against the rounding of single precision."""
    sieve = sieve_of(size, work)
    assert sieve.step > 1 and size % sieve.step == 0 and size >= 2.4 * sieve.step * work
    kept = size // sieve.step
    left = 0.0
    for wave in range(size // 2 + 1):
        line = np.exp(2j * np.pi * wave * np.arange(size) / size)
        sums = [sieve.weights @ line[(sieve.step * row + np.arange(len(sieve.weights))) % size] for row in range(kept)]
        seen = (np.fft.fft(sums) / kept)[np.fft.fftfreq(work, 1 / work).astype(int)] * sieve.factors / sieve.step
        expected = np.fft.fftfreq(work, 1 / work) == wave
        if wave != work // 2:  # which is kept as a positive frequency
            left = max(left, np.abs(seen - expected).max())
    assert left < 1e-6


@pytest.mark.parametrize(("size", "work"), [(64, 40), (242, 50), (262, 20)])
@pytest.mark.parametrize("squared", [False, True])
def test_a_micrograph_is_made_standard_on_the_way(size, work, squared):
    image = RANDOM.normal(50.0, 3.0, (size, size)).astype(np.float32)
    image[3, 5], image[size - 1, 0] = 90.0, -20.0
    standard = Standard(50.0, -1 / 3, 8.0)
    expected = (50.0 - image) / 3
    expected[np.abs(expected) > 8] = 0
    before = image.copy()
    got = micrograph.window(image, work, squared, standard)
    np.testing.assert_allclose(got, micrograph.window(expected, work, squared), atol=1e-6 * np.abs(got).max())
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("outlier", [False, True])
@pytest.mark.parametrize("size", [242, 262, 600])
def test_a_micrograph_is_looked_at_once_or_twice(size, outlier):
    """The moments are those of the whole, and an outlier counts as the mean, whichever way that is found out."""
    image = RANDOM.normal(500.0, 3.0, (size, size)).astype(np.float32)
    if outlier:
        image[size - 1, 4] = 600.0
    expected = -(image - image.mean(dtype=np.float64)) / image.std(ddof=1, dtype=np.float64)
    assert (np.abs(expected) > 8).sum() == outlier
    expected[np.abs(expected) > 8] = 0
    got = micrograph.standard_window(image, micrograph.Geometry(size, size, 1.0, 50), 8.0, -1.0, 0)
    wanted = micrograph.window(expected.astype(np.float32), 50)
    assert abs(got[0, 0] - wanted[0, 0]) < np.spacing(np.float32(500)) / 3  # the mean of a second look is rounded
    got[0, 0] = wanted[0, 0]
    np.testing.assert_allclose(got, wanted, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("size", [size for size in SIZES if size % 2 == 0])
def test_a_part_of_the_map_of_a_harmonic(size, odd):
    """X conj(A(k)) exp(-i m phi) on a disc, with X of a real micrograph, against its whole inverse transform."""
    m, reach = (3 if odd else 4), size // 2 - 1
    ky, kx = (k.astype(int) for k in np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2, indexing="ij"))
    inside = np.hypot(ky, kx) <= reach
    signal = np.fft.fft2(RANDOM.standard_normal((size, size)))
    radial = np.exp(1j * np.hypot(ky, kx)) / (1 + np.hypot(ky, kx))
    wave = np.exp(-1j * m * np.arctan2(ky, kx))
    expected = np.fft.ifft2(np.where(inside, signal * radial * wave, 0), norm="forward")
    rows, columns = slice(2, size - 1), slice(1, size - 2)

    def blocks(values: np.ndarray, first: int) -> np.ndarray:
        out = np.zeros((reach // LANES + 1, reach + 1 - first, 2, LANES), np.float32)
        for y, x in zip(*np.nonzero(inside & (ky >= first) & (kx >= 0)), strict=True):
            place = kx[y, x] // LANES, ky[y, x] - first, slice(None), kx[y, x] % LANES
            out[place] = values[y, x].real, values[y, x].imag
        return out

    deep = -(-(rows.stop - rows.start) // LANES) * LANES
    out = np.full((2, columns.stop - columns.start, deep), np.nan, np.float32)
    block, between = np.zeros((size, 2, LANES), np.float32), np.zeros((size + 1, 2, deep), np.float32)
    room = np.zeros((3 * (size + 2 * LANES), 2, LANES), np.float32)
    for _ in range(2):  # what it leaves behind does no harm
        map_of_harmonic(
            blocks(signal, -reach), blocks(wave, 0), blocks(radial, 0), odd, *stages_of(size), rows.start,
            columns.start, block, between, room, out,
        )  # fmt: skip
    got = (out[0] + 1j * out[1]).T[: rows.stop - rows.start]
    np.testing.assert_allclose(got, expected[rows, columns], atol=1e-6 * np.abs(expected).max())


def test_waves_go_on_by_one_harmonic():
    angles = RANDOM.uniform(0, np.pi, (2, 3, LANES))
    wave, step = (
        np.stack([np.cos(m * angles), -np.sin(m * angles)], axis=2).astype(np.float32) for m in (4, 1)
    )  # fmt: skip
    transform_kernels.next_harmonic(wave, step)
    np.testing.assert_allclose(wave[:, :, 0] + 1j * wave[:, :, 1], np.exp(-5j * angles), atol=1e-6)


@pytest.mark.parametrize("size", [2, 16, 182, 646])
def test_stages_multiply_to_the_size(size):
    factors, turns = stages_of(size)
    assert np.prod(factors) == size
    np.testing.assert_allclose(np.abs(turns), 1, atol=1e-6)


MAPS = """
import hashlib
import numpy as np
from relion_py.compute.picking.log import LogSettings, log_maps
from relion_py.compute.picking.micrograph import geometry_of
settings = LogSettings(50, 80, lowpass=12, shrink=0, max_search=1)
image = np.random.default_rng(0).standard_normal((256, 256), np.float32)
maps = [merit.tobytes() for _, merit in log_maps(image, geometry_of(image.shape, 2.0, settings), settings)]
print(hashlib.md5(b"".join(maps)).hexdigest())
"""


def test_kernels_from_the_cache_give_the_bits_that_compiled_ones_give(tmp_path: Path) -> None:
    """Else the first run after an installation differs from all others, and ranks from one another."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    compiled, cached = (
        subprocess.run([sys.executable, "-c", MAPS], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert compiled == cached
