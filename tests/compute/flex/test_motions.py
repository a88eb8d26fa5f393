"""Principal components of bodies' motions and maps that follow them.

The numbers in GOLDEN are what relion_flex_analyse of RELION 5.0.1 wrote for the files of `moving_bodies`.
"""

from __future__ import annotations

from pathlib import Path

import moving_bodies as made
import mrcfile
import numpy as np
import pytest

from relion_py.compute.errors import UserError
from relion_py.compute.flex.motions import Components, MovingBodies, residual_motions, turn_and_move
from relion_py.compute.geometry.euler import euler_to_matrix
from relion_py.compute.refine.bodies import Bodies, read_bodies
from relion_py.compute.refine.data import ParticleSet

GOLDEN_WEIGHTS = [
    [7.497135e-01, 5.717282e-01, 5.891048e-01, 1.410988e01],
    [4.677497e-01, 3.724628e-01, 3.880791e-01, 1.027616e01],
]
GOLDEN_VECTOR = [
    -1.716907e-02, -3.902413e-04, -5.283657e-02, 8.592465e-01, -1.858006e-01, 3.111929e-01,
    -1.771722e-02, 1.974918e-02, -1.463560e-02, 1.728556e-01, -2.896186e-01, 1.121150e-01,
]  # fmt: skip
GOLDEN_PERCENT = [
    27.172358, 23.988801, 16.945350, 12.389237, 7.639110, 6.656934, 3.239223, 0.963018, 0.362165, 0.269204, 0.268106,
    0.106494,
]  # fmt: skip
GOLDEN_PROJECTION = [6.36832, -5.8711, 0.73713, 4.01874, 5.04243, -3.21211, 1.906, 1.02266, 0.583225, 0.693709]


@pytest.fixture(scope="module")
def refinement(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_refinement(tmp_path_factory.mktemp("refinement"))


@pytest.fixture(scope="module")
def bodies(refinement: Path) -> Bodies:
    return read_bodies(str(refinement / "absolute.star"), made.BOX, made.PIXEL)


@pytest.fixture(scope="module")
def moving(refinement: Path, bodies: Bodies) -> MovingBodies:
    maps = [np.array(mrcfile.read(refinement / f"run_body{k:03d}.mrc")) for k in (1, 2)]
    return MovingBodies.of(bodies, maps)


@pytest.fixture(scope="module")
def motions(refinement: Path, bodies: Bodies) -> tuple[np.ndarray, np.ndarray]:
    return residual_motions(ParticleSet.read(str(refinement / "run_data.star")), bodies)


def test_weights_and_components_are_those_of_the_reference(
    moving: MovingBodies, motions: tuple[np.ndarray, np.ndarray]
) -> None:
    weights = moving.weights()
    assert weights == pytest.approx(np.array(GOLDEN_WEIGHTS), rel=3e-5)
    components = Components.of(*motions, weights)
    assert components.vectors[0] == pytest.approx(GOLDEN_VECTOR, abs=2e-5)
    assert 100 * components.shares == pytest.approx(GOLDEN_PERCENT, abs=2e-5)
    assert components.projections[0, :10] == pytest.approx(GOLDEN_PROJECTION, abs=1e-4)
    assert components.number_that_explains(0.5) == 2 and components.number_that_explains(1.0) == 12


def centre_of(volume: np.ndarray) -> np.ndarray:
    """Centre of mass, x, y, z pixels from the box's centre, by NumPy alone."""
    grid = np.indices(volume.shape) - volume.shape[0] // 2
    return np.array([(axis * volume).sum() for axis in grid[::-1]]) / volume.sum()


def test_a_blob_goes_where_its_turn_and_move_take_it() -> None:
    volume = made.blobs(((4.0, -2.0, 3.0),))
    turn, move = euler_to_matrix(30.0, 50.0, -20.0), np.array([1.5, 2.0, -1.0])
    assert centre_of(turn_and_move(volume, turn, move)) == pytest.approx(turn @ [4.0, -2.0, 3.0] + move, abs=0.02)


def test_a_body_turns_about_its_own_centre(bodies: Bodies) -> None:
    body, volume = bodies[1], made.blobs(made.PLACES[1])
    alone = MovingBodies.of(Bodies("", (body,)), [volume])
    angles, move = np.array([[5.0, 80.0, -7.0]]), np.array([[1.0, -2.0, 0.5]])
    turn = body.turn(euler_to_matrix(*angles[0]))
    wanted = turn @ (centre_of(volume * body.mask) - body.centre) + body.centre + move[0]
    assert centre_of(alone.assembled(angles, move)) == pytest.approx(wanted, abs=0.02)


def test_maps_of_particles_are_those_of_the_reference(
    moving: MovingBodies, motions: tuple[np.ndarray, np.ndarray]
) -> None:
    """Three voxels and the sum of the first and the last particle's map (--3dmodels --size_3dmodels 24)."""
    for n, voxels, total in (
        (0, [1.92464, 2.39296, 0.83871], 782.6124),
        (39, [1.20591, 2.34883, 0.97414], 748.35547),
    ):
        volume = moving.assembled(motions[0][n], motions[1][n])
        assert volume[12, 12, [6, 8, 16]] == pytest.approx(voxels, abs=3e-5)
        assert volume.sum() == pytest.approx(total, rel=1e-5)


def test_variance_of_a_swing_is_found() -> None:
    """Two bodies, one of which swings by 5 degrees in tilt: one component, with that spread."""
    random = np.random.default_rng(1)
    angles, moves = np.tile([0.0, 90.0, 0.0], (500, 2, 1)), np.zeros((500, 2, 3))
    angles[:, 1, 1] += 5.0 * random.normal(size=500)
    components = Components.of(angles, moves, np.ones((2, 4)))
    assert components.shares[0] == pytest.approx(1.0)
    assert np.sqrt(components.variances[0]) == pytest.approx(angles[:, 1, 1].std(), rel=1e-6)
    turned, moved = components.at(0, 3.0)
    assert turned == pytest.approx(np.array([[0, 90, 0], [0, 3.0 + angles[:, 1, 1].mean(), 0]]))
    assert moved == pytest.approx(np.zeros((2, 3)))
    values = components.bin_means(0, 10)
    assert (np.diff(values) > 0).all() and values.mean() == pytest.approx(0.0, abs=1e-6)


def test_too_few_particles_are_refused() -> None:
    with pytest.raises(UserError, match=r"11 particles are too few .* 12 are needed"):
        Components.of(np.zeros((11, 2, 3)), np.zeros((11, 2, 3)), np.ones((2, 4)))
