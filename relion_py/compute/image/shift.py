"""Where the mass of images and maps is, and how they are moved by fractions of pixels in real space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def shifted(image: NDArray[np.floating], shift: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    """The image or map moved by `shift` pixels along its axes (y, x or z, y, x), linearly interpolated; float64.

    What comes in from outside is 0, also where only one neighbour lies outside: `scipy.ndimage.shift` with order 1.
    """
    moved = np.asarray(image, np.float64)
    for axis, (size, step) in enumerate(zip(image.shape, shift, strict=True)):
        place = np.arange(size) - step
        low = np.floor(place).astype(int)
        inside = (place >= 0) & (place <= size - 1)
        weight = (place - low).reshape(-1, *(1,) * (image.ndim - axis - 1))
        inside = inside.reshape(weight.shape)
        first, second = (moved.take(i, axis, mode="clip") for i in (low, low + 1))
        moved = np.where(inside, (1 - weight) * first + weight * second, 0.0)
    return moved


def centre_of_mass(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Offset in pixels of the centre of mass from pixel n // 2, slowest axis first (multidim_array.h, centerOfMass).

    Positive densities only; zeros where there are none.
    """
    positive = np.maximum(image, 0.0)
    total = float(positive.sum(dtype=np.float64))
    if total == 0.0:
        return np.zeros(image.ndim)
    moments = []
    for axis, size in enumerate(image.shape):
        others = tuple(other for other in range(image.ndim) if other != axis)
        along = positive.sum(axis=others, dtype=np.float64)
        moments.append(float(np.sum(along * (np.arange(size) - size // 2))) / total)
    return np.array(moments)
