"""Picking by a Laplacian of Gaussian at many scales: blobs of about the size of a particle.

Source: RELION 5, autopicker.cpp (initialise, autoPickLoGOneMicrograph), fftw.cpp (LoGFilterMap); Gunn (1999)
Pattern Recognition 32, 1463-1472.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.picking.kernels import choose_peaks
from relion_py.compute.picking.micrograph import Geometry, Image, Picks, round_half_up, standard_square, window

Maps = Iterable[tuple[float, Image]]


@dataclass(frozen=True)
class LogSettings:
    """How to pick.

    diameter_min, diameter_max (A): of the particles, from any side. adjust_threshold: standard deviations of
    the figures of merit added to the threshold, which is their mean; upper_threshold: as many above the mean
    peaks are dropped. white: particles are brighter than the background. neighbour: no other particle within
    half of this times (detected + smallest diameter). max_search: largest multiple (and smallest fraction) of
    the diameters that is looked at, so that what is too large or small is known as such. lowpass (A; not
    positive: none) and shrink say how finely: see :func:`working_size`. skip_side: pixels of the micrograph
    without picks at its edges, at least half of the smallest diameter. outlier_zscore: pixels beyond so many
    deviations count as the mean. optimise_scale: avoid working sizes with large prime factors. seed: of the
    noise that makes oblong micrographs square.
    """

    diameter_min: float
    diameter_max: float
    adjust_threshold: float = 0.0
    upper_threshold: float = 99999.0
    white: bool = False
    neighbour: float = 1.0
    max_search: int = 5
    lowpass: float = -1.0
    shrink: float = 1.0
    skip_side: int = 0
    outlier_zscore: float = 8.0
    optimise_scale: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.diameter_min <= self.diameter_max < math.inf:
            raise UserError(
                "--LoG_diam_min and --LoG_diam_max must be positive, the minimum not above the maximum; they are "
                f"{self.diameter_min:g} and {self.diameter_max:g} A."
            )
        if not 0 <= self.shrink < math.inf:
            raise UserError(
                f"--shrink must be a fraction from 0 to 1, or a size in pixels above 1, not {self.shrink:g}."
            )
        if self.max_search < 1:
            raise UserError(f"--Log_max_search must be at least 1, not {self.max_search}.")
        if not self.outlier_zscore > 0:
            raise UserError(f"--outlier_removal_zscore must be positive, not {self.outlier_zscore:g}.")
        if not self.neighbour >= 0:
            raise UserError(f"--LoG_neighbour must not be negative; it is {100 * self.neighbour:g}.")
        for name, value in (
            ("--LoG_adjust_threshold", self.adjust_threshold),
            ("--LoG_upper_threshold", self.upper_threshold),
            ("--lowpass", self.lowpass),
        ):
            if not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, not {value}.")


def diameters_of(settings: LogSettings) -> list[float]:
    """The diameters (A) that are looked at, from the smallest to the largest; three of them are wanted ones."""
    low, high = settings.diameter_min, settings.diameter_max
    multiples = range(2, settings.max_search + 1)
    return [
        *(float(round_half_up(low / multiple)) for multiple in reversed(multiples)),
        low, (low + high) / 2, high,
        *(float(round_half_up(high * multiple)) for multiple in multiples),
    ]  # fmt: skip


def log_maps(
    micrograph: Image, geometry: Geometry, settings: LogSettings, ctf: CtfParams | None = None
) -> Iterator[tuple[float, Image]]:
    """Diameter (A) and filtered micrograph float32 (work, work), for every diameter.

    micrograph: float32 (ny, nx), changed. ctf: one particle's parameters; the micrograph is divided by the CTF up
    to its first peak. The Fourier transform of the filter, r^2 exp(-r^2 / 2 s^2) / s^2 with r and s in Fourier
    pixels and s = size * angpix / (2 * diameter), gives blobs of that diameter the highest peak of all scales.
    UserError for NaN, infinity, and images that are the same everywhere.
    """
    work, half = geometry.work, geometry.work // 2
    sign = 1.0 if settings.white else -1.0
    transform = window(standard_square(micrograph, geometry, settings.outlier_zscore, sign, settings.seed), work)
    ky = fft.fftfreq(work, 1 / work).astype(np.float32)
    ky[half] = half
    kx = np.arange(half + 1, dtype=np.float32)
    if ctf is not None:
        grid_y, grid_x = np.meshgrid(ky, kx, indexing="ij")
        values = ctf_values(
            ctf, grid_x.ravel(), grid_y.ravel(), geometry.size, geometry.angpix,
            intact_after_first_peak=True, damping=False,
        )  # fmt: skip
        transform /= values[0].reshape(transform.shape)
    r2 = ky[:, None] ** 2 + kx**2
    for diameter in diameters_of(settings):
        s2 = np.float32((0.5 * geometry.size * geometry.angpix / max(diameter, 1e-3)) ** 2)
        kernel = r2 * np.exp(r2 * (np.float32(-0.5) / s2)) / s2
        yield diameter, fft.irfft2(transform * kernel, s=(work, work), norm="forward")


def best_of(maps: Maps) -> tuple[Image, Image]:
    """For every pixel the highest figure of merit, and the diameter (A) that gives it; float32 (work, work)."""
    merit = size = None
    for diameter, image in maps:
        if merit is None or size is None:
            merit, size = image.astype(np.float32), np.full(image.shape, diameter, np.float32)
            continue
        better = image > merit
        np.copyto(merit, image, where=better)
        np.copyto(size, np.float32(diameter), where=better)
    if merit is None or size is None:
        raise ValueError("there are no maps")
    return merit, size


def pick_log(merit: Image, size: Image, geometry: Geometry, settings: LogSettings) -> Picks:
    """Pick particles from the highest figures of merit and their diameters (A), as :func:`best_of` gives them.

    Coordinates of oblong micrographs are exact; RELION rounds the margin of the square to whole pixels at work.
    """
    merit, high = _candidates(merit, size, geometry, settings)
    positive = np.flatnonzero(merit > 0)
    order = positive[np.argsort(-merit.ravel()[positive], kind="stable")]
    reach = geometry.scale * (size + settings.diameter_min) * settings.neighbour / 2 / geometry.angpix
    heights = merit.ravel().copy()
    peaks = choose_peaks(merit, order, np.floor(reach + 0.5).astype(np.int64))
    peaks = peaks[heights[peaks] < high]
    rows, columns = np.divmod(peaks, geometry.work)
    top, left = geometry.corner
    return Picks(columns / geometry.scale - left, rows / geometry.scale - top, heights[peaks])


def _candidates(merit: Image, size: Image, geometry: Geometry, settings: LogSettings) -> tuple[Image, float]:
    """Figures of merit where picks may be, 0 elsewhere, and the upper threshold."""
    inside = np.zeros_like(merit)
    top, left = (round_half_up(edge * geometry.scale) for edge in geometry.corner)
    side = int(max(settings.skip_side, int(0.5 * settings.diameter_min / geometry.angpix)) * geometry.scale)
    rows, columns = (int(n * geometry.work / geometry.size) for n in (geometry.rows, geometry.columns))
    if rows > 2 * side and columns > 2 * side:
        area = slice(top + side, top + rows - side), slice(left + side, left + columns - side)
        inside[area] = merit[area]
    wanted = (size >= np.float32(settings.diameter_min)) & (size <= np.float32(settings.diameter_max))
    inside[~wanted] = 0
    if not wanted.any():
        return inside, 0.0
    values = inside[wanted].astype(np.float64)
    mean, deviation = float(values.mean()), float(values.std())
    inside[inside < mean + settings.adjust_threshold * deviation] = 0
    return inside, mean + settings.upper_threshold * deviation
