"""The reference's own example schemes run end to end, with programs that pretend, on movies that arrive meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relion_py.pipeline import Project, jobstar
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.schemes import Outcome, SchemeStore

from . import stub_programs
from .conftest import runner_for


@pytest.fixture
def microscope(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory into which movies arrive; the pretending programs are on the PATH."""
    stub_programs.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    movies = project.root / "Micrographs"
    movies.mkdir()
    (movies / "norm-gatandata-0.mrc").touch()
    return movies


class Run:
    """A scheme that runs in a thread."""

    def __init__(self, project: Project, name: str) -> None:
        self.said: list[str] = []
        self.results: list[object] = []
        self._runner = runner_for(Project.open(project.root), name, self.said)
        self._thread = threading.Thread(target=self._work, daemon=True)  # a test that fails does not hang
        self._thread.start()

    def _work(self) -> None:
        try:
            self.results.append(self._runner.run())
        except PipelineError as error:
            self.results.append(error)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever has happened, nothing goes on."""
        if self._thread.is_alive():
            self._runner.store.request_stop()
            self._thread.join(300)

    def end(self) -> None:
        self._runner.store.request_stop()
        self._thread.join(60)
        assert self.results == [Outcome.STOPPED], self.said[-5:]

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.results, (self.results, self.said[-5:])
            assert time.monotonic() < deadline, self.said[-5:]
            time.sleep(0.1)


def lines(project: Project, file: str) -> list[str]:
    path = project.root / file
    return path.read_text().splitlines() if path.exists() else []


def prepare(store: SchemeStore, **variables: str) -> None:
    with store.change() as scheme:
        for name, text in variables.items():
            scheme.set_variable(name, text)


@pytest.mark.req("S1", "S2")
def test_prep_picks_up_what_is_new_and_proc_follows(
    project: Project, microscope: Path, example: Callable[[str], SchemeStore]
) -> None:
    prep, proc = example("prep"), example("proc")
    prepare(prep, wait_sec="0.5", do_at_most="2")
    prepare(proc, wait_sec="0.5", min_nr_parts_3d="12")
    _pick_without_gpu(proc)
    for number in range(3):
        (microscope / f"movie{number}.tif").touch()
    running = Run(project, "prep")
    running.until(lambda: sum("ctffind" in line for line in lines(project, "processed.log")) == 3)
    following = Run(project, "proc")
    for number in range(3, 5):
        (microscope / f"movie{number}.tif").touch()
    running.until(lambda: sum("ctffind" in line for line in lines(project, "processed.log")) == 5)
    following.until(lambda: any("relion_refine_mpi" in line and "--ref" in line for line in _calls(project)))
    running.end()
    following.end()

    done = Counter(lines(project, "processed.log"))
    assert set(done.values()) == {1}, "something was done twice"
    assert {line.split()[1] for line in done if "motioncorr" in line} == {f"movie{n}.tif" for n in range(5)}
    motion = [line for line in _calls(project) if line.startswith("relion_run_motioncorr")]
    assert all("--do_at_most 2" in line for line in motion)
    assert "--only_do_unfinished" not in motion[0] and all("--only_do_unfinished" in line for line in motion[1:])
    assert all("Schemes/" not in line for line in _calls(project)), "a path of a scheme reached a program"

    project.refresh()
    kinds = Counter(process.type_label.split(".")[1] for process in project.graph.processes.values())
    assert kinds["import"] == kinds["motioncorr"] == kinds["ctffind"] == 1, "one job each, continued"
    assert kinds["autopick"] == kinds["extract"] == 1
    assert kinds["class2d"] >= 1 and kinds["initialmodel"] >= 1 and kinds["refine3d"] >= 1
    assert {process.status for process in project.graph.processes.values()} == {"Succeeded"}
    _proc_is_joined_to_prep(project, prep, proc)


def _pick_without_gpu(proc: SchemeStore) -> None:
    """As the example comes it asks for a GPU and the Laplacian of Gaussian, which RELION refuses as well."""
    file = proc.job_directory("autopick") / "job.star"
    job = jobstar.read(file)
    jobstar.write(file, replace(job, values={**job.values, "use_gpu": "No"}))


def _calls(project: Project) -> list[str]:
    return lines(project, "programs.log")


def _proc_is_joined_to_prep(project: Project, prep: SchemeStore, proc: SchemeStore) -> None:
    """The selection of one scheme has the CTFs of the other as its input, and the reference is the model's."""
    ctf = prep.read().jobs["ctffind"].current_name
    jobs = proc.read().jobs
    assert [n.path for n in project.inputs(jobs["select_mics"].current_name)] == [ctf + "micrographs_ctf.star"]
    model = jobs["inimodel3d"].current_name
    assert proc.read().strings["myref"].value == model + "initial_model.mrc"
    assert model + "initial_model.mrc" in [n.path for n in project.inputs(jobs["refine3d"].current_name)]


def test_proc_waits_as_long_as_prep_has_nothing(
    project: Project, microscope: Path, example: Callable[[str], SchemeStore]
) -> None:
    example("prep")
    prepare(example("proc"), wait_sec="0.2")
    run = Run(project, "proc")
    run.until(lambda: sum("Waiting for" in sentence for sentence in run.said) >= 2)
    run.end()
    assert _calls(project) == [] and not project.graph.processes
