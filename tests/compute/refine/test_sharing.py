"""Which rank works on which particles of the two halves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from relion_py.compute.refine import source
from relion_py.compute.refine.halves import owner

HALVES = np.arange(0, 230, 2), np.arange(1, 210, 2)
"""115 and 105 particles."""


def ranks_of(size: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(rank=rank, size=size) for rank in range(size)]


def shares(size: int) -> list[list[np.ndarray]]:
    """The particles of each half, by rank."""
    return [[source.share(HALVES[half], comm, half=half) for half in (0, 1)] for comm in ranks_of(size)]


@pytest.mark.parametrize("size", range(1, 8))
def test_each_particle_is_worked_on_once_and_no_rank_has_more_than_its_share(size: int) -> None:
    found = shares(size)
    for half in (0, 1):
        together = np.concatenate([each[half] for each in found])
        assert sorted(together) == HALVES[half].tolist()
    for each in found:
        assert all((np.diff(part) > 0).all() for part in each)  # ascending, as files are read
        # two of the strides, each of which is at most a particle longer than the larger half says
        assert sum(map(len, each)) <= 2 * -(-len(HALVES[0]) // size)


@pytest.mark.parametrize("size", range(1, 8))
def test_ranks_work_on_one_half_but_the_one_in_the_middle_of_an_odd_number(size: int) -> None:
    of_both = [rank for rank, each in enumerate(shares(size)) if len(each[0]) and len(each[1])]
    assert of_both == ([size // 2] if size % 2 else [])


@pytest.mark.parametrize("size", range(2, 8))
def test_the_owner_of_a_half_has_particles_of_that_half_alone(size: int) -> None:
    for half in (0, 1):
        mine = shares(size)[owner(half, ranks_of(size)[0])]
        assert len(mine[half]) and not len(mine[1 - half])


def test_strides_are_where_the_particles_are_from() -> None:
    for size in (1, 2, 3, 6):
        for comm in ranks_of(size):
            for half in (0, 1):
                has = len(source.share(HALVES[half], comm, half=half)) > 0
                assert has == bool(source.strides(half, comm, comm.rank))
