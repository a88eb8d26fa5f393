"""Soft solvent masks from a map: threshold, extension, soft edge; combinations of maps; shells from nothing.

Distances are in voxels.  Facts: RELION 5 ``src/mask.cpp`` (``autoMask``, ``raisedCrownMask``),
``src/helix.cpp`` (``cutZCentralPartOfSoftMask``) and ``src/apps/mask_create.cpp``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

Map = NDArray[np.float32]
Real = NDArray[np.floating]
Inside = NDArray[np.bool_]


def combine(first: Real, second: Real, threshold: float, how: str) -> Inside:
    """Voxels of two maps of one shape that are above the threshold.

    how: "and", "or", "and_not" (in the first and below it in the second), "or_not".
    """
    above, other, below = first > threshold, second > threshold, second < threshold
    return {
        "and": above & other,
        "or": above | other,
        "and_not": above & below,
        "or_not": above | below,
    }[how]


def extend(inside: Inside, distance: float) -> Inside:
    """The region and all that is nearer to it than ``distance`` voxels; negative: shrunk by as much."""
    if distance == 0 or not inside.any() or inside.all():
        return inside.copy()
    if distance > 0:
        return inside | (_distance_to(inside) < distance)
    return inside & (_distance_to(~inside) >= -distance)


def soften(inside: Inside, width: float) -> Map:
    """1 inside, 0 from ``width`` voxels outside on, a raised cosine of the distance between; float32."""
    mask = inside.astype(np.float32)
    if width > 0 and inside.any():
        distance = _distance_to(inside)
        edge = ~inside & (distance < width)
        mask[edge] = 0.5 + 0.5 * np.cos(np.pi * distance[edge] / width)
    return mask


def _distance_to(region: Inside) -> NDArray[np.float64]:
    """Distance in voxels of each voxel's centre to the nearest one of the region; 0 in it."""
    return distance_transform_edt(~region)


def crown_mask(box: int, inner: float, outer: float, width: float, centre: tuple[float, float, float]) -> Map:
    """Soft spherical shell, float32 (box, box, box), between two radii with edges of ``width`` on both sides.

    centre: x, y, z in voxels from the centre of the box, pixel ``box // 2``.
    """
    axis = np.arange(box, dtype=np.float64) - box // 2
    x, y, z = (axis - shift for shift in centre)
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    if width <= 0:
        return ((distance >= inner) & (distance < outer)).astype(np.float32)
    rising = 0.5 - 0.5 * np.cos(np.pi * np.clip((distance - inner + width) / width, 0.0, 1.0))
    falling = 0.5 - 0.5 * np.cos(np.pi * np.clip((outer + width - distance) / width, 0.0, 1.0))
    return np.where(distance < inner, rising, falling).astype(np.float32)


def keep_centre_along_z(mask: Map, fraction: float, width: float) -> Map:
    """The mask (z, y, x) within the central ``fraction`` of its Z, with a soft edge of ``width`` voxels there."""
    z = np.arange(len(mask), dtype=np.float64) - len(mask) // 2
    beyond = np.clip(np.abs(z) - 0.5 * fraction * len(mask), 0.0, None)
    if width > 0:
        factor = 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond / width, 0.0, 1.0))
    else:
        factor = (beyond == 0).astype(np.float64)
    return (mask * factor[:, None, None]).astype(np.float32)
