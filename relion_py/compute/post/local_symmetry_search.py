"""The search for operators of local symmetry: those that bring a copy nearest to the original within its mask.

The original's surroundings are cut out around the mask's centre of mass, the copy's around where an operator, or the
copy's own mask, has its centre. Both may be binned by a window in Fourier space. For each sampled operator the
deviation is the root of the mean squared difference between the original and the copy brought back, weighted by the
mask.

Facts: RELION 5, src/local_symmetry.cpp (getMinCropSize, getLocalSearchOperatorSamplings, calculateOperatorCC, run).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.geometry.healpix import Sampling, angular_step
from relion_py.compute.image.fourier import resize_map
from relion_py.compute.image.shift import centre_of_mass
from relion_py.compute.jit import njit
from relion_py.compute.post.local_symmetry import TINY, Map, Operator, sample, standard_angles

Vector = NDArray[np.float64]
_PIECE = 256  # operators between two looks at a request to stop


@dataclass(frozen=True)
class Ranges:
    """What is searched around an operator: +/- of rot, tilt and psi and their step (degrees), +/- of x, y and z and
    their step (A). healpix: directions are centres of HEALPix pixels, not steps in rot and tilt."""

    angles: tuple[float, float, float]
    angle_step: float
    shifts: tuple[float, float, float]
    shift_step: float
    healpix: bool = False


@dataclass(frozen=True)
class Found:
    """Operators (N, 6; degrees, A) from the best to the worst, and the deviation of each (N,)."""

    operators: NDArray[np.float64]
    deviations: NDArray[np.float64]

    @property
    def best(self) -> Operator:
        return Operator(*map(float, self.operators[0]))


class Original:
    """The part of a map within a mask, cut out and binned, to which copies are compared.

    centre: whole voxels x, y, z from the map's centre. box: of what is cut out; binned: the same after binning.
    """

    def __init__(self, volume: Map, mask: Map, name: str, reach: float, binning: float) -> None:
        """volume, mask: (box, box, box). name: of the mask, for errors. reach: voxels around the mask that are cut out
        too; binning: at most by this factor, not at all if 1 or less."""
        self._volume = volume
        centre = centre_of_mass(mask)[::-1]
        places = np.argwhere(mask > TINY)[:, ::-1] - volume.shape[0] // 2
        radius = float(np.sqrt(((places - centre) ** 2).sum(axis=1).max()))
        self.centre = _whole(centre)
        self.box = 2 * ceil(radius + max(reach, 0.0))
        if self.box < 2:
            raise UserError(f"The mask {name} is too small.")
        self.binned = self._binned_box(binning)
        part = np.clip(self._cut(mask, self.centre), 0.0, 1.0)
        z, y, x = np.nonzero(part > TINY)
        if not len(z):
            raise UserError(f"Nothing of the mask {name} is left after binning; choose a smaller --bin.")
        self._weights = part[z, y, x]
        self._values = self._cut(volume, self.centre)[z, y, x]
        self._places = np.stack([x, y, z], axis=1).astype(np.float64) - self.binned // 2

    @property
    def bin(self) -> float:
        """Voxels per binned voxel."""
        return self.box / self.binned

    def _binned_box(self, binning: float) -> int:
        if binning - 1.0 <= TINY:
            return self.box
        size = ceil(self.box / binning)
        if size < 2:
            raise UserError("--bin is too large for this mask.")
        return self.box if size + 1 >= self.box else size + size % 2

    def _cut(self, volume: Map, centre: NDArray[np.int64]) -> Map:
        """The box around a place (x, y, z voxels from the map's centre), 0 outside of the map, binned."""
        out = np.zeros((self.box,) * 3, np.float32)
        source, target = [], []
        for place, length in zip(centre[::-1], volume.shape, strict=True):
            first = int(place) + length // 2 - self.box // 2
            start, stop = max(0, first), min(length, first + self.box)
            source.append(slice(start, max(start, stop)))
            target.append(slice(start - first, max(start, stop) - first))
        out[tuple(target)] = volume[tuple(source)]
        return out if self.binned == self.box else resize_map(out, self.binned)

    def compare(
        self, copy: Vector, angles: Vector, ranges: Ranges, angpix: float, share: slice, step: Callable[[int], None]
    ) -> Found:
        """The operators around one, sampled, in no order.

        copy: the centre of the copy, x, y, z in voxels from the map's centre (no whole numbers needed). angles: around
        which angles to search. share: which of the samples (MPI). step: told how many are done.
        """
        whole = _whole(copy)
        scale = angpix * self.bin
        shifts, turns = shift_samples(ranges, scale) + (copy - whole) / self.bin, angle_samples(angles, ranges)
        numbers = np.arange(len(shifts) * len(turns))[share]
        matrices, around = euler_to_matrix(*turns.T), np.empty(len(numbers))
        surroundings = self._cut(self._volume, whole)
        for first in range(0, len(numbers), _PIECE):
            some = numbers[first : first + _PIECE]
            shift, turn = shifts[some // len(turns)], matrices[some % len(turns)]
            deviations(surroundings, self._places, self._values, self._weights, turn, shift, around[first:])
            step(min(first + _PIECE, len(numbers)))
        moved = whole + shifts[numbers // len(turns)] * self.bin  # where the copy's centre then is
        moved = moved - matrices[numbers % len(turns)] @ self.centre
        return Found(np.concatenate([turns[numbers % len(turns)], moved * angpix], axis=1), around)


def in_order(parts: list[Found]) -> Found:
    """All that was found, from the best to the worst. parts: as ranks that took every n-th sample found them."""
    size = sum(len(part.deviations) for part in parts)
    operators, around = np.empty((size, 6)), np.empty(size)
    for rank, part in enumerate(parts):
        operators[rank :: len(parts)], around[rank :: len(parts)] = part.operators, part.deviations
    order = np.argsort(around, kind="stable")
    return Found(operators[order], around[order])


def sample_count(angles: Vector, ranges: Ranges, scale: float) -> int:
    """How many operators are sampled; scale: A of a (binned) voxel."""
    return len(shift_samples(ranges, scale)) * len(angle_samples(angles, ranges))


def shift_samples(ranges: Ranges, scale: float) -> Vector:
    """Steps (N, 3; x, y, z in binned voxels of `scale` A) within the ellipsoid of the ranges, x fastest."""
    reach = [max(0.0, reach / scale) for reach in ranges.shifts]
    step = ranges.shift_step / scale
    if not 1e-4 <= step <= 5.0:
        raise UserError(f"--offset_step must be between 0.0001 and 5 voxels (after binning), not {step:g}.")
    if any(TINY < r < step for r in reach):
        raise UserError("--offset_step must not be larger than the range that it goes through.")
    z, y, x = np.meshgrid(*(_steps(0.0, r, step) for r in reversed(reach)), indexing="ij")
    all_steps = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)
    size = np.array([r if r > TINY else 1e10 for r in reach])
    return all_steps[((all_steps / size) ** 2).sum(axis=1) <= 1.0 + TINY]


def angle_samples(angles: Vector, ranges: Ranges) -> Vector:
    """Euler angles (N, 3; degrees) around some, psi fastest."""
    step = ranges.angle_step
    if not 1e-4 <= step <= 30.0:
        raise UserError(f"--ang_step must be between 0.0001 and 30 degrees, not {step:g}.")
    if any(TINY < reach < step for reach in ranges.angles):
        raise UserError("--ang_step must not be larger than the range that it goes through.")
    if ranges.healpix:
        grid = _healpix_samples(angles, ranges)
    else:
        limits = (180.0, 90.0, 180.0)
        axes = [_steps(a, min(max(0.0, r), m), step) for a, r, m in zip(angles, ranges.angles, limits, strict=True)]
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    return np.array([standard_angles(*row) for row in grid.tolist()])


def _healpix_samples(angles: Vector, ranges: Ranges) -> Vector:
    """Directions of HEALPix pixels, and in-plane angles, nearer than the ranges (that of rot or tilt, the larger)."""
    order = next((n for n in range(13) if angular_step(n) < ranges.angle_step), None)
    if order is None:
        raise UserError("--ang_step is too small for --use_healpix.")
    sampling = Sampling(order)
    rot, tilt = sampling.directions()
    all_psis = sampling.psis()
    near = sampling.local_directions(angles[0], angles[1], ranges.angles[0], ranges.angles[1], 1.0).of(0)[0]
    psis = sampling.local_psis(angles[2], ranges.angles[2], 1.0).of(0)[0]
    return np.array([(rot[d], tilt[d], all_psis[p]) for d in near for p in psis])


def _steps(centre: float, reach: float, step: float) -> Vector:
    """Values around a centre, as many to each side as fit into the reach.

    RELION adds the steps up and may lose the last one by rounding.
    """
    count = int(np.floor(reach / step + TINY)) if reach > TINY else 0
    return np.asarray(centre + step * np.arange(-count, count + 1), np.float64)


def _whole(place: Vector) -> NDArray[np.int64]:
    """Rounded away from zero at halves, as C's round."""
    return (np.sign(place) * np.floor(np.abs(place) + 0.5)).astype(np.int64)


@njit(nogil=True, cache=True, error_model="numpy")
def deviations(copy, places, values, weights, matrices, shifts, out):  # type: ignore[no-untyped-def]
    """Root of the weighted mean squared difference between an original and a copy brought back, for each operator.

    copy      float32 (box, box, box): the copy's surroundings
    places    float64 (P, 3): x, y, z of the original's voxels from the centre of its box
    values    float32 (P,): of the original there; weights, float32 (P,): of its mask
    matrices  float64 (N, 3, 3), shifts (N, 3): the operators, in voxels of these boxes
    """
    centre = copy.shape[0] // 2
    whole = 0.0
    for p in range(len(weights)):
        whole += weights[p]
    for n in range(len(matrices)):
        m = matrices[n]
        dx, dy, dz = shifts[n, 0] + centre, shifts[n, 1] + centre, shifts[n, 2] + centre
        total = 0.0
        for p in range(len(weights)):
            x, y, z = places[p, 0], places[p, 1], places[p, 2]
            difference = values[p] - sample(
                copy,
                m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + dx,
                m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + dy,
                m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + dz,
            )
            total += weights[p] * difference * difference
        out[n] = np.sqrt(total / whole)
