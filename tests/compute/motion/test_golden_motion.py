"""Movies with known drift beside RELION 5's own trajectories, and beside Debian's RELION in other modes."""

from __future__ import annotations

import gzip
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import outcome
from reference_data import SHARED
from witness_maps import voxels

from relion_py.compute.cli.motioncorr import _main
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.motion.model import MovieMotion, read_motion

MOVIES = SHARED / "data" / "movies"
GOLDEN = SHARED / "golden" / "numeric" / "motioncorr"
PIXEL = 1.77
pytestmark = pytest.mark.skipif(
    not (MOVIES.exists() and GOLDEN.exists()), reason="the simulated movies or RELION's results are not here"
)
GOLDEN_FLAGS = shlex.split(
    "--use_own --bin_factor 1 --bfactor 150 --dose_per_frame 4.2 --preexposure 0 --patch_x 3 --patch_y 3 "
    "--gainref Movies/gain.mrc --dose_weighting --grouping_for_ps 3 --j 2"
)


def list_movies(directory: Path, numbers: range) -> None:
    (directory / "Movies").symlink_to(MOVIES / "Movies")
    optics = Table(
        {
            "rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": [1],
            "rlnMicrographOriginalPixelSize": [PIXEL], "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
        }
    )  # fmt: skip
    names = [f"Movies/mic{number:03d}.tiff" for number in numbers]
    movies = Table({"rlnMicrographMovieName": names, "rlnOpticsGroup": [1] * len(names)})
    star.write(directory / "movies.star", StarFile([("optics", optics), ("movies", movies)]))


def motioncorr(directory: Path, *arguments: str) -> None:
    code, _, err = outcome(_main, directory, "--i", "movies.star", *arguments)
    assert code == 0, err


def read(path: Path) -> np.ndarray:
    return np.squeeze(voxels(path))


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def model_difference(ours: MovieMotion, theirs: MovieMotion) -> float:
    """Root mean square difference (px) of the local models over the image and all frames."""
    assert ours.model is not None and theirs.model is not None
    x, y = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 300))
    frames = range(int(ours.observed().sum()))
    return rms(np.array([ours.model.shifts(z, x, y) - theirs.model.shifts(z, x, y) for z in frames]))


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("movies")
    list_movies(directory, range(1, 7))
    motioncorr(directory, "--o", "MotionCorr/job002/", *GOLDEN_FLAGS)
    return directory / "MotionCorr/job002"


def test_trajectories_are_those_of_relion_5(corrected: Path) -> None:
    # The 16 dead pixels get random values in both programs; that alone changes shifts by 0.01 px.
    for number in range(1, 7):
        ours, theirs = (read_motion(str(d / f"mic{number:03d}.star")) for d in (corrected / "Movies", GOLDEN))
        assert rms(ours.shifts - theirs.shifts) < 0.03
        assert model_difference(ours, theirs) < 0.12
        assert ours.local is not None and theirs.local is not None
        np.testing.assert_array_equal(ours.local.frame, theirs.local.frame)
        np.testing.assert_array_equal([ours.local.x, ours.local.y], [theirs.local.x, theirs.local.y])
        assert rms(ours.local.shift_x - theirs.local.shift_x) < 0.12


def test_tables_and_labels_are_those_of_relion_5(corrected: Path) -> None:
    for name, ours in (
        ("mic001.star", corrected / "Movies/mic001.star"),
        ("corrected_micrographs.star", corrected / "corrected_micrographs.star"),
    ):
        expected, found = star.read(GOLDEN / name), star.read(ours)
        assert list(found) == list(expected)
        for block, table in expected.items():
            assert found[block].labels == table.labels and found[block].loop == table.loop
            assert len(found[block]) == len(table)
    expected = star.read(GOLDEN / "mic001.star")["general"]
    assert star.read(corrected / "Movies/mic001.star")["general"] == expected


def test_micrograph_is_that_of_relion_5(corrected: Path, tmp_path: Path) -> None:
    (tmp_path / "golden.mrc").write_bytes(gzip.decompress((GOLDEN / "mic001.mrc.gz").read_bytes()))
    expected, found = read(tmp_path / "golden.mrc"), read(corrected / "Movies/mic001.mrc")
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.998
    assert found.mean() == pytest.approx(expected.mean(), rel=1e-4)
    assert found.std() == pytest.approx(expected.std(), rel=1e-2)


def test_drift_is_the_truth(corrected: Path) -> None:
    truth = star.read(MOVIES / "truth.star")["micrographs"]
    drift = np.stack([truth.floats(f"truthDrift{axis}Angst") for axis in "XY"], axis=1)
    motions = [read_motion(str(corrected / f"Movies/mic{n:03d}.star")) for n in range(1, 7)]
    found = np.array([-motion.shifts[-1] * PIXEL for motion in motions])
    # local motion, whose mean is not 0, comes on top
    assert abs(found - drift).max() < 1.5
    assert np.corrcoef(found.ravel(), drift.ravel())[0, 1] > 0.99


def test_relion_reads_the_trajectories(tmp_path: Path, debian_relion: Callable[[str], str]) -> None:
    # With nothing left to do, RELION reads every file of a movie's motion and measures it.
    program = debian_relion("relion_run_motioncorr")
    list_movies(tmp_path, range(1, 3))
    motioncorr(tmp_path, "--o", "job/", *GOLDEN_FLAGS)
    ours = star.read(tmp_path / "job/corrected_micrographs.star")["micrographs"]
    (tmp_path / "job/corrected_micrographs.star").unlink()
    command = [program, "--i", "movies.star", "--o", "job/", *GOLDEN_FLAGS, "--only_do_unfinished"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = star.read(tmp_path / "job/corrected_micrographs.star")["micrographs"]
    for label in ours.labels:
        if label.startswith("rlnAccum"):
            np.testing.assert_allclose(ours.floats(label), theirs.floats(label), atol=1e-4)
        else:
            assert ours.strings(label) == theirs.strings(label)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["--bin_factor 2 --gain_rot 1 --gain_flip 1", "--bin_factor 2 --no_early_binning", "--save_noDW"]
)
def test_other_modes_beside_debian(mode: str, tmp_path: Path, debian_relion: Callable[[str], str]) -> None:
    program = debian_relion("relion_run_motioncorr")
    list_movies(tmp_path, range(2, 3))
    flags = [*GOLDEN_FLAGS, "--first_frame_sum", "2", "--last_frame_sum", "9", *mode.split()]
    command = [program, "--i", "movies.star", "--o", "theirs/", *flags]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    motioncorr(tmp_path, "--o", "ours/", *flags)
    ours, theirs = (read_motion(str(tmp_path / d / "Movies/mic002.star")) for d in ("ours", "theirs"))
    assert rms(ours.shifts - theirs.shifts) < 0.03
    assert model_difference(ours, theirs) < 0.12
    images = [read(tmp_path / d / "Movies/mic002.mrc").ravel() for d in ("ours", "theirs")]
    assert np.corrcoef(*images)[0, 1] > 0.998
    spectra = [read(tmp_path / d / "Movies/mic002_PS.mrc") for d in ("ours", "theirs")]
    for spectrum in spectra:  # the mean of the image rings along the axes of RELION's
        spectrum[256] = spectrum[:, 256] = 0
    assert np.corrcoef(spectra[0].ravel(), spectra[1].ravel())[0, 1] > 0.9999
