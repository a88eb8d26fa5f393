"""Names with blanks, quotes, $(...), line breaks, `..` and absolute links run nothing and leave nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relion_py.pipeline import Graph, Node, PipelineError, Process, Project, Status, paths, pipeline_file

from .conftest import external

EVIL = (
    "a b.star",
    "it's.star",
    'say "hi".star',
    "$(touch hacked).star",
    "`touch hacked`.star",
    "; touch hacked;.star",
    "x && touch hacked",
    "--help",
    "*.star",
    "ünïcödé.star",
)


@pytest.mark.parametrize("name", EVIL)
def test_inputs_and_parameters_arrive_as_they_are(project: Project, name: str) -> None:
    if "/" not in name:
        (project.root / name).write_text("data_\n")
    job = project.run("relion.external", external(project, in_mic=name))
    assert project.wait(job, 30) == Status.SUCCEEDED
    assert f"{['--in_mics', name]!r}"[1:-1] in project.log_paths(job)[0].read_text()
    assert not list(project.root.rglob("hacked"))
    assert Project.open(project.root).inputs(job)[0].path == name


@pytest.mark.parametrize("value", ["two\nlines", "tab\0nul", "carriage\rreturn"])
def test_line_breaks_are_refused_before_anything_is_made(project: Project, value: str) -> None:
    with pytest.raises(PipelineError):
        project.run("relion.external", external(project, in_mic=value))
    assert not (project.root / "External").exists()
    assert project.graph.job_counter == 1


@pytest.mark.req("G4")
@pytest.mark.parametrize(
    "alias",
    [
        "..",
        ".",
        "a/b",
        "../up",
        "/tmp/x",
        "job7",
        "x",
        "a$(id)b",
        "a\nb",
        "a;b",
        "a'b",
        "-rf",
        "a*",
        "None/../x",
    ],
)
def test_bad_aliases_are_refused(project: Project, alias: str) -> None:
    job = project.schedule("relion.external", external(project))
    with pytest.raises(PipelineError, match=r"alias|Alias"):
        project.set_alias(job, alias)
    with pytest.raises(PipelineError):
        project.schedule("relion.external", external(project), alias=alias)
    assert project.graph.job_counter == 2 and project.process(job).alias == ""


@pytest.mark.req("G4")
def test_aliases_come_and_go(project: Project) -> None:
    job = project.schedule("relion.external", external(project), alias="my picks")
    link = project.root / "External/my_picks"
    assert os.readlink(link) == "job001" and project.process("External/my_picks/").name == job
    project.set_alias(job, "other")
    assert not link.is_symlink() and (project.root / "External/other/job.star").exists()
    assert project.process(job).display_name == "External/other"
    second = project.schedule("relion.external", external(project))
    with pytest.raises(PipelineError, match="has the alias"):
        project.set_alias(second, "other")
    (project.root / "External/taken").mkdir()
    with pytest.raises(PipelineError, match="already"):
        project.set_alias(second, "taken")
    project.set_alias(job, "")
    assert project.process(job).alias == "" and not (project.root / "External/other").is_symlink()


@pytest.mark.parametrize(
    "name",
    [
        "../victim/job001/",
        "/tmp/victim/job001/",
        "Refine3D/../../victim/job001/",
        "victim/",
        "a\nb/job001/",
        "./x/job001/",
    ],
)
def test_jobs_with_names_from_outside_are_left_alone(tmp_path: Path, name: str) -> None:
    """A pipeline file from somebody else cannot make this program move or write outside the project."""
    victim = tmp_path / "victim/job001"
    victim.mkdir(parents=True)
    (victim / "data").write_text("precious")
    root = tmp_path / "project"
    root.mkdir()
    graph = Graph(job_counter=2)
    if "\n" in name:
        with pytest.raises(PipelineError):
            paths.job_directory(root, name)
        return
    graph.add_process(Process(name, "", "relion.external", Status.SUCCEEDED))
    graph.add_node(Node("../../victim/job001/data", "DensityMap.mrc"))
    graph.add_output(name, "../../victim/job001/data")
    pipeline_file.write(root / "default_pipeline.star", graph)
    project = Project.open(root)
    for action in (
        lambda: project.delete(name),
        lambda: project.clean(name, harsh=True),
        lambda: project.set_alias(name, "good"),
        lambda: project.mark(name, Status.FAILED),
        lambda: project.write_note(name, "x"),
        lambda: project.continue_job(name, {}),
        lambda: project.undelete(name),
    ):
        with pytest.raises(PipelineError):
            action()
    project.remake_node_directory()
    assert (victim / "data").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["project", "victim"]


def test_a_job_type_directory_that_leads_out_is_left_alone(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "job001").mkdir(parents=True)
    (outside / "job001/data").write_text("precious")
    (project.root / "External").symlink_to(outside)
    with pytest.raises(PipelineError, match="outside the project"):
        project.schedule("relion.external", external(project))
    assert sorted(p.name for p in outside.rglob("*")) == ["data", "job001"]


@pytest.mark.req("J5", "J4")
def test_links_inside_a_job_are_moved_not_followed(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "run_it001_data.star").write_text("precious")
    graph = project.graph
    name = "Refine3D/job001/"
    directory = project.root / name
    directory.mkdir(parents=True)
    (directory / "link").symlink_to(outside)
    for number in (1, 2):
        (directory / f"run_it00{number}_data.star").write_text("x")
    graph.add_process(Process(name, "", "relion.refine3d", Status.SUCCEEDED))
    pipeline_file.write(project.root / "default_pipeline.star", graph)
    project = Project.open(project.root)
    assert project.clean(name, harsh=True, dry_run=True) == [name + "run_it001_data.star"]
    assert project.clean(name, harsh=True) == [name + "run_it001_data.star"]
    project.delete(name)
    project.empty_trash()
    assert (outside / "run_it001_data.star").read_text() == "precious"
    assert list((project.root / "Trash").iterdir()) == []


def test_a_trash_that_is_a_link_is_not_used(project: Project, tmp_path: Path) -> None:
    job = project.schedule("relion.external", external(project))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/data").write_text("precious")
    (project.root / "Trash").symlink_to(tmp_path / "elsewhere")
    for action in (lambda: project.delete(job), project.empty_trash):
        with pytest.raises(PipelineError, match="is a link"):
            action()
    assert (tmp_path / "elsewhere/data").exists() and job in project.graph.processes


def test_modules_in_a_project_are_not_imported(project: Project) -> None:
    """A file json.py in a project directory must not run inside the supervisor."""
    for name in ("json.py", "relion_py.py", "psutil.py"):
        (project.root / name).write_text("open('hacked', 'w')\nraise SystemExit\n")
    job = project.run("relion.external", external(project, "/bin/true"))
    assert project.wait(job, 30) == Status.FAILED
    assert not (project.root / "hacked").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30))
def test_node_paths_stay_inside(text: str, tmp_path: Path) -> None:
    if paths.node_path_problem(text) == "":
        assert os.path.normpath(tmp_path / text).startswith(str(tmp_path) + "/") or text.strip("./") == ""
