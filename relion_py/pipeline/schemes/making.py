"""Making schemes: job nodes from job.star files and from jobs of the project, copies, aborting, starting.

Sources: schemer.cpp, Scheme::addJob, copy and abort; gui_mainwindow.cpp for how a scheme is started.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from relion_py.pipeline import jobstar, runner
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Graph, Status
from relion_py.pipeline.jobstar import JobStar
from relion_py.pipeline.schemes import operators
from relion_py.pipeline.schemes.model import CONTINUE, NEW, Scheme
from relion_py.pipeline.schemes.store import RUN_ERR, RUN_OUT, SchemeStore

if TYPE_CHECKING:
    from relion_py.pipeline.project import Project

# These only do what is new when they are continued, so a loop can come back to them.
_CONTINUED_IN_LOOPS = ("relion.import", "relion.motioncorr", "relion.ctffind", "relion.autopick", "relion.extract")


def add_job(store: SchemeStore, job: JobStar, name: str, mode: str = NEW) -> None:
    """Add a job node with these parameters; the scheme is made if there is none."""
    with store.change(create=True) as scheme:
        scheme.add_job(name, mode)
        _write_job(store, name, job)


def _write_job(store: SchemeStore, name: str, job: JobStar) -> None:
    directory = store.job_directory(name)
    directory.mkdir(parents=True, exist_ok=True)
    jobstar.write(directory / jobstar.JOB_STAR, replace(job, is_continue=False))


def copy(store: SchemeStore, name: str) -> SchemeStore:
    """Copy a scheme under a new name: strings and job options that name its directory follow."""
    other = SchemeStore(store.root, name)
    if other.exists():
        raise PipelineError(f"There is a scheme called {other.name} already; choose another name.")
    scheme = store.read()
    renamed = scheme.renamed(other.name)
    jobs = {node: jobstar.read(store.job_directory(node)) for node in scheme.jobs}
    for node, job in jobs.items():
        values = {key: text.replace(scheme.path, renamed.path) for key, text in job.values.items()}
        _write_job(other, node, replace(job, values=values))
    with other.change(create=True) as fresh:
        _fill(fresh, renamed)
    return other


def _fill(target: Scheme, source: Scheme) -> None:
    for key, value in vars(source).items():
        setattr(target, key, value)


def from_jobs(
    project: Project,
    name: str,
    jobs: Sequence[str],
    loop: bool = False,
    wait_seconds: float = 180.0,
    max_hours: float = 48.0,
) -> SchemeStore:
    """Make a scheme from jobs of the project, scheduled ones for instance, in this order.

    Inputs from each other's outputs become `Schemes/NAME/JOB/...`. Without `loop` the jobs run once and the scheme
    exits; with it they go round as in the scheme `prep`: a wait of `wait_seconds`, an exit after `max_hours`, then
    the jobs, of which those that know what is new are continued.
    """
    store = SchemeStore(project.root, name)
    if store.exists():
        raise PipelineError(f"There is a scheme called {store.name} already; choose another name.")
    if not jobs:
        raise PipelineError("Name at least one job to make a scheme of.")
    processes = [project.process(job) for job in jobs]
    nodes = _node_names([p.alias or p.name for p in processes])
    places = {p.name: f"Schemes/{store.name}/{node}/" for p, node in zip(processes, nodes, strict=True)}
    places |= {p.alias: places[p.name] for p in processes if p.alias}
    draft = Scheme(store.name)
    for process, node in zip(processes, nodes, strict=True):
        again = loop and process.type_label.startswith(_CONTINUED_IN_LOOPS)
        draft.add_job(node, CONTINUE if again else NEW)
        values = {key: _relocated(text, places) for key, text in project.job_values(process.name).items()}
        _write_job(store, node, JobStar(process.type_label, values))
    _join(draft, nodes, loop, wait_seconds, max_hours)
    with store.change(create=True) as scheme:
        _fill(scheme, draft)
    return store


def scheduled_jobs(graph: Graph) -> list[str]:
    """The names of the scheduled jobs, in the order of their numbers."""
    return [p.name for p in sorted(graph.processes.values(), key=lambda p: p.number) if p.status == Status.SCHEDULED]


def _node_names(names: Sequence[str]) -> list[str]:
    """A node name for each job: its alias, else its directory in small letters; numbered where two are alike."""
    made: list[str] = []
    for name in names:
        directory, last = name.rstrip("/").split("/", 1)
        stem = directory.lower() if last.startswith("job") else last
        node, number = stem, 2
        while node in made:
            node, number = f"{stem}{number}", number + 1
        made.append(node)
    return made


def _relocated(text: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(name, place)
    return text


def _join(scheme: Scheme, nodes: Sequence[str], loop: bool, wait_seconds: float, max_hours: float) -> None:
    way = list(nodes)
    if loop:
        scheme.set_variable("wait_sec", str(wait_seconds))
        scheme.set_variable("maxtime_hr", str(max_hours))
        way = [
            operators.make(scheme, "wait", "wait_sec", name="WAIT"),
            operators.make(scheme, "exit_maxtime", "maxtime_hr", name="EXIT_maxtime"),
            *way,
        ]
        way.append(way[0])
    else:
        way.append(operators.make(scheme, "exit", name="EXIT"))
    for source, target in pairwise(way):
        scheme.add_edge(source, target)


# ---- starting and aborting -------------------------------------------------------------------------------


def start_in_background(root: Path, name: str, allow_outside: bool = False, steps: int | None = None) -> None:
    """Run a scheme in a process of its own, which goes on when this program ends; its words go into
    Schemes/NAME/run.out and run.err. PipelineError if it runs already."""
    store = SchemeStore(root, name)
    store.read()
    if store.is_locked():
        raise PipelineError(f"The scheme {store.name} is running already; abort or stop that run first.")
    command = [sys.executable, "-P", "-m", "relion_py.pipeline.schemer_cli", "--scheme", store.name, "--run"]
    command += ["--verb", "2", *(["--allow_outside"] if allow_outside else [])]
    command += ["--steps", str(steps)] if steps is not None else []
    with open(store.directory / RUN_OUT, "ab") as out, open(store.directory / RUN_ERR, "ab") as err:
        child = subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    runner.adopt(child)


def abort(project: Project, store: SchemeStore) -> str:
    """Ask a scheme, and the job that it runs, to abort; returns a sentence (schemer.cpp, Scheme::abort)."""
    scheme = store.read()
    store.request_abort()
    job = scheme.jobs.get(scheme.current_node)
    project.refresh()
    running = ""
    if job is not None and job.current_name in project.graph.processes:
        process = project.process(job.current_name)
        if process.status == Status.RUNNING:
            project.abort(process.name)
            running = f" and its job {process.name}"
    return f"Asked the scheme {scheme.name}{running} to abort, at the node {scheme.current_node}."


def reset(store: SchemeStore) -> None:
    """All variables to their original values, and the scheme to its start. It must not be running."""
    if store.is_locked():
        raise PipelineError(f"The scheme {store.name} is running, so it cannot be reset; abort or stop it first.")
    with store.change() as scheme:
        scheme.reset()
    store.set_visit(None)
