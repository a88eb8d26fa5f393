"""Amplitudes and phases of one image or map beside those of another: adjusted, averaged, compared, subtracted.

Transforms are those of `fft.rfftn` over the number of pixels, as RELION's are; shells are rounded radii.

Facts: RELION 5 ``src/apps/image_handler.cpp``, ``src/fftw.cpp`` (``adaptSpectrum``, ``getCosDeltaPhase``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import radius_grid, shell_grid

Image = NDArray[np.float32]
_BFACTOR_STEP = 10.0  # A^2


def _shells(image: Image, what: str) -> NDArray[np.int32]:
    if len(set(image.shape)) != 1:
        raise UserError(f"{what} needs square images or cubic maps.")
    return shell_grid(image.shape[-1], image.ndim)


def _means(values: NDArray[np.floating], shells: NDArray[np.int32]) -> NDArray[np.float64]:
    """Mean in every shell, the corners' included."""
    count = np.bincount(shells.ravel())
    return np.bincount(shells.ravel(), weights=values.ravel()) / np.maximum(count, 1)


def with_spectrum_of(image: Image, other: Image) -> Image:
    """The image with the mean amplitude of `other` in each shell, and its own phases and differences within a shell."""
    shells = _shells(image, "Adjusting the power spectrum")
    transform = fft.rfftn(image.astype(np.float64))
    own, wanted = (_means(np.abs(t), shells) for t in (transform, fft.rfftn(other.astype(np.float64))))
    factor = np.divide(wanted, own, out=np.ones_like(own), where=own > 0)
    return fft.irfftn(transform * factor[shells], s=image.shape).astype(np.float32)


def cosine_of_phases(image: Image, other: Image) -> NDArray[np.float64]:
    """Mean cosine of the phase difference in each shell 0 .. box // 2.

    RELION takes the cosine of degrees as if they were radians; this is the cosine that its option is named after.
    """
    shells = _shells(image, "Comparing phases")
    first, second = fft.rfftn(image.astype(np.float64)), fft.rfftn(other.astype(np.float64))
    return _means(np.cos(np.angle(first) - np.angle(second)), shells)[: image.shape[-1] // 2 + 1]


def best_fit(
    image: Image, other: Image, mask: Image | None, bfactor_range: float, angpix: float
) -> tuple[Image, float, float]:
    """`other` as it is best subtracted from `image`: changed by the B-factor (A^2) within +- the range, in steps of 10,
    and times the scale, that leave the least squared difference within the mask; it, the scale and the B-factor."""
    weight = np.float64(1.0) if mask is None else mask.astype(np.float64) ** 2
    x = image.astype(np.float64)
    best = (np.inf, other.astype(np.float64), 1.0, 0.0)
    if bfactor_range > 0:
        _shells(image, "Optimising a B-factor")
        radius = radius_grid(image.shape[-1], image.ndim)
        transform, size = fft.rfftn(other.astype(np.float64)), image.shape[-1]
        for bfactor in np.arange(-bfactor_range, bfactor_range + 1e-9, _BFACTOR_STEP):
            factor = np.where(radius <= size / 2, np.exp(-bfactor / 4.0 * (radius / (size * angpix)) ** 2), 0.0)
            changed = fft.irfftn(transform * factor, s=image.shape)
            scale = (weight * x * changed).sum() / (weight * changed**2).sum()
            difference = float((weight * (x - scale * changed) ** 2).sum())
            if difference < best[0]:
                best = (difference, changed, float(scale), float(bfactor))
    else:
        a = other.astype(np.float64)
        best = (0.0, a, float((weight * x * a).sum() / (weight * a**2).sum()), 0.0)
    _, changed, scale, bfactor = best
    return (scale * changed).astype(np.float32), scale, bfactor


def amplitudes(image: Image, squared: bool) -> NDArray[np.float64]:
    """Amplitudes of the transform (.., n // 2 + 1), or their squares."""
    values = np.abs(fft.rfftn(image.astype(np.float64))) / image.size
    return values**2 if squared else values


def amplitude_correction(average: Image, first_shell: int) -> NDArray[np.float64]:
    """What transforms are divided by to even out a direction-dependent average amplitude spectrum (.., n // 2 + 1).

    It is the average over its mean in the shell, and 1 up to shell `first_shell`.
    """
    box = average.shape[0]
    if average.shape[-1] != box // 2 + 1 or len(set(average.shape[:-1])) != 1:
        raise UserError("--correct_avg_ampl needs a file that --avg_ampl or --avg_ampl2 made of such images.")
    shells = shell_grid(box, average.ndim)
    means = _means(average.astype(np.float64), shells)[shells]
    return np.where(shells > first_shell, np.divide(average, means, out=np.ones(shells.shape), where=means > 0), 1.0)


def corrected(image: Image, correction: NDArray[np.float64]) -> Image:
    """The image with its transform divided by :func:`amplitude_correction`."""
    transform = fft.rfftn(image.astype(np.float64))
    if transform.shape != correction.shape:
        raise UserError("The average amplitudes of --correct_avg_ampl are of images of another size.")
    return fft.irfftn(transform / correction, s=image.shape).astype(np.float32)


def filtered(image: Image, factors: Image, psi: float = 0.0) -> Image:
    """The image or map, its transform multiplied with factors whose origin is at their size // 2; 0 beyond them.

    The nearest factor counts; those of a 2D image are turned by psi (degrees) first. Source: RELION 5,
    image_handler.cpp (perImageOperations), where maps are filtered with psi 0.
    """
    if factors.ndim != image.ndim:
        raise UserError("--fourier_filter needs an image for images and a map for maps.")
    turn = np.deg2rad(psi if image.ndim == 2 else 0.0)
    axes = [np.fft.fftfreq(size, 1 / size) for size in image.shape]
    for axis, size in zip(axes, image.shape, strict=True):
        axis[size // 2] = abs(axis[size // 2])  # Nyquist's frequency is positive
    axes[-1] = np.arange(image.shape[-1] // 2 + 1, dtype=float)
    *others, y, x = np.meshgrid(*axes, indexing="ij")
    places = [*others, np.cos(turn) * y + np.sin(turn) * x, np.cos(turn) * x - np.sin(turn) * y]
    index = [np.trunc(place + np.copysign(0.5, place)).astype(int) for place in places]
    index = [place + size // 2 for place, size in zip(index, factors.shape, strict=True)]
    inside = np.all([(i >= 0) & (i < size) for i, size in zip(index, factors.shape, strict=True)], axis=0)
    factor = np.where(inside, factors[tuple(np.where(inside, i, 0) for i in index)], 0)
    return fft.irfftn(fft.rfftn(image) * factor.astype(np.float32), s=image.shape).astype(np.float32)
