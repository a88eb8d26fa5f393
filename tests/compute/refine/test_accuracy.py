"""Expected errors of angles and offsets against projections of Gaussian blobs that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.refine.accuracy import expected_errors, random_axes
from relion_py.compute.refine.images import DiscPixels
from relion_py.compute.refine.projector import FourierReference

BOX, PIXEL, WIDTH = 32, 3.0, 1.4  # pixels, A, pixels
ENOUGH = -np.log(0.01)


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Places (B, 3) x, y, z in pixels from the centre, and weights (B,)."""
    rng = np.random.default_rng(6)
    return rng.uniform(-5, 5, (12, 3)), rng.uniform(0.5, 1.5, 12)


@pytest.fixture(scope="module")
def reference(blobs: tuple[np.ndarray, np.ndarray]) -> FourierReference:
    places, weights = blobs
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    volume = np.zeros((BOX,) * 3)
    for (bx, by, bz), weight in zip(places, weights, strict=True):
        volume += weight * np.exp(-((x - bx) ** 2 + (y - by) ** 2 + (z - bz) ** 2) / (2 * WIDTH**2))
    return FourierReference.from_map(volume.astype(np.float32), 20, 2.0)


def view(blobs: tuple[np.ndarray, np.ndarray], angles: tuple[float, float, float], pixels: DiscPixels) -> np.ndarray:
    """The projection's transform divided by box^2, in closed form."""
    places, weights = blobs
    seen = places @ euler_to_matrix(*(np.array([a]) for a in angles))[0].T
    k2 = (pixels.kx**2 + pixels.ky**2) / BOX**2
    phase = np.exp(-2j * np.pi * (np.outer(seen[:, 0], pixels.kx) + np.outer(seen[:, 1], pixels.ky)) / BOX)
    envelope = (2 * np.pi * WIDTH**2) ** 1.5 * np.exp(-2 * np.pi**2 * WIDTH**2 * k2)
    return envelope * (weights @ phase) / BOX**2


def first_distinguishable(errors: list[float], difference: object) -> float:
    for error in errors:
        if difference(error) > ENOUGH:  # type: ignore[operator]
            return error
    return errors[-1]


def ladder(steps: list[tuple[float, float]], largest: float) -> list[float]:
    """The reference's: the next error is a step further, the step growing with the error."""
    found, error = [], 0.0
    while error <= largest:
        error += next(step for below, step in steps if error < below)
        found.append(error)
    return found


@pytest.mark.parametrize("noise", [3e-4, 2e-3, 1e-2])
def test_one_particle_by_brute_force(blobs, reference, noise: float) -> None:
    pixels = DiscPixels.of_size(20)
    rng = np.random.default_rng(1)
    ctf = rng.uniform(0.3, 1.0, (1, pixels.size)).astype(np.float32)
    inverse = np.full((1, BOX // 2 + 1), 1.0 / noise, np.float32)
    angles = (35.0, 70.0, -20.0)
    first = view(blobs, angles, pixels)
    weight = ctf[0].astype(float) ** 2 / noise / 2.0

    def turned(axis: int, error: float) -> float:
        other = list(angles)
        other[axis] += error
        return float(np.sum(weight * np.abs(view(blobs, tuple(other), pixels) - first) ** 2))

    def moved(axis: int, error: float) -> float:
        phase = np.exp(-2j * np.pi * error * (pixels.kx, pixels.ky)[axis] / BOX)
        return float(np.sum(weight * np.abs(first * phase - first) ** 2))

    small = [(0.2, 0.05), (1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0)]
    rungs = ladder([*small, (20.0, 2.0), (np.inf, 5.0)], 30.0)
    shifts = ladder([*small, (np.inf, 2.0)], 10.0)
    by_angle = [first_distinguishable(rungs, lambda e, a=axis: turned(a, e)) for axis in range(3)]
    by_shift = [first_distinguishable(shifts, lambda e, a=axis: moved(a, e)) * PIXEL for axis in range(2)]
    matrix = euler_to_matrix(*(np.array([a]) for a in angles))
    seen_angles, seen_shifts = set(), set()
    for seed in range(12):
        axes = random_axes(1, np.random.default_rng(seed))
        rot, trans, contribution = expected_errors(reference, matrix, ctf, inverse, pixels, PIXEL, *axes)
        seen_angles.add(int(np.argmin(np.abs(np.array(by_angle) - rot))))
        seen_shifts.add(int(np.argmin(np.abs(np.array(by_shift) - trans))))
        # interpolation may move a result by one rung
        assert np.min(np.abs(np.array(by_angle) / rot - 1.0)) < 0.12
        assert np.min(np.abs(np.array(by_shift) / trans - 1.0)) < 0.12
        # what shells tell of the turned view is what makes it another one
        assert contribution.sum() == pytest.approx(turned(int(axes[0][0]), rot), rel=0.05) and contribution[0] == 0.0
        assert (contribution[11:] == 0.0).all()
    assert len(seen_angles) > 1 or len(set(by_angle)) == 1
    assert len(seen_shifts) > 1 or len(set(by_shift)) == 1


def test_errors_grow_with_the_noise_to_their_limit(reference) -> None:
    pixels = DiscPixels.of_size(20)
    rng = np.random.default_rng(3)
    matrices = euler_to_matrix(*rng.uniform(-180, 180, (3, 40)))
    ctf = np.ones((40, pixels.size), np.float32)
    axes = random_axes(40, np.random.default_rng(2))
    found = [
        expected_errors(
            reference, matrices, ctf, np.full((40, BOX // 2 + 1), 1.0 / noise, np.float32), pixels, PIXEL, *axes
        )[:2]
        for noise in (1e-5, 1e-4, 1e-3, 1e-2, 1e6)
    ]
    rot, trans = np.array(found).T / 40
    assert (np.diff(rot) > 0).all() and (np.diff(trans) > 0).all()
    # for small errors the likelihood ratio grows with their square: ten times the noise, sqrt(10) times the error
    assert rot[1] / rot[0] == pytest.approx(np.sqrt(10.0), rel=0.25)
    assert rot[-1] > 30.0 and trans[-1] > 10.0 * PIXEL


def test_axes_of_images_in_the_plane_are_psi_and_of_others_all_three() -> None:
    axes, along_x = random_axes(200, np.random.default_rng(4))
    assert set(axes) == {0, 1, 2} and set(along_x) == {True, False}
    assert set(random_axes(200, np.random.default_rng(4), in_plane_only=True)[0]) == {2}
