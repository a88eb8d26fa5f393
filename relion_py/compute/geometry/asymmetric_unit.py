"""Which of the sampled directions are unique under a point group: one asymmetric unit of the sphere.

Facts: RELION 5 ``src/healpix_sampling.cpp`` (``removeSymmetryEquivalentPointsGeometric`` and
``removeSymmetryEquivalentPoints``).  The corners of the units are written with exact numbers; points that lie
on a border within rounding count as inside, and the seam is then thinned as in the reference.
"""

from __future__ import annotations

from math import degrees, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry.euler import direction, euler_to_matrix
from relion_py.compute.geometry.symmetry import canonical, operators
from relion_py.compute.jit import njit

# From here on the reference leaves the seams of the asymmetric units alone: the grid is fine enough.
SEAM_LIMIT = 4000
_BORDER = 1e-9

# The golden ratio, and the angle between a 5-fold and the nearest 2-fold axis of the icosahedron.
_GOLDEN = (1 + sqrt(5)) / 2
_FIVE_TO_TWO = float(np.rad2deg(np.arctan(1 / _GOLDEN)))

# Normals of the planes through the corners; inside is where all products with the direction are >= 0.
_I2_NORMALS = np.array([[0, 1, 0], [-0.5, -_GOLDEN / 2, 0.5 / _GOLDEN], [0.5, -_GOLDEN / 2, 0.5 / _GOLDEN]])
_I4_NORMALS = -np.array(
    [
        [0, 0, 1],
        [0.187592467856686, -0.303530987314591, -0.491123477863004],
        [0.187592467856686, 0.303530987314591, -0.491123477863004],
    ]
)
_NORMALS = {
    "T": np.array([[-1, 0, 0], [sqrt(2) / 3, sqrt(2 / 27), sqrt(16 / 27)], [1 / sqrt(3), 1, 0]]),
    "O": np.array([[0, -1, 1], [1, 1, 0], [-1, 1, 0]]),
    "I": _I2_NORMALS,
    "I2": _I2_NORMALS,
    "I1": _I2_NORMALS @ euler_to_matrix(0, 90, 0).T,
    "I3": _I2_NORMALS @ euler_to_matrix(0, _FIVE_TO_TWO, 0).T,
    "I4": _I4_NORMALS @ euler_to_matrix(0, -_FIVE_TO_TWO, 0).T,
}
# T and O repeat parts of their units on the far side of the sphere; the reference limits rot and tilt too.
_ROT_RANGE = {"T": (90.0, 150.0), "O": (45.0, 135.0)}


def inside_unit(rot: NDArray[np.float64], tilt: NDArray[np.float64], symmetry: str) -> NDArray[np.bool_]:
    """Which directions (degrees, rot in -180..180, tilt in 0..180) lie in the asymmetric unit of a group."""
    group = canonical(symmetry)
    if group not in _NORMALS:
        fold = int(group[1:])
        if group[0] == "C":
            return np.abs(rot) <= 180.0 / fold + _BORDER
        upper = tilt <= 90.0 + _BORDER
        return upper if fold == 1 else upper & (np.abs(rot - 90.0) <= 180.0 / fold + _BORDER)
    inside = (direction(rot, tilt) @ _NORMALS[group].T >= -_BORDER).all(axis=1)
    if group in _ROT_RANGE:
        low, high = _ROT_RANGE[group]
        inside &= (rot >= low - _BORDER) & (rot <= high + _BORDER)
    if group == "O":
        inside &= tilt <= 90.0 + _BORDER
    return inside


def unique_directions(
    rot: NDArray[np.float64], tilt: NDArray[np.float64], symmetry: str, order: int
) -> NDArray[np.int64]:
    """Indices, ascending, of the directions that the reference keeps for a point group at a HEALPix order.

    Directions on a border of the unit whose symmetry mate is nearer than half a pixel's radius to one that is
    already kept are dropped, as long as fewer than 4000 directions lie in the unit.
    """
    kept = np.flatnonzero(inside_unit(rot, tilt, symmetry))
    if len(kept) >= SEAM_LIMIT:
        return kept
    vectors = np.ascontiguousarray(direction(rot[kept], tilt[kept]))
    nearest = np.cos(np.deg2rad(0.5 * pixel_radius(order)))
    return kept[_drop_mates(vectors, np.ascontiguousarray(operators(symmetry)), nearest)]


def pixel_radius(order: int) -> float:
    """Largest distance in degrees of a pixel's corner from its centre (Healpix_Base::max_pixrad)."""
    nside = 2**order
    z = 2.0 / 3.0
    sine, phi = sqrt(1 - z * z), pi / (4 * nside)
    corner = np.array([sine * np.cos(phi), sine * np.sin(phi), z])
    z = 1.0 - (1.0 - 1.0 / nside) ** 2 / 3.0
    other = np.array([sqrt(1 - z * z), 0.0, z])
    return degrees(np.arctan2(np.linalg.norm(np.cross(corner, other)), corner @ other))


@njit(cache=True, nogil=True)
def _drop_mates(vectors, operators, nearest):  # type: ignore[no-untyped-def]
    """Mask of the vectors whose mates are all further than acos(nearest) from each vector kept before."""
    count = vectors.shape[0]
    keep = np.zeros(count, dtype=np.bool_)
    kept = np.empty((count, 3))
    number = 0
    for i in range(count):
        unique = True
        for m in range(operators.shape[0]):
            r = operators[m]  # d_k @ r . d_i = d_k . (r @ d_i)
            x = r[0, 0] * vectors[i, 0] + r[0, 1] * vectors[i, 1] + r[0, 2] * vectors[i, 2]
            y = r[1, 0] * vectors[i, 0] + r[1, 1] * vectors[i, 1] + r[1, 2] * vectors[i, 2]
            z = r[2, 0] * vectors[i, 0] + r[2, 1] * vectors[i, 1] + r[2, 2] * vectors[i, 2]
            for k in range(number):
                if kept[k, 0] * x + kept[k, 1] * y + kept[k, 2] * z > nearest:
                    unique = False
                    break
            if not unique:
                break
        if unique:
            keep[i] = True
            kept[number] = vectors[i]
            number += 1
    return keep
