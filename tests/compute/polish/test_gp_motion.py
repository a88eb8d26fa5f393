"""The Gaussian process of motion: its energy by brute force, its gradient by finite differences, its minimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from relion_py.compute.polish.gp_motion import MotionFit, MotionPrior, deformation_basis
from relion_py.compute.polish.kernels import interpolate_all

P, F, N = 6, 5, 16


def rough_maps(seed: int = 0) -> np.ndarray:
    """Correlation maps that are smooth and periodic, float32 (P, F, N, N)."""
    noise = np.random.default_rng(seed).standard_normal((P, F, N, N))
    return ndimage.gaussian_filter(noise, (0, 0, 1.5, 1.5), mode="wrap").astype(np.float32) * 20


def cubic(samples: np.ndarray, t: float) -> float:
    """Keys' cubic through four samples at -1, 0, 1, 2 with slopes by central differences."""
    a, b, c, d = samples
    slope0, slope1 = (c - a) / 2, (d - b) / 2
    return (
        (2 * t**3 - 3 * t**2 + 1) * b + (t**3 - 2 * t**2 + t) * slope0
        + (3 * t**2 - 2 * t**3) * c + (t**3 - t**2) * slope1
    )  # fmt: skip


def value_at(image: np.ndarray, x: float, y: float) -> float:
    column, row = int(np.floor(x)), int(np.floor(y))
    rows = [
        cubic([float(image[(row + i) % N, (column + j) % N]) for j in range(-1, 3)], x - column) for i in range(-1, 3)
    ]
    return cubic(np.array(rows), y - row)


def test_maps_are_interpolated_by_cubic_convolution_across_their_edges():
    maps = rough_maps()
    places = np.random.default_rng(1).uniform(-N, 2 * N, (P, F, 2))
    values, slopes = np.empty((P, F)), np.empty((P, F, 2))
    interpolate_all(maps, places, values, slopes)
    expected = [[value_at(maps[p, f], *places[p, f]) for f in range(F)] for p in range(P)]
    np.testing.assert_allclose(values, expected, atol=1e-9)


@pytest.fixture
def fit() -> tuple[MotionFit, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    positions = rng.uniform(0, 300, (P, 2))
    basis, values = deformation_basis(positions, MotionPrior(0.7, 150.0, 0.4))
    offsets = rng.standard_normal((F, 2))
    return MotionFit(rough_maps(), basis, values, 0.4, offsets, 1.0), positions, offsets


def test_energy_is_that_of_the_paper(fit):
    """- sum CC + |c|^2 + sum lambda |change of c|^2 / s_acc^2, written out with loops."""
    motion, positions, offsets = fit
    kernel = 0.7**2 * np.exp(-np.linalg.norm(positions[:, None] - positions, axis=2) / 150.0)
    x = np.random.default_rng(2).standard_normal(2 * P + 2 * (F - 1) * P)
    starts, c = x[: 2 * P].reshape(P, 2), x[2 * P :].reshape(F - 1, P, 2)
    values, vectors = np.linalg.eigh(kernel)
    values, vectors = values[::-1], vectors[:, ::-1]
    sign = np.sign((vectors * motion._basis).sum(axis=0))  # an eigenvector's sign is arbitrary
    expected = 0.0
    maps = rough_maps()
    for p in range(P):
        place = starts[p].copy()
        for f in range(F):
            expected -= value_at(maps[p, f], *(place + offsets[f]))
            if f < F - 1:
                place += sum(np.sqrt(values[d]) * sign[d] * vectors[p, d] * c[f, d] for d in range(P))
    expected += (c**2).sum()
    expected += sum(values[d] * ((c[f + 1, d] - c[f, d]) ** 2).sum() / 0.4**2 for f in range(F - 2) for d in range(P))
    assert motion.energy(x)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("pad", "acceleration"), [(1.0, 0.4), (2.0, 0.4), (1.0, -1.0)])
def test_gradient_agrees_with_finite_differences(pad, acceleration):
    rng = np.random.default_rng(7)
    basis, values = deformation_basis(rng.uniform(0, 300, (P, 2)), MotionPrior(0.7, 150.0, acceleration))
    motion = MotionFit(rough_maps(3), basis, values, acceleration, rng.standard_normal((F, 2)), pad)
    x = rng.standard_normal(2 * P + 2 * (F - 1) * P)
    _, gradient = motion.energy(x)
    step = 1e-6
    numerical = [(motion.energy(x + step * e)[0] - motion.energy(x - step * e)[0]) / (2 * step) for e in np.eye(len(x))]
    np.testing.assert_allclose(gradient, numerical, atol=2e-6 * np.abs(gradient).max())


def test_parameters_and_tracks_are_the_same_thing(fit):
    motion = fit[0]
    tracks = np.random.default_rng(4).standard_normal((P, F, 2))
    np.testing.assert_allclose(motion.tracks_of(motion.parameters_of(tracks)), tracks, atol=1e-9)


@pytest.mark.parametrize("squared", [False, True])
def test_the_basis_has_the_prior_covariance(squared):
    """B c with unit-variance c has covariance s_vel^2 k(distance)."""
    positions = np.random.default_rng(0).uniform(0, 500, (12, 2))
    basis, values = deformation_basis(positions, MotionPrior(0.5, 200.0, 1.0), squared)
    distance = np.linalg.norm(positions[:, None] - positions, axis=2)
    kernel = np.exp(-(distance**2) / (2 * 200.0**2)) if squared else np.exp(-distance / 200.0)
    np.testing.assert_allclose(basis @ basis.T, 0.25 * kernel, atol=1e-9)
    np.testing.assert_allclose((basis**2).sum(axis=0), values, rtol=1e-9)
    assert (np.diff(values) <= 0).all()
    assert deformation_basis(positions, MotionPrior(0.5, 200.0, 1.0), squared, 3)[0].shape == (12, 3)


def test_the_minimum_follows_peaks_and_is_as_stiff_as_the_prior():
    """High peaks along tracks are followed; with a prior of almost no motion nothing moves."""
    n, frames = 32, 6
    k = np.arange(n)
    rng = np.random.default_rng(2)
    positions = rng.uniform(0, 100, (8, 2))
    truth = np.cumsum(rng.normal(0.5, 0.1, (8, frames, 2)), axis=1)
    truth -= truth[:, :1]
    away = [(k - truth[..., axis, None] + n / 2) % n - n / 2 for axis in (0, 1)]
    peaks = 1000 * np.exp(-(away[0][..., None, :] ** 2 + away[1][..., :, None] ** 2) / 18).astype(np.float32)

    def found(velocity):
        basis, values = deformation_basis(positions, MotionPrior(velocity, 100.0, 5.0))
        return MotionFit(peaks, basis, values, 5.0).best(np.zeros_like(truth))

    assert np.abs(found(1.0) - truth).max() < 0.1
    still = found(1e-4)
    assert np.abs(still - still[:, :1]).max() < 0.01
