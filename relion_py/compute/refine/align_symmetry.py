"""Turning a map so that its symmetry axes lie where the point group has them, and imposing the symmetry.

The map is compared with its own average over the group, in many orientations. Everything happens in its Fourier
transform, at the unpadded frequencies. Source: apps/align_symmetry.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend.kernels_volume import values_at
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image import fft
from relion_py.compute.image.fourier import frequencies
from relion_py.compute.image.shift import centre_of_mass, shifted
from relion_py.compute.refine.projector import FourierReference

Map = NDArray[np.float32]
Angles = tuple[float, float, float]

MOST_LOCAL_ROUNDS = 10
"""The local search is moved to its best orientation at most so often."""


@dataclass(frozen=True)
class Orientation:
    """Euler angles (degrees) that turn a map onto its axes, and how unlike its symmetric self it then is.

    difference: squared difference over squared norm, within the sphere of the search; 0 for a symmetric map.
    """

    angles: Angles
    difference: float


class SymmetrySearch:
    """The orientation in which a map looks most like its average over a point group.

    volume     float (n, n, n), n even, origin at n // 2, its centre of mass there
    operators  rotation matrices (S, 3, 3) of the group
    r_max      Fourier pixels that are compared, at most n / 2
    padding    oversampling of the transform that is interpolated
    nearest    take the nearest voxel instead of interpolating linearly
    """

    def __init__(
        self,
        volume: Map,
        operators: NDArray[np.float64],
        r_max: float,
        padding: int = 2,
        nearest: bool = False,
    ) -> None:
        self.transform = PaddedTransform(volume, padding, nearest)
        self.operators = operators
        reach = int(min(r_max, len(volume) // 2 - 1))
        axis = np.arange(-reach, reach + 1)
        z, y, x = np.meshgrid(axis, axis, np.arange(reach + 1), indexing="ij")
        inside = x**2 + y**2 + z**2 <= min(r_max, reach) ** 2
        self.points = np.stack([x[inside], y[inside], z[inside]], axis=1).astype(np.float32)

    def difference(self, angles: Angles) -> float:
        """How unlike its symmetric self the map is once turned by these angles."""
        turned = euler_to_matrix(*angles)
        values = [self.transform.turned(self.points, g @ turned) for g in self.operators]
        whole = values[0]
        unlike = whole - sum(values[1:], whole.copy()) / len(values)
        return float(np.sum(np.abs(unlike) ** 2) / max(np.sum(np.abs(whole) ** 2), 1e-300))

    def best_of(self, candidates: list[Angles], advance: Callable[[int], None]) -> Orientation:
        """The best of some orientations; advance(n) is told of n done."""
        best = Orientation(candidates[0], np.inf)
        for n, angles in enumerate(candidates, 1):
            difference = self.difference(angles)
            if difference < best.difference:
                best = Orientation(angles, difference)
            advance(n)
        return best

    def refine(self, start: Orientation, reach: int, step: float, only_rot: bool = False) -> Orientation:
        """The best orientation within `reach` steps (degrees) of each angle, followed as long as it moves."""
        best = start
        for _ in range(MOST_LOCAL_ROUNDS):
            found = self.best_of(local_angles(best.angles, reach, step, only_rot), lambda n: None)
            if found.difference >= best.difference:
                break
            best = found
        return best


def random_angles(count: int, random: np.random.Generator, only_rot: bool = False) -> list[Angles]:
    """Uniformly distributed orientations, or turns about z alone, in degrees."""
    rot = random.uniform(0.0, 360.0, count)
    if only_rot:
        return [(float(r), 0.0, 0.0) for r in rot]
    tilt = np.rad2deg(np.arccos(random.uniform(-1.0, 1.0, count)))
    psi = random.uniform(0.0, 360.0, count)
    return [(float(r), float(t), float(p)) for r, t, p in zip(rot, tilt, psi, strict=True)]


def local_angles(centre: Angles, reach: int, step: float, only_rot: bool = False) -> list[Angles]:
    """Orientations on a cubic grid of angles about one, or turns about z alone."""
    steps = np.arange(-reach, reach + 1) * step
    rot, tilt, psi = centre
    if only_rot:
        return [(float(rot + a), tilt, psi) for a in steps]
    return [(float(rot + a), float(tilt + b), float(psi + c)) for a in steps for b in steps for c in steps]


def turned_map(
    volume: Map, matrices: NDArray[np.float64], padding: int = 2, nearest: bool = False, *,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0), size: int = -1,
) -> Map:  # fmt: skip
    """Mean of a map (n, n, n) turned by each of the Euler matrices (S, 3, 3).

    One matrix A turns the map so that a projection of the result at zero angles is one of the map at A's angles.
    shift: how far the result is moved along x, y and z (pixels). size: of the images (pixels) up to which frequencies
    are kept; -1: the box.
    """
    transform = PaddedTransform(volume, padding, nearest, size)
    box = len(volume)
    k = frequencies(box)
    z, y, x = np.meshgrid(k, k, np.arange(box // 2 + 1), indexing="ij")
    squared = x**2 + y**2 + z**2
    inside = (squared < (box // 2) ** 2) & (squared <= transform.r_max**2)
    points = np.stack([x[inside], y[inside], z[inside]], axis=1).astype(np.float32)
    turned = np.zeros(x.shape, np.complex64)
    scale = np.float32(box**2)  # of the transform
    for matrix in matrices:
        turned[inside] += transform.turned(points, matrix) / np.float32(len(matrices))
    if any(shift):
        turned[inside] *= np.exp(-2j * np.pi / box * (points @ np.array(shift)))
    result = fft.fftshift(fft.irfftn(turned * scale, s=volume.shape))
    return np.ascontiguousarray(result, np.float32)


def centred_map(volume: Map) -> Map:
    """The map moved so that the centre of mass of its positive density is at voxel n // 2.

    What is moved in from outside is 0 (transformations.h, selfTranslateCenterOfMassToCenter).
    """
    return shifted(volume, -centre_of_mass(volume)).astype(np.float32)


class PaddedTransform:
    """The Fourier transform of a map (n, n, n), up to r_max Fourier pixels: half of `size`, or of the box for -1."""

    def __init__(self, volume: Map, padding: int = 2, nearest: bool = False, size: int = -1) -> None:
        reference = FourierReference.from_map(volume, size, padding, correct_gridding=not nearest)
        self.r_max = reference.r_max
        self.values, self.pad, self.nearest = reference.data, np.float32(reference.pad), nearest

    def turned(self, points: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Values (N,) of the transform of the map turned by an Euler matrix, at frequencies (N, 3): x, y, z."""
        out = np.empty(len(points), np.complex64)
        values_at(self.values, points, matrix.astype(np.float32), self.pad, self.nearest, out)
        return out
