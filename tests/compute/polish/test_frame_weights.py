"""B-factors of frames from correlations with known ones, their files, and the weights they give."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.polish.bfactors import FrameFactors, fit_frame_factors, read_bfactors, write_bfactors
from relion_py.compute.polish.estimate import damage_weights

BOX, PIXEL = 64, 1.5
B = np.array([-90.0, -20.0, -60.0, -120.0, -180.0])
A = np.array([0.9, 1.0, 0.8, 0.7, 0.6])


def cylinder(noise: float = 0.0) -> np.ndarray:
    """Correlations (F, shells) of frames whose amplitudes fall as a exp(B / 4 (k / (box pixel))^2)."""
    k = np.arange(BOX // 2 + 1)
    envelope = 0.2 * np.exp(-k / 15) * (1.3 + np.sin(k / 3))
    curves = envelope * A[:, None] * np.exp(B[:, None] / 4 * (k / (BOX * PIXEL)) ** 2)
    return curves + noise * np.random.default_rng(0).standard_normal(curves.shape)


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_differences_of_b_factors_are_found(noise):
    """The envelope that all frames share takes the common part, so that only differences are known."""
    factors = fit_frame_factors(cylinder(noise), 5, 26, PIXEL)
    scale = (BOX / (BOX + 2)) ** 2  # RELION's B-factors are for box / 2 + 1 shells to Nyquist
    found = factors.bfactors() * scale
    np.testing.assert_allclose(found - found[1], B - B[1], atol=4 + 8000 * noise)
    np.testing.assert_allclose(factors.scale / factors.scale[1], A / A[1], atol=0.02 + 20 * noise)


def test_weights_fall_with_dose_and_sum_to_one():
    factors = fit_frame_factors(cylinder(), 5, 26, PIXEL)
    weights = factors.weights(96, 1.2)
    assert weights.shape == (5, 96, 49)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-5)
    # along a row: the same frequency in another box and pixel size
    k = np.arange(40) / (96 * 1.2)
    expected = A[:, None] * np.exp(B[:, None] / 4 * k**2)
    np.testing.assert_allclose(weights[:, 0, :40], expected / expected.sum(axis=0), atol=0.02)
    assert (np.diff(weights[1:, 0, 30]) < 0).all()


def test_weights_do_not_vanish_where_all_frames_are_far_down():
    factors = FrameFactors(np.array([0.5, 0.4]), np.array([1.0, 1.0]), BOX, PIXEL)
    assert np.isfinite(factors.weights(BOX, PIXEL)).all()


def test_a_file_gives_the_same_weights(tmp_path):
    factors = fit_frame_factors(cylinder(), 5, 26, PIXEL)
    path = str(tmp_path / "bfactors.star")
    write_bfactors(path, factors)
    table = star.read(path)["perframe_bfactors"]
    assert table.ints("rlnMovieFrameNumber").tolist() == [0, 1, 2, 3, 4]
    again = read_bfactors(path, BOX, PIXEL)
    # one square A is added to all, which is common to all frames but for the small last digits
    np.testing.assert_allclose(again.weights(BOX, PIXEL), factors.weights(BOX, PIXEL), atol=1e-4)


def test_frames_that_do_not_correlate_are_told():
    with pytest.raises(UserError, match="do not correlate"):
        fit_frame_factors(np.zeros((3, 33)), 5, 26, PIXEL)
    with pytest.raises(UserError, match="bfac_minfreq"):
        fit_frame_factors(cylinder(), 20, 21, PIXEL)


def test_damage_weights_are_exponentials_of_dose():
    """exp(-dose / (3.4 k^-1.06 - 0.54)), e/A2 and 1/A; the first frame has had no dose."""
    weights = damage_weights(BOX, PIXEL, np.arange(3), 4.0, (3.4, -1.06, -0.54))
    assert (weights[0] == 1).all()
    k = 10 / (BOX * PIXEL)
    assert weights[2, 0, 10] == pytest.approx(np.exp(-8.0 / (3.4 * k**-1.06 - 0.54)), rel=1e-5)
    assert weights[2, BOX - 6, 8] == pytest.approx(weights[2, 0, 10], rel=1e-5)
