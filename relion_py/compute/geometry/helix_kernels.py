"""Kernels of helical symmetry: the mean and the variance of a map over each voxel's symmetry mates.

Maps are float32 (z, y, x) with the centre at ``box // 2``; lengths are in voxels, angles in radians. Mates are
interpolated trilinearly; what lies outside the map counts as 0.
"""

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def interpolate(volume, z, y, x):  # type: ignore[no-untyped-def]
    """Value at the indices z, y, x (no whole numbers needed); 0 outside the map."""
    k, i, j = int(np.floor(z)), int(np.floor(y)), int(np.floor(x))
    depth, height, width = volume.shape
    if k < 0 or i < 0 or j < 0 or k + 1 >= depth or i + 1 >= height or j + 1 >= width:
        return 0.0
    fz, fy, fx = z - k, y - i, x - j
    value = 0.0
    for a in range(2):
        wa = fz if a else 1.0 - fz
        for b in range(2):
            wb = wa * (fy if b else 1.0 - fy)
            value += wb * ((1.0 - fx) * volume[k + a, i + b, j] + fx * volume[k + a, i + b, j + 1])
    return value


@njit(**_OPTIONS)
def average_units(volume, rise, twist, half, radius, inner, outer, edge, first, last, out):  # type: ignore[no-untyped-def]
    """Planes first..last of the symmetrical map, into `out`: means over the mates with |z| <= half.

    radius  of the sphere; inner, outer  radii of the tube; edge  width of the raised cosines
    """
    depth, height, width = volume.shape
    turns = np.arange(int((half + depth) / rise) + 2) * twist
    cosines, sines = np.cos(turns), np.sin(turns)
    for k in range(first, last):
        z = float(k - depth // 2)
        least, most = -int(np.floor((z + half) / rise)), -int(np.ceil((z - half) / rise))
        for i in range(height):
            y = float(i - height // 2)
            for j in range(width):
                x = float(j - width // 2)
                wall = np.sqrt(x * x + y * y)
                distance = np.sqrt(wall * wall + z * z)
                if distance > radius + edge or wall < inner - edge or wall > outer + edge:
                    continue
                total, count = 0.0, 0
                for unit in range(least, most + 1):
                    c = cosines[abs(unit)]
                    s = sines[unit] if unit >= 0 else -sines[-unit]
                    total += interpolate(
                        volume,
                        z + unit * rise + depth // 2,
                        x * s + y * c + height // 2,
                        x * c - y * s + width // 2,
                    )
                    count += 1
                if count == 0:
                    continue
                weight = 1.0
                if wall < inner:
                    weight = 0.5 + 0.5 * np.cos(np.pi * (inner - wall) / edge)
                elif wall > outer:
                    weight = 0.5 + 0.5 * np.cos(np.pi * (wall - outer) / edge)
                if distance > radius:
                    weight = min(weight, 0.5 + 0.5 * np.cos(np.pi * (distance - radius) / edge))
                out[k, i, j] = weight * total / count


@njit(**_OPTIONS)
def unit_variances(volume, rises, twists, first, last, inner, outer, out):  # type: ignore[no-untyped-def]
    """For each symmetry the mean variance among mates, into `out` (n,); 1e10 where there is no voxel.

    Voxels of the planes z = first .. first + floor(rise) and between the radii, mates upwards to z = last.
    """
    depth, height, width = volume.shape
    for n in range(rises.shape[0]):
        rise = rises[n]
        turns = np.arange(int((last - first) / rise) + 2) * twists[n]
        cosines, sines = np.cos(turns), np.sin(turns)
        total, voxels = 0.0, 0
        for z in range(first, min(first + int(np.floor(rise)), last) + 1):
            mates = int(np.floor((last - z) / rise)) + 1
            for y in range(-(height // 2), height - height // 2):
                for x in range(-(width // 2), width - width // 2):
                    wall = np.sqrt(float(x * x + y * y))
                    if wall < inner or wall > outer:
                        continue
                    value = float(volume[z + depth // 2, y + height // 2, x + width // 2])
                    mean, square = value, value * value
                    for unit in range(1, mates):
                        c, s = cosines[unit], sines[unit]
                        value = interpolate(
                            volume,
                            z + unit * rise + depth // 2,
                            x * s + y * c + height // 2,
                            x * c - y * s + width // 2,
                        )
                        mean += value
                        square += value * value
                    mean /= mates
                    total += square / mates - mean * mean
                    voxels += 1
        out[n] = total / voxels if voxels else 1e10
