"""What happens between a person's values and a running program: name, checks, files, edges, backup.

Project puts these steps in order and holds the lock; each alone leaves the pipeline file untouched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relion_py.compute.io.atomic import atomic_write
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import DiskFiles
from relion_py.jobs.spec import BuiltJob, JobSpec
from relion_py.pipeline import control, jobstar, node_links, pipeline_file, runner, status
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Graph, Node, Process, Status
from relion_py.pipeline.jobstar import JobStar
from relion_py.pipeline.paths import job_directory, node_path_problem
from relion_py.pipeline.pipeline_file import PIPELINE_FILE

MINI_PIPELINE = "job_pipeline.star"

# What a directory holds when a crash came before its job was in the pipeline.
_NOTHING_OF_WORTH = frozenset(
    {
        jobstar.JOB_STAR,
        MINI_PIPELINE,
        control.PROCESS_RECORD,
        control.RUN_PLAN,
        control.RUN_OUT,
        control.RUN_ERR,
    }
)


@dataclass(frozen=True)
class Order:
    """A job that is about to be made or executed: its type, its values completed with defaults, what these
    build, and whether it continues."""

    spec: JobSpec
    values: Mapping[str, str]
    built: BuiltJob
    is_continue: bool

    @property
    def name(self) -> str:
        """The job's name."""
        return self.built.job_name


def order(
    root: Path,
    env: SiteEnvironment,
    spec: JobSpec,
    values: Mapping[str, str],
    name: str,
    is_continue: bool,
) -> Order:
    """Build a job from its values. Raises PipelineError if it is refused; nothing is made."""
    built = spec.build(values, name, is_continue, env, DiskFiles(root))
    if built.refusal:
        raise PipelineError(built.refusal)
    if not built.commands:
        raise PipelineError("There is nothing to do for this job with these values.")
    for command in built.commands:
        if any("\0" in word for word in command):
            raise PipelineError(f"A value of the command {command[0]} contains a NUL character; take it out.")
    for node in built.output_nodes:
        problem = node_path_problem(node.path)
        if problem:
            raise PipelineError(f"The job cannot write its output: {problem}")
    return Order(spec, {**spec.defaults(env), **values}, built, is_continue)


def next_name(root: Path, graph: Graph, spec: JobSpec) -> str:
    """The name of a new job: the next number that has no directory with anything of worth in it."""
    number = max(graph.job_counter, 1)
    taken = {process.number for process in graph.processes.values()}
    while number in taken or not _is_free(root, f"{spec.directory}/job{number:03d}"):
        number += 1
    return f"{spec.directory}/job{number:03d}/"


def _is_free(root: Path, name: str) -> bool:
    try:
        return set(os.listdir(root / name)) <= _NOTHING_OF_WORTH
    except OSError:
        return not os.path.lexists(root / name)


def require_rest(root: Path, graph: Graph, name: str, what: str) -> Process:
    """The job, if it is there and none of its processes live; `what` must not be done to it otherwise."""
    process = graph.processes.get(name)
    if process is None:
        raise PipelineError(f"{name} is not in the project any more.")
    if process.status == Status.RUNNING:
        raise PipelineError(f"{process.display_name} is running, so it cannot be {what}; abort it first.")
    if status.still_ending(job_directory(root, name)):
        raise PipelineError(
            f"The processes of {process.display_name} are still ending, so it cannot be {what} yet; try again soon."
        )
    return process


def require_free_alias(root: Path, graph: Graph, full: str, name: str) -> None:
    """Raises PipelineError if another job, or another file, has this alias."""
    if not full:
        return
    if any(p.alias == full and p.name != name for p in graph.processes.values()):
        raise PipelineError(f"Another job has the alias {full.rstrip('/')} already; choose another.")
    link = root / full.rstrip("/")
    if os.path.lexists(link) and not link.is_symlink():
        raise PipelineError(f"There is a file or directory called {full.rstrip('/')} already; choose another alias.")


def write_files(
    root: Path,
    directory: Path,
    graph: Graph,
    wanted: Order,
    state: Status,
    abort_grace: float,
    term_grace: float,
) -> None:
    """Write into `directory` all that a job directory holds before its first command runs."""
    text = jobstar.dumps(JobStar(wanted.built.type_label, wanted.values, wanted.is_continue))
    mini_text = pipeline_file.dumps(_mini_pipeline(graph, wanted.built, state))
    directory.mkdir(parents=True, exist_ok=True)
    atomic_write(directory / jobstar.JOB_STAR, text.encode("utf-8", "surrogateescape"))
    atomic_write(directory / MINI_PIPELINE, mini_text.encode("utf-8", "surrogateescape"))
    if state == Status.RUNNING:
        runner.prepare(root, directory, wanted.built, wanted.values, abort_grace, term_grace)


def _mini_pipeline(graph: Graph, built: BuiltJob, state: Status) -> Graph:
    """job_pipeline.star: the job alone with its nodes (pipeliner.cpp, addJob)."""
    mini = Graph()
    mini.add_process(Process(built.job_name, "", built.type_label, state))
    mini.set_job_counter(2)
    for node in built.input_nodes:
        if node.path:
            path = graph.resolve_alias(node.path)
            mini.add_node(Node(path, node.type))
            mini.add_input(path, built.job_name)
    for node in built.output_nodes:
        mini.add_node(Node(node.path, node.type))
        mini.add_output(built.job_name, node.path)
    return mini


def connect(root: Path, graph: Graph, built: BuiltJob) -> None:
    """Join a job of the graph to its input and output nodes."""
    for node in built.input_nodes:
        if node.path:
            graph.connect_input(Node(node.path, node.type), built.job_name)
    for node in built.output_nodes:
        graph.add_node(Node(node.path, node.type))
        graph.add_output(built.job_name, node.path)
    node_links.touch_outputs(root, graph, built.job_name)


def back_up(root: Path, name: str) -> None:
    """A copy of the pipeline file in the job's directory: from these a damaged one is restored."""
    with suppress(OSError):
        data = (root / PIPELINE_FILE).read_bytes()
        atomic_write(job_directory(root, name) / PIPELINE_FILE, data)
