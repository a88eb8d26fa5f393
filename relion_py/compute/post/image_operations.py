"""Operations on one image (y, x) or map (z, y, x): arithmetic, filters, flips, shifts, scale, box, symmetry.

The origin of coordinates is pixel ``size // 2`` on each axis.  Images may be rectangular where it makes sense;
frequencies are then counted in Fourier pixels of their longer side.

Facts: RELION 5 ``src/apps/image_handler.cpp`` (``perImageOperations``), ``src/symmetries.cpp``
(``symmetriseMap``), ``src/fftw.cpp`` (``LoGFilterMap``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import filter_profile, resize_map
from relion_py.compute.image.fsc import randomise_phases
from relion_py.compute.image.shift import centre_of_mass, shifted
from relion_py.compute.post import image_spectra

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Optimise:
    """How to subtract an image: with the best scale within a mask, and the best B-factor within a range (A^2).

    say: told what was found."""

    mask: Image | None
    bfactor_range: float
    say: Callable[[str], None]


@dataclass(frozen=True)
class Operations:
    """What to do, in the order of the fields; None, 0, "" or False: not. Resolutions and pixel sizes in A.

    edge: columns and rows (x0, y0, xF, yF) whose values are repeated outwards. multiply .. subtract: numbers or
    images of the same shape; optimise: scale of what is subtracted, within a mask and a range of B-factors. power_of:
    the image whose amplitudes to take. correction: of `image_spectra.amplitude_correction`. fourier_filter: of
    `image_spectra.filtered`. direction: axis of the
    low-pass. shift: pixels along x, y, z. seed: of the random phases. angpix: of the input.
    """

    angpix: float = 1.0
    edge: tuple[int, int, int, int] | None = None
    transpose: bool = False
    transpose_back: bool = False
    replace_nan: float | None = None
    randomise_from: float = 0.0
    seed: int | None = None
    multiply: tuple[float | Image, ...] = ()
    divide: tuple[float | Image, ...] = ()
    add: tuple[float | Image, ...] = ()
    subtract: tuple[float | Image, ...] = ()
    optimise: Optimise | None = None
    power_of: Image | None = None
    correction: NDArray[np.float64] | None = None
    fourier_filter: Image | None = None
    bfactor: float = 0.0
    log_diameter: float = 0.0
    lowpass: float = 0.0
    direction: str = ""
    highpass: float = 0.0
    filter_edge: int = 2
    flip: str = ""
    invert_hand: bool = False
    shift_to_mass: bool = False
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rescale_to: float = 0.0
    new_box: int = 0
    symmetry: str = ""
    threshold_above: float | None = None
    threshold_below: float | None = None


def new_pixel_size(shape: tuple[int, ...], angpix: float, wanted: float) -> float:
    """The pixel size (A) nearest to ``wanted`` that gives the longer side an even number of pixels."""
    size = max(shape)
    return size * angpix / _even(size * angpix / wanted)


def _even(size: float) -> int:
    rounded = int(np.floor(size + 0.5))
    return max(2, rounded - rounded % 2)


def apply(image: Image, todo: Operations, psi: float = 0.0) -> Image:
    """The changed image, float32. psi (degrees) turns the filter of a 2D image.

    Raises UserError for what its shape does not allow.
    """
    out = np.asarray(image, dtype=np.float32)
    if todo.transpose or todo.transpose_back or todo.new_box or todo.symmetry:
        _check_shape(out, todo)
    if todo.edge is not None:
        out = repeat_edge(out, todo.edge)
    if todo.transpose:
        out = out.T
    if todo.transpose_back:
        out = out[::-1, ::-1].T
    if todo.replace_nan is not None:
        out = np.where(np.isfinite(out), out, np.float32(todo.replace_nan))
    if todo.randomise_from > 0:
        if len(set(out.shape)) != 1:
            raise UserError("Phases can be randomised in square images and cubic maps only.")
        first = int(out.shape[-1] * todo.angpix / todo.randomise_from)
        out = randomise_phases(out, first, np.random.default_rng(todo.seed))
    out = _arithmetic(out, todo)
    if todo.power_of is not None:
        out = image_spectra.with_spectrum_of(out, todo.power_of)
    if todo.correction is not None:
        out = image_spectra.corrected(out, todo.correction)
    if todo.fourier_filter is not None:
        out = image_spectra.filtered(out, todo.fourier_filter, psi)
    out = _filter(out, todo)
    out = _move(out, todo)
    if todo.rescale_to > 0:
        out = rescale(out, todo.angpix, todo.rescale_to)
    if todo.new_box:
        out = window(out, (todo.new_box,) * out.ndim)
    if todo.symmetry:
        out = symmetrise(out, todo.symmetry)
    if todo.threshold_above is not None:
        out = np.minimum(out, np.float32(todo.threshold_above))
    if todo.threshold_below is not None:
        out = np.maximum(out, np.float32(todo.threshold_below))
    return np.ascontiguousarray(out, dtype=np.float32)


def _check_shape(image: Image, todo: Operations) -> None:
    if (todo.transpose or todo.transpose_back) and image.ndim != 2:
        raise UserError("Only 2D images can be flipped in the XY direction.")
    if todo.symmetry and (image.ndim != 3 or len(set(image.shape)) != 1):
        raise UserError("Only cubic maps can be symmetrised.")


def _arithmetic(image: Image, todo: Operations) -> Image:
    for other in todo.multiply:
        image = image * other
    for other in todo.divide:
        image = _divided(image, other)
    for other in todo.add:
        image = image + other
    for other in todo.subtract:
        if todo.optimise is not None and isinstance(other, np.ndarray):
            fit = todo.optimise
            other, scale, bfactor = image_spectra.best_fit(image, other, fit.mask, fit.bfactor_range, todo.angpix)
            told = f"Optimised bfactor = {bfactor:g}; optimised scale" if fit.bfactor_range > 0 else "Optimised scale"
            fit.say(f" {told} = {scale:g}")
        image = image - other
    return image.astype(np.float32, copy=False)


def _divided(image: Image, other: float | Image) -> Image:
    """Quotient; 0 where an image to divide by is (nearly) 0."""
    if isinstance(other, np.ndarray):
        large = np.abs(other) >= 1e-10
        return np.divide(image, other, out=np.zeros_like(image), where=large)
    return image / np.float32(other)


def _filter(image: Image, todo: Operations) -> Image:
    """B-factor, Laplacian of Gaussian, low-pass and high-pass filter, in one transform."""
    profiles: list[Callable[[NDArray], NDArray]] = []
    size, angpix = max(image.shape), todo.angpix
    if todo.bfactor:
        profiles.append(lambda r: np.where(r <= size / 2, np.exp(-todo.bfactor / 4 * (r / (size * angpix)) ** 2), 0.0))
    if todo.log_diameter > 0:
        square = (0.5 * size * angpix / todo.log_diameter) ** 2
        profiles.append(lambda r: r**2 * np.exp(-0.5 * r**2 / square) / square)
    if todo.lowpass > 0 and not todo.direction:
        profiles.append(lambda r: filter_profile(r, size, angpix, todo.lowpass, todo.filter_edge))
    if todo.highpass > 0:
        profiles.append(lambda r: filter_profile(r, size, angpix, todo.highpass, todo.filter_edge, highpass=True))
    directional = todo.lowpass > 0 and bool(todo.direction)
    if not profiles and not directional:
        return image
    radius = _radius(image.shape)
    factor = np.ones_like(radius)
    if directional:
        along = _along(image.shape, todo.direction)
        factor *= filter_profile(along, size, angpix, todo.lowpass, todo.filter_edge)
    for profile in profiles:
        factor *= profile(radius)
    return fft.irfftn(fft.rfftn(image) * factor.astype(np.float32), s=image.shape).astype(np.float32, copy=False)


def _radius(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Frequency of every element of a half transform in Fourier pixels of the longest side."""
    squared: NDArray[np.float64] = np.zeros(1)
    for axis, size in enumerate(shape):
        k = np.arange(size // 2 + 1) if axis == len(shape) - 1 else np.fft.fftfreq(size) * size
        k = (k * (max(shape) / size)) ** 2
        squared = squared + k.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return np.sqrt(squared)


def _along(shape: tuple[int, ...], direction: str) -> NDArray[np.float64]:
    """Frequency along x, y or z of the elements of a half transform, in Fourier pixels of the longest side."""
    axis = len(shape) - 1 - "XYZ".index(direction)
    if axis < 0:
        raise UserError("An image has no Z direction to filter along.")
    size = shape[axis]
    full: NDArray[np.float64] = np.abs(np.fft.fftfreq(size) * size)
    k = full[: size // 2 + 1] if axis == len(shape) - 1 else full
    return (k * (max(shape) / size)).reshape([-1 if other == axis else 1 for other in range(len(shape))])


def repeat_edge(image: Image, edge: tuple[int, int, int, int]) -> Image:
    """A 2D image whose columns before x0 and after xF, and rows before y0 and after yF, repeat those."""
    if image.ndim != 2:
        raise UserError("Only 2D images get an edge.")
    rows, columns = image.shape
    x0, y0 = edge[:2]
    x1, y1 = min(edge[2], columns - 1), min(edge[3], rows - 1)
    if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
        raise UserError(f"The edge must lie within the image of {columns} x {rows} pixels.")
    return image[np.clip(np.arange(rows), y0, y1)][:, np.clip(np.arange(columns), x0, x1)]


def _move(image: Image, todo: Operations) -> Image:
    for name in todo.flip:
        axis = {"X": -1, "Y": -2, "Z": -3}[name]
        if -axis > image.ndim:
            raise UserError("This is not a 3D map, so it cannot be flipped in Z.")
        image = np.flip(image, axis)
    if todo.invert_hand:
        image = np.roll(np.flip(image, -1), 1, axis=-1)
    if todo.shift_to_mass:
        return shifted(image, -centre_of_mass(image)).astype(image.dtype)
    if any(todo.shift):
        return shifted(image, todo.shift[: image.ndim][::-1]).astype(image.dtype)
    return image


def rescale(image: Image, angpix: float, wanted: float) -> Image:
    """The same field of view with pixels of :func:`new_pixel_size`, by a window in Fourier space.

    A rectangle is filled up with its mean to a square meanwhile; its sides become even numbers of pixels.
    """
    size = max(image.shape)
    new = _even(size * angpix / wanted)
    if len(set(image.shape)) == 1:
        return resize_map(image, new)
    actual = size * angpix / new
    square = window(image, (size,) * image.ndim, float(image.mean()))
    return window(resize_map(square, new), tuple(_even(side * angpix / actual) for side in image.shape))


def window(image: Image, shape: tuple[int, ...], fill: float = 0.0) -> Image:
    """The image cut or filled up to another shape; the origin stays the origin."""
    out = np.full(shape, fill, dtype=np.float32)
    source, target = [], []
    for old, new in zip(image.shape, shape, strict=True):
        small = min(old, new)
        source.append(slice(old // 2 - small // 2, old // 2 - small // 2 + small))
        target.append(slice(new // 2 - small // 2, new // 2 - small // 2 + small))
    out[tuple(target)] = image[tuple(source)]
    return out


def symmetrise(volume: Image, group: str) -> Image:
    """Mean of a map over all rotations of a point group, linearly interpolated; 0 from outside of the box."""
    from scipy import ndimage

    matrices = operators(group)
    box = volume.shape[-1]
    grid = np.indices(volume.shape, dtype=np.float32).reshape(3, -1) - box // 2
    total = np.zeros(volume.size, dtype=np.float64)
    for matrix in matrices:
        # matrices act on (x, y, z), arrays are (z, y, x)
        turned = matrix[::-1, ::-1].astype(np.float32) @ grid + box // 2
        np.copyto(turned, np.round(turned), where=np.abs(turned - np.round(turned)) < 1e-4)
        total += ndimage.map_coordinates(volume, turned, order=1, mode="constant", cval=0.0, prefilter=False)
    return (total / len(matrices)).reshape(volume.shape).astype(np.float32)


def moved_and_turned(image: Image, shift: NDArray[np.float64], psi: float) -> Image:
    """The image (y, x) moved by ``shift`` (x, y; pixels), then rotated by psi (degrees) about its origin.

    Linear interpolation; 0 comes in at the edges.  Shifts of whole pixels without rotation are exact.
    """
    from scipy import ndimage

    cosine, sine = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
    y, x = (np.indices(image.shape, dtype=np.float64).T - np.array(image.shape) // 2).T
    source = np.stack([-sine * x + cosine * y - shift[1], cosine * x + sine * y - shift[0]])
    source += (np.array(image.shape) // 2)[:, None, None]
    near = np.round(source)
    source = np.where(np.abs(source - near) < 1e-6, near, source)
    return ndimage.map_coordinates(image, source, order=1, mode="constant", cval=0.0, prefilter=False)
