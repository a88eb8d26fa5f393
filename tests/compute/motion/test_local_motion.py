"""Local motion that is known: a scene that bends while it is photographed."""

from __future__ import annotations

import numpy as np
import pytest
from movie_files import scene
from scipy import ndimage

from relion_py.compute.motion.correct import Settings, correct_movie
from relion_py.compute.motion.model import LocalModel, fit, fit_patches

FRAMES = 9
NY, NX = 480, 600


def bend(frame: float, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far (px) the specimen at x, y (fractions of the image, less 0.5) has moved by `frame`."""
    slowing = 1 - np.exp(-frame / 4)
    return slowing * (3.0 + 4.0 * x - 3.0 * y * y), slowing * (-2.0 + 3.0 * y + 4.0 * x * y)


class Bending:
    """A movie in memory, Poisson counts."""

    path = "bending.tiff"
    n_frames = FRAMES
    shape = (NY, NX)

    def __init__(self) -> None:
        self.scene = scene(NY, NX)
        y, x = np.mgrid[:NY, :NX]
        rng = np.random.default_rng(1)
        self._frames = []
        for frame in range(FRAMES):
            dx, dy = bend(frame, x / NX - 0.5, y / NY - 0.5)
            image = ndimage.map_coordinates(self.scene, [y - dy, x - dx], order=3, mode="wrap")
            self._frames.append(rng.poisson(np.clip(20 * (1 + 0.25 * image), 0, None)).astype(np.uint8))

    def frame(self, index: int) -> np.ndarray:
        return self._frames[index]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def movie() -> Bending:
    return Bending()


@pytest.mark.parametrize("bin_factor", [1.0, 1.2])
@pytest.mark.parametrize("group", [1, 2])
def test_bending_is_found(movie: Bending, bin_factor: float, group: int) -> None:
    settings = Settings(patch_x=5, patch_y=4, bin_factor=bin_factor, group=group)
    motion = correct_movie(movie, settings, 1.0).motion
    assert motion.model is not None
    worst = []
    for x in (-0.4, 0.0, 0.4):
        for y in (-0.4, 0.0, 0.4):
            found = motion.shifts + bin_factor * motion.model.shifts(np.arange(FRAMES), x, y).T
            truth = np.array([bend(z, np.float64(x), np.float64(y)) for z in range(FRAMES)])
            # the model starts at 0; what is the same in all frames is of no matter
            error = found + truth
            worst.append(abs(error - error.mean(axis=0)).max())
    assert max(worst) < 0.5, worst


def test_local_correction_sharpens_and_the_sums_agree(movie: Bending) -> None:
    whole = correct_movie(movie, Settings(), 1.0)
    local = correct_movie(movie, Settings(patch_x=5, patch_y=4, even_odd=True), 1.0)
    middle = (slice(20, -20), slice(20, -20))

    def likeness(image: np.ndarray) -> float:
        return float(np.corrcoef(image[middle].ravel(), movie.scene[middle].ravel())[0, 1])

    assert likeness(local.image) > likeness(whole.image) + 0.04
    assert likeness(local.image) > 0.96
    assert local.even is not None and local.odd is not None
    np.testing.assert_allclose(local.even + local.odd, local.image, rtol=1e-4)


def test_threads_change_nothing_but_rounding(movie: Bending) -> None:
    from concurrent.futures import ThreadPoolExecutor

    settings = {"patch_x": 3, "patch_y": 3, "dose_weighting": True, "save_unweighted": True}
    alone = correct_movie(movie, Settings(**settings), 1.0)  # type: ignore[arg-type]
    with ThreadPoolExecutor(3) as pool:
        shared = Settings(**settings, threads=3, io_threads=2)  # type: ignore[arg-type]
        together = correct_movie(movie, shared, 1.0, run=pool.map)
    np.testing.assert_array_equal(alone.motion.shifts, together.motion.shifts)
    np.testing.assert_allclose(alone.image, together.image, rtol=1e-5)
    assert alone.unweighted is not None and together.unweighted is not None
    np.testing.assert_allclose(alone.unweighted, together.unweighted, rtol=1e-5)


def test_patches_that_follow_noise_do_not_bend_the_model() -> None:
    rng = np.random.default_rng(3)
    truth = LocalModel(rng.normal(0, 1, (2, 6, 3)).reshape(2, 18) * np.tile([1.0, 0.05, 0.002], 6))
    y, x, frames = (a.ravel() for a in np.meshgrid(*[np.linspace(-0.4, 0.4, 5)] * 2, np.arange(12.0), indexing="ij"))
    shifts = truth.shifts(frames, x, y) + rng.normal(0, 0.5, (2, len(x)))
    shifts[:, :12] += np.array([[25.0], [-14.0]])
    shifts[:, 144:156] += np.linspace(0, 40, 12)
    clear = truth.shifts(frames, x, y) + 0.01 * shifts  # what is seen this well is no noise, however uneven
    assert fit_patches(frames, x, y, clear, 25)[1].shape == (2, 25, 12)
    model, residuals = fit_patches(frames, x, y, shifts, 25)
    assert residuals.shape == (2, 23, 12)

    def error(found: LocalModel) -> float:
        return float(np.sqrt(((found.shifts(frames, x, y) - truth.shifts(frames, x, y)) ** 2).mean()))

    assert error(model) < 0.25 < 1.0 < error(fit(frames, x, y, shifts))
