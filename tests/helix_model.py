"""A known helix: Gaussian blobs with a twist and a rise, as centres and as an exact map."""

import numpy as np


def helix_centres(
    twist: float, rise: float, units: int, seed: int = 1, blobs: int = 4, reach: tuple[float, float] = (8.0, 30.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 3) x, y, z in A and heights (n,) of units -units..units; blobs at radii within `reach` A."""
    rng = np.random.default_rng(seed)
    radius, angle = rng.uniform(*reach, blobs), rng.uniform(0, 2 * np.pi, blobs)
    along, heights = rng.uniform(0, rise, blobs), rng.uniform(0.5, 1.5, blobs)
    numbers = np.arange(-units, units + 1)[:, None]
    turned = angle + np.deg2rad(twist) * numbers
    centres = np.stack([radius * np.cos(turned), radius * np.sin(turned), along + rise * numbers], axis=-1)
    return centres.reshape(-1, 3), np.tile(heights, len(numbers))


def blob_map(centres: np.ndarray, heights: np.ndarray, box: int, pixel_size: float, sigma: float) -> np.ndarray:
    """float32 (box,) * 3 (z, y, x), centre at box // 2; sigma in A."""
    axis = (np.arange(box) - box // 2) * pixel_size
    along = np.exp(-((axis[None, :, None] - centres[:, None, :]) ** 2) / (2 * sigma**2))
    return np.einsum("b,bz,by,bx->zyx", heights, along[..., 2], along[..., 1], along[..., 0], optimize=True).astype(
        np.float32
    )
