"""Local resolution: the corrected FSC within a soft sphere that moves over the map, and a map filtered by it.

Facts: RELION 5 ``src/postprocessing.cpp`` (``run_locres``) and ``src/mask.cpp`` (``raisedCosineMask``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image import fsc as correlation
from relion_py.compute.image.fourier import filter_profile, radius_grid, shell_grid
from relion_py.compute.io.atomic import atomic_file
from relion_py.compute.io.charts import Axes, panels
from relion_py.compute.io.pdf import HALF_A4, Page, write_pages
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.post import sharpening
from relion_py.compute.post.postprocess import THRESHOLD, Settings, from_one
from relion_py.compute.post.sharpening import Curve

Map = NDArray[np.float32]
Point = tuple[int, int, int]


@dataclass(frozen=True)
class LocalSettings:
    """All in A: distance of the points, radius and soft edge of the sphere, start of random phases, worst result."""

    sampling: float
    radius: float
    edge: float
    randomise_at: float
    worst: float


@dataclass(frozen=True)
class LocalCurves:
    """FSC by shell (box // 2 + 1,) within one sphere, and the resolution (A) that the corrected one tells."""

    masked: Curve
    random_masked: Curve
    corrected: Curve
    resolution: float


@dataclass
class LocalSums:
    """Weighted sums over points, (box, box, box) float32 each: weights, 1 / resolution (1/A), filtered map.

    curves: of each point (z, y, x; voxels from the centre).  Sums of parts of the points may be added.
    """

    weight: Map
    frequency: Map
    filtered: Map
    curves: dict[Point, LocalCurves]

    def maps(self) -> tuple[Map, Map]:
        """Local resolution (A) and locally filtered map; 0 where no sphere reached."""
        reached = (self.weight > 0) & (self.frequency > 0)
        resolution = np.divide(self.weight, self.frequency, out=np.zeros_like(self.weight), where=reached)
        filtered = np.divide(self.filtered, self.weight, out=np.zeros_like(self.weight), where=reached)
        return resolution, filtered


def sampling_points(box: int, angpix: float, settings: LocalSettings) -> list[Point]:
    """Points (z, y, x) in voxels from the centre, where the sphere lies within the box's inscribed sphere.

    Raises UserError if there are none, or the random phases would begin beyond Nyquist's frequency.
    """
    step = max(1, int(settings.sampling / angpix + 0.5))
    reach = box // 2 - int(settings.radius / angpix + 0.5)
    axis = range(-(box // 2), box - box // 2, step)
    points = [(z, y, x) for z in axis for y in axis for x in axis if z * z + y * y + x * x < reach * reach]
    if reach <= 0 or not points:
        raise UserError("The mask of --locres_maskrad does not fit into the box; give a smaller one.")
    if not 1 <= int(box * angpix / settings.randomise_at) <= box // 2:
        raise UserError(f"--locres_randomize_at must lie between {2 * angpix:g} and {box * angpix:g} A for this map.")
    return points


def local_sums(
    half1: Map,
    half2: Map,
    points: list[Point],
    settings: Settings,
    local: LocalSettings,
    tick: Callable[[int], None],
) -> LocalSums:
    """Local FSC at the given points; ``tick`` is called with the number of points done.

    half1, half2: (box, box, box).  Of the global settings the MTF, the B-factor, the filter's edge and the seed
    are used.
    """
    box, angpix = half1.shape[-1], settings.angpix
    transform = fft.rfftn((0.5 * (half1 + half2)).astype(np.float32, copy=False))
    if settings.mtf is not None:
        transform = sharpening.divide_by_mtf(transform, settings.mtf, box, angpix)
    transform = sharpening.apply_bfactor(transform, settings.adhoc_bfactor, box, angpix)
    first_random = int(box * angpix / local.randomise_at)
    rng = np.random.default_rng(settings.seed if settings.seed >= 0 else None)
    random1 = correlation.randomise_phases(half1, first_random, rng)
    random2 = correlation.randomise_phases(half2, first_random, rng)
    shells = np.minimum(shell_grid(box, 3), box // 2 + 1)
    squared = np.rint(radius_grid(box, 3) ** 2).astype(np.int32)
    radius, edge = int(local.radius / angpix + 0.5), int(local.edge / angpix + 0.5)
    weight, frequency, filtered_sum = (np.zeros((box,) * 3, np.float32) for _ in range(3))
    sums = LocalSums(weight, frequency, filtered_sum, {})
    for number, point in enumerate(points, 1):
        window, mask = _sphere(point, box, radius, edge)
        masked = from_one(_shell_correlation(half1, half2, window, mask, shells))
        random = from_one(_shell_correlation(random1, random2, window, mask, shells))
        curve = correlation.corrected(masked, random, first_random)
        resolution = min(local.worst, correlation.resolution_at(curve, box, angpix, THRESHOLD))
        sums.curves[point] = LocalCurves(masked, random, curve, resolution)
        factor = _local_filter(curve, resolution, int(squared.max()), box, settings)
        filtered = fft.irfftn(transform * factor[squared], s=half1.shape)
        sums.filtered[window] += mask * filtered[window]
        sums.frequency[window] += mask / np.float32(resolution)
        sums.weight[window] += mask
        tick(number)
    return sums


def _sphere(point: Point, box: int, radius: int, edge: int) -> tuple[tuple[slice, ...], Map]:
    """The part of the box that a soft sphere around a point reaches, and its values there."""
    reach = radius + edge
    window, squared = [], np.zeros((1, 1, 1))
    for axis, centre in enumerate(point):
        start, stop = max(0, centre + box // 2 - reach), min(box, centre + box // 2 + reach + 1)
        window.append(slice(start, stop))
        distance = (np.arange(start, stop) - box // 2 - centre).astype(np.float64) ** 2
        squared = squared + distance.reshape([-1 if other == axis else 1 for other in range(3)])
    distance = np.sqrt(squared)
    if edge == 0:
        return tuple(window), (distance <= radius).astype(np.float32)
    beyond = np.clip((reach - distance) / edge, 0.0, 1.0)
    return tuple(window), (0.5 - 0.5 * np.cos(np.pi * beyond)).astype(np.float32)


def _local_filter(curve: Curve, resolution: float, largest: int, box: int, settings: Settings) -> NDArray[np.float32]:
    """Factor for each squared radius (Fourier pixels) up to `largest`: the weights of the FSC, by shell, times the
    edge of the low-pass filter, which is a function of the radius itself."""
    radius = np.sqrt(np.arange(largest + 1))
    shell = np.minimum(np.floor(radius + 0.5).astype(np.int64), len(curve))
    weights = np.append(sharpening.fsc_weights(curve), 0.0)[shell]
    edge = filter_profile(radius, box, settings.angpix, resolution, settings.filter_edge)
    return (weights * edge).astype(np.float32)


def _shell_correlation(
    half1: Any, half2: Any, window: tuple[slice, ...], mask: Map, shells: NDArray[np.int32]
) -> Curve:
    """FSC of two maps times a mask that is 0 outside of a window."""
    transforms = []
    for half in (half1, half2):
        masked = np.zeros(half.shape, np.float32)
        masked[window] = half[window] * mask
        transforms.append(fft.rfftn(masked))
    a, b = transforms
    count = half1.shape[-1] // 2 + 1

    def by_shell(values: Any) -> Curve:
        sums = np.bincount(shells.ravel(), weights=values.ravel(), minlength=count)
        return sums[:count].astype(np.float64)

    product = by_shell(a.real * b.real + a.imag * b.imag)
    power = by_shell(a.real**2 + a.imag**2) * by_shell(b.real**2 + b.imag**2)
    return np.divide(product, np.sqrt(power), out=np.zeros(count), where=power > 0)


def fsc_tables(curves: dict[Point, LocalCurves], unmasked: Curve, box: int, angpix: float) -> StarFile:
    """A table ``fsc_<x>_<y>_<z>`` for every point, its resolution in a comment; `unmasked` is the whole maps' FSC.

    RELION calls its loops' variables kk, ii and jj, but hands them to ``raisedCosineMask`` as x, y and z.
    """
    star_file = StarFile()
    index = np.arange(box // 2 + 1)
    angstrom = np.where(index > 0, box * angpix / np.maximum(index, 1), correlation.NO_RESOLUTION)
    for (x, y, z), found in sorted((point[::-1], found) for point, found in curves.items()):
        table = Table(comments=(f"# kk= {x} ii= {y} jj= {z} local resolution= {found.resolution:g}",))
        table.set("rlnSpectralIndex", index)
        table.set("rlnResolution", 1.0 / angstrom)
        table.set("rlnAngstromResolution", angstrom)
        table.set("rlnFourierShellCorrelationCorrected", found.corrected)
        table.set("rlnFourierShellCorrelationUnmaskedMaps", unmasked)
        table.set("rlnFourierShellCorrelationMaskedMaps", found.masked)
        table.set("rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps", found.random_masked)
        star_file[f"fsc_{x:05d}_{y:05d}_{z:05d}"] = table
    return star_file


def write_histogram(path: str, resolution: Map, mask: Map) -> None:
    """PDF of the histogram of local resolutions (A) where the mask is above 0.5."""
    values = resolution[(mask > 0.5) & (resolution > 0)].astype(np.float64)
    title = f"Local resolution within the mask: median {np.median(values):.2f} A" if len(values) else ""
    page = Page(HALF_A4)
    Axes(page, *panels(page, 0, 1)[0], title).histogram(values, 60, "local resolution (A)", "voxels")
    with atomic_file(path) as file:
        write_pages(file, [page])
