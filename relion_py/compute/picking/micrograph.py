"""A micrograph as pickers work on it: standardised, in a square, shrunk to the resolution that matters; and picks.

Source: RELION 5, autopicker.cpp (initialise, getGoodFourierDims, autoPickLoGOneMicrograph, autoPickOneMicrograph).
"""

from __future__ import annotations

import math
import threading
from dataclasses import astuple, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.picking.kernels import moments, standardise

LARGEST_PRIME = 43
"""Working sizes with larger prime factors are replaced by a neighbour: their transforms are slow."""

LARGEST_FACTOR = 128
"""Transforms of sizes with larger prime factors are SciPy's."""

_SMALLEST_WORKING_SIZE = 8

Image = NDArray[np.float32]


class SizeSettings(Protocol):
    """What decides how finely a picker works: see :func:`working_size`."""

    @property
    def lowpass(self) -> float: ...
    @property
    def shrink(self) -> float: ...
    @property
    def optimise_scale(self) -> bool: ...


@dataclass(frozen=True)
class Picks:
    """Particles: x, y float64 (N,), pixels of the micrograph from the centre of its first pixel; merit float32 (N,),
    the figure of merit of the method that picked them."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    merit: Image

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Geometry:
    """A micrograph of `rows` x `columns` pixels of `angpix` A in a square of `size`, worked on at `work` pixels.

    margin: pixels added on every side of the square.
    """

    rows: int
    columns: int
    angpix: float
    work: int
    margin: int = 0

    @property
    def size(self) -> int:
        """Pixels of the square, unshrunk."""
        return max(self.rows, self.columns) + 2 * self.margin

    @property
    def scale(self) -> float:
        """Pixels at work for one of the micrograph."""
        return self.work / self.size

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the micrograph's first pixel in the unshrunk square."""
        return self.size // 2 - self.rows // 2, self.size // 2 - self.columns // 2


def geometry_of(shape: tuple[int, ...], angpix: float, settings: SizeSettings, margin: int = 0) -> Geometry:
    """The geometry of a micrograph (ny, nx); UserError if nothing would be left of it at work."""
    rows, columns = shape
    work = working_size(max(rows, columns) + 2 * margin, angpix, settings)
    if work < _SMALLEST_WORKING_SIZE:
        raise UserError(
            f"it has {columns} x {rows} pixels, of which {work} would be left at the resolution of --lowpass and "
            "--shrink; raise these."
        )
    return Geometry(rows, columns, angpix, work, margin)


def working_size(size: int, angpix: float, settings: SizeSettings) -> int:
    """Pixels (even) to which a square of `size` is shrunk: `shrink` 0: to the resolution of `lowpass`; up to 1:
    that fraction of it; above 1: so many pixels. UserError if that is more than there are."""
    if settings.shrink > 1:
        wanted = _even(settings.shrink)
        if wanted >= size:
            raise UserError(f"it has {size} pixels, and --shrink asks for {wanted}; ask for fewer, or a fraction.")
    elif settings.shrink > 0:
        wanted = _even(settings.shrink * size)
    elif settings.lowpass > 0:
        wanted = lowpass_size(size, angpix, settings.lowpass)
    else:
        wanted = size - size % 2
    return _smooth_size(wanted, size) if settings.optimise_scale else wanted


def lowpass_size(size: int, angpix: float, lowpass: float) -> int:
    """Pixels (even) of a square of `size` that hold what is coarser than `lowpass` A; not positive: all."""
    largest = size - size % 2
    return min(largest, 2 * round_half_up(size * angpix / lowpass)) if lowpass > 0 else largest


@dataclass(frozen=True)
class Standard:
    """What makes a micrograph standard: (image - mean) * scale, 0 where that is beyond `largest`."""

    mean: float = 0.0
    scale: float = 1.0
    largest: float = math.inf


AS_IT_IS = Standard()


def made_standard(image: Image, standard: Standard) -> Image:
    """The standard micrograph."""
    out = np.empty(image.shape, np.float32)
    standardise(image, *astuple(standard), out)
    return out


def standard_square(
    image: Image, geometry: Geometry, outlier_zscore: float, sign: float, seed: int
) -> tuple[Image, Standard]:
    """The micrograph in its square, float32 (size, size), and what makes that standard: mean 0, standard deviation 1,
    times `sign`, 0 for pixels beyond `outlier_zscore` deviations.

    What the square has beside the micrograph is noise of standard deviation 1; such a square is standard as it is.
    UserError for NaN, infinity, and images that are the same everywhere.
    """
    standard = _standard_of(moments(image), outlier_zscore, sign)
    rows, columns, size = geometry.rows, geometry.columns, geometry.size
    if rows == columns == size:
        return image, standard
    square = np.empty((size, size), np.float32)
    top, left = geometry.corner
    random = np.random.default_rng(seed)
    for area in (square[:top], square[top + rows :], square[:, :left], square[:, left + columns :]):
        area[...] = random.standard_normal(area.shape, np.float32)
    square[top : top + rows, left : left + columns] = made_standard(image, standard)
    return square, AS_IT_IS


def standard_window(
    image: Image, geometry: Geometry, outlier_zscore: float, sign: float, seed: int
) -> NDArray[np.complex64]:
    """The lowest frequencies of the standard micrograph in its square, see :func:`standard_square` and
    :func:`window`; a square one without outliers is looked at only once."""
    work = geometry.work
    if not geometry.rows == geometry.columns == geometry.size:
        square, standard = standard_square(image, geometry, outlier_zscore, sign, seed)
        return window(square, work, standard=standard)
    about = float(image[:: -(-len(image) // 64)].mean(dtype=np.float64))  # differences from it keep moments exact
    sums = np.zeros((2, 3))
    transform = window(image, work, standard=Standard(about), sums=sums)
    total, squares, bits = sums[0]
    mean, largest = total / image.size, np.int32(bits).view(np.float32)
    deviation = math.sqrt(max(squares - total * mean, 0.0 * squares) / max(image.size - 1, 1))
    standard = _standard_of((about + mean, deviation), outlier_zscore, sign)
    if not (largest + abs(mean)) * abs(standard.scale) < 0.9999 * outlier_zscore:
        return window(image, work, standard=standard)
    transform[0, 0] -= np.float32(mean)
    transform *= np.float32(standard.scale)
    return transform


def _standard_of(moments: tuple[float, float], outlier_zscore: float, sign: float) -> Standard:
    """What makes a micrograph with this mean and standard deviation standard."""
    mean, deviation = moments
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise UserError("it holds values that are not numbers (NaN or infinity).")
    if deviation == 0:
        raise UserError(f"it is empty: every pixel is {mean:g}.")
    return Standard(mean, sign / deviation, outlier_zscore)


def window(
    image: Image,
    work: int,
    squared: bool = False,
    standard: Standard = AS_IT_IS,
    sums: NDArray[np.float64] | None = None,
) -> NDArray[np.complex64]:
    """The half transform (work, work // 2 + 1) of a square image, made standard, divided by its number of pixels: its
    lowest frequencies; or of its squared values. sums: see `decimation.fewer_rows`."""
    # they load Numba
    from relion_py.compute.picking.decimation import TOGETHER, fewer_rows, sieve_of, standard_row, width_of
    from relion_py.compute.picking.transform_kernels import LANES, lowest_frequencies, stages_of

    size, half, sums = len(image), work // 2, np.zeros((2, 3)) if sums is None else sums
    sieve = sieve_of(size, work)
    step, weights, count = sieve.step, sieve.weights, size // sieve.step
    factors, turns = stages_of(count)
    form = np.array(astuple(standard), np.float32)
    if factors.max() > LARGEST_FACTOR:
        whole = np.empty((size, size), np.float32)
        for row, out in zip(image, whole, strict=True):
            standard_row(row, *form, squared, sums[0], out)
        transform: NDArray[np.complex64] = fft.rfft2(whole)[_lowest(size, work), : half + 1]
        return transform / np.float32(size * size)
    kept = _lowest(count, work)
    wide, turn = width_of(size)
    rows = _memory("rows", (-(-count // (2 * LANES)) * 2 * LANES, wide))
    room = _memory("room", (step * (TOGETHER - 1) + len(weights), wide + turn))
    fewer_rows(image, *form, squared, sums, weights, count, room, rows)
    columns = _memory("columns", (half // LANES + 1, count + 2 * LANES, 2, LANES))
    lines = _memory("lines", (3 * (step * (count + 10) + len(weights) + 2 * LANES), 2, LANES))
    transform = np.empty((len(kept), half + 1), np.complex64)
    lowest_frequencies(rows, count, step, weights, factors, turns, kept, columns, lines, transform)
    transform *= sieve.factors[:, None]
    transform *= np.float32(0.5 / size**2) * sieve.factors[: half + 1]
    return transform


def _lowest(size: int, work: int) -> NDArray[np.int64]:
    """Places of the `work` lowest frequencies, 0, .., work // 2, .., -1, in a transform of `size` of them."""
    half = work // 2
    return np.r_[0 : half + 1, size - half + 1 : size] if work < size else np.arange(size)


class Memory(threading.local):
    """Memory of a thread, float32, at first 0, and the same whenever the same shape is asked for under a name: fresh
    memory costs as much as what is done in it."""

    def __init__(self) -> None:
        self._kept: dict[str, Image] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Image:
        if name not in self._kept or self._kept[name].shape != shape:
            self._kept[name] = np.zeros(shape, np.float32)
        return self._kept[name]


_memory = Memory()


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
    whole = round_half_up(number)
    return whole - whole % 2


def round_half_up(number: float) -> int:
    """The nearest whole number; halves go up."""
    return math.floor(number + 0.5)
