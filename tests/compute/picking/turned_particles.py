"""Micrographs of one asymmetrical particle, turned in the plane, at known places in white noise."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BOX = 32


def particle() -> np.ndarray:
    """A white L of 18 x 14 pixels, blurred, float64 (BOX, BOX)."""
    image = np.zeros((BOX, BOX))
    image[7:25, 10:16] = 1
    image[19:25, 10:24] = 1
    return ndimage.gaussian_filter(image, 1.0)


def turned_micrograph(shape: tuple[int, int], seed: int, height: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Float32 image (ny, nx) of dark particles near the points of a lattice, and their x, y and psi (N, 3).

    psi is in steps of 30 degrees; a particle turned by psi matches a reference at rlnAnglePsi = psi.
    """
    random = np.random.default_rng(seed)
    rows, columns = shape
    image = random.standard_normal(shape)
    truth = []
    for y in range(36, rows - 36, 48):
        for x in range(36, columns - 36, 48):
            dx, dy = random.integers(-5, 6, 2)
            psi = 30 * random.integers(12)
            turned = ndimage.rotate(particle(), psi, reshape=False, order=3)
            place = slice(y + dy - BOX // 2, y + dy + BOX // 2), slice(x + dx - BOX // 2, x + dx + BOX // 2)
            image[place] -= height * turned
            truth.append((x + dx, y + dy, psi))
    return image.astype(np.float32), np.array(truth, float)
