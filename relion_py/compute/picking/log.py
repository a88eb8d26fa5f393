"""Picking by a Laplacian of Gaussian at many scales: blobs of about the size of a particle.

Source: RELION 5, autopicker.cpp (initialise, autoPickLoGOneMicrograph), fftw.cpp (LoGFilterMap); Gunn (1999)
Pattern Recognition 32, 1463-1472.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.ctf import CtfParams, ctf_values
from relion_py.compute.image.fourier import frequencies
from relion_py.compute.picking.kernels import choose_peaks, keep_larger
from relion_py.compute.picking.micrograph import (
    LARGEST_FACTOR,
    Geometry,
    Image,
    Memory,
    Picks,
    round_half_up,
    standard_window,
)

Transform = NDArray[np.complex64]
_FARTHEST = 60.0
"""Filters end at this r^2 / s^2, where 1e-11 of them is left: smaller numbers make processors slow."""

_MOST_KEPT = 1024  # pixels at work up to which filters stay in memory between micrographs
_memory = Memory()

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
    """Diameter (A) and filtered micrograph float32 (work, work), for every diameter; each until the next is asked for.

    micrograph: float32 (ny, nx). ctf: one particle's parameters; the micrograph is divided by the CTF up to its first
    peak. The Fourier transform of the filter, r^2 exp(-r^2 / 2 s^2) / s^2 with r and s in Fourier pixels and s = size
    * angpix / (2 * diameter), gives blobs of that diameter the highest peak of all scales.
    UserError for NaN, infinity, and images that are the same everywhere.
    """
    work, half = geometry.work, geometry.work // 2
    sign = 1.0 if settings.white else -1.0
    transform = standard_window(micrograph, geometry, settings.outlier_zscore, sign, settings.seed)
    if ctf is not None:
        ky = frequencies(work).astype(np.float32)
        grid_y, grid_x = np.meshgrid(ky, np.arange(half + 1, dtype=np.float32), indexing="ij")
        values = ctf_values(
            ctf, grid_x.ravel(), grid_y.ravel(), geometry.size, geometry.angpix,
            intact_after_first_peak=True, damping=False,
        )  # fmt: skip
        transform /= values[0].reshape(transform.shape)
    diameters = diameters_of(settings)
    scales = [(0.5 * geometry.size * geometry.angpix / max(diameter, 1e-3)) ** 2 for diameter in diameters]
    maps = (image for pair in _filtered_pairs(transform, scales) for image in pair)
    yield from zip(diameters, maps, strict=True)


def _filtered_pairs(transform: Transform, scales: list[float]) -> Iterator[tuple[Image, ...]]:
    """The maps (n, n) of a half transform times r^2 exp(-r^2 / 2 s^2) / s^2 for every s^2, two at a time: the real and
    the imaginary part of one inverse transform. They last until the next are asked for."""
    from relion_py.compute.picking.transform_kernels import LANES, map_of_harmonic, stages_of  # they load Numba

    work, half = len(transform), len(transform) // 2
    if stages_of(work)[0].max() > LARGEST_FACTOR:
        squared = np.add.outer(fft.fftfreq(work, 1 / work) ** 2, np.arange(half + 1) ** 2).astype(np.float32)
        for s2 in map(np.float32, scales):
            yield (fft.irfft2(transform * _filter(squared, s2), s=(work, work), norm="forward"),)
        return
    blocks, deep = half // LANES + 1, -(-work // LANES) * LANES
    signal = _in_blocks(transform, blocks, LANES)
    wave = np.zeros((blocks, half + 1, 2, LANES), np.float32)
    wave[:, :, 0] = 1
    block, between = _memory("block", (work, 2, LANES)), _memory("between", (work + 1, 2, deep))
    room, maps = _memory("room", (3 * (work + 2 * LANES), 2, LANES)), _memory("maps", (2, work, deep))
    make = _filters_in_blocks if work <= _MOST_KEPT else _filters_in_blocks.__wrapped__
    for pair in (tuple(scales[first : first + 2]) for first in range(0, len(scales), 2)):
        filters = make(half, pair, LANES)
        some = len(filters)
        between[some * LANES : work + 1 - some * LANES] = 0
        map_of_harmonic(
            signal[:some], wave[:some], filters, False, *stages_of(work), 0, 0, block, between, room, maps
        )  # fmt: skip
        yield tuple(image[:, :work].T for image in maps[: len(pair)])


@functools.lru_cache(maxsize=32)
def _filters_in_blocks(half: int, scales: tuple[float, ...], lanes: int) -> Image:
    """The filters of one or two s^2 as real and imaginary parts, for ky from 0 to `half` and those blocks of so many kx
    in which something is left of them: (X, half + 1, 2, lanes)."""
    blocks = min(half, int(math.sqrt(_FARTHEST * max(scales)))) // lanes + 1
    r2 = np.arange(half + 1, dtype=np.float32)[:, None] ** 2 + np.arange(blocks * lanes, dtype=np.float32) ** 2
    filters = np.zeros((blocks, half + 1, 2, lanes), np.float32)
    for part, s2 in enumerate(scales):
        filters[:, :, part] = _filter(r2, np.float32(s2)).reshape(half + 1, blocks, lanes).transpose(1, 0, 2)
    return filters


def _filter(r2: Image, s2: np.float32) -> Image:
    """r^2 exp(-r^2 / 2 s^2) / s^2, 0 where next to nothing is left."""
    return np.where(r2 < np.float32(_FARTHEST) * s2, r2 * np.exp(r2 * (np.float32(-0.5) / s2)) / s2, np.float32(0))


def _in_blocks(transform: Transform, blocks: int, lanes: int) -> Image:
    """A half transform (n, n // 2 + 1) for ky from -n // 2 to n // 2, in blocks of so many kx: (X, n + 1, 2, lanes)."""
    half = len(transform) // 2
    whole = np.zeros((2 * half + 1, blocks * lanes), np.complex64)
    whole[:, : half + 1] = transform[np.r_[half : 2 * half, : half + 1]]
    for column in (0, half):  # their own opposites, of which a real map takes the mean
        whole[:, column] = (whole[:, column] + whole[::-1, column].conj()) / 2
    parts = whole.view(np.float32).reshape(2 * half + 1, blocks, lanes, 2)
    return np.ascontiguousarray(parts.transpose(1, 0, 3, 2))


def best_of(maps: Maps) -> tuple[Image, Image]:
    """For every pixel the highest figure of merit, and the diameter (A) that gives it; float32 (work, work)."""
    merit = size = None
    for diameter, image in maps:
        if merit is None or size is None:
            order: Literal["C", "F"] = "C" if image.strides[0] >= image.strides[1] else "F"
            merit, size, shape = image.flatten(order), np.full(image.size, diameter, np.float32), image.shape
            room = np.empty_like(merit)
        else:
            room.reshape(shape, order=order)[...] = image
            keep_larger(room, diameter, merit, size)
    if merit is None or size is None:
        raise ValueError("there are no maps")
    merit, size = (np.ascontiguousarray(values.reshape(shape, order=order)) for values in (merit, size))
    return merit, size


def pick_log(merit: Image, size: Image, geometry: Geometry, settings: LogSettings) -> Picks:
    """Pick particles from the highest figures of merit and their diameters (A), as :func:`best_of` gives them.

    Coordinates of oblong micrographs are exact; RELION rounds the margin of the square to whole pixels at work.
    """
    merit, high = _candidates(merit, size, geometry, settings)
    reach = geometry.scale * (size + settings.diameter_min) * settings.neighbour / 2 / geometry.angpix
    heights = merit.ravel().copy()
    order = _highest_first(heights)
    peaks = np.empty_like(order)
    peaks = peaks[: choose_peaks(merit, order, np.floor(reach + 0.5).astype(np.int64), peaks)]
    peaks = peaks[heights[peaks] < high]
    rows, columns = np.divmod(peaks, geometry.work)
    top, left = geometry.corner
    return Picks(columns / geometry.scale - left, rows / geometry.scale - top, heights[peaks])


def _highest_first(heights: Image) -> NDArray[np.int64]:
    """The places of the positive ones of float32 (N,), the highest first; of equal ones the first."""
    places = np.flatnonzero(heights > 0)
    # one number for both, which is sorted several times faster: bits of positive numbers are in their order
    keys = heights[places].view(np.uint32).astype(np.uint64) << np.uint64(32) | (2**32 - 1 - places).astype(np.uint64)
    keys.sort()
    return 2**32 - 1 - (keys[::-1] & np.uint64(2**32 - 1)).astype(np.int64)


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
