"""The refinement program on simulated particles: finds the truth, repeats itself, obeys its options."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from refine_runs import BOX, PIXEL, Run, copy_of, numbers, refine, refined, shell_correlation, usual_without

from relion_py.compute.io import star
from relion_py.compute.simulate import simulate_particles


def truth(project: Path) -> np.ndarray:
    return np.array(mrcfile.read(project / "truth.mrc"))


def final_model(run: Run) -> star.StarFile:
    return star.read(run.out / "run_model.star")


@pytest.mark.req("C1")
def test_it_converges_to_a_map_nearer_to_the_truth_than_its_start(serial_run: Run, d2_project: Path) -> None:
    log = serial_run.stdout
    assert "Refinement has converged, entering last iteration" in log
    resolutions = numbers(log, "Resolution=")
    assert resolutions[0] == pytest.approx(40.0) and resolutions[-1] < 25.0
    real = truth(d2_project)
    before = shell_correlation(np.array(mrcfile.read(d2_project / "reference.mrc")), real)
    after = shell_correlation(serial_run.map(), real)
    # shell 4 is 40 A, where the reference was cut
    assert before[6:9].max() < 0.5
    assert after[1:7].min() > 0.9 and after[1:10].mean() > before[1:10].mean() + 0.3
    # in absolute grey values, too: projections of the map times the CTF are the images
    mask = np.array(mrcfile.read(d2_project / "mask.mrc")) > 0.5
    slope = np.polyfit(real[mask], serial_run.map()[mask], 1)[0]
    assert 0.7 < slope < 1.3


def test_the_resolution_that_is_told_is_that_of_the_files(serial_run: Run) -> None:
    told = numbers(serial_run.stdout, r"Final resolution \(without masking\) is:")[-1]
    model = final_model(serial_run)
    assert float(model["model_general"].strings("rlnCurrentResolution")[0]) == pytest.approx(told, abs=0.01)
    fsc = np.array(model["model_class_1"].floats("rlnGoldStandardFsc"))
    below = int(np.nonzero(fsc < 0.143)[0][0]) - 1 if (fsc < 0.143).any() else BOX // 2
    # the resolution of the last iteration is that of the shell before SSNR falls below 1, near FSC = 0.143
    assert abs(BOX * PIXEL / told - below) <= 1.0


def test_half_maps_are_of_different_particles_and_their_fsc_is_the_one_in_the_model(serial_run: Run) -> None:
    halves = [serial_run.map(f"run_half{h}_class001_unfil.mrc") for h in (1, 2)]
    fsc = np.array(final_model(serial_run)["model_class_1"].floats("rlnGoldStandardFsc"))
    again = shell_correlation(*halves)
    # the written halves were not yet joined at low resolution, the curve is of those that were, up to shell 4
    np.testing.assert_allclose(again[5:9], fsc[5:9], atol=0.1)
    np.testing.assert_allclose(fsc[1:4], 1.0, atol=1e-3)
    assert 0.9 < again[1:4].min() < 1.0 and np.abs(again[12:]).max() < 0.25
    subset = star.read(serial_run.out / "run_data.star")["particles"].ints("rlnRandomSubset")
    assert set(subset) == {1, 2} and min(np.bincount(subset)[1:]) > 35


@pytest.mark.req("C1")
def test_poses_are_the_true_ones_up_to_symmetry(serial_run: Run, d2_project: Path) -> None:
    from relion_py.compute.geometry.euler import angular_distance, euler_to_matrix
    from relion_py.compute.geometry.symmetry import operators

    found, true = (
        star.read(path)["particles"] for path in (serial_run.out / "run_data.star", d2_project / "truth.star")
    )
    place = {name: i for i, name in enumerate(true.strings("rlnImageName"))}
    order = [place[name] for name in found.strings("rlnImageName")]

    def matrices(table: star.Table) -> np.ndarray:
        return euler_to_matrix(*(np.array(table.floats(f"rlnAngle{a}")) for a in ("Rot", "Tilt", "Psi")))

    distance = angular_distance(matrices(found), matrices(true)[order], operators("D2"))
    assert np.median(distance) < 10.0  # the mean distance of random orientations is about 60 degrees in D2
    for label in ("rlnOriginXAngst", "rlnOriginYAngst"):
        error = np.array(found.floats(label)) - np.array(true.floats(label))[order]
        spread = np.std(np.array(true.floats(label)))
        assert np.sqrt(np.median(error**2)) < 0.4 * spread


@pytest.mark.req("A4")
def test_the_same_seed_gives_the_same_map_and_another_seed_another(serial_run: Run, d2_project: Path) -> None:
    again = refined(d2_project, "again", "--iter", "2")
    for half in (1, 2):
        name = f"run_it002_half{half}_class001.mrc"
        np.testing.assert_array_equal(again.map(name), serial_run.map(name))
    other = refined(d2_project, "other_seed", "--iter", "1", "--random_seed", "2")
    name = "run_it001_half1_class001.mrc"
    assert np.abs(other.map(name) - serial_run.map(name)).max() > 1e-3


def test_threads_change_rounding_only(serial_run: Run, d2_project: Path) -> None:
    threads = refined(d2_project, "threads", "--iter", "2", "--j", "2")
    for name in ("run_it001_half1_class001.mrc", "run_it002_half2_class001.mrc"):
        np.testing.assert_allclose(threads.map(name), serial_run.map(name), atol=1e-4 * serial_run.map(name).max())


@pytest.mark.parametrize("how", ["--preread_images", "--scratch_dir scratch", "--j 2 --pool 1"])
def test_where_images_come_from_changes_nothing(how: str, serial_run: Run, d2_project: Path) -> None:
    (d2_project / "scratch").mkdir(exist_ok=True)
    run = refined(d2_project, "source" + how.split()[0].strip("-"), "--iter", "1", *how.split())
    name = "run_it001_half1_class001.mrc"
    if "--j" in how:
        np.testing.assert_allclose(run.map(name), serial_run.map(name), atol=1e-4 * serial_run.map(name).max())
    else:
        np.testing.assert_array_equal(run.map(name), serial_run.map(name))
    assert list((d2_project / "scratch").iterdir()) == []


OPTIONS = {
    "few significant poses": ("--maxsig 3", ""),
    "padding of 1": ("--pad 1", ""),
    "noise around the particles": ("", "--zero_mask"),
    "local searches from the start": (
        "--i truth.star --healpix_order 4 --sigma_ang 5",
        "--i --healpix_order",
    ),
    "correlation first": ("--firstiter_cc", ""),
    "solvent-corrected FSC": ("--solvent_mask mask.mrc --solvent_correct_fsc", ""),
    "no norm and no scale": ("", "--norm --scale"),
}
"""What is added to the usual command, and what is taken out of it."""


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] if what == "no norm and no scale" else []) for what in OPTIONS]
)
def test_an_option_changes_the_run_and_the_map_is_still_right(what: str, serial_run: Run, d2_project: Path) -> None:
    words, without = (text.split() for text in OPTIONS[what])
    run = refined(d2_project, what.replace(" ", "_"), "--iter", "2", *words, usual=usual_without(*without))
    real, name = truth(d2_project), "run_it002_half1_class001.mrc"
    curve, plain = shell_correlation(run.map(name), real), shell_correlation(serial_run.map(name), real)
    assert curve[1:5].min() > 0.8
    assert curve[1:7].mean() > plain[1:7].mean() - 0.15
    assert np.abs(run.map(name) - serial_run.map(name)).max() > 1e-4
    data = star.read(run.out / "run_it002_data.star")["particles"]
    if "--maxsig" in words:
        assert max(data.ints("rlnNrOfSignificantSamples")) <= 3 * 8 * 4
        assert min(data.ints("rlnNrOfSignificantSamples")) >= 1
    if "--sigma_ang" in words:
        # three standard deviations of direction and of psi are searched; random poses are 60 degrees apart
        assert numbers(run.stdout, "Changes in angles=")[-1] < 30.0
        assert "local searches= true" in run.stdout
    if "--firstiter_cc" in words:
        first = star.read(run.out / "run_it001_data.star")["particles"]
        assert set(first.floats("rlnMaxValueProbDistribution")) == {1.0}
    if "--norm" in without:
        assert set(data.floats("rlnNormCorrection")) == {1.0}


def test_the_corrected_fsc_lacks_what_the_mask_adds(d2_project: Path, serial_run: Run) -> None:
    """With a mask the curve is that of the masked halves, higher than without it where there is signal."""
    run = refined(d2_project, "solvent_fsc", "--iter", "2", "--solvent_mask", "mask.mrc", "--solvent_correct_fsc")
    curves = [
        np.array(star.read(r.out / "run_it002_half1_model.star")["model_class_1"].floats("rlnGoldStandardFsc"))
        for r in (run, serial_run)
    ]
    assert curves[0][:5].min() > 0.9
    assert np.abs(curves[0] - curves[1])[5:].max() > 0.02


@pytest.mark.req("C4")
def test_each_optics_group_has_its_own_noise(tmp_path: Path) -> None:
    """White noise of variance v has power v / (2 box^2) in each component of a Fourier pixel."""
    root = tmp_path
    simulate_particles(
        root,
        100,
        box=BOX,
        angpix=PIXEL,
        symmetry="D2",
        seed=3,
        snr=0.3,
        reference_resolution=40.0,
        optics_groups=2,
    )
    rng = np.random.default_rng(1)
    with mrcfile.open(root / "Particles/mic0002.mrcs", mode="r+") as stack:
        stack.data[:] += np.sqrt(3.0) * rng.standard_normal(stack.data.shape).astype(np.float32)
    run = refined(
        root,
        "out",
        "--iter",
        "2",
        "--dont_check_norm",
        usual=usual_without("--norm", "--scale", "--zero_mask"),
    )
    noise = {}
    for iteration in (0, 2):
        model = star.read(run.out / f"run_it{iteration:03d}_half1_model.star")
        for group in (1, 2):
            spectrum = np.array(model[f"model_optics_group_{group}"].floats("rlnSigma2Noise"))
            noise[iteration, group] = float(np.median(spectrum[11:16]) * 2.0 * BOX**2)
    assert noise[0, 1] == pytest.approx(1.0, rel=0.06) and noise[0, 2] == pytest.approx(4.0, rel=0.06)
    # the soft edge between image and filled-in noise lowers both in the same proportion
    assert noise[2, 1] == pytest.approx(0.85, rel=0.15) and noise[2, 2] / noise[2, 1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.req("I6")
def test_a_continued_run_goes_on_under_its_own_name_and_ends_like_the_first(serial_run: Run, d2_project: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in serial_run.out.iterdir()}
    run = refine(d2_project, "serial", usual=["--continue", "serial/run_it003_optimiser.star", "--o", "serial/run"])
    assert run.status == 0, run.stderr
    assert run.has("run_ct3_it004_optimiser.star") and run.has("run_ct3_class001.mrc")
    assert not run.has("run_ct3_it003_optimiser.star")
    after = {p.name: p.stat().st_mtime_ns for p in serial_run.out.iterdir()}
    assert {n: t for n, t in after.items() if n in before and not n.startswith("RELION_JOB")} == {
        n: t for n, t in before.items() if not n.startswith("RELION_JOB")
    }
    # all but the digits that the files lack is carried over
    name = "it004_half1_class001.mrc"
    np.testing.assert_allclose(
        run.map(f"run_ct3_{name}"),
        serial_run.map(f"run_{name}"),
        atol=0.02 * serial_run.map(f"run_{name}").max(),
    )
    curve = shell_correlation(run.map("run_ct3_class001.mrc"), serial_run.map())
    assert curve[1:8].min() > 0.97


@pytest.mark.parametrize("symmetry", ["C1"])
def test_an_object_without_symmetry(symmetry: str, tmp_path: Path) -> None:
    simulate_particles(
        tmp_path, 120, box=BOX, angpix=PIXEL, symmetry=symmetry, seed=5, snr=0.5, reference_resolution=40.0
    )
    run = refined(tmp_path, "out", "--sym", symmetry, "--iter", "3", "--j", "2", usual=usual_without("--sym"))
    real = truth(tmp_path)
    before = shell_correlation(np.array(mrcfile.read(tmp_path / "reference.mrc")), real)
    after = shell_correlation(run.map("run_it003_half1_class001.mrc"), real)
    assert after[1:8].mean() > before[1:8].mean() + 0.1 and after[1:5].min() > 0.9


@pytest.mark.slow
def test_a_copy_elsewhere_gives_the_same_map(serial_run: Run, d2_project: Path, tmp_path: Path) -> None:
    """Nothing depends on where the project is."""
    run = refined(copy_of(d2_project, tmp_path / "p"), "serial", "--iter", "1")
    name = "run_it001_half2_class001.mrc"
    np.testing.assert_array_equal(run.map(name), serial_run.map(name))
