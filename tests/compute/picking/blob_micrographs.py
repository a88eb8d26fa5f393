"""Micrographs of dark blobs at known places in white noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def blob_micrograph(shape: tuple[int, int], seed: int, spacing: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float32 image (ny, nx) and x, y of the blobs, 15 pixels in radius, near the points of a lattice."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    y, x = (c.ravel() for c in np.mgrid[spacing // 2 : rows - 24 : spacing, spacing // 2 : columns - 24 : spacing])
    x, y = x + random.integers(-6, 7, x.size), y + random.integers(-6, 7, y.size)
    centres = np.zeros(shape, bool)
    centres[y, x] = True
    image = np.where(ndimage.distance_transform_edt(~centres) < 15, -1.0, 0.0)
    image = ndimage.gaussian_filter(image, 2) + random.standard_normal(shape)
    return image.astype(np.float32), x, y
