"""What gentle and harsh cleaning take, by rules of every form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relion_py.jobs import registry
from relion_py.jobs.spec import CleanRule
from relion_py.pipeline import Graph, Node, PipelineError, Process, Project, Status, cleaning, pipeline_file

NAME = "Extract/job001/"
FILES = (
    "particles.star",
    "a.com",
    "sub/b.com",
    "sub/deep/c.com",
    "sub/kept.star",
    "other/stack.mrcs",
    ".hidden/d.com",
    "note.txt",
)


@pytest.fixture
def job(tmp_path: Path) -> tuple[Path, Graph]:
    graph = Graph()
    graph.add_process(Process(NAME, "", "relion.external", Status.SUCCEEDED))
    for path in ("particles.star", "sub/kept.star"):
        graph.add_node(Node(NAME + path, "ParticleGroupMetadata.star"))
        graph.add_output(NAME, NAME + path)
    for file in FILES:
        (tmp_path / NAME / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / NAME / file).write_text(file)
    (tmp_path / NAME / "link").symlink_to(tmp_path)
    return tmp_path, graph


@pytest.mark.req("J5")
@pytest.mark.parametrize(
    ("pattern", "harsh", "expected"),
    [
        ("*.com", False, ["a.com"]),
        ("*/*.com", False, ["sub/b.com", "sub/deep/c.com"]),
        ("*.star", False, []),
        ("*.star", True, ["particles.star"]),
        ("*/", False, ["other/", "sub/deep/"]),
        ("*/", True, ["other/", "sub/"]),
        ("sub/*.star", False, []),
        ("sub/*", True, ["sub/b.com", "sub/kept.star"]),
        ("link/", True, []),
        ("../*", True, []),
        ("nothing*", True, []),
    ],
)
def test_rules(job: tuple[Path, Graph], pattern: str, harsh: bool, expected: list[str]) -> None:
    """Gentle cleaning never takes a node, nor a directory with one in it; links are not followed."""
    root, graph = job
    rule = CleanRule((pattern,))
    spec = replace(registry.by_label("relion.external"), **{"harsh" if harsh else "gentle": rule})
    assert cleaning.files_to_move(root, graph, NAME, spec, harsh) == [NAME + path for path in expected]


@pytest.mark.req("J5", "J6")
def test_refinement_keeps_its_last_iteration(tmp_path: Path) -> None:
    """Of a real layout of names: earlier iterations go, the last and those that are nodes stay."""
    project = Project.create(tmp_path)
    name = "Refine3D/job001/"
    graph = project.graph
    graph.add_process(Process(name, "", "relion.refine3d", Status.SUCCEEDED))
    graph.add_node(Node(name + "run_it002_data.star", "ParticleGroupMetadata.star.relion.refine3d"))
    graph.add_output(name, name + "run_it002_data.star")
    pipeline_file.write(tmp_path / "default_pipeline.star", graph)
    directory = tmp_path / name
    directory.mkdir(parents=True)
    for stem in ("run_it001", "run_it002", "run_it010", "run_ct10_it011", "run_ct10_it012"):
        for end in ("_data.star", "_half1_class001.mrc", "_optimiser.star"):
            (directory / (stem + end)).write_text(stem)
    (directory / "run_class001.mrc").touch()
    project.refresh()
    gone = ("run_ct10_it011", "run_it001", "run_it010")
    ends = ("_data.star", "_half1_class001.mrc", "_optimiser.star")
    expected = sorted(name + stem + end for stem in gone for end in ends)
    assert project.clean(name, dry_run=True) == expected
    (directory / "NO_HARSH_CLEAN").touch()
    with pytest.raises(PipelineError, match="protected"):
        project.clean(name, harsh=True)
    assert project.clean_all(harsh=True) == []
    assert project.clean_all() == expected
    assert all((tmp_path / "Trash" / path).is_file() and not (tmp_path / path).exists() for path in expected)
    assert (directory / "run_ct10_it012_data.star").exists() and (directory / "run_it002_data.star").exists()
    assert project.empty_trash() > 0 and not any((tmp_path / "Trash").iterdir())


def test_only_finished_jobs_are_cleaned(project: Project) -> None:
    values = {**project.spec("relion.external").defaults(), "fn_exe": "./good.py", "in_mic": "mics.star"}
    job = project.schedule("relion.external", values)
    with pytest.raises(PipelineError, match="has not succeeded"):
        project.clean(job)
