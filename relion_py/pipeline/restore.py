"""A damaged `default_pipeline.star`: how to tell, and how to make it whole again.

Every executed job's directory holds a copy of the pipeline file from that moment; the newest that reads well
is the start. Jobs that it does not know are added from their own directories (`job_pipeline.star`,
`job.star`, control files, alias links), so nothing that ran since is lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from relion_py.compute.io.atomic import atomic_write
from relion_py.jobs import registry
from relion_py.jobs.environment import SiteEnvironment
from relion_py.jobs.files import DiskFiles
from relion_py.pipeline import control, jobstar, marking, pipeline_file, trash
from relion_py.pipeline.errors import DamagedPipeline, PipelineError, RestorePlan
from relion_py.pipeline.graph import Graph, Node, Process, Status
from relion_py.pipeline.pipeline_file import PIPELINE_FILE

_JOB_DIRECTORY = re.compile(r"job\d{3,}")
_COUNTER = re.compile(rb"_rlnPipeLineJobCounter\s+(\d+)")
_SIGNS_OF_A_JOB = (jobstar.JOB_STAR, jobstar.RUN_JOB, "job_pipeline.star")
_OLD_RELEASE_COPY = PIPELINE_FILE + ".before_relion5"


# ---- telling ---------------------------------------------------------------------------------------------


def has_jobs(root: Path) -> bool:
    """True if there is any job directory."""
    return next(_job_directories(root), None) is not None


def what_is_lost(root: Path, graph: Graph) -> str:
    """A sentence if a file that reads well has lost whole tables at its end; "" if all seems there."""
    file = root / PIPELINE_FILE
    if not graph.processes and graph.job_counter > 1 and has_jobs(root):
        return f"{file} is damaged: it lists no jobs, though there are job directories."
    if graph.processes and next(graph.outputs, None) is None:
        if any(graph.owner_of_path(path) for path in graph.nodes):
            return f"{file} is damaged: its table of output edges is missing."
        for name in list(graph.processes)[-3:]:
            with suppress(DamagedPipeline):
                own = pipeline_file.read(root / name / "job_pipeline.star")
                if next(own.outputs, None) is not None and any((root / path).exists() for path in own.nodes):
                    return f"{file} is damaged: its tables of nodes and edges are missing."
    return ""


def damaged(root: Path, reason: str) -> DamagedPipeline:
    """The error to raise for a damaged project, with the plan for restoring it."""
    return DamagedPipeline(reason, _plan(root, reason)[0])


# ---- planning and doing ----------------------------------------------------------------------------------


def restore(root: Path) -> RestorePlan:
    """Write a whole pipeline file; the damaged one is kept as `default_pipeline.star.damaged1`, `2`, ..."""
    plan, graph = _plan(root, "")
    file = root / PIPELINE_FILE
    if file.exists():
        number = 1
        while file.with_name(f"{PIPELINE_FILE}.damaged{number}").exists():
            number += 1
        atomic_write(file.with_name(f"{PIPELINE_FILE}.damaged{number}"), file.read_bytes())
    pipeline_file.write(file, graph)
    return plan


def keep_old_release(file: Path) -> None:
    """Before a file of an older release is written in RELION 5's form: keep a copy, once."""
    copy = file.with_name(_OLD_RELEASE_COPY)
    with suppress(OSError):
        with open(file, "rb") as stream:
            head = stream.read(64)
        if b"# version 50001" not in head and not copy.exists():
            atomic_write(copy, file.read_bytes())


def _plan(root: Path, reason: str) -> tuple[RestorePlan, Graph]:
    backup, graph = _newest_backup(root)
    for name in list(graph.processes):
        if not (root / name).is_dir() and (root / trash.TRASH / name / trash.RECORD).is_file():
            graph.remove_process(name)
    present = [name for name in _job_directories(root) if not (root / name / trash.RECORD).is_file()]
    added = [name for name in present if name not in graph.processes]
    # In the order of their numbers, so that a job's inputs are there before it.
    for name in sorted(added, key=lambda name: Process(name).number):
        _add_job(root, graph, name)
    for name in list(graph.processes):
        _update_status(root, graph, name)
    _update_aliases(root, graph)
    numbers = [Process(name).number for name in [*graph.processes, *trash.deleted_jobs(root)]]
    graph.set_job_counter(max([graph.job_counter, *(number + 1 for number in numbers)]))
    shown = backup.relative_to(root) if backup else None
    return RestorePlan(reason, shown, tuple(added), graph.job_counter), graph


def _job_directories(root: Path) -> Iterator[str]:
    """The names of all job directories that hold a job, without those in the trash."""
    for directory in sorted(root.iterdir()):
        if directory.name.startswith(".") or directory.name == trash.TRASH or not directory.is_dir():
            continue
        with suppress(OSError):
            for job in sorted(directory.iterdir()):
                is_job = _JOB_DIRECTORY.fullmatch(job.name) and not job.is_symlink()
                if is_job and any((job / sign).is_file() for sign in _SIGNS_OF_A_JOB):
                    yield f"{directory.name}/{job.name}/"


def _newest_backup(root: Path) -> tuple[Path | None, Graph]:
    """The backup with the highest job counter that reads well (the last written of several)."""
    candidates = []
    for name in _job_directories(root):
        path = root / name / PIPELINE_FILE
        with suppress(OSError):
            with open(path, "rb") as stream:
                match = _COUNTER.search(stream.read(4096))
            if match:
                candidates.append((int(match.group(1)), os.stat(path).st_mtime_ns, path))
    for _, _, path in sorted(candidates, reverse=True):
        with suppress(DamagedPipeline):
            graph = pipeline_file.read(path)
            if not what_is_lost(root, graph):
                return path, graph
    return None, Graph()


def _add_job(root: Path, graph: Graph, name: str) -> None:
    """Add a job from what its own directory tells."""
    try:
        own = pipeline_file.read(root / name / "job_pipeline.star")
        process = own.processes[name]
    except (DamagedPipeline, KeyError):
        own, process = _from_parameters(root, name)
    graph.add_process(replace(process, alias=""))
    for node in own.inputs_of(name):
        graph.connect_input(node, name)
    for node in own.outputs_of(name):
        graph.add_node(node)
        graph.add_output(name, node.path)


def _from_parameters(root: Path, name: str) -> tuple[Graph, Process]:
    """A job whose job_pipeline.star is lost: build it again from its job.star."""
    own = Graph()
    process = Process(name, "", "", Status.RUNNING)
    with suppress(PipelineError):
        saved = jobstar.read(root / name)
        process = replace(process, type_label=saved.type_label)
        own.add_process(process)
        with suppress(registry.JobTypeError):
            spec = registry.by_label(saved.type_label)
            built = spec.build(saved.values, name, saved.is_continue, SiteEnvironment(), DiskFiles(root))
            for node in built.input_nodes:
                own.connect_input(Node(node.path, node.type), name)
            for node in built.output_nodes:
                own.add_node(Node(node.path, node.type))
                own.add_output(name, node.path)
    own.add_process(process)
    return own, process


def _update_status(root: Path, graph: Graph, name: str) -> None:
    """What a job's control files say counts more than a backup from when it was still running."""
    process = graph.processes[name]
    told = control.told_status(root / name)
    if process.status in (Status.RUNNING, Status.SCHEDULED) and told is not None:
        process = graph.set_process(name, status=told)
    if process.status == Status.SUCCEEDED:
        with suppress(PipelineError):
            for node in marking.listed_outputs(root, name)[0]:
                graph.add_node(node)
                graph.add_output(name, node.path)


def _update_aliases(root: Path, graph: Graph) -> None:
    """Aliases that were given after the backup are links beside the jobs."""
    taken = {process.alias for process in graph.processes.values() if process.alias}
    for directory in {process.directory for process in graph.processes.values()}:
        with suppress(OSError):
            for link in sorted((root / directory).iterdir()):
                if not link.is_symlink():
                    continue
                name = f"{directory}/{os.path.basename(os.readlink(link).rstrip('/'))}/"
                alias = f"{directory}/{link.name}/"
                process = graph.processes.get(name)
                if process is not None and not process.alias and alias not in taken:
                    graph.set_process(name, alias=alias)
                    taken.add(alias)
