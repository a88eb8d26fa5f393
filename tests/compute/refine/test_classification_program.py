"""Classification as a user runs it: simulated particles of two structures are told apart, in 2D and in 3D."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.image.fsc import fsc
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map, read_stack
from relion_py.compute.simulate import simulate_particles

COMMON = [
    "--ctf",
    "--particle_diameter",
    "140",
    "--flatten_solvent",
    "--zero_mask",
    "--oversampling",
    "1",
    "--norm",
    "--scale",
    "--j",
    "2",
    "--offset_range",
    "3",
    "--offset_step",
    "2",
    "--random_seed",
    "1",
    "--dont_combine_weights_via_disc",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    simulate_particles(
        root / "Particles", 240, 32, 5.5, "C2", 5, 1.0, project_root=root, classes=2, reference_resolution=25.0
    )
    return root


def refine(project: Path, name: str, *words: str, ranks: int = 1) -> Path:
    out = project / name
    out.mkdir()
    program = [sys.executable, "-m", "relion_py.compute.cli.refine"]
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        [*launcher, *program, "--o", f"{name}/run", *words],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return out


def agreement(project: Path, data: Path) -> float:
    """Share of particles whose class is right, whichever way the two classes are numbered."""
    truth = star.read(project / "Particles/truth.star")["particles"]
    wanted = dict(zip(truth.strings("rlnImageName"), truth.ints("rlnClassNumber"), strict=True))
    found = star.read(data)["particles"]
    right = np.array([wanted[n] for n in found.strings("rlnImageName")]) == found.ints("rlnClassNumber")
    return max(right.mean(), 1.0 - right.mean())


def test_two_structures_are_told_apart(project):
    out = refine(
        project, "align", "--i", "Particles/particles.star", "--ref", "Particles/reference.mrc", "--K", "2", "--iter",
        "12", "--tau2_fudge", "4", "--ini_high", "25", "--healpix_order", "2", "--sym", "C2", *COMMON,
    )  # fmt: skip
    assert agreement(project, out / "run_it012_data.star") > 0.85
    maps = [read_map(out / f"run_it012_class00{k}.mrc")[0] for k in (1, 2)]
    truth, _ = read_map(project / "Particles/truth.mrc")
    assert max(fsc(m, truth)[1:7].min() for m in maps) > 0.9
    model = star.read(out / "run_it012_model.star")
    assert sum(model["model_classes"].floats("rlnClassDistribution")) == pytest.approx(1.0, abs=1e-4)


def test_known_poses_are_kept_when_alignment_is_skipped(project):
    out = refine(
        project, "still", "--i", "Particles/truth.star", "--ref", "Particles/reference.mrc", "--K", "2", "--iter", "12",
        "--tau2_fudge", "4", "--ini_high", "25", "--skip_align", "--sym", "C2", *COMMON,
    )  # fmt: skip
    before = star.read(project / "Particles/truth.star")["particles"]
    after = star.read(out / "run_it012_data.star")["particles"]
    order = {name: i for i, name in enumerate(before.strings("rlnImageName"))}
    index = [order[name] for name in after.strings("rlnImageName")]
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"):
        np.testing.assert_allclose(after.floats(label), before.floats(label)[index], atol=2e-5)
    assert agreement(project, out / "run_it012_data.star") > 0.9


def classes_in(project: Path, path: Path, wanted: str = "") -> np.ndarray:
    """Class of each particle by name; `wanted`: of those in this file."""
    table = star.read(path)["particles"]
    found = dict(zip(table.strings("rlnImageName"), table.ints("rlnClassNumber"), strict=True))
    return np.array([found[name] for name in star.read(project / wanted)["particles"].strings("rlnImageName")])


def test_listed_references_are_classes_of_their_own_from_the_start(project):
    """Each particle goes to the map of its structure, by correlation and by likelihood; --K does not count."""
    (project / "refs.star").write_text(
        "data_\n\nloop_\n_rlnReferenceImage #1\nParticles/truth_class002.mrc\nParticles/truth.mrc\n"
    )
    out = refine(
        project, "listed", "--i", "Particles/particles.star", "--ref", "refs.star", "--K", "5", "--iter", "2",
        "--tau2_fudge", "4", "--ini_high", "20", "--firstiter_cc", "--healpix_order", "2", "--sym", "C2", *COMMON,
    )  # fmt: skip
    truth = classes_in(project, project / "Particles/truth.star", "Particles/truth.star")
    for iteration in (1, 2):
        found = classes_in(project, out / f"run_it00{iteration}_data.star", "Particles/truth.star")
        assert (found == 3 - truth).mean() > 0.8, iteration
    assert len(star.read(out / "run_it002_model.star")["model_classes"]) == 2


def test_classes_differ_after_a_first_iteration_by_correlation_is_continued(project):
    """That iteration leaves copies of one map; the next one makes them differ, here as in an unbroken run."""
    words = ("--i", "Particles/particles.star", "--ref", "Particles/reference.mrc", "--K", "2", "--tau2_fudge", "4",
             "--ini_high", "25", "--firstiter_cc", "--healpix_order", "1", "--sym", "C2", *COMMON)  # fmt: skip
    first = refine(project, "cc_first", *words, "--iter", "1")
    one, two = (read_map(first / f"run_it001_class00{k}.mrc")[0] for k in (1, 2))
    np.testing.assert_array_equal(one, two)
    again = refine(project, "cc_again", "--continue", "cc_first/run_it001_optimiser.star", "--iter", "2")
    one, two = (read_map(again / f"run_it002_class00{k}.mrc")[0] for k in (1, 2))
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] < 0.995


def test_images_as_references_of_a_2d_classification(project):
    """Averages of a finished run, listed in its model, keep their numbers; one image becomes all classes."""
    common = ("--i", "Particles/particles.star", "--tau2_fudge", "2", "--psi_step", "12", *COMMON)
    first = refine(project, "flat_first", *common, "--K", "3", "--iter", "4")
    again = refine(project, "flat_again", *common, "--ref", "flat_first/run_it004_model.star", "--iter", "1")
    before, after = (classes_in(project, p, "Particles/particles.star") for p in (
        first / "run_it004_data.star", again / "run_it001_data.star"))  # fmt: skip
    assert (before == after).mean() > 0.7
    one = refine(project, "flat_one", *common, "--ref", "000001@flat_first/run_it004_classes.mrcs", "--K", "3",
                 "--iter", "2")  # fmt: skip
    averages, _ = read_stack(one / "run_it002_classes.mrcs")
    assert averages.shape == (3, 32, 32)
    assert all(np.corrcoef(averages[k].ravel(), averages[0].ravel())[0, 1] < 0.999 for k in (1, 2))
    np.testing.assert_allclose(np.bincount(classes_in(project, one / "run_it001_data.star",
                                                      "Particles/particles.star"))[1:], 80, atol=25)  # fmt: skip


def test_averages_without_their_mask_are_kept(project):
    """run_unmasked_classes.mrcs holds those of the last iteration: the same inside the mask, and more outside."""
    out = refine(project, "unmasked", "--i", "Particles/particles.star", "--K", "2", "--tau2_fudge", "2", "--psi_step",
                 "12", "--iter", "2", *COMMON)  # fmt: skip
    masked, _ = read_stack(out / "run_it002_classes.mrcs")
    unmasked, angpix = read_stack(out / "run_unmasked_classes.mrcs")
    distance = np.hypot(*(np.indices((32, 32)) - 16))
    inside, outside = distance < 70 / 5.5 - 1, distance > 70 / 5.5 + 6
    np.testing.assert_array_equal(unmasked[:, inside], masked[:, inside])
    assert masked[:, outside].std() < 1e-6 < unmasked[:, outside].std()
    assert angpix == pytest.approx(5.5)


def test_class_averages_continue_and_ranks_agree(project):
    words = ("--i", "Particles/particles.star", "--K", "4", "--tau2_fudge", "2", "--psi_step", "12", "--center_classes")
    whole = refine(project, "flat", *words, "--iter", "5", *COMMON)
    refine(
        project, "flat_continued", "--continue", "flat/run_it003_optimiser.star", "--iter", "5", "--j", "2",
        "--dont_combine_weights_via_disc",
    )  # fmt: skip
    ranks = refine(project, "flat_ranks", *words, "--iter", "5", *COMMON, ranks=2)
    averages, angpix = read_stack(whole / "run_it005_classes.mrcs")
    assert averages.shape == (4, 32, 32) and angpix == pytest.approx(5.5)
    assert averages.std(axis=(1, 2)).max() > 0
    again, _ = read_stack(project / "flat_continued/run_it005_classes.mrcs")
    shared, _ = read_stack(ranks / "run_it005_classes.mrcs")
    scale = np.abs(averages).max()
    # a continuation reads rounded numbers; ranks add in another order
    np.testing.assert_allclose(again, averages, atol=0.02 * scale)
    np.testing.assert_allclose(shared, averages, atol=0.02 * scale)


def test_ranks_make_the_maps_of_classes_for_each_other(project):
    """Each rank makes the transforms and maps of its classes and writes their files, the last one the particles."""
    words = shlex.split(
        "--i Particles/particles.star --ref Particles/reference.mrc --K 3 --iter 2 --tau2_fudge 4 --ini_high 25 "
        "--healpix_order 1 --sym C2 --pad 1"
    )
    one = refine(project, "one_rank", *words, *COMMON)
    two = refine(project, "two_ranks", *words, *COMMON, ranks=2)
    assert sorted(file.name for file in two.iterdir()) == sorted(file.name for file in one.iterdir())
    for k in (1, 2, 3):
        (wanted, _), (found, angpix) = (read_map(out / f"run_it002_class00{k}.mrc") for out in (one, two))
        np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max())
        assert angpix == pytest.approx(5.5)
    tables = [star.read(out / "run_it002_data.star")["particles"] for out in (one, two)]
    assert np.mean(tables[0].ints("rlnClassNumber") == tables[1].ints("rlnClassNumber")) > 0.99


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--K", "3", "--auto_refine", "--split_random_halves"], "Auto-refinement has one class"),
        (["--fast_subsets", "--iter", "5"], "--fast_subsets needs at least 20 iterations"),
        (["--split_random_halves"], "goes with --auto_refine"),
    ],
)
def test_options_that_contradict_each_other(project, words, sentence):
    result = subprocess.run(
        [
            sys.executable, "-m", "relion_py.compute.cli.refine", "--o", "x/run", "--i", "Particles/particles.star",
            "--ref", "Particles/reference.mrc", *words,
        ],
        cwd=project, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert sentence in result.stderr and "Traceback" not in result.stderr
