"""Fourier transforms of centred images and maps: lists of pixels, windows, filters, spectra, shifts.

Layout.  Images and maps are cubic (box, box[, box]), axes y, x or z, y, x, with the origin of coordinates at
pixel ``box // 2``.  Half transforms are those of ``fft.rfftn`` (kx >= 0 on the last axis, others in FFT
order), of the image with its centre moved to the corner, so a symmetrical particle at the centre has a
real transform.  A Nyquist plane of an even box counts as positive frequency, as in FFTW.

Norm.  No factor forward, 1/N back (SciPy's default).  RELION divides forward: its transforms are these over
the number of pixels of the image.

Facts: RELION 5 ``src/fftw.cpp`` and ``src/fftw.h``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relion_py.compute.image import fft

Real = NDArray[np.floating]
Complex = NDArray[np.complexfloating]


# ---- transforms -------------------------------------------------------------------------------------------


def _axes(dimensions: int) -> tuple[int, ...]:
    return tuple(range(-dimensions, 0))


def half_transform(image: Real, dimensions: int = 2) -> Complex:
    """Half transform of centred image(s) (..., box, box) or, dimensions=3, map(s) (..., box, box, box).

    The precision of the input is kept: float32 gives complex64.
    """
    axes = _axes(dimensions)
    return fft.rfftn(fft.ifftshift(image, axes=axes), axes=axes)


def real_image(transform: Complex, box: int, dimensions: int = 2) -> Real:
    """Centred real image(s) of ``box`` pixels from half transform(s): inverse of :func:`half_transform`."""
    axes = _axes(dimensions)
    return fft.fftshift(fft.irfftn(transform, s=(box,) * dimensions, axes=axes), axes=axes)


def frequencies(box: int) -> NDArray[np.int32]:
    """Integer frequencies (box,) in FFT order: 0, 1, .., box // 2, .., -1; the Nyquist row is positive."""
    k = np.arange(box, dtype=np.int32)
    return np.where(k > box // 2, k - box, k).astype(np.int32)


def radius_grid(box: int, dimensions: int = 2) -> NDArray[np.float64]:
    """Distance from the origin in Fourier pixels of every element of a half transform."""
    k = frequencies(box).astype(np.float64) ** 2
    half = np.arange(box // 2 + 1, dtype=np.float64) ** 2
    squared = k[:, None] + half
    if dimensions == 3:
        squared = k[:, None, None] + squared
    return np.sqrt(squared)


def shell_grid(box: int, dimensions: int = 2) -> NDArray[np.int32]:
    """Shell number, the rounded radius, of every element of a half transform (int32)."""
    return np.floor(radius_grid(box, dimensions) + 0.5).astype(np.int32)


# ---- lists of pixels --------------------------------------------------------------------------------------


def disc_pixels(r_max: float, *, include_dc: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(kx, ky), int32 (P,) each: every pixel within ``r_max`` of the origin, one of each Friedel pair.

    That is kx > 0, or kx = 0 and ky > 0, with kx^2 + ky^2 <= r_max^2; the origin (kx = ky = 0) comes first if
    ``include_dc``.  Sorted by shell (:func:`shell_of`), then by kx and ky, so the pixels up to a smaller
    whole radius's shell are a prefix of the list.
    """
    reach = int(np.floor(r_max))
    grid = np.meshgrid(np.arange(-reach, reach + 1), np.arange(reach + 1), indexing="ij")
    ky, kx = grid[0].ravel(), grid[1].ravel()
    keep = (kx**2 + ky**2 <= r_max**2) & ((kx > 0) | (ky > 0))
    if include_dc:
        keep |= (kx == 0) & (ky == 0)
    kx, ky = kx[keep], ky[keep]
    order = np.lexsort((ky, kx, shell_of(kx, ky)))
    return kx[order].astype(np.int32), ky[order].astype(np.int32)


def shell_of(kx: ArrayLike, ky: ArrayLike) -> NDArray[np.int32]:
    """Shell number of pixels: the rounded sqrt(kx^2 + ky^2) (int32)."""
    radius = np.hypot(np.asarray(kx, dtype=np.float64), np.asarray(ky, dtype=np.float64))
    return np.floor(radius + 0.5).astype(np.int32)


def gather(transform: Complex, kx: NDArray[np.int32], ky: NDArray[np.int32]) -> Complex:
    """Values (..., P) of half transforms (..., box, box // 2 + 1) at pixels with kx >= 0."""
    return transform[..., ky, kx]


def scatter(values: Complex, kx: NDArray[np.int32], ky: NDArray[np.int32], box: int) -> Complex:
    """Half transforms (..., box, box // 2 + 1) that are 0 except for values (..., P) at the pixels.

    Pixels with kx = 0 are repeated, conjugated, at their Friedel mate (0, -ky), which an inverse real
    transform reads too.
    """
    out = np.zeros((*values.shape[:-1], box, box // 2 + 1), dtype=values.dtype)
    out[..., ky, kx] = values
    axis = (kx == 0) & (ky != 0)
    out[..., -ky[axis], 0] = values[..., axis].conj()
    return out


def phase_shift(kx: ArrayLike, ky: ArrayLike, dx: ArrayLike, dy: ArrayLike, box: int) -> NDArray[np.complex64]:
    """exp(-2 pi i (kx dx + ky dy) / box), complex64 (..., P): what moves an image by (+dx, +dy) pixels.

    kx, ky: (P,); dx, dy: pixels, any shape (...), of an image of ``box`` pixels.  A particle whose
    rlnOriginXAngst is o is brought to the centre by dx = o / pixel size; a projection is put where the
    particle is by -o.  Source: ``shiftImageInFourierTransform``.
    """
    x, y = np.asarray(dx, dtype=np.float64), np.asarray(dy, dtype=np.float64)
    turns = (x[..., None] * np.asarray(kx) + y[..., None] * np.asarray(ky)) / box
    return np.exp(-2j * np.pi * turns).astype(np.complex64)


# ---- windows ----------------------------------------------------------------------------------------------


def resize_transform(transform: Complex, box: int, new_box: int, dimensions: int = 2) -> Complex:
    """Half transform(s) cut or padded with zeros to another (even) box; values are not rescaled.

    When padding, what lies beyond the old Nyquist radius is dropped, lest the corners make an asymmetrical
    transform.  Source: ``windowFourierTransform``.
    """
    if new_box == box:
        return transform.copy()
    lead = transform.shape[: transform.ndim - dimensions]
    out = np.zeros((*lead, *(new_box,) * (dimensions - 1), new_box // 2 + 1), dtype=transform.dtype)
    small = min(box, new_box)
    k = frequencies(small)
    half = np.arange(small // 2 + 1)
    index: Any = (..., *np.ix_(*([k] * (dimensions - 1)), half))
    part = transform[index]
    if new_box > box:
        part = np.where(radius_grid(box, dimensions) <= box // 2, part, 0)
    out[index] = part
    return out


def resize_map(image: Real, new_box: int, dimensions: int | None = None) -> Real:
    """Map or image(s) brought to ``new_box`` pixels of the same field of view by a window in Fourier space.

    The pixel size becomes ``angpix * box / new_box``; densities keep their values.  ``dimensions`` is the
    array's own unless a stack is given.  Source: ``resizeMap``.
    """
    dimensions = image.ndim if dimensions is None else dimensions
    box = image.shape[-1]
    resized = resize_transform(half_transform(image, dimensions), box, new_box, dimensions)
    return real_image(resized, new_box, dimensions) * image.dtype.type((new_box / box) ** dimensions)


def window_map(image: Real, new_box: int, dimensions: int | None = None, fill: float = 0.0) -> Real:
    """Map or image(s) cut, or padded with ``fill``, in real space to ``new_box`` pixels, centre kept."""
    dimensions = image.ndim if dimensions is None else dimensions
    box = image.shape[-1]
    out = np.full((*image.shape[: image.ndim - dimensions], *(new_box,) * dimensions), fill, dtype=image.dtype)
    small = min(box, new_box)
    source, target = box // 2 - small // 2, new_box // 2 - small // 2
    from_box: Any = (..., *(slice(source, source + small),) * dimensions)
    to_box: Any = (..., *(slice(target, target + small),) * dimensions)
    out[to_box] = image[from_box]
    return out


# ---- filters ----------------------------------------------------------------------------------------------


def filter_profile(
    radius: ArrayLike,
    box: int,
    angpix: float,
    resolution: float,
    edge_width: int = 2,
    *,
    highpass: bool = False,
    whole_shell: bool = True,
) -> NDArray[np.float64]:
    """Raised-cosine factor of a filter at ``resolution`` A for radii in Fourier pixels of a box.

    The edge goes from ``edge_width // 2`` shells below the filter's shell to as many above it; whole_shell: the
    nearest shell to the resolution, else the radius that it has.
    Source: ``lowPassFilterMap``; ml_optimiser.cpp, initialLowPassFilterReferences, does not round.
    """
    shell = box * angpix / resolution
    if whole_shell:
        shell = np.floor(shell + 0.5)
    half_width = edge_width // 2
    low, high = max(0, shell - half_width), shell + half_width
    r = np.asarray(radius, dtype=np.float64)
    if high > low:
        passed = 0.5 + 0.5 * np.cos(np.pi * (np.clip(r, low, high) - low) / (high - low))
    else:
        passed = (r <= low).astype(np.float64)
    return 1.0 - passed if highpass else passed


def lowpass(
    image: Real,
    angpix: float,
    resolution: float,
    edge_width: int = 2,
    dimensions: int | None = None,
    *,
    whole_shell: bool = True,
) -> Real:
    """Map or image(s) without what is finer than ``resolution`` A; see :func:`filter_profile`."""
    return _filtered(image, angpix, resolution, edge_width, dimensions, highpass=False, whole_shell=whole_shell)


def highpass(image: Real, angpix: float, resolution: float, edge_width: int = 2, dimensions: int | None = None) -> Real:
    """Map or image(s) without what is coarser than ``resolution`` A; see :func:`filter_profile`."""
    return _filtered(image, angpix, resolution, edge_width, dimensions, highpass=True)


def _filtered(
    image: Real,
    angpix: float,
    resolution: float,
    edge_width: int,
    dimensions: int | None,
    *,
    highpass: bool,
    whole_shell: bool = True,
) -> Real:
    dimensions = image.ndim if dimensions is None else dimensions
    box, axes = image.shape[-1], _axes(dimensions)
    radius = radius_grid(box, dimensions)
    profile = filter_profile(radius, box, angpix, resolution, edge_width, highpass=highpass, whole_shell=whole_shell)
    # a filter that depends on the radius alone needs no centring
    filtered = fft.rfftn(image, axes=axes) * profile.astype(image.dtype)
    return fft.irfftn(filtered, s=(box,) * dimensions, axes=axes)


# ---- averages over shells ---------------------------------------------------------------------------------


def shell_counts(box: int, dimensions: int = 2) -> NDArray[np.int64]:
    """How many elements of the half transform lie in each shell 0 .. box // 2."""
    return np.bincount(shell_grid(box, dimensions).ravel(), minlength=box // 2 + 1)[: box // 2 + 1]


def shell_average(values: Real, box: int, dimensions: int = 2) -> NDArray[np.float64]:
    """Mean over each shell 0 .. box // 2 of real values laid out as a half transform -> (box // 2 + 1,)."""
    shells = shell_grid(box, dimensions).ravel()
    sums = np.bincount(shells, weights=values.ravel(), minlength=box // 2 + 1)[: box // 2 + 1]
    return sums / shell_counts(box, dimensions)


def power_spectrum(image: Real, dimensions: int | None = None) -> NDArray[np.float64]:
    """Mean squared amplitude per shell (box // 2 + 1,) of one image or map, in RELION's norm.

    RELION's norm divides the transform by the number of pixels.  Source: ``getSpectrum`` (POWER_SPECTRUM).
    """
    dimensions = image.ndim if dimensions is None else dimensions
    transform = fft.rfftn(image.astype(np.float64)) / image.size
    return shell_average(np.abs(transform) ** 2, image.shape[-1], dimensions)
