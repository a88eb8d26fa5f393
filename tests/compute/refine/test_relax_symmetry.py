"""Symmetry relaxation: views that a broken axis makes nearly alike are told apart, starting from the wrong ones."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from blob_model import Blobs, disc, image_from_slice
from refine_runs import refined

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import angular_distance, euler_to_matrix
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.geometry.local_search import Selection, mixture
from relion_py.compute.io import star
from relion_py.compute.refine.model import SamplingState
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.refine.run import grid_of
from relion_py.compute.refine.sampling import LocalSearch

BOX, PIXEL, N, FOLD = 32, 4.0, 60, 3
ONE = np.eye(3)[None]


def test_a_relaxed_search_is_one_around_each_of_the_mates() -> None:
    grid = Sampling(healpix_order=3)
    rot, tilt, psi = np.array([10.0, 100.0, 0.0]), np.array([50.0, 90.0, 2.0]), np.array([0.0, 30.0, 60.0])
    index = np.arange(3)
    sigmas = (4.0, 4.0, 4.0)
    relaxed = LocalSearch.around(grid, index, 3, (rot, tilt, psi), sigmas, fold=FOLD)
    single = [LocalSearch.around(grid, index, 3, (rot + 120.0 * k, tilt, psi), sigmas) for k in range(FOLD)]
    for n in range(3):
        directions, weights = relaxed.directions.of(n)
        expected = np.zeros(grid.n_directions)
        for search in single:
            those, theirs = search.directions.of(n)
            expected[those] += theirs / FOLD
        np.testing.assert_array_equal(directions, np.flatnonzero(expected))
        np.testing.assert_allclose(weights, expected[directions])
        assert weights.sum() == pytest.approx(1.0)
    assert len(relaxed.directions.of(2)[0]) < 2 * len(single[0].directions.of(2)[0]), "mates at the pole are the same"
    np.testing.assert_array_equal(relaxed.psis.indices, single[0].psis.indices)
    groups, _ = relaxed.groups(index, 1, np.zeros((1, grid.n_directions), np.float32))
    assert relaxed.orientations == pytest.approx(groups.psi_count.sum() / 3)


def test_a_mixture_keeps_particles_without_items() -> None:
    empty = Selection(np.array([0, 0, 1]), np.array([4], np.int32), np.ones(1))
    other = Selection(np.array([0, 0, 2]), np.array([2, 4], np.int32), np.array([0.5, 0.5]))
    both = mixture([empty, other])
    np.testing.assert_array_equal(both.starts, [0, 0, 2])
    np.testing.assert_array_equal(both.indices, [2, 4])
    np.testing.assert_allclose(both.weights, [0.25, 0.75])


def test_directions_are_those_of_the_whole_sphere() -> None:
    symmetric = SamplingState(healpix_order=2, symmetry="C3")
    relaxed = SamplingState(healpix_order=2, symmetry="C3", relax_symmetry="C3")
    assert grid_of(relaxed).n_directions == 192 > grid_of(symmetric).n_directions


@pytest.mark.parametrize("group", ["D2", "C"])
def test_other_groups_are_refused(group: str) -> None:
    usual = {"--i": "a.star", "--o": "run", "--ref": "b.mrc", "--particle_diameter": "100"}
    with pytest.raises(UserError, match="takes a cyclic group"):
        RefineOptions.from_args({**usual, "--relax_sym": group})
    assert RefineOptions.from_args({**usual, "--relax_sym": "c5"}).relax_symmetry == "c5"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views of three equal parts about z, one of which has something more; two thirds of the poses are a part off."""
    root = tmp_path_factory.mktemp("relax")
    rng = np.random.default_rng(12)
    part = Blobs.random(3, count=5, reach=6.0, sigma=1.5).centres + np.array([4.0, 0.0, 0.0])
    turns = euler_to_matrix(120.0 * np.arange(FOLD), np.zeros(FOLD), np.zeros(FOLD))
    centres = np.concatenate([part @ turn.T for turn in turns] + [np.array([[8.0, 3.0, 1.0], [7.0, 4.5, -1.0]])])
    blobs = Blobs(centres, np.ones(len(centres)), 1.5)
    truth = np.stack(
        [rng.uniform(-180, 180, N), np.rad2deg(np.arccos(rng.uniform(-0.9, 0.9, N))), rng.uniform(-180, 180, N)]
    )
    kx, ky = disc(BOX // 2 - 1, friedel_pairs=True)
    views = blobs.slices(euler_to_matrix(*truth), kx, ky, BOX)
    images = np.stack([image_from_slice(view, kx, ky, BOX) for view in views])
    images /= images.std()
    images += rng.standard_normal(images.shape)
    write(root / "stack.mrcs", images / images.std())
    write(root / "reference.mrc", blobs.map(BOX))
    given = truth + rng.normal(0, 1.5, truth.shape)
    given[0] += 120.0 * rng.integers(0, FOLD, N)
    star.write(root / "particles.star", tables(given))
    star.write(root / "truth.star", tables(truth))
    return root


def write(path: Path, values: np.ndarray) -> None:
    with mrcfile.new(path) as file:
        file.set_data(values.astype(np.float32))
        if path.suffix == ".mrcs":
            file.set_image_stack()
        file.voxel_size = PIXEL


def tables(angles: np.ndarray) -> dict[str, star.Table]:
    optics = {
        "rlnOpticsGroupName": ["one"], "rlnOpticsGroup": ["1"], "rlnVoltage": ["300"],
        "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"], "rlnImagePixelSize": [str(PIXEL)],
        "rlnImageSize": [str(BOX)],
    }  # fmt: skip
    labels = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    particles = {
        "rlnImageName": [f"{n + 1}@stack.mrcs" for n in range(N)],
        "rlnMicrographName": [f"mic{n // 20}.mrc" for n in range(N)],
        "rlnOpticsGroup": ["1"] * N,
        **{label: [f"{v:.4f}" for v in values] for label, values in zip(labels, angles, strict=True)},
    }
    return {"optics": star.Table(optics), "particles": star.Table(particles)}


def errors(project: Path, path: Path) -> np.ndarray:
    """Degrees between the poses of a file and the true ones."""
    matrices = []
    for name in (path, project / "truth.star"):
        table = star.read(name)["particles"]
        matrices.append(euler_to_matrix(*(table.floats(f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi"))))
    return angular_distance(matrices[0], matrices[1], ONE)


def test_views_of_the_wrong_part_are_put_right(project: Path) -> None:
    words = (
        "--i particles.star --ref reference.mrc --particle_diameter 110 --ini_high 12 --sym C1 --zero_mask --norm "
        "--flatten_solvent --oversampling 1 --healpix_order 3 --offset_range 2 --offset_step 1 --iter 1 --K 1 "
        "--sigma_ang 3 --random_seed 1 --firstiter_cc --dont_check_norm --tau2_fudge 4"
    )
    usual = words.split()
    before = errors(project, project / "particles.star")
    assert 0.5 < (before > 60).mean() < 0.8
    plain = errors(project, refined(project, "plain", usual=usual).out / "run_it001_data.star")
    assert (plain > 60).mean() > 0.5, "a search around the given poses alone does not help"
    run = refined(project, "relaxed", "--relax_sym", "C3", usual=usual)
    assert "Relaxing symmetry to C3" in run.stdout
    after = errors(project, run.out / "run_it001_data.star")
    assert (after < 12).mean() > 0.95
