"""The same particles in Debian's relion_refine and here: first noise spectra, first steps, files that it reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from installed_relion import installed_relion, old_relion
from refine_runs import BOX, PIXEL, Run, refine, refined, shell_correlation, usual_without

from relion_py.compute.io import star
from relion_py.compute.refine.angular_distribution import bild

GLOBAL = usual_without(
    "--auto_refine", "--split_random_halves", "--low_resol_join_halves", "--auto_local_healpix_order", "--pool",
)  # fmt: skip


def noise_in(path: Path) -> np.ndarray:
    """Mean rlnSigma2Noise: release 3.1 has one of each micrograph (of equal size here), later ones of optics groups."""
    tables = star.read(path)
    names = [n for n in tables if n.startswith(("model_group_", "model_optics_group_"))]
    return np.mean([tables[name].floats("rlnSigma2Noise") for name in names], axis=0)


def test_first_noise_spectra_are_those_of_release_3(serial_run: Run, d2_project: Path) -> None:
    out = old_relion(d2_project, "old_noise", [*GLOBAL, "--iter", "1"], "run_it000_optimiser.star", 60)
    theirs = noise_in(out / "run_it000_model.star")
    ours = noise_in(serial_run.out / "run_it000_half1_model.star")
    shells = slice(1, min(len(ours), len(theirs)))
    np.testing.assert_allclose(ours[shells], theirs[shells], rtol=1e-4)
    signal = [star.read(p)["model_class_1"] for p in (
        out / "run_it000_model.star", serial_run.out / "run_it000_half1_model.star")]  # fmt: skip
    tau2 = [table.floats("rlnReferenceTau2") for table in signal]
    np.testing.assert_allclose(tau2[1][:6], tau2[0][:6], rtol=1e-3)
    halves = star.read(serial_run.out / "run_it001_data.star")["particles"].ints("rlnRandomSubset")
    ratio = [table.floats("rlnSsnrMap")[:6] for table in signal]
    np.testing.assert_allclose(ratio[1], ratio[0] * np.mean(halves == 1), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_first_steps_reach_the_same_resolution_as_release_3(serial_run: Run, d2_project: Path) -> None:
    """One class without halves there, two halves here: both must see about the same in two iterations."""
    words = [*GLOBAL, "--iter", "2", "--j", "2"]
    out = old_relion(d2_project, "old_steps", words, "run_it002_optimiser.star", 280)
    truth = np.array(mrcfile.read(d2_project / "truth.mrc"))
    theirs = shell_correlation(np.array(mrcfile.read(out / "run_it002_class001.mrc")), truth)
    mean = serial_run.map("run_it002_half1_class001.mrc") + serial_run.map("run_it002_half2_class001.mrc")
    ours = shell_correlation(mean, truth)
    assert ours[1:8].mean() > theirs[1:8].mean() - 0.08


def test_release_3_postprocesses_the_half_maps(serial_run: Run, d2_project: Path) -> None:
    program = installed_relion("relion_postprocess")
    if program is None:
        pytest.skip("no compiled relion_postprocess is installed")
    (d2_project / "post").mkdir()
    done = subprocess.run(
        [program, "--i", "serial/run_half1_class001_unfil.mrc", "--o", "post/run", "--angpix", "-1", "--mask",
         "mask.mrc", "--skip_fsc_weighting"],
        cwd=d2_project, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = star.read(d2_project / "post/run.star")
    curve = np.array(table["fsc"].floats("rlnFourierShellCorrelationUnmaskedMaps"))
    ours = shell_correlation(*(serial_run.map(f"run_half{h}_class001_unfil.mrc") for h in (1, 2)))
    np.testing.assert_allclose(curve[1:14], ours[1:14], atol=0.03)


def test_release_3_reconstructs_the_map_from_the_poses(serial_run: Run, d2_project: Path) -> None:
    """Its reconstruction from run_data.star shows what ours does: angles, offsets and CTFs are read as meant."""
    program = installed_relion("relion_reconstruct")
    if program is None:
        pytest.skip("no compiled relion_reconstruct is installed")
    done = subprocess.run(
        [program, "--i", "serial/run_data.star", "--o", "reconstructed.mrc", "--sym", "D2", "--ctf"],
        cwd=d2_project, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    volume = np.array(mrcfile.read(d2_project / "reconstructed.mrc"))
    mask = np.array(mrcfile.read(d2_project / "mask.mrc"))
    curve = shell_correlation(volume * mask, serial_run.map() * mask)
    assert curve[1:8].min() > 0.9
    truth = np.array(mrcfile.read(d2_project / "truth.mrc"))
    assert shell_correlation(volume * mask, truth)[1:7].min() > 0.85


def test_a_run_of_release_3_is_continued_here_or_refused_with_a_sentence(d2_project: Path) -> None:
    """Its files are of another kind of run (one class, no halves), which must be said and not break."""
    out = old_relion(d2_project, "old_continue", [*GLOBAL, "--iter", "1"], "run_it000_optimiser.star", 60)
    run = refine(
        d2_project, "continued_old", "--continue", f"{out.name}/run_it000_optimiser.star", "--iter", "1",
        "--o", "continued_old/run", usual=[], seconds=100,
    )  # fmt: skip
    assert "Traceback" not in run.stderr
    assert run.status == 0 or run.sentence()


def test_directions_their_picture_and_the_map_are_those_of_release_3(d2_project: Path) -> None:
    """One coarse iteration of both: the same rows of _sampling.star and the same map, whose mean comes from the images'
    means; its picture of its own distribution is ours."""
    words = [*usual_without(
        "--auto_refine", "--split_random_halves", "--low_resol_join_halves", "--auto_local_healpix_order", "--pool",
        "--healpix_order", "--oversampling", "--offset_range", "--dont_combine_weights_via_disc",
    ), "--healpix_order", "1", "--oversampling", "0", "--offset_range", "2", "--iter", "1",
        "--perturb", "0", "--offset", "1000"]  # fmt: skip
    out = old_relion(d2_project, "old_directions", [*words, "--ctf_corrected_ref"], "run_it001_optimiser.star", 60)
    ours = refined(d2_project, "directions", usual=words)
    names = ("run_it001_sampling.star", "run_it001_model.star", "run_it001_class001_angdist.bild")
    theirs, mine = (star.read(where / names[0])["sampling_directions"] for where in (out, ours.out))
    for label in ("rlnAngleRot", "rlnAngleTilt"):
        np.testing.assert_allclose(mine.floats(label), theirs.floats(label), atol=1e-5)
    groups = (star.read(out / names[1])["model_group_1"], star.read(ours.out / names[1])["model_optics_group_1"])
    assert groups[0].ints("rlnSpectralIndex").tolist() == groups[1].ints("rlnSpectralIndex").tolist()
    weights = star.read(out / names[1])["model_pdf_orient_class_1"].floats("rlnOrientationDistribution")
    drawn = bild(weights, theirs.floats("rlnAngleRot"), theirs.floats("rlnAngleTilt"), 30.0, BOX * PIXEL / 2)
    expected = [line.split() for line in (out / names[2]).read_text().splitlines()]
    found = [line.split() for line in drawn.splitlines()]
    assert [row[0] for row in found] == [row[0] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose([float(x) for x in row[1:]], [float(x) for x in wanted[1:]], rtol=1e-3, atol=2e-3)
    assert (ours.out / names[2]).read_text().count(".cylinder") > 2
    maps = [np.array(mrcfile.read(where / "run_it001_class001.mrc"), np.float64) for where in (out, ours.out)]
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.999
    assert maps[1].mean() == pytest.approx(maps[0].mean(), rel=0.015)
