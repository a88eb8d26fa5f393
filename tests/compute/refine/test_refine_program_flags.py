"""Flags that end a run early or change how it compares, as a user gives them."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from refine_runs import BOX, PIXEL, Run, copy_of, refined, usual_without

from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.io import star
from relion_py.compute.refine.options import RefineOptions


def test_without_maximization_only_the_particles_are_written(serial_run: Run, d2_project: Path) -> None:
    run = refined(d2_project, "no_maps", "--skip_maximize")
    written = {path.name for path in run.out.iterdir() if "it000" not in path.name}
    assert written == {"run_data.star", "RELION_JOB_EXIT_SUCCESS"}
    found, usual = (
        star.read(p)["particles"] for p in (run.out / "run_data.star", serial_run.out / "run_it001_data.star")
    )
    for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnLogLikeliContribution"):
        np.testing.assert_allclose(found.floats(label), usual.floats(label))


def test_always_by_correlation_gives_each_particle_one_pose_and_keeps_the_noise(d2_project: Path) -> None:
    usual = usual_without("--auto_refine", "--split_random_halves", "--low_resol_join_halves")
    run = refined(d2_project, "always_cc", "--always_cc", "--iter", "2", "--K", "1", usual=usual)
    for iteration in (1, 2):
        particles = star.read(run.out / f"run_it00{iteration}_data.star")["particles"]
        np.testing.assert_array_equal(particles.floats("rlnMaxValueProbDistribution"), 1.0)
        noise = [star.read(run.out / f"run_it00{i}_model.star")["model_optics_group_1"] for i in (0, iteration)]
        np.testing.assert_array_equal(noise[0].floats("rlnSigma2Noise"), noise[1].floats("rlnSigma2Noise"))


def test_symmetry_operators_are_listed(d2_project: Path) -> None:
    run = refined(d2_project, "operators", "--print_symmetry_ops", "--sym", "D2", usual=[])
    assert "Using symmetry group D2, with the following 4 transformation matrices" in run.stdout
    rows = [line.split() for line in run.stdout.splitlines()]
    numbers = [[float(word) for word in row] for row in rows if len(row) == 3 and all(w[-1].isdigit() for w in row)]
    np.testing.assert_allclose(np.array(numbers).reshape(4, 3, 3), operators("D2"), atol=1e-5)


@pytest.mark.parametrize("flag", ["--always_cc", "--skip_maximize"])
def test_neither_goes_with_steps_along_the_gradient(flag: str) -> None:
    words = {"--i": "a.star", "--o": "run", "--grad": True, "--denovo_3dref": True, flag: True}
    with pytest.raises(Exception, match=f"{flag} and --grad exclude each other"):
        RefineOptions.from_args(words)


def test_the_last_iteration_samples_finer_where_angles_have_become_known(serial_run: Run, d2_project: Path) -> None:
    """As in RELION: a run that converged with coarse angles, accurate to less by now, ends with finer ones."""

    def order(path: Path) -> int:
        return int(star.read(path)["sampling_general"].ints("rlnHealpixOrder")[0])

    last = [path for path in sorted(serial_run.out.glob("run_it*_sampling.star")) if order(path) == 2][-1]
    last = last.with_name(last.name.replace("sampling", "optimiser"))
    tables = star.read(last)
    general = tables["optimiser_general"]
    for label in ("rlnNumberOfIterWithoutResolutionGain", "rlnNumberOfIterWithoutChangingAssignments"):
        general.set(label, ["1"])
    star.write(last.with_name("settled_optimiser.star"), tables)
    run = refined(
        d2_project, "finer_end", "--continue", "serial/settled_optimiser.star", "--force_converge", usual=["--j", "2"]
    )
    assert order(run.out / "run_sampling.star") == 3


def test_detail_beyond_the_limit_does_not_move_particles(d2_project: Path, tmp_path: Path) -> None:
    """--strict_highres_exp: poses and weights, oversampled ones too, are those of images without finer detail."""
    project = copy_of(d2_project, tmp_path / "project")
    usual = [*usual_without("--auto_refine", "--split_random_halves", "--low_resol_join_halves", "--particle_diameter",
                            "--auto_local_healpix_order", "--healpix_order", "--flatten_solvent"),
             "--healpix_order", "1", "--iter", "1", "--strict_highres_exp", "32",
             "--particle_diameter", "400"]  # fmt: skip
    before = refined(project, "before", usual=usual)
    for path in (project / "Particles").iterdir():
        images = np.array(mrcfile.read(path))
        transforms = np.fft.rfft2(images)
        frequency = np.hypot(np.fft.fftfreq(BOX)[:, None], np.fft.rfftfreq(BOX)) / PIXEL
        noise = np.fft.rfft2(np.random.default_rng(1).normal(scale=images.std(), size=images.shape))
        transforms += np.where(frequency > 1 / 25, noise, 0)
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(np.fft.irfft2(transforms, s=(BOX, BOX)).astype(np.float32))
            file.set_image_stack()
            file.voxel_size = PIXEL
    after = refined(project, "after", usual=usual)
    tables = [star.read(run.out / "run_it001_data.star")["particles"] for run in (before, after)]
    for label in ("rlnAngleRot", "rlnAnglePsi", "rlnOriginXAngst", "rlnMaxValueProbDistribution"):
        np.testing.assert_allclose(tables[1].floats(label), tables[0].floats(label), atol=2e-3)
    noises = [star.read(run.out / "run_it001_model.star")["model_optics_group_1"].floats("rlnSigma2Noise")[9]
              for run in (before, after)]  # fmt: skip
    assert noises[1] > 1.5 * noises[0]  # all detail is in the sums
