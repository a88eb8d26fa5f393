"""Training of motion parameters: the sample, the simplex, and the judgement by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.polish.kernels import agreement_along, correlate_along
from relion_py.compute.polish.micrographs import Micrograph
from relion_py.compute.polish.training import TrainingSettings, chosen_micrographs, downhill_simplex


def micrographs(counts: list[int]) -> list[Micrograph]:
    return [Micrograph(f"mic{n}", f"out/mic{n}", np.arange(count), "") for n, count in enumerate(counts, 1)]


def test_the_sample_is_that_of_relion():
    """RELION 3.1.3 with the default seed takes the fourth and then the fifth of six micrographs."""
    found, count = chosen_micrographs(micrographs([37, 34, 36, 34, 33, 33]), TrainingSettings(min_particles=60))
    assert [one.name for one in found] == ["mic4", "mic5"]
    assert count == 67
    found, _ = chosen_micrographs(micrographs([37, 34, 36, 1, 33, 33]), TrainingSettings(min_particles=30))
    assert [one.name for one in found] == ["mic5"]
    with pytest.raises(UserError, match="two particles"):
        chosen_micrographs(micrographs([1, 1]), TrainingSettings())


def test_the_simplex_goes_downhill_to_the_minimum():
    steps: list[float] = []
    best = downhill_simplex(
        lambda x: float(((x - [3.0, -2.0, 5.0]) ** 2).sum()), np.zeros(3), 2.0, 1e-4, 500,
        lambda iteration, value, x: steps.append(value),
    )  # fmt: skip
    np.testing.assert_allclose(best, [3, -2, 5], atol=1e-3)
    assert len(steps) < 500 and (np.diff(steps) <= 0).all()
    assert downhill_simplex(lambda x: float(abs(x).sum()), np.ones(2), 1.0, 1e-9, 3, lambda *_: None).shape == (2,)


@pytest.fixture
def random_particle() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    movie = rng.standard_normal((3, 12, 7)) + 1j * rng.standard_normal((3, 12, 7))
    prediction = rng.standard_normal((12, 7)) + 1j * rng.standard_normal((12, 7))
    return movie.astype(np.complex64), prediction.astype(np.complex64), rng.uniform(-3, 3, (3, 2))


def moved_back(movie: np.ndarray, track: np.ndarray) -> np.ndarray:
    k = np.r_[0:7, -5:0]
    phase = [np.exp(2j * np.pi * (k[:, None] * y + np.arange(7) * x) / 12) for x, y in track]
    return movie * np.array(phase)


def test_frames_are_correlated_along_their_track(random_particle):
    movie, prediction, track = random_particle
    shell = np.random.default_rng(1).integers(0, 5, (12, 7)).astype(np.int32)
    sums = np.zeros((3, 3, 5))
    correlate_along(movie, prediction, track, shell, *sums)
    back = moved_back(movie, track)
    for f in range(3):
        for s in range(5):
            inside = shell == s
            expected = (back[f] * prediction.conj()).real[inside].sum()
            assert sums[0, f, s] == pytest.approx(expected, abs=1e-4)
            assert sums[1, f, s] == pytest.approx((abs(movie[f]) ** 2)[inside].sum(), rel=1e-5)
            assert sums[2, f, s] == pytest.approx((abs(prediction) ** 2)[inside].sum(), rel=1e-5)


def test_agreement_is_the_same_sum_over_chosen_pixels(random_particle):
    movie, prediction, track = random_particle
    rows, columns = (part.astype(np.int32) for part in np.nonzero(np.random.default_rng(2).random((12, 7)) < 0.4))
    products = (movie * prediction.conj())[:, rows, columns]
    expected = (moved_back(movie, track) * prediction.conj()).real[:, rows, columns].sum()
    assert agreement_along(products, columns, rows, 12, track) == pytest.approx(expected, abs=1e-3)
