"""Profiles, the resolution rule and the picture; the witness is what CTFFIND 4.1.14 wrote for real spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ring_micrographs import ring_micrograph

from relion_py.compute.ctf import quality
from relion_py.compute.ctf.estimate import CtfFit, Microscope, Search
from relion_py.compute.ctf.spectrum import amplitude_spectrum, radius
from relion_py.compute.image.ctf import CtfParams, ctf_values

ARM = Microscope(200.0, 1.4, 0.1)
JOB = "data/real/bgal-10204-relion5-project/CtfFind/job005/Movies"


def ctffind_curves(path: Path) -> tuple[CtfFit, float, list[NDArray[np.float64]]]:
    """Fit, resolution and the six curves of `*_avrot.txt`."""
    with open(path) as file:
        curves = [np.array(line.split(), float) for line in file if not line.startswith("#")]
    row = Path(str(path).replace("_avrot", "")).read_text().splitlines()[5].split()
    u, v, angle, _, score, resolution = map(float, row[1:7])
    return CtfFit(u, v, angle, 0.0, score), resolution, curves


@pytest.fixture(scope="module")
def ctffind_files(shared: Path) -> list[Path]:
    found = sorted((shared / JOB).glob("*_avrot.txt"))
    if not found:
        pytest.skip("CTFFIND's files are not here")
    return found


def test_the_resolution_rule_is_that_of_ctffind(ctffind_files: list[Path]) -> None:
    assert len(ctffind_files) == 24
    for path in ctffind_files:
        fit, resolution, (frequency, _, _, _, agreement, _) = ctffind_curves(path)
        phase = quality.ctf_phase(frequency**2, (fit.defocus_u + fit.defocus_v) / 2, fit, ARM)
        first = int(np.searchsorted(frequency, 1 / 30))
        assert quality._resolution(agreement, frequency, phase, first) == pytest.approx(resolution, abs=1e-3)


def test_agreement_is_near_that_of_ctffind(ctffind_files: list[Path]) -> None:
    """From CTFFIND's own profiles: its correlations, and nearly its resolutions."""
    ratios, close = [], []
    for path in ctffind_files[5:]:
        fit, resolution, (frequency, _, profile, ctf, agreement, noise) = ctffind_curves(path)
        phase = quality.ctf_phase(frequency**2, (fit.defocus_u + fit.defocus_v) / 2, fit, ARM)
        first = int(np.searchsorted(frequency, 1 / 30))
        ours, limit = quality._agreement(profile, ctf, phase, first)
        close.append(np.corrcoef(ours[first:200], agreement[first:200])[0, 1])
        assert np.abs(limit - noise)[first:200].max() < 0.1
        ratios.append(quality._resolution(ours, frequency, phase, first) / resolution)
    assert np.median(close) > 0.8
    assert abs(np.median(np.log(ratios))) < 0.03 and np.abs(np.log(ratios)).max() < 0.1


def test_phase_is_that_of_the_ctf() -> None:
    fit = CtfFit(12000.0, 11000.0, 30.0, 40.0, 0.0)
    k = np.linspace(0, 0.4, 200)
    along = np.sin(quality.ctf_phase(k**2, 12000.0, fit, ARM))
    params = CtfParams(12000, 11000, 30.0, 200, 1.4, 0.1, 40.0)
    x, y = k * np.cos(np.pi / 6), k * np.sin(np.pi / 6)
    np.testing.assert_allclose(along, ctf_values(params, x, y, 1, 1.0)[0], atol=1e-4)


def test_equiphase_averages_of_astigmatic_rings_stay_sharp() -> None:
    """U - V of 1200 A washes out circles at 5 A, and not the lines of equal phase."""
    microscope, search = Microscope(300.0, 2.7, 0.1), Search(finest_resolution=4.0)
    image = ring_micrograph((1400, 1400), 1.4, (13000, 11800, 20), snr=1.0, bfactor=20, seed=9)
    spectrum = amplitude_spectrum(image, 1.4, 512)
    fit = CtfFit(13000, 11800, 20.0, 0.0, 0.0)
    curves = quality.profiles(spectrum, fit, microscope, search)
    far = (curves.frequency > 0.2) & (curves.frequency < 0.25)
    assert curves.equiphase[far].std() > 2 * curves.round[far].std()
    assert np.corrcoef(curves.equiphase[far], curves.ctf[far])[0, 1] > 0.9
    turned = quality.profiles(spectrum, CtfFit(13000, 11800, 110.0, 0.0, 0.0), microscope, search)
    assert turned.resolution > 1.5 * curves.resolution


def test_the_picture_shows_fit_and_rings_in_register() -> None:
    microscope, search = Microscope(300.0, 2.7, 0.1), Search()
    image = ring_micrograph((1024, 1024), 1.4, (15000, 14000, 60), snr=1.0, bfactor=20, seed=3)
    spectrum = amplitude_spectrum(image, 1.4, 256)
    fit = CtfFit(15000, 14000, 60.0, 0.0, 0.0)
    curves = quality.profiles(spectrum, fit, microscope, search)
    picture = quality.fit_picture(spectrum, fit, curves, microscope, search)
    assert picture.shape == (256, 256) and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1
    # the model at bottom left continues in the spectrum at top right, its mirror image through the origin
    model = picture[129:, 1:128]
    mirror = picture[1:128, 129:][::-1, ::-1]
    distance = radius(256)[129:, 1:128]
    ring = (distance > 256 * 1.4 / 30) & (distance < 256 * 1.4 / 6)
    assert np.corrcoef(model[ring], mirror[ring])[0, 1] > 0.6
    wrong = quality.fit_picture(spectrum, CtfFit(16500, 15500, 60, 0, 0), curves, microscope, search)
    assert np.corrcoef(wrong[129:, 1:128][ring], mirror[ring])[0, 1] < 0.2
