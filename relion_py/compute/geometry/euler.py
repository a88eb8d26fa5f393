"""RELION's Euler angles (rot, tilt, psi; degrees; ZYZ) and rotation matrices.

The matrix A of (rot, tilt, psi) carries a vector of the reference's frame into the projection's frame
(``v_image = A @ v_map``); the third row of A is the direction of projection seen from the map, and a
Fourier pixel (kx, ky) of the projection lies at ``kx * A[0] + ky * A[1]`` of the map's transform.

Facts: RELION 5 ``src/euler.cpp``, and ``calculateAngularDistance`` in ``src/healpix_sampling.cpp``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from relion_py.compute.jit import njit

# Below this sine of tilt, rot and psi turn about the same axis and rot is set to 0 (16 * FLT_EPSILON).
POLAR_SINE = 16 * float(np.finfo(np.float32).eps)


def euler_to_matrix(rot: ArrayLike, tilt: ArrayLike, psi: ArrayLike) -> NDArray[np.float64]:
    """Rotation matrices of Euler angles in degrees: shape of the (broadcast) angles + (3, 3), float64.

    N angles give (N, 3, 3), scalars (3, 3).  Source: ``Euler_angles2matrix``.
    """
    alpha, beta, gamma = np.broadcast_arrays(*(np.deg2rad(np.asarray(a, np.float64)) for a in (rot, tilt, psi)))
    ca, cb, cg = np.cos(alpha), np.cos(beta), np.cos(gamma)
    sa, sb, sg = np.sin(alpha), np.sin(beta), np.sin(gamma)
    matrix = np.empty((*alpha.shape, 3, 3))
    matrix[..., 0, 0] = cg * cb * ca - sg * sa
    matrix[..., 0, 1] = cg * cb * sa + sg * ca
    matrix[..., 0, 2] = -cg * sb
    matrix[..., 1, 0] = -sg * cb * ca - cg * sa
    matrix[..., 1, 1] = -sg * cb * sa + cg * ca
    matrix[..., 1, 2] = sg * sb
    matrix[..., 2, 0] = sb * ca
    matrix[..., 2, 1] = sb * sa
    matrix[..., 2, 2] = cb
    return matrix


def matrix_to_euler(
    matrix: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(rot, tilt, psi) in degrees of rotation matrices (..., 3, 3); tilt in 0..180, the others in -180..180.

    Where tilt is 0 or 180, rot is 0 and psi takes the whole turn.  Source: ``Euler_matrix2angles``.
    """
    a = np.asarray(matrix, dtype=np.float64)
    sine = np.hypot(a[..., 0, 2], a[..., 1, 2])
    polar = sine <= POLAR_SINE
    upward = a[..., 2, 2] >= 0.0
    rot = np.where(polar, 0.0, np.arctan2(a[..., 2, 1], a[..., 2, 0]))
    tilt = np.where(polar, np.where(upward, 0.0, np.pi), np.arctan2(sine, a[..., 2, 2]))
    turn = np.where(upward, np.arctan2(-a[..., 1, 0], a[..., 0, 0]), np.arctan2(a[..., 1, 0], -a[..., 0, 0]))
    psi = np.where(polar, turn, np.arctan2(a[..., 1, 2], -a[..., 0, 2]))
    return np.rad2deg(rot), np.rad2deg(tilt), np.rad2deg(psi)


def wrapped(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles, or differences of angles, in degrees, from -180 up to 180."""
    return (angle + 180.0) % 360.0 - 180.0


def direction(rot: ArrayLike, tilt: ArrayLike) -> NDArray[np.float64]:
    """Unit vectors (..., 3) of the projection directions (rot, tilt) in degrees, in the map's frame."""
    alpha, beta = np.broadcast_arrays(*(np.deg2rad(np.asarray(a, np.float64)) for a in (rot, tilt)))
    return np.stack([np.sin(beta) * np.cos(alpha), np.sin(beta) * np.sin(alpha), np.cos(beta)], axis=-1)


@njit(cache=True, nogil=True)
def _mean_axis_angle(first, second, operators, out):  # type: ignore[no-untyped-def]
    for n in range(first.shape[0]):
        best = 4.0
        for m in range(operators.shape[0]):
            total = 0.0
            for row in range(3):
                product = 0.0
                for column in range(3):
                    turned = 0.0
                    for k in range(3):
                        turned += second[n, row, k] * operators[m, k, column]
                    product += first[n, row, column] * turned
                total += np.arccos(min(1.0, max(-1.0, product)))
            best = min(best, total / 3.0)
        out[n] = best * 180.0 / np.pi


def angular_distance(first: ArrayLike, second: ArrayLike, operators: ArrayLike | None = None) -> NDArray[np.float64]:
    """RELION's angular distance in degrees (N,) between rotation matrices (N, 3, 3) or (3, 3).

    It is the mean of the angles between the three pairs of axes, the least over ``second @ operators[m]``;
    operators: (M, 3, 3) from :func:`relion_py.compute.geometry.symmetry.operators`, None for no symmetry.
    This is what RELION reports as changes of angles; it is not the angle of the rotation between the two
    (see :func:`rotation_angle`).  Source: ``HealpixSampling::calculateAngularDistance``.
    """
    a, b = _pairs(first, second)
    group = np.eye(3)[None] if operators is None else np.ascontiguousarray(operators, dtype=np.float64)
    out = np.empty(len(a))
    _mean_axis_angle(a, b, group, out)
    return out


def rotation_angle(first: ArrayLike, second: ArrayLike, operators: ArrayLike | None = None) -> NDArray[np.float64]:
    """Degrees (N,) of the rotation that carries one orientation to the other, the least over symmetry."""
    a, b = _pairs(first, second)
    group = np.eye(3)[None] if operators is None else np.asarray(operators, dtype=np.float64)
    trace = np.einsum("nij,nik,mkj->nm", a, b, group, optimize=True).max(axis=1)
    return np.rad2deg(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))


def _pairs(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a = np.asarray(first, dtype=np.float64).reshape(-1, 3, 3)
    b = np.asarray(second, dtype=np.float64).reshape(-1, 3, 3)
    a, b = np.broadcast_arrays(a, b)
    return np.ascontiguousarray(a), np.ascontiguousarray(b)
