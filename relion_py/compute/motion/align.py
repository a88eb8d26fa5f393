"""Alignment of frames, or of patches of them: each against the sum of all others, again and again.

Transforms are half transforms of real images (ny, nx), `fft.rfft2` with norm="forward": complex64
(ny, nx // 2 + 1), rows in FFT order. The alignment looks at low frequencies only (those that the B-factor
leaves), so it works on transforms that are cropped to a CcfGrid. A shift moves the content of a frame by
(x, y) pixels.

Source: RELION 5, motioncorr_runner.cpp, alignPatch; the idea is that of MotionCor2 (Zheng et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fft

SEARCH = 50
"""How far, in pixels, a frame is looked for from where it was expected in one iteration."""

TOLERANCE = 0.5
"""Root mean square change of the shifts, in pixels, at which iterations end."""

_SMALLEST = 192  # least side of the correlation map (motioncorr_runner.cpp, findGoodSize)
_WEIGHT_LEFT = 1e-8  # frequencies that the B-factor weighs less are cut off

Complex = NDArray[np.complex64]
_T = TypeVar("_T")
_R = TypeVar("_R")


def serially(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """`map` as a list: what is passed as `run` where there are no threads to spare."""
    return [function(item) for item in items]


Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""How independent pieces of work are done: `serially`, or the `map` of a thread pool."""


def signed(size: int) -> NDArray[np.int64]:
    """Frequencies of the rows of a half transform with `size` rows; the Nyquist row is positive."""
    k = np.arange(size)
    return np.where(k > size // 2, k - size, k)


def total(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """The sum of arrays of one shape and dtype, one after the other: np.sum would first copy all into one."""
    iterator = iter(arrays)
    result = next(iterator).copy()
    for array in iterator:
        result += array
    return result


def crop(transform: Complex, ny: int, nx: int) -> Complex:
    """The low frequencies of a half transform as that of an image (ny, nx), not larger, both even.

    With norm="forward" the values of the image stay what they were. Source: fftw.h, cropInFourierSpace.
    """
    half = ny // 2
    rows = transform.shape[0]
    columns = nx // 2 + 1
    if rows == ny and columns == transform.shape[1]:
        return transform
    out = np.empty((ny, columns), transform.dtype)
    out[:half] = transform[:half, :columns]
    out[half:] = transform[rows - (ny - half) :, :columns]
    return out


def phases(shift: Sequence[float], ny: int, nx: int, rows: int, columns: int) -> tuple[Complex, Complex]:
    """Factors along columns (rows,) and rows (columns,) that shift an image (ny, nx) by (x, y) pixels.

    rows, columns: shape of the half transform, which may be a cropped one.
    """
    x = np.exp(-2j * np.pi * shift[0] / nx * np.arange(columns))
    y = np.exp(-2j * np.pi * shift[1] / ny * signed(rows))
    return y.astype(np.complex64), x.astype(np.complex64)


def shift_transform(transform: Complex, shift: Sequence[float], ny: int, nx: int) -> None:
    """Shift the image (ny, nx) of a half transform by (x, y) pixels, in place."""
    y, x = phases(shift, ny, nx, *transform.shape)
    transform *= y[:, None]
    transform *= x[None, :]


@dataclass(frozen=True)
class CcfGrid:
    """The grid of a cross-correlation: low frequencies of images (image_ny, image_nx), both even.

    ny, nx: the correlation map. search: pixels of it that are looked at on each side of the origin.
    bfactor: in square pixels of the image; the weight of a frequency k (cycles per pixel) is about
    exp(-2 B k^2).
    """

    image_ny: int
    image_nx: int
    ny: int
    nx: int
    search: int
    bfactor: float

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        """B-factor weights, float32 (ny, nx // 2 + 1).

        As in the reference, frequencies along x are divided by the number of columns of the half transform,
        so that they count double: exp(-2 B (ky^2 + 4 kx^2)).
        """
        ky = signed(self.ny) / self.image_ny
        kx = np.arange(self.nx // 2 + 1) / (self.image_nx // 2 + 1)
        return np.exp(-2.0 * self.bfactor * (ky[:, None] ** 2 + kx**2)).astype(np.float32)

    def crop(self, transform: Complex) -> Complex:
        """The part of a half transform of the image that this grid looks at, a copy.

        Unlike `crop`, the row of the highest frequency is the positive one (alignPatch).
        """
        half = self.ny // 2 + 1
        out = np.empty((self.ny, self.nx // 2 + 1), np.complex64)
        out[:half] = transform[:half, : out.shape[1]]
        out[half:] = transform[self.image_ny - (self.ny - half) :, : out.shape[1]]
        return out


def ccf_grid(ny: int, nx: int, bfactor: float, downsample: float = 0.0) -> CcfGrid:
    """The grid for aligning images (ny, nx).

    downsample: size of the correlation map over that of the image, at most 1; 0: what the B-factor leaves.
    """
    if nx % 2 or ny % 2:
        raise ValueError(f"images to be aligned must have even sides, not {nx} x {ny}")
    scale = downsample
    if scale <= 0:
        scale = math.sqrt(-math.log(_WEIGHT_LEFT) / (2 * bfactor)) if bfactor > 0 else 1.0
    map_ny, map_nx = (min(full, good_size(int(full * min(scale, 1.0)))) for full in (ny, nx))
    search = int(SEARCH / max(nx / map_nx, ny / map_ny))
    search = min(search, map_nx // 2 - 1, map_ny // 2 - 1)
    return CcfGrid(ny, nx, map_ny, map_nx, search, bfactor)


def good_size(least: int) -> int:
    """An even size of at least `least`, and at least 192, of which a transform is fast."""
    size = max(_SMALLEST, least)
    while True:
        size = int(fft.next_fast_len(size, real=True))
        if size % 2 == 0:
            return size
        size += 1


@dataclass(frozen=True)
class Alignment:
    """Shifts (n, 2), x and y, pixels of the image, (0, 0) for the first; and how it went.

    rmsd: the change of the shifts in each iteration, pixels. converged: the last was below TOLERANCE.
    """

    shifts: NDArray[np.float64]
    rmsd: tuple[float, ...]
    converged: bool


def align(frames: Sequence[Complex], grid: CcfGrid, max_iter: int = 5, run: Run = serially) -> Alignment:
    """Align frames to each other; each is compared with the sum of the others as shifted so far.

    frames: half transforms cropped by `grid`. Frames are not changed.
    """
    shifts = np.zeros((len(frames), 2))
    moved = list(frames)
    history: list[float] = []
    for _ in range(max_iter):
        everything: Complex = total(moved)

        def peak(frame: Complex, reference: Complex = everything) -> tuple[float, float]:
            product = (reference - frame) * frame.conj()
            product *= grid.weight
            return _peak(fft.irfft2(product, s=(grid.ny, grid.nx), norm="forward", overwrite_x=True), grid)

        change = np.array(list(run(peak, moved)))
        change -= change[0]
        shifts += change
        history.append(float(np.sqrt((change**2).sum() / len(change))))
        if history[-1] < TOLERANCE:
            break

        def move(item: tuple[Complex, NDArray[np.float64]]) -> Complex:
            frame, shift = item[0].copy(), item[1]
            shift_transform(frame, (float(shift[0]), float(shift[1])), grid.image_ny, grid.image_nx)
            return frame

        moved = list(run(move, zip(frames, shifts, strict=True)))
    return Alignment(shifts, tuple(history), bool(history) and history[-1] < TOLERANCE)


def _peak(correlation: NDArray[np.float32], grid: CcfGrid) -> tuple[float, float]:
    """The highest point near the origin, by parabolas between pixels, as a shift (x, y) in image pixels."""
    reach = grid.search
    near = np.concatenate([correlation[-reach:], correlation[: reach + 1]]) if reach else correlation[:1]
    near = np.concatenate([near[:, -reach:], near[:, : reach + 1]], axis=1) if reach else near[:, :1]
    y, x = np.unravel_index(int(near.argmax()), near.shape)
    row, column = int(y) - reach, int(x) - reach
    top = float(correlation[row, column])
    left, right = (float(correlation[row, (column + d) % grid.nx]) for d in (-1, 1))
    below, above = (float(correlation[(row + d) % grid.ny, column]) for d in (-1, 1))
    return (
        (column + _parabola(left, top, right)) * grid.image_nx / grid.nx,
        (row + _parabola(below, top, above)) * grid.image_ny / grid.ny,
    )


def _parabola(before: float, top: float, after: float) -> float:
    bend = after + before - 2.0 * top
    return -0.5 * (after - before) / bend if abs(bend) > 1e-15 else 0.0


# ------------------------------------------------------------------------------------------ frame groups


def frame_groups(n_frames: int, size: int) -> list[range]:
    """Frames 0..n_frames-1 in groups of `size`; what remains lengthens the last groups, never the first."""
    count = n_frames // size
    sizes = [size] * count
    remaining = n_frames - size * count
    while remaining > 0 and count > 1:
        for group in range(count - 1, 0, -1):
            if remaining > 0:
                sizes[group] += 1
                remaining -= 1
    starts = np.cumsum([0, *sizes])
    return [range(int(start), int(start) + n) for start, n in zip(starts[:-1], sizes, strict=True)]


def group_centres(groups: Sequence[range]) -> NDArray[np.float64]:
    """Where, in frames, the shift of each group is taken to be: start + size / 2 (as in the reference)."""
    return np.array([group.start + len(group) / 2.0 for group in groups])


def interpolate_shifts(groups: Sequence[range], shifts: NDArray[np.float64], n_frames: int) -> NDArray[np.float64]:
    """Shifts (n_frames, 2) of single frames by lines through those of the groups (n_groups, 2).

    Before the first centre and after the last one the lines go on. Source: motioncorr_runner.cpp,
    interpolateShifts.
    """
    centres = group_centres(groups)
    frames = np.arange(n_frames)
    left = np.clip(np.searchsorted(centres, frames, side="right") - 1, 0, len(centres) - 2)
    part = ((frames - centres[left]) / (centres[left + 1] - centres[left]))[:, None]
    return shifts[left] * (1.0 - part) + shifts[left + 1] * part
