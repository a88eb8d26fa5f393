"""Multi-body refinement as the MultiBody job runs it, on two bodies whose motions are known."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from body_errors import errors, matrices, poses
from map_programs import BLUSH, path_with, programs_in
from refine_runs import ABORT_NOW, ABORTED, Run, needs_mpirun, refined, shell_correlation, start

from relion_py.compute.cli import particle_subtract
from relion_py.compute.cli.program import run
from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import rotation_angle
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map
from relion_py.compute.refine.bodies import Body, read_bodies
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.simulate_bodies import simulate_bodies

BOX, PIXEL = 36, 5.0
CONSENSUS = """
    --i particles.star --ref reference.mrc --auto_refine --split_random_halves --ctf --particle_diameter 170 --norm
    --zero_mask --flatten_solvent --ini_high 25 --healpix_order 4 --offset_range 2 --offset_step 1 --iter 2
    --low_resol_join_halves 40 --random_seed 1 --pool 30 --j 2 --dont_combine_weights_via_disc
"""
MULTIBODY = """
    --continue Consensus/run_it002_optimiser.star --solvent_correct_fsc --multibody_masks bodies.star --oversampling 1
    --healpix_order 4 --auto_local_healpix_order 4 --offset_range 1.5 --offset_step 0.5 --iter 2 --pool 30 --pad 2
    --reconstruct_subtracted_bodies --dont_combine_weights_via_disc
"""
"""The job's command (golden commands of type 19) with fewer iterations; the output is added."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("multibody")
    simulate_bodies(root, n=120, box=BOX, angpix=PIXEL, snr=3.0)
    refined(root, "Consensus", usual=CONSENSUS.split())
    rows = star.read(root / "bodies.star")[""]
    rows.set("rlnBodyReferenceName", ["body1.mrc", "body2.mrc"])
    star.write(root / "known.star", {"": rows})
    return root


@pytest.fixture(scope="module")
def multibody(project: Path) -> Run:
    """Begun with the true maps, for a few particles make poor ones."""
    return refined(project, "MultiBody", "--j", "2", usual=command("known.star"))


def command(bodies: str = "bodies.star", *less: str) -> list[str]:
    """The words of the job's command with a body STAR file, less some switches."""
    return [word for word in MULTIBODY.replace("bodies.star", bodies).split() if word not in less]


@pytest.fixture(scope="module")
def bodies(project: Path) -> list[Body]:
    here = Path.cwd()
    try:
        os.chdir(project)
        return list(read_bodies("bodies.star", BOX, PIXEL).bodies)
    finally:
        os.chdir(here)


def test_bodies_are_nearer_to_the_truth_than_the_consensus(project: Path, multibody: Run, bodies: list[Body]) -> None:
    found = poses(multibody.out / "run_it002_data.star")
    before = errors(project, found, bodies, 1, PIXEL, moved=False)
    after = errors(project, found, bodies, 1, PIXEL)
    # the second body swings by 9 degrees; 7.9 degrees and 1.5 A became 3.7 degrees and 0.7 A
    assert after[0] < 0.6 * before[0] and after[1] < 0.65 * before[1], (before, after)
    before, after = errors(project, found, bodies, 0, PIXEL, moved=False), errors(project, found, bodies, 0, PIXEL)
    assert after[0] < before[0] and after[1] < 0.75 * before[1], (before, after)


def test_the_files_are_those_of_the_reference(multibody: Run, bodies: list[Body]) -> None:
    """Names, tables and labels as RELION 5.0.1 wrote them for the same command."""
    for name in ("run_body001_mask.mrc", "run_bodies.bild", "run_it000_half2_body001.mrc", "run_it002_sampling.star"):
        assert multibody.has(name), name
    model = star.read(multibody.out / "run_it002_half1_model.star")
    assert list(model) == [
        "model_general", "model_bodies", "model_body_1", "model_body_2", "model_groups", "model_optics_group_1",
        "model_pdf_orient_body_1", "model_pdf_orient_body_2",
    ]  # fmt: skip
    assert model["model_general"].value("rlnNrBodies") == "2" and model["model_general"].value("rlnNrClasses") == "1"
    assert list(model["model_bodies"].labels) == [
        "rlnReferenceImage", "rlnClassDistribution", "rlnAccuracyRotations", "rlnAccuracyTranslationsAngst",
        "rlnEstimatedResolution", "rlnOverallFourierCompleteness", "rlnBodyRotateDirectionX",
        "rlnBodyRotateDirectionY", "rlnBodyRotateDirectionZ", "rlnBodyKeepFixed",
    ]  # fmt: skip
    assert model["model_bodies"].strings("rlnReferenceImage")[1] == "MultiBody/run_it002_half1_body002.mrc"
    assert model["model_bodies"].floats("rlnBodyRotateDirectionX")[0] == pytest.approx(bodies[0].axis[0], abs=1e-5)
    assert model["model_optics_group_1"].ints("rlnSpectralIndex")[0] == 0  # the reference divides by it
    first = star.read(multibody.out / "run_it000_data.star")
    assert list(first) == ["optics", "particles", "images_body_1", "images_body_2"]
    assert set(first["images_body_2"].labels) == {
        "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnNormCorrection",
    }  # fmt: skip
    assert set(first["images_body_2"].floats("rlnAngleTilt")) == {90.0}
    optimiser = star.read(multibody.out / "run_it002_optimiser.star")["optimiser_general"]
    assert optimiser.value("rlnBodyStarFile") == "known.star" and optimiser.value("rlnCurrentIteration") == "2"


def test_the_consensus_poses_and_norms_stay(project: Path, multibody: Run) -> None:
    before = poses(project / "Consensus/run_it002_data.star")["particles"]
    after = poses(multibody.out / "run_it002_data.star")["particles"]
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnOriginXAngst", "rlnNormCorrection", "rlnRandomSubset"):
        assert after.strings(label) == before.strings(label), label


def test_bodies_are_subtracted_from_particles(project: Path, multibody: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job Particle subtraction on the run's optimiser; the body that is kept gives the new angles."""
    monkeypatch.chdir(project)
    words = ["--i", "MultiBody/run_it002_optimiser.star", "--o", "Subtract/", "--mask", "mask2.mrc"]
    assert run(particle_subtract._main, words) == 0
    found = star.read("Subtract/particles_subtracted.star")["particles"]
    tables = poses(multibody.out / "run_it002_data.star")
    second = read_bodies("bodies.star", BOX, PIXEL)[1]
    own = second.own_matrices(matrices(tables["particles"]), matrices(tables["images_body_2"]))
    found = found.select(np.argsort(found.strings("rlnImageOriginalName")))
    assert found.strings("rlnImageOriginalName") == tables["particles"].strings("rlnImageName")
    assert rotation_angle(own, matrices(found)).max() < 0.01
    assert max(np.abs(found.floats(f"rlnOrigin{axis}Angst")).max() for axis in "XY") <= PIXEL / 2 + 1e-4
    assert run(particle_subtract._main, [*words, "--ssnr"]) == 1


def test_a_run_goes_on_from_any_iteration(project: Path, multibody: Run) -> None:
    words = ["--continue", "MultiBody/run_it001_optimiser.star", "--reconstruct_subtracted_bodies", "--j", "2"]
    again = refined(project, "Again", *words, "--iter", "2", usual=[])
    assert not again.has("run_it000_data.star") and again.has("run_bodies.bild")
    first, second = (poses(run.out / "run_it002_data.star")["images_body_2"] for run in (multibody, again))
    assert np.median(rotation_angle(matrices(first), matrices(second))) < 0.05
    maps = [run.map("run_it002_half1_body002.mrc") for run in (multibody, again)]
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.999


def test_a_body_without_standard_deviations_stays(project: Path) -> None:
    """Also without --reconstruct_subtracted_bodies and --solvent_correct_fsc, and with a map of its own."""
    rows = star.read(project / "bodies.star")[""]
    rows.set("rlnBodySigmaAngles", [0.0, 10.0])
    rows.set("rlnBodySigmaOffsetAngst", [0.0, 3.0])
    rows.set("rlnBodyReferenceName", ["body1.mrc", "None"])
    star.write(project / "fixed.star", {"": rows})
    words = command("fixed.star", "--reconstruct_subtracted_bodies", "--solvent_correct_fsc")
    run = refined(project, "Fixed", "--j", "2", "--iter", "1", usual=words)
    found = star.read(run.out / "run_it001_data.star")
    assert set(found["images_body_1"].floats("rlnAngleTilt")) == {90.0}
    assert len(set(found["images_body_2"].floats("rlnAngleTilt"))) > 50
    assert star.read(run.out / "run_it001_half1_model.star")["model_bodies"].ints("rlnBodyKeepFixed").tolist() == [1, 0]
    assert (run.map("run_it001_half1_body001.mrc") == read_map(project / "body1.mrc")[0]).all()


@pytest.mark.slow
def test_a_body_that_stays_has_maps_at_the_end(project: Path, multibody: Run) -> None:
    """Straight to the last iteration, from the files of the run before."""
    words = ["--continue", "MultiBody/run_it002_optimiser.star", "--multibody_masks", "fixed.star", "--force_converge"]
    rows = star.read(project / "known.star")[""]
    rows.set("rlnBodySigmaAngles", [0.0, 10.0])
    rows.set("rlnBodySigmaOffsetAngst", [0.0, 3.0])
    star.write(project / "fixed.star", {"": rows})
    run = refined(project, "End", *words, "--iter", "9", "--j", "2", "--reconstruct_subtracted_bodies", usual=[])
    before, after = (
        poses(project / name)["images_body_1"] for name in ("MultiBody/run_it002_data.star", "End/run_data.star")
    )
    assert before.strings("rlnAngleTilt") == after.strings("rlnAngleTilt")
    truth = read_map(project / "body1.mrc")[0]
    for name in ("run_body001.mrc", "run_half1_body001_unfil.mrc", "run_half2_body001_unfil.mrc"):
        assert shell_correlation(run.map(name), truth)[1:8].min() > 0.7, name


@needs_mpirun
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same(project: Path, multibody: Run, ranks: int) -> None:
    run = refined(project, f"Ranks{ranks}", ranks=ranks, usual=command("known.star"))
    for body in (1, 2):
        first, second = (poses(r.out / "run_it002_data.star")[f"images_body_{body}"] for r in (multibody, run))
        assert matrices(first) == pytest.approx(matrices(second), abs=1e-4)
    name = "run_it002_half2_body002.mrc"
    assert run.map(name) == pytest.approx(multibody.map(name), abs=1e-4 * float(np.abs(run.map(name)).max()))


@pytest.mark.slow
def test_blush_may_make_the_maps(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each body's, with its centre in that of the box; a stand-in that denoises nothing."""
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    programs_in(tmp_path / "bin")("relion_python_blush", BLUSH.replace(" == 60", " > 0"))
    run = refined(project, "Blush", "--j", "2", "--blush", "--iter", "1", usual=command("known.star"))
    plain = refined(project, "NoBlush", "--j", "2", "--iter", "1", usual=command("known.star"))
    for name in ("run_it001_half1_body001", "run_it001_half2_body002"):
        assert run.has(f"{name}_external_reconstruct.mrc")
        curve = shell_correlation(run.map(f"{name}.mrc"), plain.map(f"{name}.mrc"))
        assert curve[1:8].min() > 0.98  # Blush's prior begins at the origin and is interpolated


@pytest.mark.slow
def test_a_run_converges_and_is_analysed(tmp_path: Path, bodies: list[Body]) -> None:
    """From the consensus maps to the end, where both halves are joined; the analysis finds the swing of body 2."""
    simulate_bodies(tmp_path, n=400, box=BOX, angpix=PIXEL, snr=3.0)
    refined(tmp_path, "Consensus", usual=CONSENSUS.split())
    run = refined(tmp_path, "Whole", "--j", "2", "--iter", "40", usual=command(), seconds=500)
    assert "Refinement has converged" in run.stdout
    for name in ("run_body001.mrc", "run_half1_body001_unfil.mrc", "run_half2_body002_unfil.mrc", "run_model.star"):
        assert run.has(name), name
    found, mask = poses(run.out / "run_data.star"), bodies[1].mask
    before, after = errors(tmp_path, found, bodies, 1, PIXEL, moved=False), errors(tmp_path, found, bodies, 1, PIXEL)
    assert after[0] < 0.92 * before[0] and after[1] < 0.7 * before[1], (before, after)
    truth = read_map(tmp_path / "body2.mrc")[0] * mask
    consensus = read_map(tmp_path / "Consensus/run_it002_half1_class001.mrc")[0] * mask
    mine = run.map("run_body002.mrc") * mask
    old, new = (shell_correlation(volume, truth)[8:15].mean() for volume in (consensus, mine))
    assert new > old + 0.05, (old, new)
    halves = [run.map(f"run_half{half}_body002_unfil.mrc") * mask for half in (1, 2)]
    told = star.read(run.out / "run_model.star")["model_body_2"].floats("rlnGoldStandardFsc")
    assert told[1:8] == pytest.approx(shell_correlation(*halves)[1:8], abs=0.1)
    program = [sys.executable, "-m", "relion_py.compute.cli.flex_analyse", "--PCA_orient", "--bodies", "bodies.star"]
    files = ["--model", "Whole/run_model.star", "--data", "Whole/run_data.star", "--o", "Whole/analyse"]
    words = [*program, *files, "--do_maps", "--k", "1"]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert float(told.split("Component 1 explains ")[1].split("%")[0]) > 15  # of 12 components
    assert run.has("analyse_component001_bin010.mrc") and run.has("analyse_logfile.pdf")


@pytest.mark.slow
def test_a_run_can_be_stopped(project: Path) -> None:
    run = start(project, "Stopped", "--j", "2", "--iter", "40", usual=command())
    run.until(lambda: run.has("run_it001_optimiser.star"))
    (run.out / ABORT_NOW).touch()
    began = time.monotonic()
    run.wait(120)
    assert run.exit_files() == [ABORTED], (time.monotonic() - began, run.stderr)


CONSENSUS_OPTIONS = RefineOptions(
    auto_refine=True, split_random_halves=True, output_root="Refine3D/job001/run", particles="particles.star"
)


def continued(previous: RefineOptions, **given: str | bool) -> RefineOptions:
    """Options of a run that goes on after iteration 7 with these flags."""
    flags = {f"--{name}": value for name, value in given.items()}
    return RefineOptions.continued(previous, 7, flags, list(flags))


def test_a_new_sampling_begins_with_the_bodies() -> None:
    given = {"multibody_masks": "b.star", "healpix_order": "4", "offset_range": "3", "offset_step": "1.5", "o": "M/run"}
    options = continued(CONSENSUS_OPTIONS, **given)
    assert (options.healpix_order, options.offset_range, options.offset_step) == (4, 3.0, 1.5)
    assert options.output_root == "M/run" and options.has_bodies
    assert continued(CONSENSUS_OPTIONS, multibody_masks="b.star").output_root == "Refine3D/job001/run"
    again = continued(options)
    assert again.multibody_masks == "b.star" and again.output_root == "M/run_ct7"
    with pytest.raises(UserError, match="--healpix_order cannot change"):
        continued(options, healpix_order="5")


@pytest.mark.parametrize(
    ("previous", "given", "told"),
    [
        ({}, {"gpu": "0"}, "--gpu does not go with --multibody_masks"),
        ({"symmetry": "C2"}, {}, "needs a refinement without symmetry, not one in C2"),
        ({"auto_refine": False}, {}, "continues a 3D auto-refinement"),
        ({"helix": True}, {}, "is not for helices"),
        ({"multibody_masks": "b.star"}, {"pad": "1"}, "--pad cannot change"),
        ({}, {"multibody_masks": "None", "multibody_norm_overlap": True}, "has no effect without --multibody_masks"),
    ],
)
def test_mistakes_are_told(previous: dict[str, Any], given: dict[str, str | bool], told: str) -> None:
    with pytest.raises(UserError, match=told):
        continued(replace(CONSENSUS_OPTIONS, **previous), **{"multibody_masks": "b.star", **given})


def test_bodies_are_for_continued_runs() -> None:
    values = {"--i": "p.star", "--o": "run", "--ref": "r.mrc", "--auto_refine": True, "--split_random_halves": True}
    with pytest.raises(UserError, match="--multibody_masks goes with --continue only"):
        RefineOptions.from_args({**values, "--multibody_masks": "b.star"})
