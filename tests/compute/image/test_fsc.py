"""FSC curves against RELION 5's postprocess of the same half maps, and against simple truths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_data import SHARED
from witness_maps import voxels

from relion_py.compute.errors import UserError
from relion_py.compute.image.fsc import (
    corrected,
    fsc,
    masked_fsc,
    particle_fsc,
    randomise_from,
    randomise_phases,
    resolution_at,
)

JOB = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027"
POST_STAR = Path(__file__).parents[2] / "golden" / "postprocess" / "post.star"


def golden_curves() -> np.ndarray:
    """Rows by shell: index, 1/A, A, corrected, part, unmasked, masked, random masked."""
    lines = POST_STAR.read_text().split("data_fsc")[1].split("data_")[0].splitlines()
    return np.array([[float(w) for w in line.split()] for line in lines if len(line.split()) == 8])


@pytest.mark.skipif(not JOB.exists(), reason="the shared beta-galactosidase project is not here")
def test_curves_of_relion_postprocess() -> None:
    golden = golden_curves()
    halves = [voxels(JOB / f"run_half{h}_class001_unfil.mrc.gz") for h in (1, 2)]
    mask = voxels(SHARED / "golden/numeric/mask/mask.mrc.gz")
    curves = masked_fsc(halves[0], halves[1], mask, np.random.default_rng(0))
    assert len(golden) == len(curves.unmasked) == 51
    np.testing.assert_allclose(curves.unmasked[1:], golden[1:, 5], atol=2e-5)
    np.testing.assert_allclose(curves.masked[1:], golden[1:, 6], atol=2e-5)
    assert 100 * 3.54 / curves.shell == pytest.approx(14.75)
    # phases are random: the same curves but for their noise
    np.testing.assert_allclose(curves.random_masked[1:24], golden[1:24, 7], atol=0.02)
    assert np.abs(curves.random_masked[26:] - golden[26:, 7]).mean() < 0.05
    np.testing.assert_allclose(curves.corrected[1:], golden[1:, 3], atol=0.05)
    assert curves.resolution(100, 3.54) == pytest.approx(7.08)
    fraction = 0.476 / (mask > 0.5).mean()
    assert fraction == pytest.approx(8.765630, rel=1e-4)
    np.testing.assert_allclose(particle_fsc(curves.unmasked, fraction)[1:], golden[1:, 4], atol=5e-5)


def test_correction_is_the_formula_of_the_reference() -> None:
    golden = golden_curves()
    np.testing.assert_allclose(corrected(golden[:, 6], golden[:, 7], 24), golden[:, 3], atol=3e-6)
    assert randomise_from(golden[:, 5]) == 24
    assert resolution_at(golden[:, 3], 100, 3.54) == pytest.approx(7.08)


def test_resolution_is_of_the_last_shell_above() -> None:
    curve = np.array([1.0, 0.9, 0.5, 0.2, 0.1, 0.6])
    assert resolution_at(curve, 10, 2.0) == pytest.approx(20 / 3)
    assert resolution_at(curve, 10, 2.0, 0.5) == pytest.approx(20 / 2)
    assert resolution_at(np.array([1.0, 0.1, 0.9]), 4, 1.0) == 999.0
    assert resolution_at(np.array([0.0, 0.9]), 2, 1.0) == 999.0


def test_fsc_of_signal_and_noise() -> None:
    rng = np.random.default_rng(3)
    signal = rng.normal(size=(32, 32, 32))
    assert np.allclose(fsc(signal, signal), 1.0)
    np.testing.assert_allclose(fsc(signal, -2 * signal), -1.0)
    first, second = (signal + rng.normal(size=signal.shape) for _ in range(2))
    assert fsc(first, second)[5:].mean() == pytest.approx(0.5, abs=0.03)
    assert np.abs(fsc(np.zeros_like(signal), signal)).max() == 0.0


def test_randomise_phases_keeps_amplitudes_and_low_frequencies() -> None:
    volume = np.random.default_rng(4).normal(size=(16, 16, 16)).astype(np.float32)
    changed = randomise_phases(volume, 5, np.random.default_rng(5))
    assert changed.dtype == np.float32
    curve = fsc(volume, changed)
    np.testing.assert_allclose(curve[:5], 1.0, atol=1e-5)
    assert np.abs(curve[6:]).mean() < 0.1
    before, after = np.abs(np.fft.rfftn(volume)), np.abs(np.fft.rfftn(changed))
    np.testing.assert_allclose(after[..., 1:-1], before[..., 1:-1], rtol=1e-3, atol=1e-3)


def test_mistakes_are_sentences() -> None:
    with pytest.raises(UserError, match="same box"):
        fsc(np.ones((4, 4, 4)), np.ones((6, 6, 6)))
    with pytest.raises(UserError, match="never drops"):
        randomise_from(np.ones(10))
