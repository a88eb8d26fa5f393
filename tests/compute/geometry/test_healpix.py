"""The search grid against healpy, loops written down from the definition, and sampling files of RELION."""

from __future__ import annotations

from pathlib import Path

import healpy
import numpy as np
import pytest
from reference_data import SHARED
from scipy.spatial import cKDTree

from relion_py.compute.errors import UserError
from relion_py.compute.geometry.euler import angular_distance, direction, euler_to_matrix
from relion_py.compute.geometry.healpix import Sampling, angular_step, next_perturbation, translations
from relion_py.compute.geometry.symmetry import operators
from relion_py.compute.io import star

GROUPS = ["C1", "C2", "C3", "C4", "C7", "D1", "D2", "D3", "D7", "T", "O", "I", "I1", "I3", "I4"]


def test_directions_are_healpix_centres_in_nested_order() -> None:
    rot, tilt = Sampling(3).directions()
    theta, phi = healpy.pix2ang(8, np.arange(768), nest=True)
    np.testing.assert_allclose(direction(rot, tilt), healpy.ang2vec(theta, phi), atol=1e-9)
    assert rot.min() > -180 and rot.max() <= 180


@pytest.mark.parametrize("symmetry", GROUPS)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_directions_are_one_asymmetric_unit(symmetry: str, order: int) -> None:
    kept = direction(*Sampling(order, symmetry=symmetry).directions())
    group = operators(symmetry)
    theta, phi = healpy.pix2ang(2**order, np.arange(12 * 4**order), nest=True)
    whole = healpy.ang2vec(theta, phi)
    mates = np.einsum("dj,mjk->mdk", kept, group)
    distance, _ = cKDTree(mates.reshape(-1, 3)).query(whole)
    # the whole sphere is covered (a pixel or two at the borders of the smallest units) ...
    assert np.rad2deg(2 * np.arcsin(distance.max() / 2)) < 1.7 * angular_step(order)
    # ... with the density of the whole sphere ...
    assert abs(len(kept) - len(whole) / len(group)) <= 1 + np.sqrt(len(whole) / len(group))
    # ... and no direction is a symmetry mate of another one
    own = np.tile(np.arange(len(kept)), len(group))
    neighbours = cKDTree(kept).query_ball_point(mates.reshape(-1, 3), np.deg2rad(0.2 * angular_step(order)))
    assert all(set(found) <= {n} for found, n in zip(neighbours, own, strict=True))


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "golden" / "sampling").glob("*.star")))
def test_directions_are_those_of_relions_sampling_files(path: Path) -> None:
    """The directions of relion_refine 3.1.3's sampling files; <group>_<order>.star, rows are rot and tilt."""
    symmetry, order = path.stem.split("_")
    expected = direction(*np.loadtxt(path).T)
    ours = direction(*Sampling(int(order), symmetry=symmetry).directions())
    if symmetry in ("T", "O"):
        # the reference's rounded borders lose some of the points on them; here they, or a mate, are inside
        mates = np.einsum("dj,mjk->mdk", ours, operators(symmetry)).reshape(-1, 3)
        distance, _ = cKDTree(mates).query(expected)
        assert distance.max() < 1e-6
        assert len(expected) <= len(ours) <= 1.11 * len(expected)
    else:
        np.testing.assert_allclose(ours, expected, atol=1e-6)


PROJECT = SHARED / "data/real/bgal-10017-relion2-project/relion_dataset"


@pytest.mark.skipif(not PROJECT.exists(), reason="the shared beta-galactosidase project is not here")
def test_directions_of_a_refinement_in_the_wild() -> None:
    """A real run's file at order 5, D2: the same 3,072 directions in the same order."""
    tables = star.read(PROJECT / "Refine3D/job027/run_sampling.star")
    general, listed = tables["sampling_general"], tables["sampling_directions"]
    sampling = Sampling(int(general.value("rlnHealpixOrder")), symmetry=general.value("rlnSymmetryGroup"))
    expected = direction(listed.floats("rlnAngleRot"), listed.floats("rlnAngleTilt"))
    assert len(expected) == sampling.n_directions == 3072
    np.testing.assert_allclose(direction(*sampling.directions()), expected, atol=1e-6)
    assert sampling.psi_step == pytest.approx(float(general.value("rlnPsiStep")))


def test_psi_steps() -> None:
    assert Sampling(2).n_psis == 24
    assert Sampling(2).step == 15.0
    np.testing.assert_allclose(Sampling(2).psis(), np.arange(24) * 15.0)
    assert Sampling(2, psi_step=11.0).psi_step == pytest.approx(360 / 33)
    assert Sampling(0, is_3d=False).n_psis == 36
    assert Sampling(0, psi_step=360 / 96, is_3d=False).n_psis == 96


@pytest.mark.parametrize("oversampling", [0, 1, 2])
def test_children_in_the_order_of_the_reference(oversampling: int) -> None:
    sampling = Sampling(1, symmetry="C2")
    dirs, psis = np.array([0, 5, 20]), np.array([3, 0, 11])
    fact, nside = 2**oversampling, 2
    angles = []
    for d, q in zip(dirs, psis, strict=True):
        x, y, face = healpy.pix2xyf(nside, sampling.pixels()[d], nest=True)
        for j in range(fact * y, fact * (y + 1)):
            for i in range(fact * x, fact * (x + 1)):
                pixel = healpy.xyf2pix(nside * fact, i, j, face, nest=True)
                theta, phi = healpy.pix2ang(nside * fact, pixel, nest=True)
                for part in range(fact):
                    psi = q * 30.0 - 15.0 + (0.5 + part) * 30.0 / fact
                    angles.append((np.rad2deg(phi), np.rad2deg(theta), psi))
    expected = euler_to_matrix(*np.transpose(angles)).reshape(3, 8**oversampling, 3, 3)
    np.testing.assert_allclose(sampling.oversampled(dirs, psis, oversampling), expected, atol=1e-12)


def test_perturbation_turns_on_the_right() -> None:
    plain, moved = Sampling(2, symmetry="D7"), Sampling(2, symmetry="D7", perturbation=0.3)
    dirs, psis = np.array([0, 3, 9]), np.array([1, 2, 3])
    turn = euler_to_matrix(4.5, 4.5, 4.5)
    np.testing.assert_allclose(moved.oversampled(dirs, psis, 1), plain.oversampled(dirs, psis, 1) @ turn, atol=1e-12)
    assert plain.perturbed(0.3) == moved


def test_large_grids_compute_frames_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    dirs, psis = np.array([700, 3, 3, 9]), np.array([1, 2, 3, 4])
    kept = Sampling(3).oversampled(dirs, psis, 1)
    monkeypatch.setattr("relion_py.compute.geometry.healpix._KEPT_FRAMES", 0)
    np.testing.assert_array_equal(Sampling(3).oversampled(dirs, psis, 1), kept)


def test_two_dimensional_search() -> None:
    sampling = Sampling(0, psi_step=10.0, is_3d=False, perturbation=0.25)
    assert sampling.n_directions == 1 and sampling.n_children(2) == 4
    psi = [[10 - 2.5 + 2.5, 10 + 2.5 + 2.5], [-10 - 2.5 + 2.5, -10 + 2.5 + 2.5]]
    np.testing.assert_allclose(sampling.oversampled([0, 0], [1, 35], 1), euler_to_matrix(0, 0, psi), atol=1e-12)


def test_limit_tilt_keeps_side_or_top_views() -> None:
    _, sides = Sampling(3, limit_tilt=60.0).directions()
    assert sides.min() >= 60 and sides.max() <= 120
    _, tops = Sampling(3, limit_tilt=-30.0).directions()
    assert np.minimum(tops, 180 - tops).max() <= 30
    assert Sampling(3, limit_tilt=-91).n_directions == 768


def test_next_perturbation_moves_strongly_and_stays_inside() -> None:
    rng, current, seen = np.random.default_rng(4), 0.0, []
    for _ in range(200):
        following = next_perturbation(current, 0.5, rng)
        move = (following - current) % 1.0
        assert 0.25 - 1e-12 <= move <= 0.5 + 1e-12 and -0.5 <= following <= 0.5
        current = following
        seen.append(current)
    assert min(seen) < -0.4 and max(seen) > 0.4
    assert next_perturbation(0.3, 0.0, rng) == 0.0


def test_translations_are_a_disc_and_its_children() -> None:
    coarse, children = translations(10.0, 4.0, 1, perturbation=0.25)
    expected = [(x, y) for x in range(-12, 13, 4) for y in range(-12, 13, 4) if x * x + y * y <= 100]
    np.testing.assert_allclose(coarse, expected)
    assert children.shape == (len(expected), 4, 2)
    offsets = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) + 1.0
    np.testing.assert_allclose(children[3], coarse[3] + offsets)
    alone, same = translations(0.0, 2.0)
    np.testing.assert_allclose(alone, [[0, 0]])
    np.testing.assert_allclose(same, [[[0, 0]]])


def brute_force(sampling: Sampling, rot: float, tilt: float, sigma: float) -> tuple[list[int], np.ndarray]:
    prior, angles = direction(rot, tilt), []
    for vector in direction(*sampling.directions()):
        products = [np.dot(prior, vector @ r) for r in operators(sampling.symmetry)]
        angles.append(np.rad2deg(np.arccos(min(1.0, max(products)))))
    near = [d for d, angle in enumerate(angles) if angle < 3 * sigma] or [int(np.argmin(angles))]
    weights = np.exp(-0.5 * (np.array(angles)[near] / sigma) ** 2)
    return near, weights / weights.sum()


@pytest.mark.parametrize("symmetry", ["C1", "D2", "I1"])
@pytest.mark.parametrize("sigma", [6.0, 0.5])
def test_local_directions(symmetry: str, sigma: float) -> None:
    rng = np.random.default_rng(5)
    rot, tilt = rng.uniform(-180, 180, 12), rng.uniform(0, 180, 12)
    sampling = Sampling(3, symmetry=symmetry)
    selection = sampling.local_directions(rot, tilt, sigma, sigma)
    assert len(selection) == 12
    for n in range(12):
        indices, weights = selection.of(n)
        near, expected = brute_force(sampling, rot[n], tilt[n], sigma)
        assert list(indices) == near
        np.testing.assert_allclose(weights, expected, atol=1e-9)


def test_local_directions_by_one_angle_only() -> None:
    sampling = Sampling(3, symmetry="C3")
    rot, tilt = sampling.directions()
    by_tilt = sampling.local_directions([0.0], [80.0], 0.0, 5.0)
    assert set(by_tilt.of(0)[0]) == set(np.flatnonzero(np.abs(tilt - 80) < 15))
    by_rot = sampling.local_directions([20.0], [0.0], 4.0, 0.0)
    distance = [
        min(abs(np.rad2deg(np.arcsin(np.sin(np.deg2rad(t)) * np.sin(np.deg2rad(r + k - 20))))) for k in (0, 120, 240))
        for r, t in zip(rot, tilt, strict=True)
    ]
    assert set(by_rot.of(0)[0]) == set(np.flatnonzero(np.array(distance) < 12))
    everything = sampling.local_directions([0.0, 1.0], [0.0, 1.0], 0.0, 0.0)
    assert len(everything.of(1)[0]) == sampling.n_directions
    np.testing.assert_allclose(everything.of(1)[1].sum(), 1.0)


def test_local_psis() -> None:
    sampling = Sampling(2)
    selection = sampling.local_psis([-100.0, 2.0, 7.5], 10.0)
    for n, prior in enumerate([-100.0, 2.0, 7.5]):
        distance = np.abs((sampling.psis() - prior + 180) % 360 - 180)
        indices, weights = selection.of(n)
        assert list(indices) == list(np.flatnonzero(distance < 30))
        expected = np.exp(-0.5 * (distance[indices] / 10) ** 2)
        np.testing.assert_allclose(weights, expected / expected.sum())
    nearest = sampling.local_psis([100.0], 0.1)
    assert list(nearest.of(0)[0]) == [7] and nearest.of(0)[1][0] == 1.0
    assert len(sampling.local_psis([0.0], 0.0).of(0)[0]) == 24


def test_a_true_orientation_is_near_a_selected_one() -> None:
    """What the local search is for: the grid restricted to the prior still holds a close orientation."""
    sampling, rng = Sampling(4, symmetry="D7"), np.random.default_rng(8)
    for _ in range(5):
        rot, tilt, psi = rng.uniform(-180, 180), rng.uniform(20, 160), rng.uniform(-180, 180)
        dirs, _ = sampling.local_directions([rot], [tilt], 8.0, 8.0).of(0)
        pairs = np.array([(d, q) for d in dirs for q in range(sampling.n_psis)])
        grid = sampling.oversampled(pairs[:, 0], pairs[:, 1], 1).reshape(-1, 3, 3)
        distance = angular_distance(grid, euler_to_matrix(rot, tilt, psi), operators("D7"))
        assert distance.min() < 1.5 * angular_step(5)


def test_mistakes_are_sentences() -> None:
    with pytest.raises(UserError, match="HEALPix order"):
        Sampling(12)
    with pytest.raises(UserError, match="psi step"):
        Sampling(2, psi_step=-3.0)
    with pytest.raises(UserError, match="No direction is left"):
        Sampling(0, limit_tilt=-5.0)
    with pytest.raises(UserError, match="point group"):
        Sampling(2, symmetry="Q3")
    with pytest.raises(UserError, match="step of the offset"):
        translations(5.0, 0.0)
    with pytest.raises(UserError, match="range of the offset"):
        translations(-5.0, 1.0)
    with pytest.raises(UserError, match="perturbation"):
        next_perturbation(0.0, 1.5, np.random.default_rng(0))
