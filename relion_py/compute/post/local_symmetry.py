"""Local symmetry: parts of a map that are alike, each marked by a mask and carried onto its copies by operators.

An operator turns and then moves: what is at x in the original, in A from the map's centre, is at R x + t in the copy,
with R the matrix of its Euler angles (`euler_to_matrix`) and t its translation. Maps are float32 (z, y, x) with the
centre at ``box // 2``; vectors are x, y, z.

Facts: RELION 5, src/local_symmetry.cpp (applyLocalSymmetry, duplicateLocalSymmetry, standardiseEulerAngles), and
applyGeometry in src/transformations.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix, matrix_to_euler
from relion_py.compute.io.mrc import read_map
from relion_py.compute.jit import njit

Map = NDArray[np.float32]
TINY = 1e-6
"""Smaller values of masks count as nothing, smaller differences of operators as none (XMIPP_EQUAL_ACCURACY)."""


class Operator(NamedTuple):
    """Euler angles (degrees) and translation (A) that carry the original onto a copy."""

    rot: float = 0.0
    tilt: float = 0.0
    psi: float = 0.0
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0

    @classmethod
    def standard(cls, rot: float, tilt: float, psi: float, x: float, y: float, z: float) -> Operator:
        """With angles in their usual ranges; where they are well inside these, they stay what they are."""
        return cls(*standard_angles(rot, tilt, psi), x, y, z)

    @property
    def rotation(self) -> NDArray[np.float64]:
        """R (3, 3)."""
        return euler_to_matrix(self.rot, self.tilt, self.psi)

    @property
    def translation(self) -> NDArray[np.float64]:
        """t (3,), A."""
        return np.array(self[3:])

    def same(self, other: Operator) -> bool:
        """Whether angles and translation are equal to 1e-6."""
        return all(abs(a - b) < TINY for a, b in zip(Operator.standard(*self), Operator.standard(*other), strict=True))

    def __str__(self) -> str:
        angles, shift = ("(" + ", ".join(f"{v:g}" for v in part) + ")" for part in (self[:3], self[3:]))
        return f"Angles (rot, tilt, psi) = {angles} degree(s). Translations (dx, dy, dz) = {shift} Angstrom(s)."


class Region(NamedTuple):
    """The mask of a part of the map, and the operators that carry it onto its copies."""

    mask: str
    operators: list[Operator]


def standard_angles(rot: float, tilt: float, psi: float) -> tuple[float, float, float]:
    """Angles in RELION's ranges: recalculated where one is outside, or within a degree of an end."""
    if abs(rot) > 179.0 or tilt < 1.0 or tilt > 179.0 or abs(psi) > 179.0:
        rot, tilt, psi = (float(angle) for angle in matrix_to_euler(euler_to_matrix(rot, tilt, psi)))
    return rot, tilt, psi


def carried(volume: Map, operator: Operator, angpix: float) -> Map:
    """The map with everything turned and moved by the operator; what comes from outside the box is 0."""
    matrix = operator.rotation.T  # the voxel at y comes from R^T (y - t)
    return _resampled(volume, matrix, -matrix @ operator.translation / angpix)


def brought_back(volume: Map, operator: Operator, angpix: float) -> Map:
    """The map with everything turned and moved by the operator's inverse: the copy comes to the original's place."""
    return _resampled(volume, operator.rotation, operator.translation / angpix)


def _resampled(volume: Map, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Map:
    out = np.empty_like(volume)
    resample(np.ascontiguousarray(volume), np.ascontiguousarray(matrix), np.ascontiguousarray(shift), out)
    return out


def read_mask(path: str, shape: tuple[int, ...]) -> Map:
    """A mask with values from 0 to 1; UserError for another shape, other values, or an empty one."""
    mask = read_map(path)[0]
    if mask.shape != shape:
        raise UserError(f"{path} has {_size(mask.shape)} voxels, and the map {_size(shape)}; they must be alike.")
    if not (mask.min() >= -TINY and mask.max() <= 1.0 + TINY):
        raise UserError(f"{path} is no mask: its values must lie between 0 and 1.")
    if mask.sum() < 0.01:
        raise UserError(f"The mask {path} is empty.")
    return np.ascontiguousarray(mask, np.float32)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in reversed(shape))


def symmetrised(volume: Map, regions: list[Region], angpix: float, step: Callable[[], None] = lambda: None) -> Map:
    """The map with the mean of each original and its copies at all their places, as far as the masks reach.

    angpix: A. step: called between pieces of work. Where masks overlap their means are averaged by the masks' values;
    where they are soft, the rest is the map itself.
    """
    total, weight = np.zeros_like(volume), np.zeros_like(volume)
    for region in regions:
        mask = read_mask(region.mask, volume.shape)
        mean = volume.copy()
        for operator in region.operators:
            step()
            mean += brought_back(volume, operator, angpix)
        mean *= np.where(mask > TINY, mask, 0.0) / np.float32(len(region.operators) + 1)
        total += mean
        weight += mask
        for operator in region.operators:
            step()
            total += carried(mean, operator, angpix)
            weight += carried(mask, operator, angpix)
    full = weight > 1.0 + TINY
    total[full] /= weight[full]
    rest = np.clip(1.0 - weight, 0.0, 1.0)
    return np.where(weight > TINY, total + rest * volume, volume).astype(np.float32)


def duplicated(
    volume: Map | None, regions: list[Region], angpix: float, step: Callable[[], None] = lambda: None
) -> Map:
    """Each original, cut out by its mask, and its copies, in an otherwise empty box; without a map the masks."""
    shape = read_map(regions[0].mask)[0].shape if volume is None else volume.shape
    out = np.zeros(shape, np.float32)
    for region in regions:
        part = read_mask(region.mask, shape)
        if volume is not None:
            part = part * volume
        out += part
        for operator in region.operators:
            step()
            out += carried(part, operator, angpix)
    return out


def cut_to_sphere(volume: Map, radius: float, edge: float) -> Map:
    """The map within a sphere (voxels) whose edge falls off to 0 by a raised cosine.

    In RELION the edge is the wrong way round: 0 at the sphere, and 1 where it ends.
    """
    axes = [np.arange(length) - length // 2 for length in volume.shape]
    squared = sum(axis.astype(np.float64) ** 2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True))
    beyond = np.clip((np.sqrt(squared) - radius) / edge, 0.0, 1.0)
    return (volume * (0.5 + 0.5 * np.cos(np.pi * beyond))).astype(np.float32)


@njit(nogil=True, cache=True, error_model="numpy")
def sample(volume, x, y, z):  # type: ignore[no-untyped-def]
    """Trilinear value at x, y, z voxels from the map's first one; 0 outside of the map."""
    depth, height, width = volume.shape
    if x < -1e-6 or y < -1e-6 or z < -1e-6 or x > width - 1 + 1e-6 or y > height - 1 + 1e-6 or z > depth - 1 + 1e-6:
        return 0.0
    i, j, k = min(int(x), width - 2), min(int(y), height - 2), min(int(z), depth - 2)
    fx, fy, fz = x - i, y - j, z - k
    low = (1.0 - fy) * ((1.0 - fx) * volume[k, j, i] + fx * volume[k, j, i + 1])
    low += fy * ((1.0 - fx) * volume[k, j + 1, i] + fx * volume[k, j + 1, i + 1])
    high = (1.0 - fy) * ((1.0 - fx) * volume[k + 1, j, i] + fx * volume[k + 1, j, i + 1])
    high += fy * ((1.0 - fx) * volume[k + 1, j + 1, i] + fx * volume[k + 1, j + 1, i + 1])
    return (1.0 - fz) * low + fz * high


@njit(nogil=True, cache=True, error_model="numpy")
def resample(volume, matrix, shift, out):  # type: ignore[no-untyped-def]
    """Each voxel p of `out`, from the centre, gets the value of the map at matrix (3, 3) p + shift (3,) voxels."""
    depth, height, width = volume.shape
    cx, cy, cz = width // 2, height // 2, depth // 2
    for k in range(depth):
        for j in range(height):
            base_x = matrix[0, 1] * (j - cy) + matrix[0, 2] * (k - cz) + shift[0] + cx
            base_y = matrix[1, 1] * (j - cy) + matrix[1, 2] * (k - cz) + shift[1] + cy
            base_z = matrix[2, 1] * (j - cy) + matrix[2, 2] * (k - cz) + shift[2] + cz
            for i in range(width):
                u = i - cx
                out[k, j, i] = sample(
                    volume, base_x + matrix[0, 0] * u, base_y + matrix[1, 0] * u, base_z + matrix[2, 0] * u
                )
