"""A small project, polished once for all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from moving_particles import Project, make_project
from polish_runs import COMBINE, motion_refine


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two micrographs, polished in Polish/job010."""
    made = make_project(tmp_path_factory.mktemp("polish") / "project")
    job = ("--o", "Polish/job010/", "--j", "2", "--pipeline_control", "Polish/job010/")
    (made.root / "Polish/job010").mkdir(parents=True)
    code, _, err = motion_refine(made.root, *made.arguments, *COMBINE, *job)
    assert code == 0, err
    return made


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Project:
    """The project, to be changed."""
    shutil.copytree(project.root, tmp_path / "p")
    return Project(tmp_path / "p", project.tracks, project.polynomial, project.images)
