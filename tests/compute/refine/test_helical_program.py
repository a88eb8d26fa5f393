"""relion_refine --helix: beside RELION 3.1.3, and against simulated filaments of a known helix."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blob_model import shell_correlation
from helix_segments import Helix, write_segments

from relion_py.compute.cli.refine import main
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.masks import cylinder_mask, soft_mask
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, read_stack, write_map
from relion_py.compute.io.star import Table

HELIX = Helix()
SHAPE = "--particle_diameter 120 --flatten_solvent --zero_mask --helical_outer_diameter 80"
SEARCH = "--oversampling 1 --healpix_order 2 --offset_range 4 --offset_step 2"
PRIORS = "--sigma_tilt 5 --sigma_psi 3.33333 --sigma_rot 0"
COMMON = f"--i particles.star --ctf --norm --scale --pad 2 --j 1 --random_seed 1 {SHAPE}"
MAPS = f"{COMMON} --ref reference.mrc --ini_high 30 --sym C1 {SEARCH} {PRIORS} --helix --helical_z_percentage 0.3"
SYMMETRY = "--helical_nr_asu 3 --helical_twist_initial 38 --helical_rise_initial 12"
OFF = "--helical_nr_asu 3 --helical_twist_initial 37 --helical_rise_initial 12.4"
LIMITS = "--helical_twist_min 34 --helical_twist_max 42 --helical_rise_min 11 --helical_rise_max 13"


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Eight filaments of unknown polarity, 25 segments each, and the truth low-passed to 30 A."""
    root = tmp_path_factory.mktemp("helix")
    known = write_segments(root, HELIX, noise=2.0, bimodal=True)
    write_map(root / "reference.mrc", lowpass(HELIX.map(), HELIX.pixel, 30.0, 2).astype(np.float32), HELIX.pixel)
    return root, known


@pytest.fixture
def project(truth: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    monkeypatch.chdir(truth[0])
    return truth[1]


def refine(job: str, words: str) -> None:
    os.makedirs(job, exist_ok=True)
    assert main(["--o", f"{job}/run", *words.split()]) == 0


def particles(path: str) -> Table:
    """In the order of the images."""
    table = star.read(path)["particles"]
    return table.select(np.argsort(table.strings("rlnImageName")))


def poses(table: Table) -> np.ndarray:
    return euler_to_matrix(*(table.floats(f"rlnAngle{name}") for name in ("Rot", "Tilt", "Psi")))


def resolved_shells(path: str) -> int:
    """First shell at which a map's correlation with the truth within the tube falls below 0.5."""
    mask = cylinder_mask(HELIX.box, 13.0, -1.0, 3.0) * soft_mask(HELIX.box, 16.0, 4.0)
    curve = shell_correlation(read_map(path)[0] * mask, HELIX.map() * mask)
    return int(np.argmax(curve < 0.5))


def test_an_iteration_is_that_of_the_reference(project: dict, debian_relion: Callable[[str], str]) -> None:
    """Poses, priors, map and parameters of one iteration without random moves of the grid."""
    words = f"{MAPS} {SYMMETRY} --iter 1 --perturb 0 --tau2_fudge 1 --maskedge 5 --helical_sigma_distance 0.7"
    os.makedirs("theirs", exist_ok=True)
    command = [debian_relion("relion_refine"), "--o", "theirs/run", *words.split(), "--ctf_corrected_ref"]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    refine("ours", words)
    ours, theirs = particles("ours/run_it001_data.star"), particles("theirs/run_it001_data.star")
    same = np.einsum("nij,nij->n", poses(ours), poses(theirs)) > 2.999
    assert same.mean() > 0.75
    for label in ("rlnMaxValueProbDistribution", "rlnNormCorrection"):
        assert np.corrcoef(ours.floats(label)[same], theirs.floats(label)[same])[0, 1] > 0.8
    # where all segments of a filament agree in both programs and its polarity stays, so do the priors
    tilts = np.abs(ours.floats("rlnAngleTiltPrior") - theirs.floats("rlnAngleTiltPrior"))
    assert np.mean(tilts < 1e-3) > 0.1
    assert np.array_equal(np.sign(ours.floats("rlnHelicalTrackLengthAngst")), np.sign(theirs.floats(
        "rlnHelicalTrackLengthAngst")))  # fmt: skip
    one, two = read_map("ours/run_it001_class001.mrc")[0], read_map("theirs/run_it001_class001.mrc")[0]
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.995
    assert shell_correlation(one, two)[:10].min() > 0.98
    models = [star.read(f"{name}/run_it001_model.star") for name in ("ours", "theirs")]
    general = [model["model_general"] for model in models]
    assert set(general[1].labels) <= set(general[0].labels)
    for label in (name for name in general[1].labels if "Helical" in name or "Helix" in name):
        assert general[0].value(label) == general[1].value(label), label
    assert models[0]["model_classes"].labels == models[1]["model_classes"].labels
    first, second = (float(table.value("rlnSigmaOffsetsAngst")) for table in general)
    assert first == pytest.approx(second, rel=0.15)


def test_classification_refines_twist_and_rise_and_goes_on(project: dict) -> None:
    refine("class", f"{MAPS} {OFF} {LIMITS} --helical_symmetry_search --K 1 --iter 3 --tau2_fudge 2")
    model = star.read("class/run_it003_model.star")["model_classes"]
    assert model.floats("rlnHelicalTwist")[0] == pytest.approx(38, abs=0.5)
    assert model.floats("rlnHelicalRise")[0] == pytest.approx(12, abs=0.2)
    assert resolved_shells("class/run_it003_class001.mrc") >= 9  # 16 A
    volume = read_map("class/run_it003_class001.mrc")[0]
    assert np.abs(volume[:, 24, 24 + 25 :]).max(initial=0) == 0 and not volume[24, 0].any()
    assert main(["--continue", "class/run_it002_optimiser.star", "--o", "class/again", "--iter", "3"]) == 0
    again = read_map("class/again_it003_class001.mrc")[0]
    assert np.corrcoef(again.ravel(), volume.ravel())[0, 1] > 0.98
    found = star.read("class/again_it003_model.star")
    assert found["model_general"].value("rlnNrHelicalAsymUnits") == "3"
    assert float(found["model_general"].value("rlnHelicalTwistMin")) == 34


def test_steps_along_the_gradient_refine_a_helix(project: dict) -> None:
    """The reference is the truth at 30 A; after a few steps the map is right beyond that."""
    steps = "--grad --iter 5 --grad_write_iter 5 --grad_ini_subset 120 --grad_fin_subset 200 --tau2_fudge 4"
    refine("steps", f"{MAPS} {SYMMETRY} {steps}")
    assert resolved_shells("steps/run_it005_class001.mrc") >= resolved_shells("reference.mrc") + 2
    found = particles("steps/run_it005_data.star")
    assert np.std(found.floats("rlnAngleTiltPrior")) > 0, "priors follow the segments"


def test_two_dimensional_classes_lie_along_x(project: dict) -> None:
    words = f"{COMMON} --iter 4 --K 2 --tau2_fudge 2 --psi_step 12 --offset_range 4 --offset_step 2 --center_classes"
    refine("two", f"{words} --bimodal_psi --sigma_psi 3 --helix --helical_rise_initial 12")
    found = particles("two/run_it004_data.star").floats("rlnAnglePsi")
    away = np.abs((found - project["angles"][:, 2] + 90) % 180 - 90)
    assert np.median(away) < 5 and np.percentile(away, 95) < 13
    for average in read_stack("two/run_it004_classes.mrcs")[0]:
        level = np.median(average[36:44, 12:36])  # of the background
        rows, columns = (average - level)[:, 12:36].sum(axis=1), (average - level)[12:36].sum(axis=0)
        assert rows[17:32].sum() > 4 * np.abs(np.delete(rows, np.s_[14:35])).sum()
        assert columns[16:33].min() > 0.2 * columns.max()


def test_symmetry_may_be_ignored_and_poses_kept(project: dict) -> None:
    refine("free", f"{MAPS} --ignore_helical_symmetry --helical_inner_diameter 6 --K 1 --iter 1 --tau2_fudge 2")
    model = star.read("free/run_it001_model.star")
    assert model["model_general"].value("rlnIsHelix") == "1"
    assert model["model_classes"].floats("rlnHelicalRise")[0] == 0
    assert not read_map("free/run_it001_class001.mrc")[0][24, :6, :6].any()  # outside the cylinder
    words = COMMON.replace("particles.star", "free/run_it001_data.star") + f" --ref reference.mrc {SYMMETRY}"
    refine("kept", f"{words} --helix --helical_z_percentage 0.3 --skip_align --iter 1 --K 1")
    before, after = particles("free/run_it001_data.star"), particles("kept/run_it001_data.star")
    for label in ("rlnAngleRot", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnAngleTiltPrior"):
        assert np.allclose(before.floats(label), after.floats(label), atol=1e-4), label


def test_impossible_helices_are_refused_in_a_sentence(project: dict, capfd: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (f"{MAPS} --helical_twist_initial 38 --helical_rise_initial 60", "too short for a rise"),
        (f"{MAPS} {SYMMETRY.replace('asu 3', 'asu 20')}", "20 asymmetric units per segment do not fit"),
        (f"{MAPS} {SYMMETRY} --helical_symmetry_search {LIMITS.replace('42', '37')}", "not between its limits"),
        (f"{MAPS} {SYMMETRY} --particle_diameter 70", "outer diameter of 80 A"),
    ):
        assert main(["--o", "wrong", *words.split(), "--K", "1"]) == 1
        error = capfd.readouterr().err
        assert sentence in error and "Traceback" not in error


@pytest.mark.slow
def test_auto_refinement_from_a_cylinder(truth: tuple[Path, dict], tmp_path: Path, monkeypatch) -> None:
    """Twist, rise and the map from a featureless cylinder; the map may be turned, moved or upside down."""
    monkeypatch.chdir(tmp_path)
    write_segments(tmp_path, HELIX, noise=2.0)
    cylinder = cylinder_mask(HELIX.box, 10.0, -1.0, 3.0) * HELIX.map()[:, 20:28, 20:28].mean()
    write_map("reference.mrc", cylinder.astype(np.float32), HELIX.pixel)
    words = MAPS.replace("--healpix_order 2", "--healpix_order 3").replace("--offset_range 4", "--offset_range 5")
    words += " --auto_refine --split_random_halves --auto_local_healpix_order 5 --low_resol_join_halves 40"
    guess = "--helical_nr_asu 3 --helical_twist_initial 37.5 --helical_rise_initial 12.2"
    refine("auto", f"{words} {guess} --helical_symmetry_search {LIMITS}")
    model = star.read("auto/run_model.star")["model_classes"]
    assert model.floats("rlnHelicalTwist")[0] == pytest.approx(38, abs=0.1)
    assert model.floats("rlnHelicalRise")[0] == pytest.approx(12, abs=0.1)
    resolution = float(star.read("auto/run_model.star")["model_general"].value("rlnCurrentResolution"))
    assert resolution < 13.5
