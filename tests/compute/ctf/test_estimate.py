"""The estimator, against simulated rings of known CTF and real spectra whose CTF another program found."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from ring_micrographs import ring_micrograph, with_discs
from scipy import fft

from relion_py.compute.ctf.estimate import Microscope, Search, estimate_ctf
from relion_py.compute.ctf.quality import profiles
from relion_py.compute.ctf.spectrum import Spectrum, amplitude_spectrum, without_contamination
from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_image

POLARA = Microscope(300.0, 2.7, 0.1)


def angle_between(first: float, second: float) -> float:
    return abs((first - second + 90) % 180 - 90)


@pytest.mark.parametrize(
    ("defocus", "shape"),
    [
        ((15000.0, 14600.0, 30.0), (1024, 1024)),
        ((8000.0, 7700.0, -70.0), (960, 1200)),
        ((28000.0, 27500.0, 88.0), (1200, 1024)),
        ((12000.0, 12000.0, 0.0), (1024, 1024)),
    ],
)
def test_simulated_rings(defocus: tuple[float, float, float], shape: tuple[int, int]) -> None:
    image = ring_micrograph(shape, 1.4, defocus, seed=int(defocus[0]))
    fit = estimate_ctf(amplitude_spectrum(image, 1.4, 512), POLARA, Search())
    assert fit.defocus_u >= fit.defocus_v
    assert abs(fit.defocus_u + fit.defocus_v - defocus[0] - defocus[1]) / 2 < 30
    if defocus[0] > defocus[1]:
        assert abs(fit.defocus_u - defocus[0]) < 60 and abs(fit.defocus_v - defocus[1]) < 60
        assert angle_between(fit.angle, defocus[2]) < 8


@pytest.mark.parametrize(("voltage", "cs", "q0"), [(200.0, 1.4, 0.1), (300.0, 0.001, 0.07), (120.0, 2.0, 0.2)])
def test_other_microscopes(voltage: float, cs: float, q0: float) -> None:
    image = ring_micrograph((1024, 1024), 1.5, (11000, 10700, 45), voltage=voltage, cs=cs, q0=q0, seed=4)
    fit = estimate_ctf(amplitude_spectrum(image, 1.5, 512), Microscope(voltage, cs, q0), Search())
    assert abs(fit.defocus_u - 11000) < 60 and abs(fit.defocus_v - 10700) < 60


@pytest.mark.parametrize("phase_shift", [20.0, 90.0, 130.0])
def test_phase_plates(phase_shift: float) -> None:
    image = ring_micrograph((1400, 1400), 1.4, (9000, 8800, 10), phase_shift=phase_shift, seed=2)
    spectrum = amplitude_spectrum(image, 1.4, 512)
    fit = estimate_ctf(spectrum, POLARA, Search(find_phase=True, finest_resolution=4))
    assert abs(fit.phase_shift - phase_shift) < 8
    assert abs(fit.defocus_u + fit.defocus_v - 17800) / 2 < 100
    assert estimate_ctf(spectrum, POLARA, Search()).phase_shift == 0.0


def test_a_range_of_fine_resolutions_alone() -> None:
    image = ring_micrograph((1024, 1024), 1.4, (15000, 14700, 30), bfactor=20, seed=3)
    spectrum = amplitude_spectrum(image, 1.4, 512)
    fit = estimate_ctf(spectrum, POLARA, Search(coarsest_resolution=6.0, finest_resolution=3.2))
    assert abs(fit.defocus_u + fit.defocus_v - 29700) / 2 < 50


def test_strong_astigmatism_needs_the_wide_search() -> None:
    image = ring_micrograph((1400, 1400), 1.4, (19000, 14500, -35), seed=5)
    spectrum = amplitude_spectrum(image, 1.4, 512)
    fit = estimate_ctf(spectrum, POLARA, Search(largest_astigmatism=5000, astigmatism=0))
    assert abs(fit.defocus_u - 19000) < 60 and abs(fit.defocus_v - 14500) < 60
    assert angle_between(fit.angle, -35) < 1


def test_the_restraint_on_astigmatism_restrains() -> None:
    image = ring_micrograph((512, 512), 1.4, (15000, 14500, 20), snr=0.2, seed=6)
    spectrum = amplitude_spectrum(image, 1.4, 256)
    free = estimate_ctf(spectrum, POLARA, Search(astigmatism=0))
    tight = estimate_ctf(spectrum, POLARA, Search(astigmatism=5))
    assert tight.defocus_u - tight.defocus_v < 0.5 * (free.defocus_u - free.defocus_v)


@pytest.mark.parametrize("seed", [0, 3, 6])
def test_rings_that_end_far_before_the_finest_resolution(seed: int) -> None:
    """Rings to about 8 A, a fit to 3 A: weights that fall to 3 A alone are wrong by 600 to 1200 A here."""
    image = ring_micrograph((1024, 1024), 1.4, (15000, 14700, 30), snr=0.3, bfactor=300, seed=seed)
    fit = estimate_ctf(amplitude_spectrum(image, 1.4, 512), POLARA, Search(finest_resolution=3))
    assert abs(fit.defocus_u + fit.defocus_v - 29700) / 2 < 450


@pytest.mark.parametrize("seed", range(3))
def test_few_strong_fringes_do_not_outweigh_many_faint_rings(seed: int) -> None:
    """Round objects of one size make rings of their own at low frequencies."""
    image = ring_micrograph((1024, 1024), 1.4, (15000, 14700, 30), snr=0.3, seed=seed)
    image = with_discs(image, 6, 6.0, seed, (20.0, 21.0))
    fit = estimate_ctf(amplitude_spectrum(image, 1.4, 512), POLARA, Search())
    assert abs(fit.defocus_u + fit.defocus_v - 29700) / 2 < 100


@pytest.mark.parametrize("seed", range(3))
def test_contamination_does_not_lead_astray(seed: int) -> None:
    image = with_discs(ring_micrograph((1024, 1024), 1.4, (15000, 14700, 30), snr=0.2, seed=seed), 10, 12.0, seed)
    clean = without_contamination(image, 1.4, 30.0)
    fit = estimate_ctf(amplitude_spectrum(clean, 1.4, 512), POLARA, Search())
    assert abs(fit.defocus_u + fit.defocus_v - 29700) / 2 < 150


def test_better_micrographs_rank_above_worse_ones() -> None:
    scores, resolutions = [], []
    for snr in (0.0, 0.2, 0.5, 1.5):
        image = ring_micrograph((1024, 1024), 1.4, (15000, 14700, 30), snr=snr, seed=1)
        spectrum = amplitude_spectrum(image, 1.4, 512)
        fit = estimate_ctf(spectrum, POLARA, Search())
        scores.append(fit.score)
        resolutions.append(profiles(spectrum, fit, POLARA, Search()).resolution)
    assert np.all(np.diff(scores) > 0) and np.all(np.diff(resolutions) < 0)
    assert resolutions[0] == 999.0 and resolutions[-1] < 4


def test_pure_noise_scores_low_and_fits_nowhere() -> None:
    noise = np.random.default_rng(7).standard_normal((1024, 1024)).astype(np.float32)
    spectrum = amplitude_spectrum(noise, 1.4, 512)
    fit = estimate_ctf(spectrum, POLARA, Search())
    assert fit.score < 0.03
    assert profiles(spectrum, fit, POLARA, Search()).resolution > 9


@pytest.mark.parametrize(
    "wrong",
    [
        {"coarsest_resolution": 5.0, "finest_resolution": 30.0},
        {"defocus_min": 50000.0, "defocus_max": 5000.0},
        {"defocus_step": 0.0},
        {"find_phase": True, "phase_min": 90.0, "phase_max": 0.0},
    ],
)
def test_empty_ranges_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Search(**wrong)  # type: ignore[arg-type]


def test_too_few_pixels_are_refused() -> None:
    spectrum = Spectrum(np.random.default_rng(0).random((64, 64)).astype(np.float32), 4.0)
    with pytest.raises(UserError, match="holds too little"):
        estimate_ctf(spectrum, POLARA, Search(finest_resolution=10.0))


# --------------------------------------------------------------------------------- real and known data


@pytest.fixture(scope="module")
def tutorial(shared: Path) -> dict[str, dict[str, str]]:
    """What CTFFIND 4.1 found in the RELION 3.1 tutorial, by micrograph."""
    folder = shared / "data/real/bgal-10204-relion31-tutorial-metadata"
    if not folder.is_dir():
        pytest.skip("the tutorial's metadata are not here")
    with tarfile.open(folder / "relion_tutorial_files.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("CtfFind/job003/micrographs_ctf.star"):
                text = archive.extractfile(member)
                assert text is not None
                table = star.parse(text.read().decode())["micrographs"]
                return {os.path.basename(row["rlnMicrographName"])[:-4]: row for row in table.rows()}
    raise AssertionError("the archive has no CtfFind job")


def test_real_power_spectra(shared: Path, tutorial: dict[str, dict[str, str]], tmp_path: Path) -> None:
    """12 spectra of motion correction: as CTFFIND 4.1 within 50 A, and the same resolution."""
    folder = shared / "data/real/bgal-10204-relion5-project/MotionCorr/job002/Movies"
    packed = sorted(folder.glob("*_PS.mrc.gz"))
    assert len(packed) == 12
    errors, angles, resolutions, scores = [], [], [], []
    for path in packed:
        unpacked = tmp_path / path.name[:-3]
        unpacked.write_bytes(gzip.decompress(path.read_bytes()))
        image, angpix = read_image(unpacked)
        microscope = Microscope(200.0, 1.4, 0.1)
        spectrum = Spectrum(image, angpix)
        fit = estimate_ctf(spectrum, microscope, Search())
        answer = tutorial[path.name.removesuffix("_PS.mrc.gz")]
        errors.append(fit.defocus_u - float(answer["rlnDefocusU"]))
        errors.append(fit.defocus_v - float(answer["rlnDefocusV"]))
        angles.append(angle_between(fit.angle, float(answer["rlnDefocusAngle"])))
        curves = profiles(spectrum, fit, microscope, Search())
        scores.append(fit.score / float(answer["rlnCtfFigureOfMerit"]))
        resolutions.append(curves.resolution / float(answer["rlnCtfMaxResolution"]))
    assert np.max(np.abs(errors)) < 50 and np.median(np.abs(errors)) < 20
    assert 1.3 < np.median(scores) < 1.5 and np.ptp(scores) < 0.7
    assert np.max(angles) < 6 and np.median(angles) < 2
    assert np.max(np.abs(np.log(resolutions))) < 0.1 and abs(np.median(np.log(resolutions))) < 0.03


def aligned_sum(shared: Path, number: int) -> NDArray[np.float32]:
    """The frames of a movie, gain-corrected and shifted by the whole-frame tracks that RELION 5 found."""
    movies = shared / "data/movies/Movies"
    track = star.read(shared / f"golden/numeric/motioncorr/mic{number:03d}.star")["global_shift"]
    gain = read_image(movies / "gain.mrc")[0]
    # RELION reads the rows of a TIFF from the bottom
    frames = tifffile.imread(movies / f"mic{number:03d}.tiff")[:, ::-1].astype(np.float32) * gain
    x, y = track.floats("rlnMicrographShiftX"), track.floats("rlnMicrographShiftY")
    ky, kx = fft.fftfreq(frames.shape[1])[:, None], fft.rfftfreq(frames.shape[2])
    total = sum(
        fft.rfft2(frame) * np.exp(-2j * np.pi * (kx * dx + ky * dy)) for frame, dx, dy in zip(frames, x, y, strict=True)
    )
    return fft.irfft2(total).astype(np.float32)


def test_known_defocus_of_simulated_movies(shared: Path) -> None:
    truth = star.read(shared / "data/movies/truth.star")["particles"]
    movies = np.array(truth.strings("rlnMicrographMovieName"))
    errors, means = [], []
    for number in range(1, 7):
        here = movies == f"Movies/mic{number:03d}.tiff"
        u, v = (truth.floats(f"rlnDefocus{axis}")[here].mean() for axis in "UV")
        spectrum = amplitude_spectrum(aligned_sum(shared, number), 1.77, 512)
        fit = estimate_ctf(spectrum, POLARA, Search())
        errors += [fit.defocus_u - u, fit.defocus_v - v]
        means.append((fit.defocus_u + fit.defocus_v - u - v) / 2)
    assert np.median(np.abs(errors)) < 50
    assert np.max(np.abs(means)) < 80


def test_the_micrograph_of_relions_motion_correction(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "mic001.mrc"
    path.write_bytes(gzip.decompress((shared / "golden/numeric/motioncorr/mic001.mrc.gz").read_bytes()))
    truth = star.read(shared / "data/movies/truth.star")["particles"]
    here = np.array(truth.strings("rlnMicrographMovieName")) == "Movies/mic001.tiff"
    fit = estimate_ctf(amplitude_spectrum(read_image(path)[0], 1.77, 512), POLARA, Search())
    assert abs(fit.defocus_u - truth.floats("rlnDefocusU")[here].mean()) < 60
    assert abs(fit.defocus_v - truth.floats("rlnDefocusV")[here].mean()) < 60
    assert angle_between(fit.angle, 91.44) < 10


def test_real_micrographs_of_apoferritin(shared: Path) -> None:
    """Rings to 4.5-6 A in four of them; the fifth drifted and has none, which the fit must say."""
    folder = shared / "data/real/apoferritin-10146"
    if not folder.is_dir():
        pytest.skip("the apoferritin micrographs are not here")
    search = Search(finest_resolution=4.5)
    microscope = Microscope(300.0, 2.7, 0.07)
    for path in sorted(folder.glob("*.mrc")):
        spectrum = amplitude_spectrum(read_image(path)[0], 1.5, 512)
        fit = estimate_ctf(spectrum, microscope, search)
        resolution = profiles(spectrum, fit, microscope, search).resolution
        if "06.09.02" in path.name:
            assert fit.score < 0.03 and resolution > 8
        else:
            assert 15000 < fit.defocus_v <= fit.defocus_u < 26000
            assert fit.score > 0.06 and resolution < 6
