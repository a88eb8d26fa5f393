"""Particle files of other people: what RELION 5.0.1 takes is taken, and changes nothing that it should not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from refine_runs import Run, copy_of, refined, usual_without

from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table

ONE_ITERATION = [
    *usual_without("--ref", "--auto_refine", "--split_random_halves", "--low_resol_join_halves",
                   "--auto_local_healpix_order", "--sym", "--healpix_order", "--ini_high"),
    "--K", "2", "--psi_step", "20", "--iter", "2",
]  # fmt: skip
"""A short 2D classification."""


@pytest.fixture(scope="module")
def usual_classes(d2_project: Path) -> Run:
    return refined(d2_project, "usual_classes", usual=ONE_ITERATION)


def with_unused_group(first: bool) -> Callable[[StarFile], None]:
    """A second optics group, that of no particle, before or after the other."""

    def change(tables: StarFile) -> None:
        row = tables["optics"].row(0)
        rows = [{**row, "rlnOpticsGroup": str(n), "rlnOpticsGroupName": f"g{n}"} for n in (1, 2)]
        tables["optics"] = Table({label: [r[label] for r in rows] for label in row})
        if first:
            tables["particles"].set("rlnOpticsGroup", [2] * len(tables["particles"]))

    return change


def without(label: str) -> Callable[[StarFile], None]:
    return lambda tables: tables["particles"].remove(label)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(with_unused_group(False), marks=pytest.mark.slow, id="unused group"),
        pytest.param(with_unused_group(True), id="unused first group"),
        pytest.param(without("rlnOpticsGroup"), marks=pytest.mark.slow, id="no optics group"),
    ],
)
def test_nothing_changes_by(
    change: Callable[[StarFile], None], usual_classes: Run, d2_project: Path, tmp_path: Path
) -> None:
    project = copy_of(d2_project, tmp_path / "project")
    tables = star.read(project / "particles.star")
    change(tables)
    star.write(project / "particles.star", tables)
    run = refined(project, "classes", usual=ONE_ITERATION)
    ours, usual = (star.read(r.out / "run_it002_data.star")["particles"] for r in (run, usual_classes))
    for label in ("rlnClassNumber", "rlnAnglePsi", "rlnOriginXAngst", "rlnMaxValueProbDistribution"):
        np.testing.assert_allclose(ours.floats(label), usual.floats(label), atol=2e-4)


def test_one_particle_can_be_classified(d2_project: Path, tmp_path: Path) -> None:
    project = copy_of(d2_project, tmp_path / "project")
    tables = star.read(project / "particles.star")
    tables["particles"] = tables["particles"].select([7])
    star.write(project / "particles.star", tables)
    run = refined(project, "one", usual=ONE_ITERATION)
    assert run.map("run_it002_classes.mrcs").shape == (2, 32, 32)
