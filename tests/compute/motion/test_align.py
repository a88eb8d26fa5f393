"""Alignment, local model, dose weights, spectra and pixels: known truth, the equations, other libraries."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from movie_files import counts, moved, scene
from scipy import fft, ndimage

from relion_py.compute.errors import UserError
from relion_py.compute.motion.align import (
    align,
    ccf_grid,
    crop,
    frame_groups,
    group_centres,
    interpolate_shifts,
    shift_transform,
)
from relion_py.compute.motion.dose import decay, doses_at_300kv, norm_of, weights
from relion_py.compute.motion.kernels import add_moved, mend
from relion_py.compute.motion.model import (
    NOT_OBSERVED,
    LocalModel,
    LocalShifts,
    MovieMotion,
    fit,
    read_motion,
    write_motion,
)
from relion_py.compute.motion.spectrum import amplitude_sum, power_spectrum

RNG = np.random.default_rng(3)


def transform(image: np.ndarray) -> np.ndarray:
    return fft.rfft2(image.astype(np.float32), norm="forward")


@pytest.mark.parametrize(("size", "bfactor"), [((256, 256), 150.0), ((300, 400), 500.0), ((256, 220), 0.0)])
def test_known_track_is_found(size: tuple[int, int], bfactor: float) -> None:
    track = np.cumsum(RNG.uniform(-2, 2, (8, 2)), axis=0)
    grid = ccf_grid(*size, bfactor)
    frames = [grid.crop(transform(frame)) for frame in counts(track, size)]
    found = align(frames, grid)
    assert found.converged
    # a shift brings a frame back to the first
    np.testing.assert_allclose(found.shifts, track[0] - track, atol=0.15)


def test_shifts_move_content_as_in_scipy() -> None:
    image = scene(40, 60)
    image = np.fft.irfft2(transform(image) * (abs(np.fft.fftfreq(40)) < 0.4)[:, None], norm="forward")
    spectrum = transform(image)
    shift_transform(spectrum, (2.3, -4.6), 40, 60)
    np.testing.assert_allclose(fft.irfft2(spectrum, norm="forward"), moved(image, 2.3, -4.6), atol=2e-2)


def test_cropping_keeps_low_frequencies() -> None:
    y, x = np.mgrid[:48, :64]
    small_y, small_x = np.mgrid[:24, :32]
    wave = np.cos(2 * np.pi * (3 * x / 64 - 5 * y / 48) + 0.4)
    small = np.cos(2 * np.pi * (3 * small_x / 32 - 5 * small_y / 24) + 0.4)
    np.testing.assert_allclose(fft.irfft2(crop(transform(wave), 24, 32), norm="forward"), small, atol=1e-5)


@given(st.integers(1, 60), st.integers(1, 7))
def test_groups_hold_every_frame_once(frames: int, size: int) -> None:
    groups = frame_groups(frames, size)
    if frames // size >= 2:
        assert [frame for group in groups for frame in group] == list(range(frames))
    if groups:
        assert len(groups[0]) == size
        assert min(map(len, groups)) == size


def test_interpolation_of_groups_is_exact_for_lines() -> None:
    groups = frame_groups(11, 3)
    slope = np.array([0.7, -0.2])
    found = interpolate_shifts(groups, group_centres(groups)[:, None] * slope, 11)
    np.testing.assert_allclose(found, np.arange(11)[:, None] * slope, atol=1e-12)


# ------------------------------------------------------------------------------------------ local model


def _polynomial(coefficients: np.ndarray, z: float, x: float, y: float) -> float:
    """micrograph_model.cpp, getShiftAt, term by term."""
    terms = [z, z**2, z**3]
    space = [1, x, x * x, y, y * y, x * y]
    return sum(coefficients[3 * s + t] * space[s] * terms[t] for s in range(6) for t in range(3))


def test_model_is_the_polynomial_and_is_found_again() -> None:
    truth = LocalModel(RNG.standard_normal((2, 18)) * 0.1)
    z, x, y = RNG.uniform(0, 9, 200), *RNG.uniform(-0.5, 0.5, (2, 200))
    shifts = truth.shifts(z, x, y)
    for axis in range(2):
        assert shifts[axis, 5] == pytest.approx(_polynomial(truth.coefficients[axis], z[5], x[5], y[5]))
    np.testing.assert_allclose(fit(z, x, y, shifts).coefficients, truth.coefficients, atol=1e-8)
    factors = truth.of_frame(z[5]) @ [1, x[5], x[5] ** 2, y[5], y[5] ** 2, x[5] * y[5]]
    np.testing.assert_allclose(factors, shifts[:, 5])


def test_moved_frame_against_scipy() -> None:
    image = scene(90, 120).astype(np.float32)
    model = LocalModel(RNG.uniform(-2, 2, (2, 18)) * np.tile([1, 0.1, 0.01], 6))
    total = np.ones_like(image)
    add_moved(total, image, model.of_frame(2.0))
    y, x = np.mgrid[:90, :120]
    shift_x, shift_y = model.shifts(2.0, x.ravel() / 120 - 0.5, y.ravel() / 90 - 0.5).reshape(2, 90, 120)
    expected = ndimage.map_coordinates(image, [y - shift_y, x - shift_x], order=1, mode="nearest")
    inside = (x - shift_x > 0) & (x - shift_x < 118) & (y - shift_y > 0) & (y - shift_y < 88)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(total[inside] - 1, expected[inside], atol=1e-4)
    assert np.isfinite(total).all()


def test_motion_file_keeps_everything(tmp_path: Path) -> None:
    shifts = np.array([[NOT_OBSERVED] * 2, [0, 0], [1.5, -2.25], [NOT_OBSERVED] * 2])
    local = LocalShifts(np.array([2, 3]), *np.array([[10.0, 11], [20, 21], [0.1, -0.2], [0.3, 0.4]]))
    motion = MovieMotion(
        "Movies/a b.eer", 64, 48, shifts, 2, 2.0, 0.8, 1.2, 3.0, 300.0, "gain.mrc", "bad.txt", 2, 32,
        LocalModel(np.arange(36.0).reshape(2, 18)), local, np.array([[5, 6]]),
    )  # fmt: skip
    write_motion(str(tmp_path / "m.star"), motion)
    again = read_motion(str(tmp_path / "m.star"))
    for name in ("movie", "size_x", "size_y", "first_frame", "binning", "pixel_size", "dose_per_frame"):
        assert getattr(again, name) == getattr(motion, name)
    for name in ("pre_exposure", "voltage", "gain", "defects", "eer_upsampling", "eer_grouping"):
        assert getattr(again, name) == getattr(motion, name)
    np.testing.assert_allclose(again.shifts, shifts)
    np.testing.assert_array_equal(again.hot_pixels, motion.hot_pixels)
    assert again.model is not None and motion.model is not None and again.local is not None
    np.testing.assert_allclose(again.model.coefficients, motion.model.coefficients)
    np.testing.assert_allclose(again.local.shift_y, local.shift_y)
    assert again.observed().tolist() == [False, True, True, False]
    # the dose after frame 3 is 6.6: all motion is late
    total, early, late = again.accumulated(4.0)
    assert (total, early) == (pytest.approx(math.hypot(1.5, 2.25)), 0.0) and late == total


# ------------------------------------------------------------------------------- dose, spectrum, pixels


def test_dose_weights_are_those_of_grant_and_grigorieff() -> None:
    rate = decay(60, 80, 1.1)
    doses = doses_at_300kv(np.arange(5), 2.0, 1.0, 300)
    assert doses.tolist() == [3, 5, 7, 9, 11]
    norm = norm_of(rate, doses)
    k = math.hypot(7 / 80, -4 / 60) / 1.1  # row 56 is frequency -4
    critical = 0.245 * k**-1.665 + 2.81
    raw = [math.exp(-dose / (2 * critical)) for dose in doses]
    for dose, expected in zip(doses, raw, strict=True):
        assert weights(rate, dose)[56, 7] == pytest.approx(expected, rel=1e-5)
        total = math.sqrt(sum(w * w for w in raw))
        assert weights(rate, dose, norm)[56, 7] == pytest.approx(expected / total, rel=1e-5)
    assert weights(rate, 50.0)[0, 0] == 1.0
    assert doses_at_300kv(np.arange(1), 2.0, 0.0, 200)[0] == pytest.approx(2.5)
    with pytest.raises(UserError, match="120 kV"):
        doses_at_300kv(np.arange(1), 2.0, 0.0, 120)


def test_amplitudes_against_full_transforms() -> None:
    frames = RNG.standard_normal((5, 24, 36)).astype(np.float32)
    found = amplitude_sum([transform(frame) for frame in frames], 2, 24, 36)
    expected = sum(abs(np.fft.fft2(frames[start : start + 2].sum(0))) for start in (0, 2, 4)) / (24 * 36)
    expected = np.fft.fftshift(expected)
    expected[12, 18] = found[12, 18]  # the mean of the image is left out
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_spectrum_is_cut_off_at_2_8_angstrom() -> None:
    ring = np.hypot(*np.mgrid[-200:200, -200:200])
    amplitudes = np.exp(-((ring - 60) ** 2) / 50).astype(np.float32)  # 60 of 400 pixels of 0.7 A: 4.67 A
    image, pixel_size = power_spectrum(amplitudes, 0.7, 100)
    assert pixel_size == pytest.approx(1.4)
    profile = image[50, 50:]
    assert int(profile.argmax()) * 1.0 / (100 * 1.4) == pytest.approx(1 / 4.667, abs=0.004)
    coarse, unchanged = power_spectrum(amplitudes[100:300], 2.0, 512)  # smaller than what is asked for
    assert coarse.shape == (512, 512) and unchanged == 2.0 and np.isfinite(coarse).all()


def test_only_bad_pixels_are_mended_by_neighbours() -> None:
    frame = np.arange(30 * 30, dtype=np.float32).reshape(30, 30)
    bad = np.zeros((30, 30), bool)
    bad[10, 12] = bad[0, 0] = True
    bad[20:29, 20:29] = True
    result = frame.copy()
    mend(result, bad, *np.nonzero(bad), 2, 5000.0, 1.0, 1)
    np.testing.assert_array_equal(result[~bad], frame[~bad])
    assert result[10, 12] in frame[8:13, 10:15] and result[10, 12] != frame[10, 12]
    assert result[0, 0] in frame[:3, :3]
    assert abs(result[24, 24] - 5000) < 10  # too far from good neighbours
    again = frame.copy()
    mend(again, bad, *np.nonzero(bad), 2, 5000.0, 1.0, 1)
    np.testing.assert_array_equal(again, result)
