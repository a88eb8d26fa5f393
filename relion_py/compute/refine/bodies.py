"""The bodies of a multi-body refinement: their masks, centres and axes, and how their poses are written.

A particle's consensus pose is the Euler matrix C, rows x, y and the direction of projection, and its origin. A body b
of it has its centre of mass at c (pixels of the map, x, y, z, from the box's centre), and is turned about this centre
by a rotation Q of the map's frame and moved in the image. Its own Euler matrix is C Q. Q is told by three residual
angles in a frame R whose z axis is the body's axis of rotation,

    Q = R^T Y E(rot, tilt, psi) R,     Y = E(0, 90, 0)^-1

so that (0, 90, 0) is no rotation at all: near tilt 90 the three angles are about different axes, near 0 rot and psi
would not be told apart. The residual origin (A) is added to the consensus one to bring the body to where the consensus
pose puts it.

Facts: RELION 5, ml_model.cpp (initialiseBodies), transformations.cpp (alignWithZ, rotation3DMatrix), ml_optimiser.cpp
(getAllSquaredDifferences). Method: Nakane et al. (2018) eLife 7:e36861.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.compute.io.mrc import read_map
from relion_py.compute.io.star import Table
from relion_py.compute.refine.reference import SAME_PIXEL_SIZE

Volume = NDArray[np.float32]
Matrices = NDArray[np.float64]

NO_TURN = (0.0, 90.0, 0.0)
"""Residual rot, tilt and psi (degrees) of a body that is where the consensus has it."""
_UPRIGHT = euler_to_matrix(*NO_TURN).T
"""Y: what makes these angles no rotation."""
_NO_SIGMA = 1e-3
"""Standard deviations below this, degrees or A, are none."""
_IN_MASK = 0.05
"""Voxels above this belong to a body when its radius is measured."""
_OUTSIDE = 1e-3
"""How far a mask's values may be out of 0 ... 1, by rounding."""


@dataclass(frozen=True)
class Body:
    """One row of the body STAR file.

    mask (N, N, N) 0 to 1; centre (3,) whole pixels x, y, z from the box's centre; radius (A): of the mask about it;
    axis (3,): unit vector from the centre to that of the body it turns against; frame (3, 3): R of the module, rows.
    sigma_tilt (of rot and tilt together), sigma_psi (degrees) and sigma_offset (A): of the Gaussian priors.
    reference: map to begin with, "" for the consensus map.
    """

    name: str
    mask: Volume
    centre: NDArray[np.int64]
    radius: float
    axis: NDArray[np.float64]
    frame: NDArray[np.float64]
    sigma_tilt: float
    sigma_psi: float
    sigma_offset: float
    reference: str = ""

    @property
    def is_fixed(self) -> bool:
        """Whether the body does not move at all: all its standard deviations are 0."""
        return max(self.sigma_tilt, self.sigma_psi, self.sigma_offset) < _NO_SIGMA

    def own_matrices(self, consensus: Matrices, residual: Matrices) -> Matrices:
        """Euler matrices (N, 3, 3) of the body from those of the particles and of its residual angles."""
        return self.left(consensus) @ residual @ self.frame

    def residual_matrices(self, consensus: Matrices, own: Matrices) -> Matrices:
        """The inverse: residual (N, 3, 3) of the body's own Euler matrices."""
        return np.swapaxes(self.left(consensus), -1, -2) @ own @ self.frame.T

    def left(self, consensus: Matrices) -> Matrices:
        """C R^T Y (N, 3, 3): what stands to the left of the residual matrix."""
        return consensus @ (self.frame.T @ _UPRIGHT)

    def turn(self, residual: Matrices) -> Matrices:
        """Q (..., 3, 3): the rotation of the body in the map's frame, about its centre."""
        return self.frame.T @ _UPRIGHT @ residual @ self.frame


@dataclass(frozen=True)
class Bodies:
    """All bodies of a file. `path` is its name; masks of two bodies may overlap.

    subtracted(i, o): the mask of what is subtracted for body o from the images of body i. A voxel is not subtracted
    as far as it belongs to body i itself, nor twice where several others share it.
    """

    path: str
    bodies: tuple[Body, ...]
    _subtracted: dict[tuple[int, int], Volume] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.bodies)

    def __getitem__(self, index: int) -> Body:
        return self.bodies[index]

    def subtracted(self, body: int, other: int) -> Volume | None:
        """The mask, or None where it is the other body's own."""
        return self._subtracted.get((body, other))


def read_bodies(path: str, box: int, pixel_size: float, *, normalise_overlap: bool = False) -> Bodies:
    """The bodies of a STAR file, for maps of `box` pixels of `pixel_size` A.

    normalise_overlap: where masks overlap to more than 1, they are divided by their sum, and each is subtracted whole.
    Raises UserError, one sentence, for what is missing or cannot be.
    """
    rows = _body_table(path)
    masks, centres, radii = [], [], []
    for name in rows.strings("rlnBodyMaskName"):
        mask = _read_mask(name, path, box, pixel_size)
        centre, exact = _centre(mask)
        masks.append(mask)
        centres.append(centre)
        radii.append(_radius(mask, exact, pixel_size))
    axes = _axes(rows, centres, path)
    tilt, psi, offset = _sigmas(rows, pixel_size, path)
    names = rows.strings("rlnBodyReferenceName") if "rlnBodyReferenceName" in rows else ["None"] * len(masks)
    if normalise_overlap:
        _share_overlap(masks)
    bodies = tuple(
        Body(
            rows.strings("rlnBodyMaskName")[b], masks[b], centres[b], radii[b], axes[b], align_with_z(-axes[b]),
            float(tilt[b]), float(psi[b]), float(offset[b]), "" if names[b] in ("", "None") else names[b],
        )
        for b in range(len(masks))
    )  # fmt: skip
    for number, body in enumerate(bodies, 1):
        _check_sigmas(body, number, path)
    return Bodies(path, bodies, {} if normalise_overlap else _subtracted_masks(masks))


def _body_table(path: str) -> Table:
    if not os.path.exists(path):
        raise UserError(f"The bodies file {path} does not exist: name it with --multibody_masks.")
    for table in star.read(path).values():
        if "rlnBodyMaskName" in table:
            if len(table) < 2:
                raise UserError(f"{path} has {len(table)} bodies; multi-body refinement needs two or more.")
            return table
    raise UserError(f"{path} has no column _rlnBodyMaskName: it does not describe bodies.")


def _read_mask(name: str, path: str, box: int, pixel_size: float) -> Volume:
    if not os.path.exists(name):
        raise UserError(f"{path} names the mask {name}, which does not exist.")
    mask, own = read_map(name)
    if mask.shape != (box,) * 3:
        raise UserError(f"The body mask {name} has {mask.shape[-1]} pixels, but the maps have {box}: make it of a map.")
    if own > 0 and abs(own - pixel_size) > SAME_PIXEL_SIZE:
        raise UserError(f"The body mask {name} has pixels of {own:g} A, but the maps have {pixel_size:g} A.")
    low, high = float(mask.min()), float(mask.max())
    if not (low >= -_OUTSIDE and high <= 1.0 + _OUTSIDE):
        raise UserError(f"The body mask {name} has values from {low:g} to {high:g}; they must be from 0 to 1.")
    if high <= _IN_MASK:
        raise UserError(f"The body mask {name} is empty.")
    return np.clip(mask, 0.0, 1.0)


def _centre(mask: Volume) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Centre of mass of a mask, x, y, z from the box's centre: in whole pixels (halves away from zero), and exact."""
    total, centre = float(mask.sum(dtype=np.float64)), np.zeros(3)
    for place in range(3):
        axis = 2 - place
        others = tuple(a for a in range(3) if a != axis)
        profile = mask.sum(axis=others, dtype=np.float64)
        centre[place] = profile @ (np.arange(len(mask)) - len(mask) // 2) / total
    return (np.sign(centre) * np.floor(np.abs(centre) + 0.5)).astype(np.int64), centre


def _radius(mask: Volume, centre: NDArray[np.float64], pixel_size: float) -> float:
    z, y, x = np.nonzero(mask > _IN_MASK)
    half = len(mask) // 2
    squared = (x - half - centre[0]) ** 2 + (y - half - centre[1]) ** 2 + (z - half - centre[2]) ** 2
    return math.ceil(pixel_size * math.sqrt(int(squared.max())))


def _axes(rows: Table, centres: Sequence[NDArray[np.int64]], path: str) -> list[NDArray[np.float64]]:
    """Unit vectors of rotation: towards the centre of another body, as given, or towards the box's centre."""
    labels = [f"rlnBodyRotateDirection{axis}" for axis in "XYZ"]
    given = np.stack([rows.floats(label) for label in labels], axis=1) if all(k in rows for k in labels) else None
    relative = rows.ints("rlnBodyRotateRelativeTo") if "rlnBodyRotateRelativeTo" in rows else [0] * len(centres)
    axes = []
    for b, other in enumerate(relative):
        if other > len(centres) or other == b + 1:
            raise UserError(f"{path}: body {b + 1} cannot rotate relative to body {other}.")
        if other > 0:
            direction = (centres[other - 1] - centres[b]).astype(np.float64)
        else:
            direction = -centres[b].astype(np.float64) if given is None else given[b]
        length = float(np.linalg.norm(direction))
        axes.append(direction / length if length > 0 else np.zeros(3))
    return axes


def _sigmas(rows: Table, pixel_size: float, path: str) -> tuple[NDArray, NDArray, NDArray]:
    if "rlnBodySigmaAngles" in rows:
        tilt = psi = rows.floats("rlnBodySigmaAngles")
    elif "rlnBodySigmaTilt" in rows and "rlnBodySigmaPsi" in rows:
        tilt, psi = rows.floats("rlnBodySigmaTilt"), rows.floats("rlnBodySigmaPsi")
    else:
        raise UserError(f"{path} has no column _rlnBodySigmaAngles, nor _rlnBodySigmaTilt and _rlnBodySigmaPsi.")
    if "rlnBodySigmaOffsetAngst" in rows:
        return tilt, psi, rows.floats("rlnBodySigmaOffsetAngst")
    if "rlnBodySigmaOffset" in rows:  # pixels, of older files
        return tilt, psi, rows.floats("rlnBodySigmaOffset") * pixel_size
    raise UserError(f"{path} has no column _rlnBodySigmaOffsetAngst.")


def _check_sigmas(body: Body, number: int, path: str) -> None:
    sigmas = (body.sigma_tilt, body.sigma_psi, body.sigma_offset)
    if not (np.isfinite(sigmas).all() and min(sigmas) >= 0):
        raise UserError(f"{path}: the standard deviations of body {number} must be numbers that are not negative.")
    if not body.is_fixed and min(sigmas) < _NO_SIGMA:
        raise UserError(
            f"{path}: body {number} has a standard deviation of 0 and others that are not: give all of them, or 0 for "
            "all to keep the body where it is."
        )
    if max(sigmas[:2]) > 90.0:
        raise UserError(f"{path}: body {number} has a standard deviation of more than 90 degrees.")


def align_with_z(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix (3, 3), rows, that turns a unit vector (3,) to z (transformations.cpp, alignWithZ)."""
    x, y, z = axis
    across = math.hypot(y, z)
    if across > 1e-6:
        return np.array([[across, -x * y / across, -x * z / across], [0.0, z / across, -y / across], [x, y, z]])
    sign = 1.0 if x > 0 else -1.0
    return np.array([[0.0, 0.0, -sign], [0.0, 1.0, 0.0], [sign, 0.0, 0.0]])


def _share_overlap(masks: list[Volume]) -> None:
    total = np.sum(masks, axis=0)
    for b, mask in enumerate(masks):
        masks[b] = np.where(total > 1.0, mask / np.maximum(total, 1e-9), mask).astype(np.float32)


def _subtracted_masks(masks: Sequence[Volume]) -> dict[tuple[int, int], Volume]:
    """Masks of what is subtracted, where they are not those of the bodies (ml_model.cpp, pointer_body_overlap)."""
    result: dict[tuple[int, int], Volume] = {}
    for b, mine in enumerate(masks):
        taken = mine.copy()  # what belongs to this body, or was subtracted with another one
        for other, mask in enumerate(masks):
            if other == b:
                continue
            shared = taken * mask
            if float(shared.sum(dtype=np.float64)) > 0:
                result[b, other] = mask - shared
            taken = taken + result.get((b, other), mask)
    return result


def moved(volume: Volume, shift: NDArray[np.integer]) -> Volume:
    """The map moved by whole pixels x, y, z; zeros come in."""
    result = np.zeros_like(volume)
    source, target = [], []
    for axis in range(3):
        by, n = int(shift[2 - axis]), volume.shape[axis]
        target.append(slice(max(by, 0), max(min(n + by, n), 0)))
        source.append(slice(max(-by, 0), max(min(n - by, n), 0)))
    result[tuple(target)] = volume[tuple(source)]
    return result


def bild(bodies: Bodies, box: int, pixel_size: float) -> str:
    """The bodies' centres and axes as a drawing for Chimera (ml_model.cpp, writeBildFileBodies)."""
    middle = box // 2 * pixel_size
    lines = [".color 0 0 0 ", f".sphere {middle:g} {middle:g} {middle:g} 3 "]
    for number, body in enumerate(bodies.bodies, 1):
        red, green, blue = _rainbow((number - 1) / len(bodies))
        place = (body.centre + 1) * pixel_size + middle
        tip = place + 10.0 * pixel_size * body.axis
        x, y, z = place
        lines += [
            f".color {red:g} {green:g} {blue:g}",
            f".sphere {x:g} {y:g} {z:g} 3 ",
            f".cmov {x + 5:g} {y + 5:g} {z + 5:g}",
            f"body {number}",
            f".arrow {x:g} {y:g} {z:g} {tip[0]:g} {tip[1]:g} {tip[2]:g} 1 ",
        ]
    return "\n".join(lines) + "\n"


def _rainbow(hue: float) -> tuple[float, float, float]:
    """Red, green and blue, 0 to 1, of a full colour, hue 0 to 1."""
    red, green, blue = (min(max(abs((hue * 6.0 - at) % 6.0 - 3.0) - 1.0, 0.0), 1.0) for at in (0.0, 2.0, 4.0))
    return red, green, blue


def write_bodies(bodies: Bodies, root: str, box: int, pixel_size: float, write: Callable[[str, Volume], None]) -> None:
    """ROOT_bodyNNN_mask.mrc of each, by write(path, mask), and ROOT_bodies.bild."""
    for number, body in enumerate(bodies.bodies, 1):
        write(f"{root}_body{number:03d}_mask.mrc", body.mask)
    atomic_write(f"{root}_bodies.bild", bild(bodies, box, pixel_size).encode())
