"""Model, sampling and optimiser tables: real files of four releases, labels and order, round trips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.refine.model import ModelState, resolution_to_shell, shell_to_resolution
from relion_py.compute.refine.model_star import model_from_star, model_to_star, sampling_from_star, sampling_to_star
from relion_py.compute.refine.optimiser_star import optimiser_from_star, optimiser_to_star

JOB27 = "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job027"


def test_shells_and_resolutions() -> None:
    assert shell_to_resolution(0, 100, 3.54) == 999  # ml_model.h, getResolutionAngstrom
    assert shell_to_resolution(10, 100, 3.54) == pytest.approx(35.4)
    assert resolution_to_shell(35.4, 100, 3.54) == 10


def test_labels_and_tables_of_release_4_come_back_in_their_order(shared: Path) -> None:
    original = star.read(shared / "golden/projects/em-testdata-relion4/run_it025_model.star")
    model = model_from_star(original)
    assert (model.ori_size, model.nr_classes, model.nr_groups) == (64, 50, 24)
    written = model_to_star(model)
    assert list(written) == list(original)
    for name, table in original.items():
        assert written[name].labels == table.labels, name
        for label in table.labels:
            ours, theirs = written[name].strings(label), table.strings(label)
            if ours != theirs:  # resolutions are recomputed in double precision
                np.testing.assert_allclose([float(v) for v in ours], [float(v) for v in theirs], rtol=2e-6, atol=1e-6)


def test_model_of_release_2_is_read_in_angstrom(shared: Path) -> None:
    path = shared / JOB27 / "run_it015_half1_model.star"
    model = model_from_star(star.read(path), nr_optics_groups=2)
    assert model.pixel_size == 3.54 and model.nr_directions == 3072
    assert model.sigma_offset == pytest.approx(1.833451 * 3.54)
    assert model.accuracy_trans[0] == pytest.approx(0.322 * 3.54)
    assert model.fsc_halves_class[0, 13] == 0.972304
    assert model.tau2_class[0, 1] == 0.004014 and model.data_vs_prior_class[0, 9] == 682.720138
    assert model.sigma2_noise.shape == (2, 51)
    assert model.sigma2_noise[1, 1] == 1.250735e-04  # the first micrograph's spectrum serves every optics group
    assert model.pdf_direction[0, 0] == 0.001748
    assert model.group_names[0].endswith("14_33_35_0_movie.mrcs")
    assert model.nr_particles_per_group[0] == 265 and model.scale_correction[0] == 1.018643


def test_optimiser_labels_are_those_of_release_5(shared: Path) -> None:
    """The one real file of release 5 is of a 2D classification: the same table but for the second model."""
    theirs = star.read(shared / "data/real/bgal-10204-relion5-project/Class2D/job010/run_it025_optimiser.star")
    state, options, files = optimiser_from_star(star.read(shared / JOB27 / "run_it015_optimiser.star"))
    ours = optimiser_to_star(state, options, files, iteration=15, split_random_halves=True, particle_diameter=200.0)
    labels = ours["optimiser_general"].labels
    assert labels[2] == "rlnModelStarFile2"
    assert [x for x in labels if x != "rlnModelStarFile2"] == theirs["optimiser_general"].labels
    assert list(ours) == list(theirs)


def test_an_auto_refinement_that_was_stopped_goes_on_to_its_end(shared: Path) -> None:
    state, options, files = optimiser_from_star(star.read(shared / JOB27 / "run_it015_optimiser.star"))
    stopped = replace(options, auto_iter_max=15)
    tables = optimiser_to_star(state, stopped, files, iteration=15, split_random_halves=True, particle_diameter=200.0)
    assert tables["optimiser_general"].value("rlnNumberOfIterations") == "15"
    assert optimiser_from_star(tables)[1].max_iterations == 999


def test_optimiser_of_release_2_keeps_its_values(shared: Path) -> None:
    original = star.read(shared / JOB27 / "run_it015_optimiser.star")
    state, options, files = optimiser_from_star(original)
    assert (state.iteration, state.incr_size, state.nr_iter_wo_resol_gain) == (15, 17, 2)
    assert state.best_resolution == pytest.approx(1 / 0.107345)
    assert (options.low_resol_join_halves, options.auto_local_healpix_order) == (40, 4)
    written = optimiser_to_star(state, options, files, iteration=15, split_random_halves=True, particle_diameter=200.0)[
        "optimiser_general"
    ]
    ours_alone = {"rlnMaxNumberOfPooledParticles"}  # of the command line, not of the file
    for label in original["optimiser_general"].labels:
        if label in written and not label.startswith(("rlnSgd", *ours_alone)):
            old, new = original["optimiser_general"].value(label), written.value(label)
            assert old == new or float(old) == pytest.approx(float(new), rel=1e-5), label


def test_sampling_files_of_release_3_and_5_come_back_as_they_were(shared: Path) -> None:
    tutorial = shared / "golden/projects/teamtomo-starfile-tests/relion_tutorial"
    relion5 = shared / "data/real/bgal-10204-relion5-project/Class2D/job010"
    for path in (
        tutorial / "run_it025_sampling_3D.star",
        tutorial / "run_it025_sampling_2D.star",
        relion5 / "run_it010_sampling.star",
    ):
        original = star.read(path)
        written = sampling_to_star(sampling_from_star(original))
        assert list(written) == list(original)
        for name, table in original.items():
            assert written[name] == table


def test_offsets_of_release_2_become_angstrom(shared: Path) -> None:
    sampling = sampling_from_star(star.read(shared / JOB27 / "run_it015_sampling.star"), 3.54)
    assert sampling.offset_range == pytest.approx(0.803250 * 3.54)
    assert (sampling.healpix_order, sampling.symmetry, sampling.angular_step) == (5, "D2", 1.875)
    assert sampling.directions.shape == (3072, 2)


@pytest.mark.parametrize(
    "name",
    [
        "data/real/bgal-10204-relion5-project/Class2D/job010/run_it010_optimiser.star",
        "golden/projects/teamtomo-starfile-tests/relion_tutorial/run_it025_optimiser_3D.star",
    ],
)
def test_classifications_of_the_reference_are_read(shared: Path, name: str) -> None:
    state, options, files = optimiser_from_star(star.read(shared / name))
    assert not options.auto_refine and not options.split_random_halves
    assert state.iteration in (10, 25) and options.iterations == 25
    assert files.model.endswith(f"it{state.iteration:03d}_model.star") and files.model2 == ""


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("rlnFourierMask", "mask.mrc", "a Fourier mask"),
        ("rlnModelStarFile2", "", "numbered iteration"),
        ("rlnParticleDiameter", "wide", "_rlnParticleDiameter is 'wide'"),
    ],
)
def test_what_cannot_be_continued_is_said(shared: Path, label: str, value: str, words: str) -> None:
    tables = star.read(shared / JOB27 / "run_it015_optimiser.star")
    tables["optimiser_general"].set(label, value)
    with pytest.raises(UserError, match=words):
        optimiser_from_star(tables)


def test_a_missing_label_is_named(shared: Path) -> None:
    tables = star.read(shared / JOB27 / "run_it015_optimiser.star")
    tables["optimiser_general"].remove("rlnRandomSeed")
    with pytest.raises(UserError, match="has no _rlnRandomSeed"):
        optimiser_from_star(tables)


def test_copies_share_nothing() -> None:
    model = ModelState.new(8, 1.0, group_names=["a"], nr_particles_per_group=np.array([3]), nr_directions=4)
    model.references = [np.zeros((8, 8, 8), np.float32)]
    other = model.copy()
    other.references[0][0] = 1
    other.tau2_class[:] = 2
    other.group_names.append("b")
    assert model.references[0].max() == 0 and model.tau2_class.max() == 0 and model.nr_groups == 1
    assert model.pdf_direction.sum() == 1
