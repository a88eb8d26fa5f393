"""Amplitude spectra, against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from ring_micrographs import with_discs
from scipy import fft, ndimage

from relion_py.compute.ctf.spectrum import (
    Spectrum,
    amplitude_spectrum,
    check_pixels,
    fitting_pixel_size,
    radius,
    rings,
    without_contamination,
)
from relion_py.compute.errors import UserError


def grating(shape: tuple[int, int], angpix: float, spacing: float, degrees: float) -> NDArray[np.float32]:
    y, x = np.indices(shape) * angpix
    along = x * np.cos(np.deg2rad(degrees)) + y * np.sin(np.deg2rad(degrees))
    return np.cos(2 * np.pi * along / spacing).astype(np.float32)


@pytest.mark.parametrize("shape", [(512, 512), (600, 480), (509, 730)])
@pytest.mark.parametrize("degrees", [0.0, 30.0, 120.0])
def test_a_grating_gives_two_peaks_at_its_frequency_and_direction(shape: tuple[int, int], degrees: float) -> None:
    angpix, box, spacing = 1.5, 256, 9.0
    spectrum = amplitude_spectrum(grating(shape, angpix, spacing, degrees), angpix, box)
    assert spectrum.angpix == angpix and spectrum.image.shape == (box, box)
    length = box * angpix / spacing
    for sign in (1, -1):
        x = box / 2 + sign * length * np.cos(np.deg2rad(degrees))
        y = box / 2 + sign * length * np.sin(np.deg2rad(degrees))
        spot = spectrum.image.copy()
        rows, columns = np.indices(spot.shape)
        spot[np.hypot(rows - y, columns - x) > 20] = 0
        found = np.unravel_index(np.argmax(spot), spot.shape)
        assert abs(found[0] - y) <= 1.0 and abs(found[1] - x) <= 1.0
        assert spot[found] > 20 * np.median(spectrum.image)


def test_a_spectrum_is_the_mean_of_the_amplitudes_around_each_pixel() -> None:
    """Noise with a known, lopsided spectrum: the coarse pixels must follow it without any factor."""
    size, box = 1024, 128
    k = fft.fftfreq(size)
    form = 2 + np.cos(2 * np.pi * (3 * k[:, None] + 5 * k[None, :]))
    white = np.random.default_rng(3).standard_normal((size, size))
    image = fft.ifft2(fft.fft2(white) * form).real.astype(np.float32)
    spectrum = amplitude_spectrum(image, 2.0, box)
    coarse = (np.arange(box) - box // 2) / box
    # the mean amplitude of complex noise of power size^2 is sqrt(pi)/2 * size
    expected = size * np.sqrt(np.pi) / 2 * (2 + np.cos(2 * np.pi * (3 * coarse[:, None] + 5 * coarse)))
    ratio = spectrum.image / expected
    inner = (radius(box) > 3) & (radius(box) < 60)
    assert abs(ratio[inner].mean() - 1) < 0.005
    assert ratio[inner].std() < 0.12  # 64 amplitudes of scatter 0.52 each, less what the kernel's lobes add


def test_it_is_symmetrical() -> None:
    image = np.random.default_rng(1).standard_normal((300, 400)).astype(np.float32)
    spectrum = amplitude_spectrum(image, 2.0, 128).image
    np.testing.assert_allclose(spectrum[1:, 1:], spectrum[1:, 1:][::-1, ::-1], rtol=1e-4)


def test_fine_pixels_are_left_out() -> None:
    """A micrograph of 0.7 A per pixel is brought to 1.4: a grating keeps its frequency."""
    assert fitting_pixel_size(0.7, 5.0) == 1.4
    assert fitting_pixel_size(0.7, 2.0) == 1.0  # a fit to 2 A needs it
    assert fitting_pixel_size(1.77, 5.0) == 1.77
    spectrum = amplitude_spectrum(grating((1024, 1024), 0.7, 7.0, 90.0), 0.7, 256, 5.0)
    assert spectrum.angpix == 1.4
    peak = np.unravel_index(np.argmax(spectrum.image), spectrum.image.shape)
    assert abs(abs(peak[0] - 128) - 256 * 1.4 / 7.0) <= 1 and peak[1] == 128


def test_rings_stand_out_of_a_steep_background() -> None:
    distance = radius(512)
    background = 1e4 * np.exp(-distance / 60) + 50
    wave = 0.1 * np.cos(distance * 2 * np.pi / 12)
    heights = rings(Spectrum((background * np.exp(wave)).astype(np.float32), 1.4), 30.0)
    where = (distance > 60) & (distance < 200) & (np.abs(heights) > 0)
    assert np.corrcoef(heights[where], wave[where])[0, 1] > 0.98
    assert abs(heights[where].mean()) < 0.005


def test_contamination_is_replaced_by_noise_and_nothing_else_changes() -> None:
    clean = 100 + np.random.default_rng(0).standard_normal((700, 900)).astype(np.float32)
    dirty = with_discs(clean, 4, 8.0, 3)
    filled = without_contamination(dirty, 1.5, 30.0)
    assert np.array_equal(dirty, with_discs(clean, 4, 8.0, 3))
    disc = dirty < clean - 1
    assert disc.sum() > 1000 and (np.abs(filled - 100) < 5).mean() > 0.999
    # nothing farther off than the squares that hold the discs, and those beside them
    far = ndimage.distance_transform_edt(~disc) > 2 * 20 * np.sqrt(2)
    assert np.array_equal(filled[far], clean[far])
    assert abs(filled[disc].std() - 1) < 0.1


def test_what_is_no_contamination_stays() -> None:
    noise = np.random.default_rng(0).standard_normal((700, 900)).astype(np.float32)
    ramp = noise + np.linspace(0, 8, 900, dtype=np.float32)
    proteins = noise - (with_discs(np.zeros_like(noise), 60, 1.0, 3, (40.0, 41.0)) < 0)
    for image in (noise, ramp, proteins, noise[:200, :200]):
        assert without_contamination(image, 1.5, 30.0) is image


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_named(value: float) -> None:
    image = np.ones((64, 64), np.float32)
    with pytest.raises(UserError, match=r"a\.mrc is empty"):
        check_pixels(image, "a.mrc")
    image[5, 5] = value
    with pytest.raises(UserError, match=r"a\.mrc holds values that are not numbers"):
        check_pixels(image, "a.mrc")


def test_a_small_micrograph_is_refused() -> None:
    with pytest.raises(UserError, match="too small for a box of 512"):
        amplitude_spectrum(np.zeros((500, 2000), np.float32), 1.0, 512)
