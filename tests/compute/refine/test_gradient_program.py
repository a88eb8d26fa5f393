"""Classes and initial models by steps along the gradient, as a user runs them, on particles of known truth."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from refine_runs import Run, needs_mpirun, refined, shell_correlation
from scipy.ndimage import affine_transform

from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.image.ctf import CtfParams, ctf_image
from relion_py.compute.io import star
from relion_py.compute.refine.align_symmetry import turned_map
from relion_py.compute.simulate import simulate_particles

BOX, PIXEL, PARTICLES = 32, 5.0, 450
CLASSES_2D = shlex.split(
    "--i particles.star --grad --class_inactivity_threshold 0.1 --grad_write_iter 10 --iter 40 --ctf --K 3 "
    "--tau2_fudge 2 --particle_diameter 130 --flatten_solvent --zero_mask --center_classes --oversampling 1 "
    "--psi_step 12 --offset_range 3 --offset_step 2 --norm --scale --pad 2 --pool 30 --random_seed 2 "
    "--grad_ini_subset 150 --grad_fin_subset 250 --dont_combine_weights_via_disc"
)
"""A job of 2D classification as the window writes it, with smaller subsets."""


def shape(kind: int) -> np.ndarray:
    """A triangle of blobs, a ring with a knob, a bent bar: centred, of no symmetry but their own."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2

    def blob(px: float, py: float, width: float) -> np.ndarray:
        return np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * width**2))

    if kind == 0:
        return blob(0, 6, 2) + blob(-5, -4, 2) + blob(5, -3, 2.5)
    if kind == 1:
        return np.exp(-((np.hypot(x, y) - 6) ** 2) / 4) + blob(6, 0, 2)
    return blob(-8, 0, 2) + blob(-3, 0, 2) + blob(3, 0, 2) + blob(7, 3, 2)


def turned(image: np.ndarray, psi: float, dx: float, dy: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(psi)), np.sin(np.deg2rad(psi))
    matrix, centre = np.array([[c, -s], [s, c]]), np.full(2, BOX // 2, float)
    return affine_transform(image, matrix, centre - matrix @ (centre + np.array([dy, dx])), order=3)


@pytest.fixture(scope="module")
def flat_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three different 2D objects in random positions, with CTF and noise; truth.npy holds their classes."""
    root, random = tmp_path_factory.mktemp("flat"), np.random.default_rng(4)
    truth = random.integers(0, 3, PARTICLES)
    defocus = random.uniform(8000, 20000, PARTICLES)
    ctf = CtfParams(
        defocus_u=defocus, defocus_v=defocus, defocus_angle=np.zeros(PARTICLES), voltage=np.full(PARTICLES, 300.0),
        cs=np.full(PARTICLES, 2.7), q0=np.full(PARTICLES, 0.1),
    )  # fmt: skip
    images = np.empty((PARTICLES, BOX, BOX), np.float32)
    for i, kind in enumerate(truth):
        image = turned(shape(kind), random.uniform(0, 360), *random.uniform(-2, 2, 2))
        image = np.fft.irfft2(np.fft.rfft2(image) * ctf_image(ctf[i : i + 1], BOX, PIXEL)[0], s=image.shape)
        images[i] = 1.5 * image / image.std() * 0.5 + random.normal(size=image.shape)
    with mrcfile.new(root / "particles.mrcs") as file:
        file.set_data(images)
        file.voxel_size = PIXEL
    rows = "\n".join(
        f"{i + 1:06d}@particles.mrcs mic{i // 50}.mrc {d:.2f} {d:.2f} 0.0 1" for i, d in enumerate(defocus)
    )
    (root / "particles.star").write_text(
        "\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnImagePixelSize #6\n_rlnImageSize #7\n"
        f"_rlnImageDimensionality #8\ngroup1 1 300 2.7 0.1 {PIXEL} {BOX} 2\n\n"
        "data_particles\n\nloop_\n_rlnImageName #1\n_rlnMicrographName #2\n_rlnDefocusU #3\n_rlnDefocusV #4\n"
        f"_rlnDefocusAngle #5\n_rlnOpticsGroup #6\n{rows}\n"
    )
    np.save(root / "truth.npy", truth)
    return root


@pytest.fixture(scope="module")
def flat_run(flat_project: Path) -> Run:
    return refined(flat_project, "Class2D", usual=CLASSES_2D)


def purity(run: Run, iteration: int = 40) -> float:
    """Share of the particles that are in the class of most of their kind."""
    found = star.read(run.out / f"run_it{iteration:03d}_data.star")["particles"]
    truth = np.load(run.project / "truth.npy")
    number = [int(name.split("@")[0]) - 1 for name in found.strings("rlnImageName")]
    table = np.zeros((3, 3), int)
    np.add.at(table, (truth[number], found.ints("rlnClassNumber") - 1), 1)
    return table.max(axis=0).sum() / len(truth) if len(set(table.argmax(axis=0))) == 3 else 0.0


def test_three_kinds_of_images_end_in_three_classes(flat_run: Run) -> None:
    assert purity(flat_run) > 0.9


def test_class_averages_look_like_the_objects(flat_run: Run) -> None:
    averages = mrcfile.read(flat_run.out / "run_it040_classes.mrcs")
    best = [
        max(
            np.corrcoef(turned(shape(kind), psi, 0, 0).ravel(), average.ravel())[0, 1]
            for average in averages
            for psi in range(0, 360, 4)
        )
        for kind in range(3)
    ]
    assert min(best) > 0.85


def test_files_are_written_every_tenth_iteration_with_their_moments(flat_run: Run) -> None:
    written = sorted(p.name for p in flat_run.out.glob("*_optimiser.star"))
    assert written == [f"run_it{i:03d}_optimiser.star" for i in (0, 10, 20, 30, 40)]
    first = mrcfile.read(flat_run.out / "run_it010_1moment.mrcs")
    second = mrcfile.read(flat_run.out / "run_it010_2moment.mrcs")
    assert first.shape == (6, 2 * BOX, 2 * (BOX + 1)) and second.shape == (3, 2 * BOX, 2 * (BOX + 1))
    classes = star.read(flat_run.out / "run_it010_model.star")["model_classes"]
    assert classes.strings("rlnGradMoment1")[1] == "000002@Class2D/run_it010_1moment.mrcs"
    general = star.read(flat_run.out / "run_it010_optimiser.star")["optimiser_general"]
    assert [general.value(f"rln{x}") for x in ("DoGradientRefine", "SgdSubsetSize")] == ["1", "150"]
    assert float(general.value("rlnSgdStepsize")) == 0.3
    assert general.value("rlnSgdStepsizeScheme") == "3-step"


def test_a_continued_run_goes_where_the_whole_one_went(flat_run: Run) -> None:
    words = shlex.split("--continue Class2D/run_it030_optimiser.star --pool 30 --dont_combine_weights_via_disc")
    again = refined(flat_run.project, "Continued", usual=words)
    there = again.map("run_it040_classes.mrcs")
    whole = flat_run.map("run_it040_classes.mrcs")
    assert np.abs(there - whole).max() < 0.02 * np.abs(whole).max()


@needs_mpirun
def test_ranks_agree(flat_run: Run) -> None:
    words = [w if w != "40" else "6" for w in CLASSES_2D]
    alone = refined(flat_run.project, "One", usual=words)
    together = refined(flat_run.project, "Two", usual=words, ranks=2)
    whole = alone.map("run_it006_classes.mrcs")
    assert np.abs(together.map("run_it006_classes.mrcs") - whole).max() < 0.02 * np.abs(whole).max()


def test_last_iterations_by_expectation_maximization(flat_run: Run) -> None:
    words = [w if w != "40" else "8" for w in CLASSES_2D]
    run = refined(flat_run.project, "Mixed", "--grad_em_iters", "2", usual=words)
    general = star.read(run.out / "run_it008_optimiser.star")["optimiser_general"]
    assert general.value("rlnDoStochasticGradientDescent") == "0"
    assert run.stdout.count("Gradient optimisation iteration") == 6
    assert run.stdout.count("Expectation iteration") == 2


# ---- initial model ----

INITIAL_MODEL = shlex.split(
    "--grad --denovo_3dref --i particles.star --ctf --K 1 --sym C1 --flatten_solvent --zero_mask "
    "--dont_combine_weights_via_disc --pool 30 --pad 1 --particle_diameter 130 --oversampling 1 --healpix_order 1 "
    "--offset_range 6 --offset_step 2 --tau2_fudge 4 --random_seed 1 --j 2"
)
"""A job of an initial model as the window writes it, without --iter and --auto_sampling."""


def best_agreement(volume: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """FSC with a D2 truth in the best of the turns that keep its axes, and of both hands."""
    axis = np.arange(len(truth)) - len(truth) // 2
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(axis, axis, axis, indexing="ij")))
    mask = radius < 0.42 * len(truth)
    mirrored = np.roll(volume[::-1], 1, axis=0)
    maps = [turned_map(np.ascontiguousarray(m), g[None]) for m in (volume, mirrored) for g in operators("O")]
    curves = [shell_correlation(m * mask, truth * mask) for m in maps]
    return max(curves, key=lambda curve: curve[1:8].mean())


def initial_model(project: Path, iterations: int, *more: str) -> Run:
    """Refines in C1, then aligns with and averages over D2 into initial_model.mrc, as the job does."""
    run = refined(project, "InitialModel", "--iter", str(iterations), *more, usual=INITIAL_MODEL, seconds=2400.0)
    words = ["--i", f"InitialModel/run_it{iterations:03d}_model.star", "--o", "InitialModel/initial_model.mrc"]
    words += ["--sym", "D2", "--apply_sym", "--select_largest_class", "--pipeline_control", "InitialModel/"]
    program = [sys.executable, "-m", "relion_py.compute.cli.align_symmetry"]
    subprocess.run([*program, *words], cwd=project, check=True, capture_output=True)
    return run


def test_initial_model_of_a_d2_object(tmp_path: Path) -> None:
    """From nothing but images to better than 20 A."""
    simulate_particles(tmp_path, 500, box=32, angpix=6.0, symmetry="D2", seed=7, snr=0.5)
    run = initial_model(tmp_path, 40)
    assert run.map("run_it020_1moment002.mrc").shape == (32, 32, 34)
    curve = best_agreement(run.map("initial_model.mrc"), mrcfile.read(tmp_path / "truth.mrc"))
    assert curve[: int(32 * 6.0 / 20.0) + 1].min() > 0.5
    # three-dimensional moments, step and regularisation go on where they were
    words = ["--continue", "InitialModel/run_it030_optimiser.star", "--pool", "30", "--j", "2"]
    again = refined(tmp_path, "Continued", "--dont_combine_weights_via_disc", usual=words).map("run_it040_class001.mrc")
    whole = run.map("run_it040_class001.mrc")
    assert np.abs(again - whole).max() < 0.05 * np.abs(whole).max()


def test_two_structures_grow_from_one_reference(tmp_path: Path) -> None:
    """3D classification by steps: most particles end with those of their kind."""
    simulate_particles(tmp_path, 240, 32, 5.5, "C2", 5, 1.0, classes=2, reference_resolution=25.0)
    words = shlex.split(
        "--i particles.star --ref reference.mrc --K 2 --grad --iter 24 --grad_ini_subset 100 --grad_fin_subset 160 "
        "--tau2_fudge 4 --ini_high 25 --firstiter_cc --healpix_order 2 --sym C2 --ctf --particle_diameter 140 "
        "--flatten_solvent --zero_mask --oversampling 1 --norm --scale --j 2 --offset_range 3 --offset_step 2 "
        "--random_seed 1 --dont_combine_weights_via_disc"
    )
    run = refined(tmp_path, "Class3D", usual=words)
    truth = star.read(tmp_path / "truth.star")["particles"]
    wanted = dict(zip(truth.strings("rlnImageName"), truth.ints("rlnClassNumber"), strict=True))
    found = star.read(run.out / "run_it024_data.star")["particles"]
    right = np.array([wanted[n] for n in found.strings("rlnImageName")]) == found.ints("rlnClassNumber")
    assert max(right.mean(), 1 - right.mean()) > 0.8


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_initial_model_with_automatic_sampling(tmp_path: Path) -> None:
    """The window's whole command on 1,000 noisier particles, with half of its iterations.

    In 40 neither this program nor RELION 5.0.1, with the same command, gets to 20 A.
    """
    simulate_particles(tmp_path, 1000, box=48, angpix=4.0, symmetry="D2", seed=5, snr=0.08)
    run = initial_model(tmp_path, 100, "--auto_sampling")
    curve = best_agreement(run.map("initial_model.mrc"), mrcfile.read(tmp_path / "truth.mrc"))
    assert curve[: int(48 * 4.0 / 20.0) + 1].min() > 0.5
