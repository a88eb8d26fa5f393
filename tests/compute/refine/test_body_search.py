"""Where a body is searched, against the same choice made sample by sample with float64 angles."""

from __future__ import annotations

import numpy as np
import pytest

from relion_py.compute.geometry.euler import direction, euler_to_matrix, matrix_to_euler
from relion_py.compute.geometry.healpix import Sampling
from relion_py.compute.refine.bodies import Body, align_with_z
from relion_py.compute.refine.body_search import CUTOFF, BodySearch
from relion_py.compute.refine.model import SamplingState
from relion_py.compute.refine.sampling import SamplingTables

N = 2


def a_body(tilt: float = 12.0, psi: float = 7.0) -> Body:
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    nothing = np.zeros((2, 2, 2), np.float32)
    return Body("", nothing, np.array([5, 1, 0]), 30.0, axis, align_with_z(-axis), tilt, psi, 3.0)


@pytest.fixture(scope="module")
def tables() -> SamplingTables:
    grid = Sampling(2).perturbed(0.3)
    return SamplingTables.of(grid, SamplingState(healpix_order=2, offset_range=5.0, offset_step=2.0), 1)


def poses(seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    consensus = euler_to_matrix(random.uniform(-180, 180, N), [3.0, 110.0], random.uniform(-180, 180, N))
    return consensus, euler_to_matrix(random.normal(0, 5, N), 90 + random.normal(0, 5, N), random.normal(0, 5, N))


def brute_force(
    tables: SamplingTables, body: Body, consensus: np.ndarray, last: np.ndarray, sigmas: tuple[float, float]
) -> dict[tuple[int, int], float]:
    """Log prior of every sample (direction, psi) that is looked at, relative to the mean of the priors."""
    found = {}
    angles = np.degrees(np.arctan2(tables.coarse_psi[:, 0, 1], tables.coarse_psi[:, 0, 0]))
    for d, matrix in enumerate(tables.coarse_mats[:, 0].astype(float)):
        for q, psi in enumerate(angles):
            own = euler_to_matrix(0, 0, psi) @ matrix
            rot, tilt, turn = matrix_to_euler(body.residual_matrices(consensus, own))
            away = np.degrees(np.arccos(np.clip(direction(rot, tilt) @ [1, 0, 0], -1, 1)))
            value = -0.5 * ((away / body.sigma_tilt) ** 2 + (turn / body.sigma_psi) ** 2)
            if away > CUTOFF * body.sigma_tilt or abs(turn) > CUTOFF * body.sigma_psi:
                continue
            if sigmas[0] > 0:
                off = np.degrees(np.arccos(np.clip(own[2] @ last[2], -1, 1)))
                between = last @ matrix.T
                best = np.degrees(np.arctan2(between[0, 1] - between[1, 0], between[0, 0] + between[1, 1]))
                around = abs((psi - best + 180) % 360 - 180)
                if off > CUTOFF * sigmas[0] or around > CUTOFF * sigmas[1]:
                    continue
                value -= 0.5 * ((off / sigmas[0]) ** 2 + (around / sigmas[1]) ** 2)
            found[d, q] = value
    mean = np.log(np.mean(np.exp(list(found.values())))) if found else 0.0
    return {key: value - mean for key, value in found.items()}


@pytest.mark.parametrize("sigmas", [(8.0, 8.0), (0.0, 0.0)])
def test_samples_and_priors_are_those_of_a_search_one_by_one(
    tables: SamplingTables, sigmas: tuple[float, float]
) -> None:
    body, (consensus, residual) = a_body(), poses()
    index = np.array([7, 3])
    search = BodySearch.around(tables, index, 10, body, consensus, residual, sigmas)
    groups, starts = search.groups(index, 1, np.zeros((1, 1), np.float32))
    own = body.own_matrices(consensus, residual)
    for n in range(N):
        found = {}
        for g in range(starts[n], starts[n + 1]):
            assert groups.particle[g] == n and groups.prior[g] == 0
            psis = slice(groups.psi_start[g], groups.psi_start[g] + groups.psi_count[g])
            assert (np.diff(groups.psi_idx[psis]) > 0).all()
            found |= {
                (int(groups.block[g]), int(q)): float(p)
                for q, p in zip(groups.psi_idx[psis], groups.psi_prior[psis], strict=True)
            }
        wanted = brute_force(tables, body, consensus[n], own[n], sigmas)
        assert len(wanted) > 3 and set(found) == set(wanted)
        assert [found[key] for key in wanted] == pytest.approx(list(wanted.values()), abs=2e-3)


def test_a_particle_whose_samples_are_all_excluded_gets_the_nearest_one(tables: SamplingTables) -> None:
    body, (consensus, residual) = a_body(0.01, 0.01), poses()
    search = BodySearch.around(tables, np.arange(N), N, body, consensus, residual, (5.0, 5.0))
    groups, starts = search.groups(np.arange(N), 1, np.zeros((1, 1), np.float32))
    assert starts.tolist() == [0, 1, 2] and groups.psi_count.tolist() == [1] * N
    vectors, own = tables.coarse_mats[:, 0, 2].astype(float), body.own_matrices(consensus, residual)
    for n in range(N):
        assert vectors[groups.block[n]] @ own[n, 2] == pytest.approx((vectors @ own[n, 2]).max(), abs=1e-6)
        assert groups.psi_prior[n] == 0.0
