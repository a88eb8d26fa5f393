"""Particles of two pixel and box sizes in one run of the program, beside as many of one size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet
from installed_relion import old_relion
from refine_runs import (
    BOX,
    DIAMETER,
    PIXEL,
    Run,
    copy_of,
    needs_mpirun,
    refined,
    shell_correlation,
    usual_without,
)

from relion_py.compute.image.masks import soft_mask
from relion_py.compute.io import mrc, star
from relion_py.compute.simulate import simulate_particles

OTHER_BOX, OTHER_PIXEL = 40, 4.25
N, SNR = 100, 0.3


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory, d2_project: Path) -> Path:
    """The particles of d2_project, every second micrograph from a camera with other pixels: 170 A instead of 160.

    As much of the object arrives on each square A, so that a smaller pixel is noisier.
    """
    root = copy_of(d2_project, tmp_path_factory.mktemp("two_sizes") / "project")
    simulate_particles(
        root / "Other", N, box=OTHER_BOX, angpix=OTHER_PIXEL, symmetry="D2", seed=3,
        snr=SNR * (OTHER_PIXEL / PIXEL) ** 2, project_root=root, diameter=0.6 * BOX * PIXEL, sigma=0.6 * PIXEL,
    )  # fmt: skip
    tables, others = star.read(root / "particles.star"), star.read(root / "Other/particles.star")
    half = N // 2
    first, second = tables["particles"], others["particles"]
    columns = {label: first.strings(label)[:half] + second.strings(label)[half:] for label in first.labels}
    columns["rlnOpticsGroup"] = ["1"] * half + ["2"] * half
    optics = {
        label: [tables["optics"].strings(label)[0], others["optics"].strings(label)[0]]
        for label in tables["optics"].labels
    }
    optics["rlnOpticsGroup"], optics["rlnOpticsGroupName"] = ["1", "2"], ["one", "other"]
    star.write(root / "particles.star", {"optics": star.Table(optics), "particles": star.Table(columns)})
    return root


def area(run: Run) -> float:
    """Mean FSC to the truth."""
    return float(shell_correlation(run.map(), run.map("../truth.mrc"))[1:].mean())


def noise_over_expected(path: Path) -> np.ndarray:
    """Noise of each optics group, over that of white noise of variance 1 under the particle's mask; mean of shells.

    A component of an image's transform then has mean(mask^2) / (2 box^2); the file has it on the scale of the first
    group's box, where grey values in a wider box count more.
    """
    tables = star.read(path)
    assert int(tables["model_general"].value("rlnNrOpticsGroups")) == 2
    found = []
    for group, (box, pixel) in enumerate(((BOX, PIXEL), (OTHER_BOX, OTHER_PIXEL)), 1):
        table, width = tables[f"model_optics_group_{group}"], box * pixel
        share = np.mean(soft_mask(box, DIAMETER / 2 / pixel, 5.0, 2) ** 2)
        expected = share / (2 * box**2) * (width / (BOX * PIXEL)) ** 4
        sampled = table.ints("rlnSpectralIndex") < np.floor(BOX * PIXEL / (2 * OTHER_PIXEL))
        high = (table.ints("rlnSpectralIndex") > 8) & sampled
        found.append(table.floats("rlnSigma2Noise")[high].mean() / expected)
    return np.array(found)


@pytest.fixture(scope="module")
def joint(two_sizes: Path) -> Run:
    """The usual refinement of all of them together."""
    return refined(two_sizes, "joint")


def test_two_sizes_refine_as_well_as_one(joint: Run, serial_run: Run) -> None:
    assert area(joint) > area(serial_run) - 0.03
    general = star.read(joint.out / "run_model.star")["model_general"]
    assert general.value("rlnOriginalImageSize") == str(BOX)
    assert float(general.value("rlnPixelSize")) == PIXEL
    optics = star.read(joint.out / "run_data.star")["optics"]
    np.testing.assert_array_equal(optics.ints("rlnImageSize"), [BOX, OTHER_BOX])
    np.testing.assert_allclose(optics.floats("rlnImagePixelSize"), [PIXEL, OTHER_PIXEL])


def test_a_wider_box_tells_no_more_about_a_particle(tmp_path: Path) -> None:
    """The same images, whole and cut to the middle: inside the mask they are the same data, and so is the posterior."""
    wide, n = 3 * BOX // 2, 24
    made = simulate_particles(
        tmp_path, n, box=wide, angpix=PIXEL, symmetry="D2", seed=5, snr=5.0, shift=PIXEL, diameter=0.9 * DIAMETER
    )
    middle = slice((wide - BOX) // 2, (wide + BOX) // 2)
    images = mrc.read_stack(tmp_path / "Particles/mic0001.mrcs")[0]
    mrc.write_stack(tmp_path / "Particles/middle.mrcs", np.ascontiguousarray(images[:, middle, middle]), PIXEL)
    reference = mrc.read_map(made.reference)[0]
    mrc.write_map(tmp_path / "middle.mrc", np.ascontiguousarray(reference[middle, middle, middle]), PIXEL)
    tables = star.read(made.particles)
    particles = {label: tables["particles"].strings(label) * 2 for label in tables["particles"].labels}
    particles["rlnImageName"][:n] = [f"{i + 1:06d}@Particles/middle.mrcs" for i in range(n)]
    particles["rlnOpticsGroup"] = ["1"] * n + ["2"] * n
    optics = {label: tables["optics"].strings(label) * 2 for label in tables["optics"].labels}
    optics.update(rlnOpticsGroup=["1", "2"], rlnOpticsGroupName=["one", "wide"], rlnImageSize=[str(BOX), str(wide)])
    star.write(made.particles, {"optics": star.Table(optics), "particles": star.Table(particles)})
    words = f"--i particles.star --ref middle.mrc --ini_high 15 --iter 1 --sym D2 --ctf --particle_diameter {DIAMETER}"
    words += " --zero_mask --flatten_solvent --offset_range 3 --offset_step 2 --random_seed 1"
    run = refined(tmp_path, "boxes", usual=words.split())
    found = star.read(run.out / "run_it001_data.star")["particles"]
    alike = np.lexsort((found.ints("rlnOpticsGroup"), found.floats("rlnDefocusU"))).reshape(n, 2)
    certainty = found.floats("rlnMaxValueProbDistribution")[alike].mean(axis=0)
    assert 0.05 < certainty[0] < 0.5
    assert certainty[1] == pytest.approx(certainty[0], rel=0.2)


def test_poses_of_both_sizes_are_found(joint: Run, d2_project: Path) -> None:
    """Offsets are in A, whatever the pixels."""
    found, truth = (star.read(p)["particles"] for p in (joint.out / "run_data.star", d2_project / "truth.star"))
    order = {name.split("@")[0] + name[-9:]: n for n, name in enumerate(truth.strings("rlnImageName"))}
    at = np.array([order[name.split("@")[0] + name[-9:]] for name in found.strings("rlnImageName")])
    groups = found.ints("rlnOpticsGroup")
    away = np.hypot(*(found.floats(c) - truth.floats(c)[at] for c in ("rlnOriginXAngst", "rlnOriginYAngst")))
    for group in (1, 2):
        assert np.median(away[groups == group]) < 0.5 * PIXEL


def test_first_noise_of_both_sizes_is_that_of_release_3(joint: Run, two_sizes: Path) -> None:
    """Which has a spectrum for each micrograph; here each has particles of one size."""
    usual = usual_without(
        "--auto_refine", "--split_random_halves", "--low_resol_join_halves", "--auto_local_healpix_order", "--pool",
    )  # fmt: skip
    out = old_relion(two_sizes, "old_noise", [*usual, "--iter", "1"], "run_it000_optimiser.star", 60)
    theirs, ours = star.read(out / "run_it000_model.star"), star.read(joint.out / "run_it000_half1_model.star")
    for group in (1, 2):
        tables = theirs[f"model_group_{group}"], ours[f"model_optics_group_{group}"]
        np.testing.assert_array_equal(tables[0].ints("rlnSpectralIndex"), tables[1].ints("rlnSpectralIndex"))
        ratio = tables[1].floats("rlnSigma2Noise")[6:] / tables[0].floats("rlnSigma2Noise")[6:]
        assert ratio.mean() == pytest.approx(1.0, abs=0.05)
        assert np.abs(ratio - 1.0).max() < 0.2


def slow_but(fast: tuple[str, ...], names: Iterable[str]) -> list[ParameterSet]:
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in names]


WAYS = {
    "the first rank reads for all": (2, "--no_parallel_disc_io"),
    "images in memory": (2, "--preread_images"),
    "a copy on scratch": (2, "--scratch_dir scratch --pool 1"),
}


@needs_mpirun
@pytest.mark.parametrize("way", slow_but((), WAYS))
def test_no_way_of_reading_two_sizes_changes_the_map(way: str, joint: Run, two_sizes: Path) -> None:
    ranks, words = WAYS[way]
    (two_sizes / "scratch").mkdir(exist_ok=True)
    run = refined(two_sizes, way.replace(" ", "_"), "--iter", "1", *words.split(), ranks=ranks)
    for half in (1, 2):
        name = f"run_it001_half{half}_class001.mrc"
        np.testing.assert_allclose(run.map(name), joint.map(name), atol=1e-4 * joint.map(name).max())


@pytest.mark.slow
def test_a_run_of_two_sizes_goes_on_as_it_would_have(joint: Run, two_sizes: Path) -> None:
    words = "--continue joint/run_it001_optimiser.star --o continued/run --iter 2 --dont_combine_weights_via_disc"
    run = refined(two_sizes, "continued", *words.split(), usual=[])
    for half in (1, 2):
        name = f"run_it002_half{half}_class001.mrc"
        assert shell_correlation(run.map(name), joint.map(name))[1:8].min() > 0.98


KINDS = {
    "2D classes": "--K 2 --iter 3 --psi_step 24 --offset_range 3 --offset_step 2 --tau2_fudge 2",
    "2D classes along the gradient": "--K 2 --grad --iter 4 --psi_step 24 --offset_range 3 --offset_step 2 "
    "--class_inactivity_threshold 0.1 --grad_write_iter 10",
    "an initial model": "--K 1 --grad --denovo_3dref --iter 4 --sym C1 --healpix_order 1 --offset_range 3 "
    "--offset_step 2 --auto_sampling",
}


@pytest.mark.parametrize("kind", slow_but(("2D classes",), KINDS))
def test_classes_and_first_models_take_two_sizes(kind: str, two_sizes: Path) -> None:
    words = f"--i particles.star --ctf --zero_mask --flatten_solvent --particle_diameter {DIAMETER:g} "
    words += f"--oversampling 1 --pool 30 --random_seed 1 --dont_combine_weights_via_disc {KINDS[kind]}"
    run = refined(two_sizes, kind.replace(" ", "_"), usual=words.split())
    last = sorted(run.out.glob("run_it*_model.star"))[-1]
    np.testing.assert_allclose(noise_over_expected(last), 1.0, atol=0.1)
    particles = star.read(last.with_name(last.name.replace("_model", "_data")))["particles"]
    assert (particles.floats("rlnMaxValueProbDistribution") > 0).all()
