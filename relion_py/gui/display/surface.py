"""Pictures of a density's surface, ray-cast in NumPy: they need no OpenGL and travel over a slow X
connection.

The volume is turned (trilinear), each ray finds the first crossing of the threshold along the line of
sight, and the surface there is lit from its density gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]


@dataclass(frozen=True)
class Lighting:
    """How the surface is lit: direction towards the light (x right, y down, z away), and the colours (r, g,
    b)."""

    direction: tuple[float, float, float] = (-0.45, -0.6, -0.66)
    colour: tuple[int, int, int] = (126, 166, 214)
    background: tuple[int, int, int] = (255, 255, 255)


def rotation(rot: float, tilt: float) -> NDArray[np.float64]:
    """Turns the viewer's (z, y, x) into the map's (z, y, x), 3 x 3, passive; angles in degrees.

    At (0, 0) one looks along +z of the map, y of the picture downwards, as in the z slices. ``rot`` turns
    the map about the vertical axis of the screen, ``tilt`` then about the horizontal one.
    """
    a, b = math.radians(rot), math.radians(tilt)
    about_vertical = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
    about_horizontal = np.array([[math.cos(b), math.sin(b), 0], [-math.sin(b), math.cos(b), 0], [0, 0, 1]])
    return np.asarray(about_vertical @ about_horizontal)


def reduce_volume(volume: NDArray[Any], largest: int) -> tuple[Volume, int]:
    """``volume`` (nz, ny, nx) averaged over cubes of voxels until no side exceeds ``largest``, and the
    factor.

    Not-finite voxels become 0. Reads slab by slab, so that a memory-mapped map need not fit in memory.
    float32.
    """
    factor = max(1, math.ceil(max(volume.shape) / largest))
    nz, ny, nx = (max(1, n // factor) for n in volume.shape)
    reduced = np.empty((nz, ny, nx), dtype=np.float32)
    fy, fx = min(factor, volume.shape[1]), min(factor, volume.shape[2])
    for z in range(nz):
        slab = np.asarray(volume[z * factor : (z + 1) * factor, : ny * fy, : nx * fx], dtype=np.float32)
        reduced[z] = slab.reshape(slab.shape[0], ny, fy, nx, fx).mean(axis=(0, 2, 4))
    return np.nan_to_num(reduced, copy=False, nan=0.0, posinf=0.0, neginf=0.0), factor


def suggest_threshold(volume: NDArray[Any], mass_fraction: float = 0.0) -> float:
    """A grey value at which the molecule's surface is likely to be seen.

    The standard deviation of what lies within the box decides: mean + 4 sigma for a map with solvent around
    it, halfway for masks and other two-valued maps. With ``mass_fraction`` > 0: the value above which that
    fraction of all voxels lies.
    """
    values = np.asarray(volume, dtype=np.float32).reshape(-1)
    if values.size > 2_000_000:
        values = values[:: values.size // 2_000_000 + 1]
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0
    low, high = float(values.min()), float(values.max())
    if mass_fraction > 0:
        return float(np.quantile(values, 1.0 - mass_fraction))
    near_ends = np.count_nonzero((values < low + 0.02 * (high - low)) | (values > high - 0.02 * (high - low)))
    if near_ends > 0.8 * values.size and low >= 0.0 and high <= 1.0 + 1e-3:
        return low + 0.5 * (high - low)
    level = float(values.mean(dtype=np.float64) + 4.0 * values.std(dtype=np.float64))
    return min(level, low + 0.7 * (high - low))


def fitting_zoom(volume: Volume, threshold: float) -> float:
    """The zoom (1..3) at which what lies above ``threshold`` fills the picture in any orientation."""
    inside = np.argwhere(volume >= threshold)
    if len(inside) == 0:
        return 1.0
    from_centre = inside - (np.asarray(volume.shape) - 1) / 2.0
    radius = float(np.sqrt((from_centre**2).sum(axis=1).max()))
    return float(np.clip(max(volume.shape) / 2.0 / max(radius * 1.05, 1.0), 1.0, 3.0))


def render_surface(
    volume: Volume,
    threshold: float,
    rot: float = 20.0,
    tilt: float = 20.0,
    size: int = 320,
    depth_steps: int = 0,
    zoom: float = 1.0,
    lighting: Lighting | None = None,
) -> NDArray[np.uint8]:
    """A picture (size, size, 3), uint8, of the surface of ``volume`` (nz, ny, nx) at ``threshold``.

    ``rot``, ``tilt`` in degrees as in :func:`rotation`; ``depth_steps`` samples along the line of sight (0
    = as many as the box has voxels). Where no density exceeds the threshold the background shows.
    """
    from scipy.ndimage import affine_transform

    lit = lighting or Lighting()
    box = max(volume.shape)
    steps = depth_steps or box
    turn = rotation(rot, tilt)
    span = box / zoom
    scale = np.diag([box / steps, span / size, span / size])
    matrix = turn @ scale
    centre_in = (np.asarray(volume.shape) - 1) / 2.0
    centre_out = (np.asarray([steps, size, size]) - 1) / 2.0
    seen = affine_transform(
        volume,
        matrix,
        offset=centre_in - matrix @ centre_out,
        output_shape=(steps, size, size),
        order=1,
        mode="constant",
        cval=float(min(volume.min(), threshold)),
        output=np.float32,
    )
    picture = np.empty((size, size, 3), dtype=np.uint8)
    picture[:] = lit.background
    inside = seen >= threshold
    hit = inside.any(axis=0)
    if not hit.any():
        return picture
    first = inside.argmax(axis=0)
    depth = _refined_depth(seen, first, threshold)
    normal = _normals(seen, first, voxel=(box / steps, span / size, span / size))
    towards = np.asarray(lit.direction[::-1])
    towards = towards / np.linalg.norm(towards)
    diffuse = np.clip(np.tensordot(towards, normal, axes=(0, 0)), 0.0, 1.0)
    half = towards + np.array([-1.0, 0.0, 0.0])
    half /= np.linalg.norm(half)
    shine = np.clip(np.tensordot(half, normal, axes=(0, 0)), 0.0, 1.0) ** 30
    near, far = float(depth[hit].min()), float(depth[hit].max())
    fog = 1.0 - 0.45 * (depth - near) / max(far - near, 1e-6)
    light = (0.25 + 0.75 * diffuse) * fog
    colour = np.asarray(lit.colour, dtype=np.float32)
    shaded = light[..., None] * colour + (60.0 * shine * fog)[..., None]
    picture[hit] = np.clip(shaded[hit], 0, 255).astype(np.uint8)
    return picture


def _refined_depth(seen: Volume, first: NDArray[np.int64], threshold: float) -> NDArray[np.float32]:
    """Depth of the crossing in steps, linear between the last sample below and the first above, (ny, nx)."""
    at = np.take_along_axis(seen, first[None], axis=0)[0]
    before = np.take_along_axis(seen, np.maximum(first - 1, 0)[None], axis=0)[0]
    part = np.where(at > before, (threshold - before) / np.maximum(at - before, 1e-12), 1.0)
    return (first - 1 + np.clip(part, 0.0, 1.0)).astype(np.float32)


def _normals(seen: Volume, first: NDArray[np.int64], voxel: tuple[float, float, float]) -> NDArray[np.float32]:
    """Outward unit normals (3 = z, y, x; ny, nx) where each ray enters: minus the density's gradient
    there."""
    steps, ny, nx = seen.shape
    rows, columns = np.mgrid[0:ny, 0:nx]

    def at(dz: int, dy: int, dx: int) -> NDArray[np.float32]:
        z = np.clip(first + dz, 0, steps - 1)
        return seen[z, np.clip(rows + dy, 0, ny - 1), np.clip(columns + dx, 0, nx - 1)]

    wide = max(1, round(1.0 / voxel[1])) if voxel[1] < 1 else 1  # reach across at least one voxel of the map
    gradient = np.stack(
        [
            (at(1, 0, 0) - at(-1, 0, 0)) / voxel[0],
            (at(0, wide, 0) - at(0, -wide, 0)) / (voxel[1] * wide),
            (at(0, 0, wide) - at(0, 0, -wide)) / (voxel[2] * wide),
        ]
    )
    length = np.sqrt((gradient**2).sum(axis=0))
    return (-gradient / np.maximum(length, 1e-12)).astype(np.float32)
