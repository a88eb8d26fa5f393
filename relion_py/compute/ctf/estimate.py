"""Defocus, astigmatism and phase shift of a micrograph from its amplitude spectrum.

The rings of a spectrum follow CTF^2 = (1 - cos 2 chi) / 2 with the phase

    chi(k) = pi lambda k^2 D(azimuth) - pi/2 Cs lambda^3 k^4 + phase shift + arcsin(Q0)
    D(azimuth) = (U + V) / 2 + (U - V) / 2 cos(2 (azimuth - angle))

(the sign and axes of :mod:`relion_py.compute.image.ctf`). First every astigmatic defocus is compared with the
spectrum averaged in sectors, where a score is a sum of table entries, once for each way in which rings may fade with
resolution. The best few are refined against the averages, the best one against all pixels, weighted by the contrast
of the rings that were found.

Source: Rohou & Grigorieff (2015) J. Struct. Biol. 192, 216-221: score = normalised correlation of ring
heights and CTF, less a restraint on astigmatism. The sector table and the weights are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from relion_py.compute.ctf.spectrum import Spectrum, radius, rings, usable_pixels
from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import electron_wavelength
from relion_py.compute.jit import njit

_SECTORS = 36  # of 5 degrees
_CANDIDATES = 2  # of each search
_BFACTORS = (20.0, 80.0, 250.0)
"""A^2: how ring contrast may fall with resolution, as exp(-B k^2 / 2); a search for each."""
_NOTHING = 2.5  # of B k^2 / 2, where a search ends: exp(-2.5)


@dataclass(frozen=True)
class Microscope:
    """voltage in kV, cs in mm, q0 the amplitude contrast (0 to 1)."""

    voltage: float
    cs: float
    q0: float

    @property
    def wavelength(self) -> float:
        """Of the electrons, in A."""
        return float(electron_wavelength(self.voltage))


@dataclass(frozen=True)
class Search:
    """Where to look. Resolutions, defocus and astigmatism in A; phase shifts in degrees.

    astigmatism: the tolerated |U - V|, a soft restraint; 0 or less: none. largest_astigmatism: the end of the
    search. find_phase: phase shifts from phase_min to phase_max are tried, else phase_min is taken as 0.
    """

    coarsest_resolution: float = 30.0
    finest_resolution: float = 5.0
    defocus_min: float = 5000.0
    defocus_max: float = 50000.0
    defocus_step: float = 500.0
    astigmatism: float = 100.0
    largest_astigmatism: float = 2000.0
    find_phase: bool = False
    phase_min: float = 0.0
    phase_max: float = 180.0
    phase_step: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.finest_resolution < self.coarsest_resolution:
            raise UserError(
                f"The resolution range {self.coarsest_resolution:g} to {self.finest_resolution:g} A is "
                "empty: --ResMin must be a larger number of A than --ResMax."
            )
        if not 0 <= self.defocus_min < self.defocus_max:
            raise UserError("--dFMin must be at least 0 and smaller than --dFMax.")
        if not self.defocus_step > 0:
            raise UserError("--FStep must be positive.")
        if self.find_phase and not (self.phase_min < self.phase_max and self.phase_step > 0):
            raise UserError("--phase_min must be smaller than --phase_max, and --phase_step positive.")


@dataclass(frozen=True)
class CtfFit:
    """The result. defocus_u >= defocus_v in A; angle of U from x (-90 to 90) and phase shift in degrees.

    score: correlation coefficient of ring heights and |CTF| over all pixels of the fit: noise gives about 1
    over the root of their number. On the same real spectra it is about 1.4 times what CTFFIND 4.1 reports.
    """

    defocus_u: float
    defocus_v: float
    angle: float
    phase_shift: float
    score: float


def estimate_ctf(spectrum: Spectrum, microscope: Microscope, search: Search) -> CtfFit:
    """Find the CTF of a spectrum. UserError if the range of resolution holds too few pixels of it."""
    pixels = _pixels(spectrum, rings(spectrum, search.coarsest_resolution), search)
    cells = _cells(pixels)
    trust = _trust(pixels)[cells.ring]
    fits = []
    for bfactor in _BFACTORS:
        weight = trust * _envelope(cells, bfactor)
        inside = cells.squared <= max(2 * _NOTHING / bfactor, 2 * cells.squared.min())
        for start in _sector_search(cells.part(inside), weight[inside], microscope, search):
            fits.append(_refine(start, cells, weight, microscope, search))
    best = max(fits, key=lambda fit: fit[0])[1]
    for _ in range(2):  # a third time moves defocus by 1 to 5 A
        weight = _ring_contrast(best, pixels, microscope)
        if weight.max() > 0:
            best = _refine(best, pixels, weight, microscope, search)[1]
    return _as_fit(best, pixels, microscope)


@dataclass(frozen=True)
class _Pixels:
    """Half of the pixels of the range (the others are their mirror images), or cells of such pixels.

    All (N,), float64 unless said otherwise. height: of a cell the sum over its pixels, over the root of their number.
    squared: k^2 in 1/A^2; cosine, sine: of twice the azimuth; ring: radius in Fourier pixels, int; sector: azimuth,
    int; root: of the number of pixels. length: norm of all pixels' heights; total: their number.
    """

    height: NDArray[np.float64]
    squared: NDArray[np.float64]
    cosine: NDArray[np.float64]
    sine: NDArray[np.float64]
    ring: NDArray[np.int64]
    sector: NDArray[np.int64]
    root: NDArray[np.float64]
    length: float
    total: int

    def part(self, which: NDArray[np.bool_]) -> _Pixels:
        """Some of them."""
        names = ("height", "squared", "cosine", "sine", "ring", "sector", "root")
        return replace(self, **{name: getattr(self, name)[which] for name in names})


def _pixels(spectrum: Spectrum, heights: NDArray[np.float32], search: Search) -> _Pixels:
    box, scale = spectrum.box, spectrum.box * spectrum.angpix
    distance = radius(box)
    k = np.arange(box) - box // 2
    y, x = np.meshgrid(k, k, indexing="ij")
    finest = max(search.finest_resolution, 2.0 * spectrum.angpix)
    inside = (distance >= scale / search.coarsest_resolution) & (distance <= scale / finest)
    inside &= usable_pixels(box) & (x >= 0)
    count = int(np.count_nonzero(inside))
    if count < 1000:
        raise UserError(
            f"the range {search.coarsest_resolution:g} to {search.finest_resolution:g} A holds too little of "
            f"a spectrum of {box} pixels that ends at {2 * spectrum.angpix:.2f} A; change them or --Box"
        )
    height = heights[inside].astype(float)
    x, y = x[inside].astype(float), y[inside].astype(float)
    square = x * x + y * y
    return _Pixels(
        height,
        square / scale**2,
        (x * x - y * y) / square,
        2 * x * y / square,
        np.rint(np.sqrt(square)).astype(int),
        np.floor(np.arctan2(y, x) / np.pi * _SECTORS).astype(int) % _SECTORS,
        np.ones(count),
        float(np.sqrt(np.dot(height, height))) + 1e-30,
        count,
    )


def _cells(pixels: _Pixels) -> _Pixels:
    """The pixels by ring and sector."""
    cell = pixels.ring * _SECTORS + pixels.sector
    count = np.bincount(cell)
    filled = np.flatnonzero(count)
    root = np.sqrt(count[filled])

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(cell, values)[filled] / root**2

    return _Pixels(
        mean(pixels.height) * root,
        mean(pixels.squared),
        mean(pixels.cosine),
        mean(pixels.sine),
        filled // _SECTORS,
        filled % _SECTORS,
        root,
        pixels.length,
        pixels.total,
    )


def _envelope(pixels: _Pixels, bfactor: float) -> NDArray[np.float64]:
    """Weights of rings whose contrast falls with a B-factor."""
    return np.exp(-bfactor / 2 * pixels.squared) * pixels.root


def _trust(pixels: _Pixels) -> NDArray[np.float64]:
    """A factor for each ring (by radius): 1, and less where rings are far above what noise makes.

    Strong ones need no more weight than that, if they are the CTF's; if they are of an ice crystal or a carbon edge,
    they must not outweigh the many faint rings.
    """
    count = np.bincount(pixels.ring)
    mean = np.bincount(pixels.ring, pixels.height) / np.maximum(count, 1)
    variance = pixels.length**2 / pixels.total
    # in standard deviations of noise, over neighbours
    power = ndimage.gaussian_filter1d(mean * mean * count / variance, 5.0)
    return 1 / np.sqrt(np.maximum(power, 1))


# ------------------------------------------------------------------------------------------ search


def _sector_search(
    cells: _Pixels, weight: NDArray[np.float64], microscope: Microscope, search: Search
) -> list[NDArray[np.float64]]:
    """The best few (defocus, astigmatism cos, astigmatism sin, phase) of the whole range, in A and radians.

    For sector s and defocus d the table holds the sums over radius of height * cos and height * sin of the
    phase, so that any astigmatism and any phase shift is a sum of one entry per sector.
    """
    sums, powers, squared = _sector_sums(cells, weight)
    # neighbours in the table differ by at most half a radian at the finest resolution
    finest_step = 0.5 / (2 * np.pi * microscope.wavelength * squared.max())
    step = min(search.defocus_step, finest_step)
    reach = int(np.ceil(search.largest_astigmatism / 2 / step))
    inner = np.arange(search.defocus_min, search.defocus_max + step, step)
    defocus = search.defocus_min + step * np.arange(-reach, len(inner) + reach)
    double_phase = 2 * (
        np.pi * microscope.wavelength * squared[:, None] * defocus
        - np.pi / 2 * microscope.cs * 1e7 * microscope.wavelength**3 * (squared**2)[:, None]
        + np.arcsin(microscope.q0)
    )
    cosine, sine = np.cos(double_phase), np.sin(double_phase)
    products = np.stack([cosine * cosine, cosine * sine, sine * sine])
    tables = np.concatenate([np.stack([sums @ cosine, sums @ sine]), powers @ products])

    halves = _astigmatism_grid(search.largest_astigmatism / 2, 2 * step)
    twice = 2 * (np.arange(_SECTORS) + 0.5) * np.pi / _SECTORS
    shifts = np.rint((halves[:, :1] * np.cos(twice) + halves[:, 1:] * np.sin(twice)) / step).astype(int)
    penalties = np.array([_penalty(2 * float(np.hypot(*half)), search.astigmatism, cells.total) for half in halves])
    phases = np.array([0.0])
    if search.find_phase:
        phases = np.deg2rad(np.arange(search.phase_min, search.phase_max + 1e-6, search.phase_step))
    best, point, phase = _best_by_defocus(
        tables, np.clip(shifts, -reach, reach), penalties * cells.length, phases, reach, len(inner)
    )
    found = [np.array([inner[n], *halves[point[n]], phases[phase[n]]]) for n in range(len(inner))]
    return _distinct(found, best, 1500.0)


def _sector_sums(
    cells: _Pixels, weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sums of weighted heights (sectors, radii), of squared weights (the same), and mean k^2 (radii)."""
    ring = cells.ring - cells.ring.min()
    count = int(ring.max()) + 1
    bins = cells.sector * count + ring
    powers = np.bincount(bins, weight * weight, _SECTORS * count).reshape(_SECTORS, count)
    sums = np.bincount(bins, weight * cells.height, _SECTORS * count).reshape(_SECTORS, count)
    number = np.bincount(ring, cells.root**2, count)
    squared = np.bincount(ring, cells.root**2 * cells.squared, count) / np.maximum(number, 1)
    return sums.astype(np.float64), powers.astype(np.float64), squared


def _astigmatism_grid(largest: float, spacing: float) -> NDArray[np.float64]:
    """(N, 2): half of U - V times cosine and sine of twice the angle, on a square grid in a disc."""
    count = int(max(0.0, largest) / spacing)
    line = spacing * np.arange(-count, count + 1)
    x, y = np.meshgrid(line, line)
    inside = np.hypot(x, y) <= max(largest, 0.0)
    return np.stack([x[inside], y[inside]], axis=1)


@njit(cache=True, nogil=True)
def _best_by_defocus(tables, shifts, penalties, phases, reach, count):  # type: ignore[no-untyped-def]
    """For each of `count` defocus values the best score, and its astigmatism and phase by index.

    tables (5, sectors, count + 2 reach): cos, sin, cos^2, cos sin, sin^2. shifts (points, sectors).
    """
    best = np.full(count, -np.inf)
    best_point, best_phase = np.zeros(count, np.int64), np.zeros(count, np.int64)
    with_phase = phases.shape[0] > 1 or phases[0] != 0.0
    total = np.zeros((5, count))
    for point in range(shifts.shape[0]):
        total[:] = 0.0
        for table in range(5):
            if with_phase or table == 0 or table == 2:
                for sector in range(shifts.shape[1]):
                    start = reach + shifts[point, sector]
                    for n in range(count):
                        total[table, n] += tables[table, sector, start + n]
        for phase in range(phases.shape[0]):
            a, b = np.cos(2.0 * phases[phase]), np.sin(2.0 * phases[phase])
            for n in range(count):
                power = a * a * total[2, n] - 2.0 * a * b * total[3, n] + b * b * total[4, n]
                score = -(a * total[0, n] - b * total[1, n]) / np.sqrt(max(power, 1e-9)) - penalties[point]
                if score > best[n]:
                    best[n] = score
                    best_point[n] = point
                    best_phase[n] = phase
    return best, best_point, best_phase


def _distinct(found: list[NDArray[np.float64]], scores: NDArray[np.float64], apart: float) -> list[NDArray[np.float64]]:
    """The best few whose defocus lies at least `apart` A from that of better ones."""
    chosen: list[NDArray[np.float64]] = []
    for index in np.argsort(-scores):
        if all(abs(found[index][0] - other[0]) > apart for other in chosen):
            chosen.append(found[index])
        if len(chosen) == _CANDIDATES:
            break
    return chosen


def _penalty(astigmatism: float, tolerance: float, count: int) -> float:
    """What the restraint takes from a correlation over `count` pixels (Rohou & Grigorieff 2015, eq. 5)."""
    return astigmatism**2 / (2 * tolerance**2) / count if tolerance > 0 else 0.0


def _ring_contrast(parameters: NDArray[np.float64], pixels: _Pixels, microscope: Microscope) -> NDArray[np.float64]:
    """Contrast of the rings at each pixel's resolution, from the fit; 0 where there is none."""
    model = -np.cos(2 * _phase(parameters, pixels, microscope))
    ring = pixels.ring
    cross = np.bincount(ring, pixels.height * model)
    power = np.bincount(ring, model * model)
    width = max(4.0, 0.06 * (ring.max() - ring.min()))
    cross = ndimage.gaussian_filter1d(cross, width, mode="constant")
    power = ndimage.gaussian_filter1d(power, width, mode="constant")
    return np.maximum(cross / np.maximum(power, 1e-9), 0.0)[ring]


def _phase(parameters: NDArray[np.float64], pixels: _Pixels, microscope: Microscope) -> NDArray[np.float64]:
    """chi at every pixel, radians."""
    defocus, cosine, sine, phase = parameters
    wavelength = microscope.wavelength
    here = defocus + cosine * pixels.cosine + sine * pixels.sine
    return (
        np.pi * wavelength * pixels.squared * here
        - np.pi / 2 * microscope.cs * 1e7 * wavelength**3 * pixels.squared**2
        + phase
        + np.arcsin(microscope.q0)
    )


# ---------------------------------------------------------------------------------------- refinement


@njit(cache=True, nogil=True, fastmath=True)
def _score(parameters, height, weight, linear, cosine, sine, fixed):  # type: ignore[no-untyped-def]
    """Projection of heights on -weight * cos 2 chi of unit length; its gradient for the four parameters."""
    cross = power = 0.0
    d_cross, d_power = np.zeros(4), np.zeros(4)
    d0, d1, d2, d3 = parameters
    for n in range(height.shape[0]):
        phase = linear[n] * (d0 + d1 * cosine[n] + d2 * sine[n]) + fixed[n] + 2.0 * d3
        value, slope = -weight[n] * np.cos(phase), weight[n] * np.sin(phase)
        cross += height[n] * value
        power += value * value
        a, b = height[n] * slope, 2.0 * value * slope
        d_cross[0] += a * linear[n]
        d_cross[1] += a * linear[n] * cosine[n]
        d_cross[2] += a * linear[n] * sine[n]
        d_cross[3] += a * 2.0
        d_power[0] += b * linear[n]
        d_power[1] += b * linear[n] * cosine[n]
        d_power[2] += b * linear[n] * sine[n]
        d_power[3] += b * 2.0
    root = np.sqrt(power)
    return cross / root, d_cross / root - 0.5 * cross / (root * power) * d_power


def _refine(
    start: NDArray[np.float64],
    pixels: _Pixels,
    weight: NDArray[np.float64],
    microscope: Microscope,
    search: Search,
) -> tuple[float, NDArray[np.float64]]:
    """Restrained correlation, and the parameters where it is best near `start`, by BFGS over all pixels."""
    linear = 2 * np.pi * microscope.wavelength * pixels.squared
    fixed = 2 * _phase(np.zeros(4), pixels, microscope)
    scale = np.array([100.0, 100.0, 100.0, 0.2 if search.find_phase else 0.0])
    length, count, tolerance = pixels.length, pixels.total, search.astigmatism

    def cost(step: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        here = start + scale * step
        score, slope = _score(here, pixels.height, weight, linear, pixels.cosine, pixels.sine, fixed)
        slope /= length
        if tolerance > 0:
            slope[1:3] -= 4 * here[1:3] / tolerance**2 / count
        worth = score / length - _penalty(2 * float(np.hypot(here[1], here[2])), tolerance, count)
        return -1e3 * worth, -1e3 * slope * scale

    result = optimize.minimize(cost, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-3})
    return -float(result.fun), start + scale * result.x


def _as_fit(parameters: NDArray[np.float64], pixels: _Pixels, microscope: Microscope) -> CtfFit:
    defocus, cosine, sine, phase = parameters
    half = float(np.hypot(cosine, sine))
    angle = float(np.rad2deg(np.arctan2(sine, cosine)) / 2)
    ctf = np.abs(np.sin(_phase(parameters, pixels, microscope)))
    ctf -= ctf.mean()
    score = np.dot(pixels.height, ctf) / (pixels.length * np.sqrt(np.dot(ctf, ctf)) + 1e-30)
    return CtfFit(float(defocus + half), float(defocus - half), angle, float(np.rad2deg(phase)), float(score))
