"""Picking by a Laplacian of Gaussian at many scales: blobs of about the size of a particle.

Source: RELION 5, autopicker.cpp (initialise, autoPickLoGOneMicrograph), fftw.cpp (LoGFilterMap); Gunn (1999)
Pattern Recognition 32, 1463-1472.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.picking.log_kernels import choose_peaks, moments, standardise

LARGEST_PRIME = 43
"""Working sizes with larger prime factors are replaced by a neighbour: their transforms are slow."""

_ROWS_AT_A_TIME = 256
_SMALLEST_WORKING_SIZE = 8

Image = NDArray[np.float32]
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


@dataclass(frozen=True)
class Picks:
    """Particles, the best first: x, y float64 (N,), pixels of the micrograph from the centre of its first pixel;
    merit float32 (N,), the height of the filtered micrograph, in standard deviations of the micrograph."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    merit: Image

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Geometry:
    """A micrograph of `rows` x `columns` pixels of `angpix` A in a square of `size`, worked on at `work` pixels."""

    rows: int
    columns: int
    angpix: float
    work: int

    @property
    def size(self) -> int:
        """Pixels of the square, unshrunk."""
        return max(self.rows, self.columns)

    @property
    def scale(self) -> float:
        """Pixels at work for one of the micrograph."""
        return self.work / self.size

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the micrograph's first pixel in the unshrunk square."""
        return self.size // 2 - self.rows // 2, self.size // 2 - self.columns // 2


def geometry_of(shape: tuple[int, ...], angpix: float, settings: LogSettings) -> Geometry:
    """The geometry of a micrograph (ny, nx); UserError if nothing would be left of it at work."""
    rows, columns = shape
    work = working_size(max(rows, columns), angpix, settings)
    if work < _SMALLEST_WORKING_SIZE:
        raise UserError(
            f"it has {columns} x {rows} pixels, of which {work} would be left at the resolution of --lowpass and "
            "--shrink; raise these."
        )
    return Geometry(rows, columns, angpix, work)


def working_size(size: int, angpix: float, settings: LogSettings) -> int:
    """Pixels (even) to which a square of `size` is shrunk: `shrink` 0: to the resolution of `lowpass`; up to 1:
    that fraction of it; above 1: so many pixels. UserError if that is more than there are."""
    largest = size - size % 2
    if settings.shrink > 1:
        wanted = _even(settings.shrink)
        if wanted >= size:
            raise UserError(f"it has {size} pixels, and --shrink asks for {wanted}; ask for fewer, or a fraction.")
    elif settings.shrink > 0:
        wanted = _even(settings.shrink * size)
    elif settings.lowpass > 0:
        wanted = min(largest, 2 * _round(size * angpix / settings.lowpass))
    else:
        wanted = largest
    return _smooth_size(wanted, size) if settings.optimise_scale else wanted


def diameters_of(settings: LogSettings) -> list[float]:
    """The diameters (A) that are looked at, from the smallest to the largest; three of them are wanted ones."""
    low, high = settings.diameter_min, settings.diameter_max
    multiples = range(2, settings.max_search + 1)
    return [
        *(float(_round(low / multiple)) for multiple in reversed(multiples)),
        low, (low + high) / 2, high,
        *(float(_round(high * multiple)) for multiple in multiples),
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
    mean, deviation = moments(micrograph)
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise UserError("it holds values that are not numbers (NaN or infinity).")
    if deviation == 0:
        raise UserError(f"it is empty: every pixel is {mean:g}.")
    standardise(micrograph, mean, deviation, settings.outlier_zscore, 1.0 if settings.white else -1.0)
    work, half = geometry.work, geometry.work // 2
    transform = _window(_square(micrograph, geometry, settings.seed), work)
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
    top, left = (_round(edge * geometry.scale) for edge in geometry.corner)
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


def _square(image: Image, geometry: Geometry, seed: int) -> Image:
    """The standard micrograph in the middle of a square, noise of standard deviation 1 beside it."""
    rows, columns, size = geometry.rows, geometry.columns, geometry.size
    if rows == columns:
        return image
    square = np.empty((size, size), np.float32)
    top, left = geometry.corner
    random = np.random.default_rng(seed)
    for area in (square[:top], square[top + rows :], square[:, :left], square[:, left + columns :]):
        area[...] = random.standard_normal(area.shape, np.float32)
    square[top : top + rows, left : left + columns] = image
    return square


def _window(image: Image, work: int) -> NDArray[np.complex64]:
    """The half transform (work, work // 2 + 1) of a square image, divided by its number of pixels: its lowest
    frequencies. Only columns that are kept are transformed in full."""
    size, half = len(image), work // 2
    columns = np.empty((size, half + 1), np.complex64)
    for start in range(0, size, _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        columns[rows] = fft.rfft(image[rows], axis=1)[:, : half + 1]
    transform = fft.fft(columns, axis=0, overwrite_x=True)
    kept = np.r_[0 : half + 1, size - half + 1 : size] if work < size else np.arange(size)
    return transform[kept] / np.float32(size * size)


def _smooth_size(wanted: int, limit: int) -> int:
    """`wanted`, or the even size nearest to it that has no large prime factor (getGoodFourierDims)."""
    if _roughness(wanted) <= LARGEST_PRIME:
        return wanted
    up = down = wanted
    while up <= limit + 2 and _roughness(up) >= LARGEST_PRIME:
        up += 2
    while down > 2 and _roughness(down) >= LARGEST_PRIME:
        down -= 2
    return down if up - wanted > wanted - down or up > limit else up


def _roughness(size: int) -> int:
    """The largest prime factor of transforms of that many pixels, and of their half."""
    return max(_largest_prime(size), _largest_prime(size // 2 + 1))


def _largest_prime(number: int) -> int:
    factor = 2
    while factor * factor <= number:
        if number % factor:
            factor += 1
        else:
            number //= factor
    return number


def _even(number: float) -> int:
    whole = _round(number)
    return whole - whole % 2


def _round(number: float) -> int:
    """The nearest whole number; halves go up."""
    return math.floor(number + 0.5)
