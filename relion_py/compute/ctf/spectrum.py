"""Amplitude spectra of micrographs, and what is left of them without their background.

A spectrum is centred: float32 (box, box), the origin at row and column ``box // 2``, rows are y and columns x
as in the micrograph.  A pixel is ``1 / (box * angpix)`` 1/A.  It is of the form that motion correction writes
as ``*_PS.mrc``.

Source: Rohou & Grigorieff (2015) J. Struct. Biol. 192, 216-221 (CTFFIND4): the amplitudes of the whole
micrograph, averaged onto a small grid, less a local mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft

FITTING_PIXEL_SIZE = 1.4
"""A per pixel to which finer micrographs are brought, as in CTFFIND4: rings end before 2.8 A."""

_LANCZOS = 2  # lobes of the averaging kernel
_CROSS = 1  # pixels beside the axes that edges and gradients of the micrograph spoil
_CLIP = 4.0  # standard deviations at which bright spots and dead pixels are cut
_STRAY = 2.0  # standard deviations of a pixel by which contamination differs from its surroundings; proteins do not


@dataclass(frozen=True)
class Spectrum:
    """A centred amplitude spectrum: image float32 (box, box), angpix in A."""

    image: NDArray[np.float32]
    angpix: float

    @property
    def box(self) -> int:
        """Pixels along an edge."""
        return len(self.image)


def check_pixels(image: NDArray[np.float32], name: str) -> None:
    """UserError if an image holds NaN or infinity, or the same value everywhere."""
    low, high = float(image.min()), float(image.max())  # NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name} holds values that are not numbers (NaN or infinity).")
    if low == high:
        raise UserError(f"{name} is empty: every pixel is {low:g}.")


def without_contamination(micrograph: NDArray[np.float32], angpix: float, coarsest: float) -> NDArray[np.float32]:
    """The micrograph (ny, nx) with ice crystals, dirt, holes' and beam's edges replaced by noise.

    Their sharp outlines make rings of their own, many times as strong as Thon rings. They are squares of `coarsest` A
    whose mean is off that of their surroundings by more than noise or protein makes, and squares beside them. The
    micrograph itself is returned where there are none, and where it is too small or most of it would go.
    """
    side = max(4, round(coarsest / angpix))
    rows, columns = (size // side for size in micrograph.shape)
    if min(rows, columns) < 8:
        return micrograph
    part = micrograph[: rows * side, : columns * side]
    means = part.reshape(rows, side, -1).sum(axis=1).reshape(rows, columns, side).mean(axis=2) / side
    every = max(1, min(rows, columns) // 20)
    spread = float(np.median(part.reshape(rows, side, columns, side)[::every, :, ::every].std(axis=(1, 3))))
    third = ndimage.median_filter(means[::3, ::3], max(3, min(rows, columns) // 9 | 1))
    around = third[np.ix_(np.arange(rows) // 3, np.arange(columns) // 3)]
    strange = ndimage.binary_dilation(np.abs(means - around) > _STRAY * spread, np.ones((3, 3)))
    if not strange.any() or strange.mean() > 0.5:
        return micrograph
    filled = micrograph.copy()
    random = np.random.default_rng(0)
    for row, column in np.argwhere(strange):
        # squares at the end take what is left of the micrograph
        bottom = filled.shape[0] if row == rows - 1 else (row + 1) * side
        right = filled.shape[1] if column == columns - 1 else (column + 1) * side
        here = filled[row * side : bottom, column * side : right]
        here[:] = around[row, column] + spread * random.standard_normal(here.shape, np.float32)
    return filled


def fitting_pixel_size(angpix: float, finest_resolution: float) -> float:
    """A per pixel of the spectrum that serves a fit up to `finest_resolution` A; never below `angpix`."""
    return max(angpix, min(FITTING_PIXEL_SIZE, finest_resolution / 2.0))


def amplitude_spectrum(
    micrograph: NDArray[np.float32], angpix: float, box: int, finest_resolution: float = 0.0
) -> Spectrum:
    """The amplitude spectrum of a micrograph (ny, nx) of any shape, `angpix` A per pixel.

    The amplitudes of the transform of the whole micrograph are averaged onto `box` x `box` pixels. Where the
    micrograph is finer than `fitting_pixel_size`, the outer part is left out. UserError if the micrograph is
    smaller than the box.
    """
    rows, columns = (fft.prev_fast_len(size, real=True) // 2 * 2 for size in micrograph.shape)
    if min(rows, columns) < box:
        raise UserError(
            f"a micrograph of {micrograph.shape[1]} x {micrograph.shape[0]} pixels is too small for a box of "
            f"{box}; choose a smaller --Box"
        )
    target = fitting_pixel_size(angpix, finest_resolution)
    part = micrograph[:rows, :columns]
    transform = fft.rfft2(part - part.mean(dtype=np.float64).astype(np.float32), overwrite_x=True)
    half = columns // 2
    reach_x = min(half, int(np.ceil(half * angpix / target)) + _margin(columns, box, angpix, target))
    reach_y = min(rows // 2, int(np.ceil(rows / 2 * angpix / target)) + _margin(rows, box, angpix, target))
    kept_rows = np.concatenate([np.arange(reach_y), np.arange(rows - reach_y, rows)])
    amplitudes = np.abs(transform[kept_rows, : reach_x + 1])
    amplitudes[0, 0] = amplitudes[0, 1]
    signed_rows = np.where(kept_rows >= rows // 2, kept_rows - rows, kept_rows)
    over_y = _averaging(signed_rows, rows, angpix, np.arange(-(box // 2), box - box // 2), box, target)
    # columns left of the axis are the mirror images of those right of it: |F(-k)| = |F(k)|
    over_x = _averaging(np.arange(reach_x + 1), columns, angpix, np.arange(box // 2 + 1), box, target)
    mirrored = _averaging(-np.arange(1, reach_x + 1), columns, angpix, np.arange(box // 2 + 1), box, target)
    squeezed = amplitudes @ over_x.T
    squeezed_mirror = _conjugate_rows(amplitudes, kept_rows, rows)[:, 1:] @ mirrored.T
    norm = np.asarray(over_x.sum(axis=1)).ravel() + np.asarray(mirrored.sum(axis=1)).ravel()
    right = (over_y @ (squeezed + squeezed_mirror)) / norm
    right /= np.asarray(over_y.sum(axis=1)).reshape(-1, 1)
    return Spectrum(_both_halves(right.astype(np.float32), box), target)


def _margin(size: int, box: int, angpix: float, target: float) -> int:
    """Fine pixels beyond the edge of the coarse grid that its outermost pixels average over."""
    return int(np.ceil(_LANCZOS * size * angpix / (box * target))) + 1


def _conjugate_rows(amplitudes: NDArray[np.float32], kept: NDArray[np.int64], rows: int) -> NDArray[np.float32]:
    """The amplitudes at (-ky, kx) in the order of the kept rows."""
    place = np.full(rows, -1)
    place[kept] = np.arange(len(kept))
    partner = place[(-kept) % rows]
    return amplitudes[np.where(partner < 0, np.arange(len(kept)), partner)]


def _averaging(
    fine: NDArray[np.int64], size: int, angpix: float, coarse: NDArray[np.int64], box: int, target: float
) -> sparse.csr_matrix:
    """Matrix (coarse, fine) of a Lanczos kernel that averages fine Fourier pixels around each coarse one."""
    position = fine * (box * target) / (size * angpix)
    first = np.argsort(position)
    ordered = position[first]
    entries, rows, columns = [], [], []
    for row, centre in enumerate(coarse):
        lo, hi = np.searchsorted(ordered, [centre - _LANCZOS, centre + _LANCZOS])
        distance = ordered[lo:hi] - centre
        entries.append(np.sinc(distance) * np.sinc(distance / _LANCZOS))
        columns.append(first[lo:hi])
        rows.append(np.full(hi - lo, row))
    flat = np.concatenate(entries).astype(np.float32)
    return sparse.csr_matrix((flat, (np.concatenate(rows), np.concatenate(columns))), shape=(len(coarse), len(fine)))


def _both_halves(right: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """The centred square from its columns kx = 0 .. box // 2, by |F(-k)| = |F(k)|."""
    centre = box // 2
    image = np.empty((box, box), np.float32)
    image[:, centre:] = right[:, : box - centre]
    rows = (2 * centre - np.arange(box)) % box
    image[:, :centre] = right[rows, 1 : centre + 1][:, ::-1]
    return image


def radius(box: int) -> NDArray[np.float32]:
    """Distance from the origin in Fourier pixels, (box, box)."""
    k = (np.arange(box) - box // 2).astype(np.float32)
    return np.hypot(k[:, None], k)


def usable_pixels(box: int) -> NDArray[np.bool_]:
    """False on the axes and beside them, where the edges of the micrograph show; (box, box)."""
    k = np.abs(np.arange(box) - box // 2) > _CROSS
    return k[:, None] & k


def rings(spectrum: Spectrum, coarsest_resolution: float) -> NDArray[np.float32]:
    """Relative height of the spectrum over its local mean, (box, box): Thon rings on a flat, white ground.

    It is the logarithm of the amplitudes less its mean in a square about each pixel. The square is wide
    enough to hold the widest ring at `coarsest_resolution` A and beyond (CTFFIND4's rule). Pixels beside the
    axes are 0; values beyond 4 standard deviations are cut.

    Of small relative rings in noise, the logarithm is linear in CTF^2, and its noise has the same variance
    everywhere, so that later sums need no weights.
    """
    box = spectrum.box
    usable = usable_pixels(box) & (radius(box) > 3)
    positive = spectrum.image[spectrum.image > 0]
    floor = float(positive.min()) if positive.size else 1.0
    level = np.log(np.maximum(spectrum.image, floor))
    width = int(np.sqrt(2.0) * box * spectrum.angpix / coarsest_resolution) | 1
    weight = ndimage.uniform_filter(usable.astype(np.float32), width, mode="constant")
    mean = ndimage.uniform_filter(np.where(usable, level, 0).astype(np.float32), width, mode="constant")
    mean /= np.maximum(weight, 1e-3)
    height = np.where(usable, level - mean, 0).astype(np.float32)
    beyond = radius(box) > box * spectrum.angpix / coarsest_resolution
    spread = float(height[usable & beyond].std())
    return np.clip(height, -_CLIP * spread, _CLIP * spread)
