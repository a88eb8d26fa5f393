"""A damaged pipeline says so and is restored from the newest good backup and the job directories."""

from __future__ import annotations

import random
import shutil
import tarfile
from pathlib import Path

import pytest

from relion_py.pipeline import DamagedPipeline, PipelineError, Project, Status, jobstar
from relion_py.pipeline.project import PIPELINE_FILE

from .conftest import external

pytestmark = pytest.mark.timeout(120)


def history(project: Project) -> Project:
    """Four jobs: two that ran, one scheduled, one deleted; an alias given late."""
    first = project.run("relion.external", external(project))
    project.wait(first, 30)
    second = project.run("relion.external", external(project, in_coords=first + "picked.star"))
    project.wait(second, 30)
    project.schedule("relion.external", external(project, in_coords=second + "picked.star"))
    project.delete(project.schedule("relion.external", external(project)))
    project.set_alias(second, "best")
    return project


@pytest.mark.req("G5")
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "gone", "binary", "no jobs"])
def test_nothing_that_ran_is_lost(project: Project, damage: str) -> None:
    history(project)
    before = Project.open(project.root).graph
    file = project.root / PIPELINE_FILE
    text = file.read_text()
    if damage == "cut":
        file.write_text(text[: len(text) // 2])
    elif damage == "garbage":
        file.write_text(text.replace("loop_", "l\x07op", 2))
    elif damage == "binary":
        file.write_bytes(bytes(random.Random(1).randrange(256) for _ in range(5000)))
    elif damage == "no jobs":
        file.write_text(text[: text.index("# version 50001\n\ndata_pipeline_processes")])
    elif damage == "empty":
        file.write_text("")
    else:
        file.unlink()
    with pytest.raises(DamagedPipeline) as found:
        Project.open(project.root)
    assert found.value.plan is not None and found.value.plan.backup is not None
    assert "can be restored from the backup External/job00" in str(found.value)
    restored = Project.restore(project.root)
    assert restored.graph.same_as(before)
    assert restored.graph.job_counter == before.job_counter
    if damage != "gone":
        assert (project.root / (PIPELINE_FILE + ".damaged1")).exists()
    assert restored.undelete("External/job004") == "External/job004/"


@pytest.mark.req("G5")
def test_without_any_backup_the_job_directories_tell(project: Project) -> None:
    history(project)
    before = Project.open(project.root).graph
    for copy in project.root.glob(f"*/*/{PIPELINE_FILE}"):
        copy.unlink()
    (project.root / "External/job002/job_pipeline.star").unlink()
    (project.root / PIPELINE_FILE).write_text("data_\n")
    with pytest.raises(DamagedPipeline, match="job directories alone"):
        Project.open(project.root)
    assert Project.restore(project.root).graph.same_as(before)


@pytest.mark.req("G5")
def test_damaged_backups_are_passed_over(project: Project) -> None:
    history(project)
    before = Project.open(project.root).graph
    (project.root / "External/job003" / PIPELINE_FILE).write_text("_rlnPipeLineJobCounter 99\ndata_ loop_ x")
    (project.root / PIPELINE_FILE).write_text("")
    with pytest.raises(DamagedPipeline) as found:
        Project.open(project.root)
    assert str(found.value.plan.backup) == f"External/job002/{PIPELINE_FILE}"  # type: ignore[union-attr]
    assert found.value.plan.added_jobs == ("External/job003/",)  # type: ignore[union-attr]
    assert Project.restore(project.root).graph.same_as(before)


@pytest.mark.req("G5")
def test_a_job_that_ended_while_the_file_was_damaged(project: Project) -> None:
    job = project.run("relion.external", external(project))
    (project.root / PIPELINE_FILE).write_text("")
    directory = project.root / job
    for _ in range(600):
        if (directory / "RELION_JOB_EXIT_SUCCESS").exists():
            break
        __import__("time").sleep(0.05)
    restored = Project.restore(project.root)
    assert restored.wait(job, 20) == Status.SUCCEEDED
    assert [n.path for n in restored.outputs(job)] == [job + "picked.star"]


def test_real_project_restored_from_its_own_backups(shared: Path, tmp_path: Path) -> None:
    """The RELION 5 project, its pipeline file cut short: the same jobs, nodes and edges come back."""
    source = shared / "data/real/bgal-10204-relion5-project"
    if not source.exists():
        pytest.skip("the RELION 5 project is not here")
    root = tmp_path / "copy"
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("*.gz", "*.mrc*", "derived"))
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    before = Project.open(root).graph
    text = (root / PIPELINE_FILE).read_text()
    (root / PIPELINE_FILE).write_text(text[:1500])
    with pytest.raises(DamagedPipeline):
        Project.open(root)
    after = Project.restore(root).graph
    assert set(after.processes) == set(before.processes)
    assert set(after.inputs) == set(before.inputs) and set(after.outputs) == set(before.outputs)
    assert after.nodes == before.nodes and after.job_counter == before.job_counter
    assert all(p.status == Status.SUCCEEDED for p in after.processes.values())


@pytest.mark.req("J4")
def test_a_job_that_relion_deleted_comes_back(project: Project) -> None:
    """RELION keeps the record of a batch in one of its jobs; the others have their job_pipeline.star only."""
    history(project)
    before = Project.open(project.root).graph
    assert project.delete("External/job001", with_dependants=True) == [
        "External/job001/",
        "External/job002/",
        "External/job003/",
    ]
    for name in ("job002", "job003"):
        (project.root / "Trash/External" / name / "deleted_pipeline.star").unlink()
    assert project.deleted_jobs() == [f"External/job00{number}/" for number in (1, 2, 3, 4)]
    for number in (1, 2, 3):
        project.undelete(f"External/job00{number}")
    project.refresh()
    assert set(project.graph.inputs) == set(before.inputs)
    assert [p.status for p in project.graph.processes.values()] == [p.status for p in before.processes.values()]


def test_places_that_are_no_project(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no project"):
        Project.open(tmp_path)
    with pytest.raises(PipelineError, match="There is no directory"):
        Project.open(tmp_path / "nowhere")
    Project.create(tmp_path)
    with pytest.raises(PipelineError, match="already"):
        Project.create(tmp_path)
    read_only = Project.open(tmp_path, read_only=True)
    with pytest.raises(PipelineError, match="read only"):
        read_only.empty_trash()


@pytest.fixture
def tutorial(shared: Path, tmp_path: Path) -> Path:
    """A finished project of RELION 3.1: 31 jobs, their STAR and log files."""
    archive = shared / "data/real/bgal-10204-relion31-tutorial-metadata/relion_tutorial_files.tar.xz"
    if not archive.exists():
        pytest.skip("the RELION 3.1 project is not here")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return next(path.parent for path in sorted(tmp_path.rglob(PIPELINE_FILE)) if "job" not in path.parent.name)


@pytest.mark.req("E1", "G8", "G5")
def test_a_whole_project_of_release_3(tutorial: Path) -> None:
    """It opens, every job's values can be read (of job.star and of run.job alike), and it can be restored."""
    file = tutorial / PIPELINE_FILE
    text = file.read_bytes()
    project = Project.open(tutorial)
    project.refresh()
    assert len(project.graph.processes) == 31 and file.read_bytes() == text
    assert project.job_values("Refine3D/first3dref")["fn_img"] == "Extract/job018/particles.star"
    for name in project.graph.processes:
        directory = tutorial / name
        modern, old = jobstar.read(directory), jobstar.read(directory / "run.job")
        assert old.type_label == modern.type_label
        both = old.values.keys() & modern.values.keys()
        alike = sum(old.values[key] == modern.values[key] for key in both)
        assert len(both) > 10 and alike >= 0.85 * len(both), name
    file.write_text("")
    with pytest.raises(DamagedPipeline):
        Project.open(tutorial)
    restored = Project.restore(tutorial).graph
    assert restored.processes == project.graph.processes
    assert set(restored.outputs) == set(project.graph.outputs)
    # The backup still has an input from a job that was deleted for good since; nothing is missing.
    assert restored.nodes.items() >= project.graph.nodes.items()
    assert set(restored.inputs) >= set(project.graph.inputs)
