"""Euler angles against scipy's rotations and the angles that RELION 5 printed for its symmetry operators."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from relion_py.compute.geometry.euler import (
    angular_distance,
    direction,
    euler_to_matrix,
    matrix_to_euler,
    rotation_angle,
)
from relion_py.compute.geometry.symmetry import operators


def random_angles(n: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-180, 180, n), rng.uniform(0, 180, n), rng.uniform(-180, 180, n)])


def test_matrices_are_intrinsic_zyz_transposed() -> None:
    angles = random_angles(200)
    expected = Rotation.from_euler("ZYZ", angles.T, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(euler_to_matrix(*angles), expected, atol=1e-12)


def test_round_trip_and_poles() -> None:
    angles = random_angles(500)
    np.testing.assert_allclose(matrix_to_euler(euler_to_matrix(*angles)), angles, atol=1e-9)
    rot, tilt, psi = matrix_to_euler(euler_to_matrix([30.0, 30.0], [0.0, 180.0], [50.0, 50.0]))
    np.testing.assert_allclose(rot, 0.0)
    np.testing.assert_allclose(tilt, [0.0, 180.0])
    np.testing.assert_allclose(psi, [80.0, 20.0], atol=1e-9)
    assert euler_to_matrix(1.0, 2.0, 3.0).shape == (3, 3)


def test_direction_is_the_third_row() -> None:
    rot, tilt, psi = random_angles(50)
    np.testing.assert_allclose(direction(rot, tilt), euler_to_matrix(rot, tilt, psi)[:, 2], atol=1e-12)


def test_angular_distance_is_the_mean_over_axes() -> None:
    a, b = euler_to_matrix(*random_angles(40)), euler_to_matrix(*random_angles(40, seed=2))
    for name in ("C1", "D7", "O"):
        expected = []
        for first, second in zip(a, b, strict=True):
            mates = [second @ r for r in operators(name)]
            dots = [np.clip(np.sum(first * mate, axis=1), -1, 1) for mate in mates]
            expected.append(min(np.rad2deg(np.arccos(d)).mean() for d in dots))
        np.testing.assert_allclose(angular_distance(a, b, operators(name)), expected, atol=1e-5)


def test_rotation_angle_is_the_magnitude_of_the_rotation() -> None:
    a, b = euler_to_matrix(*random_angles(40)), euler_to_matrix(*random_angles(40, seed=2))
    expected = np.rad2deg((Rotation.from_matrix(a) * Rotation.from_matrix(b).inv()).magnitude())
    np.testing.assert_allclose(rotation_angle(a, b), expected, atol=1e-5)
    group = operators("I1")
    np.testing.assert_allclose(rotation_angle(a, a @ group[37], group), 0.0, atol=1e-4)


def test_one_against_many() -> None:
    a = euler_to_matrix(*random_angles(5))
    assert angular_distance(a, np.eye(3)).shape == (5,)
