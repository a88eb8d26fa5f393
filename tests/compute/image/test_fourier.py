"""Transforms, windows, filters and shifts against plain sums and files that RELION 5's programs wrote."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
from reference_data import SHARED

from relion_py.compute.image import fourier

JOB = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027"


def slow_transform(image: np.ndarray, kx: np.ndarray, ky: np.ndarray) -> np.ndarray:
    """The definition, with the origin at box // 2."""
    at = np.arange(len(image)) - len(image) // 2
    wave_x = np.exp(-2j * np.pi * np.outer(kx, at) / len(image))
    wave_y = np.exp(-2j * np.pi * np.outer(ky, at) / len(image))
    return np.einsum("py,yx,px->p", wave_y, image, wave_x)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(16, 16))


def test_transform_is_the_sum_about_the_centre(image: np.ndarray) -> None:
    kx, ky = fourier.disc_pixels(7.5, include_dc=True)
    got = fourier.gather(fourier.half_transform(image), kx, ky)
    np.testing.assert_allclose(got, slow_transform(image, kx, ky), atol=1e-10)
    np.testing.assert_allclose(fourier.real_image(fourier.half_transform(image), 16), image, atol=1e-12)
    single = fourier.half_transform(image.astype(np.float32))
    assert single.dtype == np.complex64 and fourier.real_image(single, 16).dtype == np.float32


def test_disc_has_one_of_each_friedel_pair_in_order_of_shells() -> None:
    kx, ky = fourier.disc_pixels(5.0)
    pairs = set(zip(kx.tolist(), ky.tolist(), strict=True))
    both = pairs | {(-x, -y) for x, y in pairs}
    disc = {(x, y) for x in range(-5, 6) for y in range(-5, 6) if 0 < x * x + y * y <= 25}
    assert both == disc and len(pairs) * 2 == len(disc)
    shells = fourier.shell_of(kx, ky)
    assert np.all(np.diff(shells) >= 0) and shells[0] == 1 and shells[-1] == 5
    assert fourier.shell_of([1, 3, 0], [1, 2, 0]).tolist() == [1, 4, 0]
    with_dc = fourier.disc_pixels(5.0, include_dc=True)
    assert (with_dc[0][0], with_dc[1][0]) == (0, 0) and len(with_dc[0]) == len(kx) + 1


def test_scatter_and_gather_are_inverse(image: np.ndarray) -> None:
    kx, ky = fourier.disc_pixels(6.0, include_dc=True)
    transform = fourier.half_transform(image[None].repeat(2, axis=0))
    values = fourier.gather(transform, kx, ky)
    assert values.shape == (2, len(kx))
    full = fourier.scatter(values, kx, ky, 16)
    expected = np.where(fourier.radius_grid(16) <= 6, transform, 0)
    np.testing.assert_allclose(full, expected, atol=1e-12)
    np.testing.assert_allclose(fourier.gather(full, kx, ky), values)


def test_phase_shift_moves_towards_positive_x_and_y(image: np.ndarray) -> None:
    kx, ky = fourier.disc_pixels(7.9, include_dc=True)
    values = fourier.gather(fourier.half_transform(image), kx, ky)
    moved = fourier.gather(fourier.half_transform(np.roll(image, (-2, 3), axis=(0, 1))), kx, ky)
    np.testing.assert_allclose(values * fourier.phase_shift(kx, ky, 3.0, -2.0, 16), moved, atol=1e-4)
    assert fourier.phase_shift(kx, ky, np.zeros((4, 5)), np.zeros((4, 5)), 16).shape == (4, 5, len(kx))


def test_resizing_keeps_a_band_limited_density() -> None:
    def density(box: int) -> np.ndarray:
        """The same Gaussian of 3 pixels of 32, sampled with any number of pixels."""
        at = (np.arange(box) - box // 2) * 32 / box
        return np.exp(-((at[:, None, None] - 2) ** 2 + (at[:, None] + 1) ** 2 + at**2) / (2 * 3.0**2))

    for box in (24, 48):
        np.testing.assert_allclose(fourier.resize_map(density(32), box), density(box), atol=2e-4)
    stack = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    small = fourier.resize_map(stack, 8, dimensions=2)
    assert small.shape == (3, 8, 8) and small.dtype == np.float32
    np.testing.assert_allclose(small.mean(axis=(1, 2)), stack.mean(axis=(1, 2)), atol=1e-6)


def test_windows_keep_the_centre(image: np.ndarray) -> None:
    for new in (9, 10, 21, 22):
        window = fourier.window_map(image, new, fill=-5.0)
        assert window.shape == (new, new) and window[new // 2, new // 2] == image[8, 8]
    assert fourier.window_map(image, 22, fill=-5.0)[0, 0] == -5.0
    np.testing.assert_array_equal(fourier.window_map(fourier.window_map(image, 24), 16), image)


def test_filters_add_up_and_have_a_soft_edge() -> None:
    radius = np.arange(20)
    low = fourier.filter_profile(radius, 40, 2.0, 10.0)
    assert list(low[:8]) == [1.0] * 8
    assert low[8] == pytest.approx(0.5) and not low[9:].any()
    high = fourier.filter_profile(radius, 40, 2.0, 10.0, highpass=True)
    np.testing.assert_allclose(low + high, 1.0)
    volume = np.random.default_rng(1).normal(size=(12, 12, 12))
    both = fourier.lowpass(volume, 1.0, 4.0) + fourier.highpass(volume, 1.0, 4.0)
    np.testing.assert_allclose(both, volume, atol=1e-12)


def test_power_spectrum_is_parsevals(image: np.ndarray) -> None:
    """The mean power over all shells, weighted with the number of pixels, is the variance of white noise."""
    noise = np.random.default_rng(2).normal(size=(64, 64)) * 3
    spectrum = fourier.power_spectrum(noise)
    assert len(spectrum) == 33
    assert spectrum[1:].mean() * 64 * 64 == pytest.approx(9.0, rel=0.1)
    wave = np.cos(2 * np.pi * 5 * np.arange(16) / 16) * np.ones((16, 1))
    np.testing.assert_allclose(fourier.power_spectrum(wave)[5] * fourier.shell_counts(16)[5], 0.25, atol=1e-12)
    assert np.delete(fourier.power_spectrum(wave), 5).max() < 1e-20


@pytest.mark.skipif(not JOB.exists(), reason="the shared beta-galactosidase project is not here")
@pytest.mark.parametrize("name", ["lp20", "box64", "rescaled5"])
def test_maps_of_relion_image_handler(name: str) -> None:
    with mrcfile.open(JOB / "run_class001.mrc.gz", permissive=True) as mrc:
        volume = np.array(mrc.data)
    with mrcfile.open(SHARED / f"golden/numeric/image_handler/{name}.mrc.gz", permissive=True) as mrc:
        expected = np.array(mrc.data)
    if name == "lp20":
        got = fourier.lowpass(volume, 3.54, 20.0)
    elif name == "box64":
        got = fourier.window_map(volume, 64)
    else:
        got = fourier.resize_map(volume, 70)
    assert got.shape == expected.shape and got.dtype == np.float32
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()
