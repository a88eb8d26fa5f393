"""How well a CTF fits a spectrum: profiles, the resolution to which rings agree, and a picture.

Source: Rohou & Grigorieff (2015) J. Struct. Biol. 192, 216-221 and the files that CTFFIND 4.1 writes; the
equiphase average is that of Zhang (2016) J. Struct. Biol. 193, 1-12.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from relion_py.compute.ctf.estimate import CtfFit, Microscope, Search
from relion_py.compute.ctf.spectrum import Spectrum, radius, rings, usable_pixels

_LOW, _SIGNIFICANT = 0.1, 0.5  # correlations in CTFFIND4's rule for the resolution
_ENOUGH = 3  # bins above one of them before a fall below it counts
_POOR = 999.0
"""Resolution of a fit that agrees nowhere; RELION's table shows it as 25 A."""
_CHANCE = 5.0
"""Standard deviations that the best of all CTFs reaches in noise (measured: 3.9 in the median, 5.1 in one of 20)."""


@dataclass(frozen=True)
class Profiles:
    """Averages over azimuth in bins of one Fourier pixel to the corner of the spectrum; float64 (bins,).

    frequency in 1/A; round: over circles; equiphase: over lines of equal CTF phase, both as relative ring
    heights; ctf: |CTF| at the mean defocus; agreement: correlation of equiphase and ctf in a window about
    each bin; noise: two standard deviations of what noise would reach there.
    """

    frequency: NDArray[np.float64]
    round: NDArray[np.float64]
    equiphase: NDArray[np.float64]
    ctf: NDArray[np.float64]
    agreement: NDArray[np.float64]
    noise: NDArray[np.float64]
    resolution: float


def ctf_phase(
    squared: NDArray[np.float64], defocus: NDArray[np.float64] | float, fit: CtfFit, microscope: Microscope
) -> NDArray[np.float64]:
    """chi in radians at k^2 = `squared` (1/A^2) with `defocus` A; CTF = sin(chi)."""
    wavelength = microscope.wavelength
    return (
        np.pi * wavelength * squared * defocus
        - np.pi / 2 * microscope.cs * 1e7 * wavelength**3 * squared**2
        + np.deg2rad(fit.phase_shift)
        + np.arcsin(microscope.q0)
    )


def profiles(spectrum: Spectrum, fit: CtfFit, microscope: Microscope, search: Search) -> Profiles:
    """All curves of a fit, and the resolution in A to which rings and CTF agree.

    It is 999 where they agree nowhere, and where noise might do as well as the whole fit: the rule of CTFFIND4 finds
    better than 7 A in one of seven spectra of pure noise.
    """
    box, scale = spectrum.box, spectrum.box * spectrum.angpix
    heights = rings(spectrum, search.coarsest_resolution)
    chosen = usable_pixels(box)
    count = int(np.sqrt(2.0) * box / 2) + 1
    frequency = np.arange(count) / scale
    distance = radius(box)
    plain = _radial_mean(heights[chosen], distance[chosen], count)
    equal = _radial_mean(heights[chosen], _equivalent_radius(distance, fit, microscope, scale)[chosen], count)
    within = (frequency >= 1 / search.coarsest_resolution) & (frequency <= 1 / search.finest_resolution)
    top = float(np.abs(plain[within]).max(initial=0.0)) or 1.0
    mean_defocus = (fit.defocus_u + fit.defocus_v) / 2
    phase = ctf_phase(frequency**2, mean_defocus, fit, microscope)
    ctf = np.abs(np.sin(phase))
    first = int(np.searchsorted(frequency, 1 / search.coarsest_resolution))
    agreement, noise = _agreement(equal, ctf, phase, first)
    resolution = _resolution(agreement, frequency, phase, first)
    bins = np.minimum(np.rint(distance).astype(int), count - 1)
    fitted = chosen & within[bins]
    noise_level = float(heights[fitted].std())
    if _significance(equal, ctf, np.bincount(bins[fitted], minlength=count)) < _CHANCE * noise_level:
        resolution = _POOR
    return Profiles(frequency, plain / top, equal / top, ctf, agreement, noise, resolution)


def _significance(profile: NDArray[np.float64], ctf: NDArray[np.float64], pixels: NDArray[np.int64]) -> float:
    """Sum of a profile times the CTF, in standard deviations of a pixel's noise; pixels: in each bin, both halves."""
    weight = pixels / 2
    model = ctf - np.average(ctf, weights=weight)
    return float(np.sum(weight * profile * model) / np.sqrt(np.sum(weight * model * model)))


def _radial_mean(values: NDArray[np.float32], distance: NDArray[np.floating], count: int) -> NDArray[np.float64]:
    """Mean in bins of one pixel, each value shared between its two neighbours."""
    below = np.minimum(distance.astype(int), count - 2)
    share = np.clip(distance - below, 0, 1)
    total = np.bincount(below, values * (1 - share), count) + np.bincount(below + 1, values * share, count)
    weight = np.bincount(below, 1 - share, count) + np.bincount(below + 1, share, count)
    return total / np.maximum(weight, 1e-6)


def _azimuth_cosine(box: int, angle: float) -> NDArray[np.float64]:
    """cos(2 (azimuth - angle)) of every pixel."""
    k = np.arange(box) - box // 2
    azimuth = np.arctan2(k[:, None], k[None, :])
    return np.cos(2 * (azimuth - np.deg2rad(angle)))


def _equivalent_radius(
    distance: NDArray[np.float32], fit: CtfFit, microscope: Microscope, scale: float
) -> NDArray[np.float64]:
    """The radius in pixels at which the CTF of the mean defocus has the phase that each pixel has."""
    mean, half = (fit.defocus_u + fit.defocus_v) / 2, (fit.defocus_u - fit.defocus_v) / 2
    wavelength = microscope.wavelength
    squared = (distance.astype(float) / scale) ** 2
    linear = np.pi * wavelength * mean
    bend = np.pi / 2 * microscope.cs * 1e7 * wavelength**3
    here = np.pi * wavelength * (mean + half * _azimuth_cosine(len(distance), fit.angle))
    phase = here * squared - bend * squared**2
    if bend < 1e-12 or linear <= 0:
        equal = phase / linear if linear > 0 else squared
    else:
        # the root that goes on from 0; beyond the turn of the phase there is none and k itself serves
        inside = linear * linear - 4 * bend * phase
        rising = (inside >= 0) & (squared < linear / (2 * bend))
        equal = np.where(rising, (linear - np.sqrt(np.maximum(inside, 0))) / (2 * bend), squared)
    return np.sqrt(np.maximum(equal, 0)) * scale


def _lobes(phase: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many extrema of the CTF lie before each bin."""
    return np.floor(np.abs(phase - phase[0]) / np.pi + 0.5).astype(int)


def _agreement(
    profile: NDArray[np.float64], ctf: NDArray[np.float64], phase: NDArray[np.float64], first: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of profile and CTF in a window about each bin, and what noise would reach there.

    The window grows with the number of rings before it; ring by ring the profile is brought to 0..1, so that
    the fall of contrast does not count. Bins before `first` are 1 with noise 0, as in CTFFIND4.
    """
    count = len(profile)
    lobes = _lobes(phase)
    starts = np.flatnonzero(np.diff(lobes, prepend=lobes[0] - 1))
    ends = np.append(starts[1:], count)
    flat = np.empty(count)
    half = np.empty(count, int)
    for start, end in zip(starts, ends, strict=True):
        part = profile[start:end]
        span = float(np.ptp(part))
        flat[start:end] = (part - part.min()) / span if span > 1e-9 else 0.5
        half[start:end] = int((1 + 0.1 * (lobes[start] + 1)) * (end - start + 1))
    if len(starts) > 1:
        half[starts[-1] :] = half[starts[-1] - 1]  # the last one is cut by the end of the spectrum
    half = np.clip(half, count // 40, count // 2 - 1)
    agreement, noise = np.ones(count), np.zeros(count)
    for index in range(first, count):
        low = max(first, index - half[index])
        high = min(count, low + 2 * half[index] + 1)
        low = max(first, min(low, high - 2 * half[index] - 1))
        a, b = flat[low:high] - flat[low:high].mean(), ctf[low:high] - ctf[low:high].mean()
        power = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
        agreement[index] = np.dot(a, b) / power if power > 0 else 0.0
        noise[index] = 2 / np.sqrt(2 * half[index] + 1)
    return agreement, noise


def _resolution(
    agreement: NDArray[np.float64], frequency: NDArray[np.float64], phase: NDArray[np.float64], first: int
) -> float:
    """Resolution in A to which rings agree: CTFFIND4's rule.

    From the first zero of the CTF on (and from bin `first` on, where the fit begins) it is the first bin where
    the correlation falls below 0.5 or below 0.1 after more than three bins above that value. Where it never
    reaches 0.5 there is no agreement.
    """
    zeros = np.flatnonzero(np.floor(phase / np.pi) > np.floor(phase[0] / np.pi))
    low = significant = 0
    for index in range(max(first, int(zeros[0])) if zeros.size else first, len(agreement)):
        value = agreement[index]
        if (low > _ENOUGH and value < _LOW) or (significant > _ENOUGH and value < _SIGNIFICANT):
            return float(1 / frequency[index]) if significant else _POOR
        low += value > _LOW
        significant += value > _SIGNIFICANT
    return float(1 / frequency[-1]) if significant else _POOR


def _even_contrast(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """A profile over its local root mean square, so that faint rings are as plain as strong ones."""
    power = ndimage.gaussian_filter1d(np.minimum(np.abs(profile), 1.0) ** 2, 10.0)
    return profile / np.sqrt(power + 1e-4)


def fit_picture(
    spectrum: Spectrum, fit: CtfFit, curves: Profiles, microscope: Microscope, search: Search
) -> NDArray[np.float32]:
    """Spectrum and fit in one picture, float32 (box, box), values about 0 to 1.

    Right half: the ring heights, slightly smoothed. Left half, first rows: the heights averaged along lines
    of equal CTF phase, brought to even contrast. Left half, last rows: CTF^2 up to the finest resolution of
    the fit, ring heights beyond.
    """
    box, scale = spectrum.box, spectrum.box * spectrum.angpix
    heights = rings(spectrum, search.coarsest_resolution)
    distance = radius(box)
    equal = _equivalent_radius(distance, fit, microscope, scale)
    smooth = ndimage.gaussian_filter(heights, 0.7)
    fitted = (distance > scale / search.coarsest_resolution) & (distance < scale / search.finest_resolution)
    spread = 2.5 * float(smooth[fitted].std()) + 1e-30
    picture = np.clip(0.5 + 0.5 * smooth / spread, 0, 1)
    averaged = np.interp(equal, np.arange(len(curves.equiphase)), _even_contrast(curves.equiphase))
    k = np.arange(box) - box // 2
    left, upper = (k < 0)[None, :], (k < 0)[:, None]
    picture = np.where(left & upper, np.clip(0.5 + 0.35 * averaged, 0, 1), picture)
    mean, half = (fit.defocus_u + fit.defocus_v) / 2, (fit.defocus_u - fit.defocus_v) / 2
    defocus = mean + half * _azimuth_cosine(box, fit.angle)
    model = np.sin(ctf_phase((distance.astype(float) / scale) ** 2, defocus, fit, microscope)) ** 2
    inside = distance < scale / search.finest_resolution
    picture = np.where(left & ~upper & inside, model, picture)
    return picture.astype(np.float32)
