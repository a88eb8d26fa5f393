"""The accumulator of a reconstruction: weighted central slices summed in an oversampled Fourier transform.

Images are transforms divided by box^2, as `projector` makes them. A pixel adds `weight * value` to the data
and `weight` to the weights, e.g. CTF * F / sigma^2 and CTF^2 / sigma^2; reconstruction divides the one by the
other (backprojector.cpp).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.backend import kernels_numba, kernels_volume
from relion_py.compute.geometry.helix import operators as helix_operators
from relion_py.compute.refine.projector import padded_box, radii, transform_shape

Array = NDArray[Any]
SAME_OPERATOR = 1e-5
"""Rotation matrices with elements as near as this are the same."""
IDENTITY = np.eye(3, dtype=np.int64)[None]


@dataclass(frozen=True)
class HelicalUnits:
    """The asymmetric units of a helix that every image shows: twist in degrees, rise in pixels, their number."""

    twist: float
    rise: float
    units: int

    @property
    def others(self) -> list[int]:
        """Numbers of the units besides the one that an image was compared with, around it."""
        first = -(self.units // 2)
        return [number for number in range(first, first + self.units) if number]


class BackProjector:
    """Sums of weighted slices.

    grid   float32 (Z, Y, X, 3): real, imaginary, weight; x >= 0, origin at (Z // 2, Y // 2, 0),
           Z = Y = 2 R + 3, X = R + 2 with R = round(pad * r_max). A 2D average has Z == 3 and its sums in the
           middle plane. One contiguous array, so that a reduction over processes is one call.
    box    size of the map to reconstruct, pixels
    r_max  Fourier pixels of the unpadded transform
    pad    padded voxels per Fourier pixel
    """

    def __init__(
        self,
        box: int,
        current_size: int = -1,
        padding: float = 2.0,
        operators: Array | None = None,
        *,
        ndim: int = 3,
    ) -> None:
        """An empty accumulator.

        current_size  image size in pixels up to which Fourier pixels are kept; -1 for the box
        padding       oversampling; made such that padding * box is an even integer
        operators     rotation matrices (S, 3, 3) of the point group, identity first, for `symmetrise`
        ndim          3, or 2 for an average in the plane
        """
        if ndim not in (2, 3):
            raise ValueError(f"A reconstruction has 2 or 3 dimensions, not {ndim}.")
        self.box = box
        self.ndim = ndim
        self.pad = padded_box(box, padding) / box
        self.r_max, radius = radii(box, current_size, padding)
        self.operators = np.eye(3)[None] if operators is None else np.asarray(operators, np.float64)
        self.grid: NDArray[np.float32] = np.zeros((*transform_shape(radius, ndim), 3), np.float32)

    @property
    def r_max_padded(self) -> int:
        """Radius of the filled sphere, padded voxels."""
        return int(self.pad * self.r_max + 0.5)

    @property
    def data(self) -> NDArray[np.complex64]:
        """View of the sums of weighted values, complex64 (Z, Y, X)."""
        return self.grid[..., :2].view(np.complex64)[..., 0]

    @property
    def weight(self) -> NDArray[np.float32]:
        """View of the sums of weights, float32 (Z, Y, X)."""
        return self.grid[..., 2]

    def insert(self, images: Array, weights: Array, rotations: Array, kx: Array, ky: Array) -> None:
        """Add slices.

        images     complex64 (R, P), already multiplied with their weights
        weights    float32 (R, P); pixels whose weight is not positive are left out
        rotations  Euler matrices float32 (R, 3, 3)
        kx, ky     int32 (P,); of the pairs at kx == 0 only ky >= 0 is used
        One thread at a time: the sums are updated in place.
        """
        rotations = np.ascontiguousarray(rotations, np.float32)
        if not np.isfinite(rotations).all():
            raise ValueError("A rotation matrix is not finite.")
        kernels_numba.insert(
            self.grid,
            np.ascontiguousarray(images, np.complex64),
            np.ascontiguousarray(weights, np.float32),
            rotations,
            np.ascontiguousarray(kx, np.int32),
            np.ascontiguousarray(ky, np.int32),
            self.pad,
            self.r_max_padded,
        )

    def clear(self) -> None:
        """Start again from nothing."""
        self.grid[...] = 0

    def copy(self) -> BackProjector:
        """An independent accumulator with the same sums."""
        other = object.__new__(BackProjector)
        other.__dict__.update(self.__dict__)
        other.grid = self.grid.copy()
        return other

    def enforce_hermitian(self) -> None:
        """Add the Friedel mates in the plane x == 0 to each other; once, when the sums are complete."""
        kernels_volume.fold_friedel_plane(self.grid)

    def symmetrise(self, operators: Array | None = None, workers: int = 1, helix: HelicalUnits | None = None) -> None:
        """Fold the Friedel mates and sum over the point group; call it once, when the sums are complete.

        operators  (S, 3, 3), identity first; default: those given at construction
        workers    threads
        helix      before, the asymmetric units of a helix are summed, too
        (backprojector.cpp, symmetrise; the sum is not divided by the number of operators)
        """
        self.enforce_hermitian()
        if self.ndim == 2:
            return
        if helix is not None and len(helix.others):
            rotations, shifts = helix_operators(helix.twist, helix.rise, helix.others)
            # a unit is at R x + t in the map, so that its transform is F(R^-1 k) with the phase of t
            turns = -2.0 * np.pi * shifts[:, 2] / (self.pad * self.box)
            self._add_mates(rotations.transpose(0, 2, 1), turns, workers, self.grid.copy())
        self.grid[len(self.grid) // 2, self.grid.shape[1] // 2, 0, 1] = 0.0  # a map has no imaginary mean
        exact, others = _factors(self.operators if operators is None else np.asarray(operators, np.float64))
        if not len(others):
            if len(exact) > 1:
                self._in_planes(kernels_volume.sum_orbits, workers, self.grid, exact, self.r_max_padded)
            return
        source = self.grid.copy()
        if len(exact) > 1:  # what is interpolated are the sums over `exact`, of neighbours beyond the radius as well
            self._in_planes(kernels_volume.sum_orbits, workers, source, exact, self.r_max_padded + 2)
            kernels_volume.copy_inside(source, self.r_max_padded, self.grid)
        self._add_mates(others, np.zeros(len(others)), workers, source, exact)

    def _add_mates(
        self, operators: Array, turns: Array, workers: int, source: Array, exact: NDArray[np.int64] = IDENTITY
    ) -> None:
        """Add sums rotated by operators (S, 3, 3) and shifted along Z, see `kernels_volume.add_rotated`."""
        mates = np.ascontiguousarray(operators, np.float32), np.ascontiguousarray(turns, np.float32)
        self._in_planes(kernels_volume.add_rotated, workers, self.grid, source, *mates, exact, self.r_max_padded)

    @staticmethod
    def _in_planes(kernel: Callable[..., None], workers: int, out: Array, *arguments: Any) -> None:
        """kernel(*arguments, first, last, out) for all planes of a grid, in threads."""
        bounds = np.linspace(0, len(out), 8 * max(workers, 1) + 1).astype(int)
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            jobs = [pool.submit(kernel, *arguments, first, last, out) for first, last in pairwise(bounds)]
            for job in jobs:
                job.result()

    def low_resolution(self, r_low: int) -> NDArray[np.float32]:
        """Copy of the sums within `r_low` Fourier pixels, float32 (z, y, x, 3); zero beyond that radius.

        The two halves exchange and average them, so that both keep the same orientation and hand
        (getLowResDataAndWeight). Raises ValueError when r_low exceeds r_max.
        """
        inside, window = self._low_sphere(r_low)
        return np.where(inside[..., None], self.grid[window], np.float32(0))

    def set_low_resolution(self, sums: Array, r_low: int) -> None:
        """Replace the sums within `r_low` Fourier pixels by those that `low_resolution` gave."""
        inside, window = self._low_sphere(r_low)
        if sums.shape != self.grid[window].shape:
            raise ValueError(f"Low-resolution sums of shape {sums.shape} do not fit radius {r_low}.")
        self.grid[window][inside] = sums[inside]

    def downsampled_average(self) -> NDArray[np.complex128]:
        """Data over weight, averaged over the padded voxels nearest to each Fourier pixel.

        Complex128 (2 r_max + 3, 2 r_max + 3, r_max + 2), origin in the centre of z and y; depth 1 in 2D.
        """
        return kernels_volume.downsample(self.grid, self.pad, self.r_max + 1)

    def fsc(self, other: BackProjector | Array) -> NDArray[np.float64]:
        """Fourier shell correlation of two halves, float64 (box // 2 + 1,), 1 at the origin.

        other  the other half, or its `downsampled_average` (which is what processes exchange)
        """
        if isinstance(other, BackProjector):
            self._check_same_shape(other)
            theirs = other.downsampled_average()
        else:
            theirs = np.ascontiguousarray(other, np.complex128)
        return self.correlation(self.downsampled_average(), theirs)

    def correlation(self, ours: Array, theirs: Array) -> NDArray[np.float64]:
        """Fourier shell correlation, as `fsc`, of two `downsampled_average`s like those of this object."""
        if ours.shape != theirs.shape:
            raise ValueError(f"Half averages of shapes {ours.shape} and {theirs.shape} cannot be correlated.")
        curve = kernels_volume.correlate_shells(ours, theirs, self.r_max, self.box // 2 + 1)
        curve[0] = 1.0
        return curve

    def _low_sphere(self, r_low: int) -> tuple[NDArray[np.bool_], tuple[slice, slice, slice]]:
        if not 0 <= r_low <= self.r_max:
            raise ValueError(f"A low-resolution radius of {r_low} is outside 0 to {self.r_max} pixels.")
        radius = int(self.pad * r_low + 0.5)
        size = radius + 1
        centre = self.grid.shape[1] // 2
        along = slice(centre - size, centre + size + 1)
        planes = slice(0, 3) if self.ndim == 2 else along
        z = np.arange(3) - 1 if self.ndim == 2 else np.arange(-size, size + 1)
        y, x = np.arange(-size, size + 1), np.arange(size + 1)
        squared = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2
        return squared <= radius * radius, (planes, along, slice(0, size + 1))

    def _check_same_shape(self, other: BackProjector) -> None:
        if self.grid.shape != other.grid.shape or self.box != other.box:
            raise ValueError(f"Accumulators of shapes {self.grid.shape} and {other.grid.shape} cannot be combined.")


def _factors(group: Array) -> tuple[NDArray[np.int64], Array]:
    """Operators whose sums, one after the other, are the sum over a point group (S, 3, 3): int (K, 3, 3) and others.

    Those of the group that turn the grid onto itself are exact and make a subgroup K; the sum over the group is the
    one over the cosets K r of the sum over K, and interpolates for each r alone, that of K left out: for I1 4 times
    instead of 59, and each time at a twelfth of the voxels, as the operators of K turn this sum, too, onto itself.
    """
    whole = np.rint(group)
    exact = whole[np.abs(group - whole).max(axis=(1, 2)) < SAME_OPERATOR]
    cosets: list[Array] = [np.eye(3)]
    for operator in group:
        members = exact @ operator
        if not any(np.abs(members - known).max(axis=(1, 2)).min() < SAME_OPERATOR for known in cosets):
            cosets.append(operator)
    return exact.astype(np.int64), np.array(cosets[1:]).reshape(-1, 3, 3)
