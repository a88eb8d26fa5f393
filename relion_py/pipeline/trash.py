"""Deleting and undeleting jobs: a directory goes to `Trash/` with a record of its place in the graph.

The record, `deleted_pipeline.star` in the job directory, is a pipeline file with the job, the nodes it made
and every edge it had; RELION writes the like (pipeliner.cpp, deleteNodesAndProcesses). An edge of which the
other end is in the trash as well waits in that job's record, so that whatever the order of deleting and
undeleting, all edges come back when all jobs have.

Moves of directories are written into a journal before the pipeline file changes, and finished, or taken back,
by the next one who holds the lock: a crash in between loses nothing.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.pipeline import node_links, pipeline_file
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Graph, Node
from relion_py.pipeline.paths import job_directory, node_path_problem
from relion_py.pipeline.pipeline_file import FileStamp

TRASH = "Trash"
RECORD = "deleted_pipeline.star"
JOURNAL = ".relion_py_moves.json"
_PLACE_TABLE, _PLACE = "relion_py_deleted", "rlnPipeLinePreviousProcess"


# ---- deleting --------------------------------------------------------------------------------------------


def remember(root: Path, graph: Graph, name: str) -> None:
    """Write the record of a job that is about to be deleted into its directory, which is made if missing."""
    job = job_directory(root, name)
    job.mkdir(parents=True, exist_ok=True)
    pipeline_file.write(job / RECORD, _record_of(graph, name))


def _record_of(graph: Graph, name: str) -> Graph:
    record = Graph(job_counter=graph.job_counter)
    record.add_process(graph.processes[name])
    for node in graph.outputs_of(name):
        record.add_node(node)
        record.add_output(name, node.path)
        record.dangling_inputs += [(node.path, user) for user in graph.consumers_of(node.path) if user != name]
    record.dangling_inputs += [(node.path, name) for node in graph.inputs_of(name)]
    for kind, first, second in graph.edge_extra:
        if name in (first, second) or graph.producer_of(first) == name:
            record.edge_extra[kind, first, second] = graph.edge_extra[kind, first, second]
    order = list(graph.processes)
    place = order.index(name)
    previous = order[place - 1] if place else ""
    record.extra_tables[_PLACE_TABLE] = star.Table({_PLACE: previous}, loop=False)
    return record


def trash_directory(root: Path, name: str) -> Path:
    """Where a job's directory lies, or will lie, in the trash. PipelineError if Trash is a link."""
    trash = root / TRASH
    if trash.is_symlink():
        raise PipelineError(f"{trash} is a link, so nothing is moved there; make it a plain directory.")
    job_directory(root, name)
    return trash / name.rstrip("/")


def remove_from_graph(root: Path, graph: Graph, name: str) -> None:
    """Take a job out of the graph, its alias link and its entries in .Nodes off the disc."""
    node_links.remove_outputs(root, graph, name)
    remove_alias_link(root, graph.processes[name].alias, name)
    graph.remove_process(name)


def move(source: Path, target: Path) -> None:
    """Move a file or directory; what is at the target steps aside as `name~1`, `name~2`, ..."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        os.rename(target, _free_name(target))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)


def _free_name(path: Path) -> Path:
    number = 1
    while os.path.lexists(path.with_name(f"{path.name}~{number}")):
        number += 1
    return path.with_name(f"{path.name}~{number}")


# ---- undeleting ------------------------------------------------------------------------------------------


def deleted_jobs(root: Path) -> list[str]:
    """The names of the jobs that can be undeleted, those that RELION deleted included."""
    found = set()
    for sign in (RECORD, "job_pipeline.star"):
        for path in (root / TRASH).glob(f"*/job*/{sign}"):
            if "~" not in path.parent.name:
                found.add(f"{path.parent.parent.name}/{path.parent.name}/")
    return sorted(found)


def read_record(root: Path, name: str) -> Graph:
    """What is known of a deleted job. Raises PipelineError if it is not in the trash.

    For a job that RELION deleted, the record may lie in another job's directory, with several jobs in it;
    failing that the job's own job_pipeline.star tells its edges.
    """
    directory = trash_directory(root, name)
    if not directory.is_dir():
        raise PipelineError(f"{name} is not in the Trash, so it cannot be undeleted.")
    candidates = [
        directory / RECORD,
        *sorted((root / TRASH).glob(f"*/job*/{RECORD}")),
        directory / "job_pipeline.star",
    ]
    for path in candidates:
        if path.is_file():
            record = pipeline_file.read(path)
            if name in record.processes:
                return record
    raise PipelineError(f"Nothing in the Trash tells the inputs and outputs of {name}, so it cannot be undeleted.")


def restore(root: Path, graph: Graph, name: str, record: Graph) -> None:
    """Put a job back into the graph, as its record says; its directory must be back in its place already."""
    process = record.processes[name]
    if process.alias and not _alias_is_free(root, graph, process.alias, name):
        process = replace(process, alias="")
    previous = None
    if _PLACE_TABLE in record.extra_tables:
        previous = record.extra_tables[_PLACE_TABLE].value(_PLACE, "")
    graph.add_process(process, previous)
    for node in record.outputs_of(name):
        graph.add_node(node)
        graph.add_output(name, node.path)
    for path, user in [*record.inputs, *record.dangling_inputs]:
        own = user == name or record.producer_of(path) == name
        if own:
            _restore_edge(root, graph, record, path, user)
    for key, extra in record.edge_extra.items():
        if name in key:
            graph.edge_extra[key] = extra
    if process.alias:
        make_alias_link(root, process.alias, name)
    node_links.touch_outputs(root, graph, name)


def _restore_edge(root: Path, graph: Graph, record: Graph, path: str, user: str) -> None:
    if user in graph.processes and path in graph.nodes:
        graph.add_input(path, user)
        return
    if user in graph.processes:
        head = path.split("/", 2)
        absent = f"{head[0]}/{head[1]}/" if len(head) == 3 else ""
        if absent and absent not in graph.processes:
            _hand_over(root, absent, path, user)
            return
        # A file from outside, or one that its maker's own record does not list: this job knows its type.
        known = _node_in_own_pipeline(root, path, user) or record.nodes.get(path)
        if known is not None:
            graph.connect_input(known, user)
        return
    _hand_over(root, user, path, user)


def _hand_over(root: Path, absent: str, path: str, user: str) -> None:
    """Let an edge wait in the record of a job in the trash, if that job is there."""
    with suppress(PipelineError):
        place = trash_directory(root, absent) / RECORD
        if place.is_file():
            record = pipeline_file.read(place)
            if (path, user) not in record.dangling_inputs and (path, user) not in set(record.inputs):
                record.dangling_inputs.append((path, user))
                pipeline_file.write(place, record)


def _node_in_own_pipeline(root: Path, path: str, user: str) -> Node | None:
    with suppress(PipelineError):
        return pipeline_file.read(job_directory(root, user) / "job_pipeline.star").nodes.get(path)
    return None


# ---- alias links -----------------------------------------------------------------------------------------


def _alias_is_free(root: Path, graph: Graph, alias: str, name: str) -> bool:
    if any(p.alias == alias and p.name != name for p in graph.processes.values()):
        return False
    link = root / alias.rstrip("/")
    return not os.path.lexists(link) or link.is_symlink()


def make_alias_link(root: Path, alias: str, name: str) -> None:
    """The symbolic link of an alias, beside the job directory: `Class2D/best -> job010`."""
    link = root / alias.rstrip("/")
    if link.parent != job_directory(root, name).parent:
        return  # a foreign alias that is not beside its job
    if link.is_symlink():
        link.unlink()
    os.symlink(name.rstrip("/").rsplit("/", 1)[-1], link)


def remove_alias_link(root: Path, alias: str, name: str) -> None:
    """Remove the link of an alias, if it is a link beside the job."""
    link = root / alias.rstrip("/")
    if alias and link.parent == (root / name).parent and link.is_symlink():
        link.unlink()


# ---- the journal of moves --------------------------------------------------------------------------------


def plan_moves(root: Path, names: Iterable[str]) -> None:
    """Write down which job directories are about to move to or from the trash."""
    atomic_write(root / JOURNAL, json.dumps({"jobs": list(names)}).encode())


def replacement_directory(root: Path, name: str) -> Path:
    """An empty directory beside a job's, in which its successor is made ready: `Refine3D/.job007.new`."""
    place = job_directory(root, name)
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def plan_replacement(root: Path, name: str, before: FileStamp | None) -> None:
    """Write down that a job's directory is to be replaced, once the pipeline file is not `before`."""
    stamp = [before.inode, before.size, before.modified_ns] if before else []
    atomic_write(root / JOURNAL, json.dumps({"replace": name, "before": stamp}).encode())


def finish_moves(root: Path, graph: Graph) -> None:
    """Bring the journal's directories to where the pipeline file says that they belong; the journal ends.

    Called with the lock held, when `graph` is what the pipeline file says.
    """
    journal = root / JOURNAL
    try:
        entry = json.loads(journal.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        journal.unlink(missing_ok=True)
        return
    for name in entry.get("jobs", []):
        with suppress(PipelineError):
            _finish_move(root, graph, str(name))
    if "replace" in entry:
        with suppress(PipelineError):
            _finish_replacement(root, graph, str(entry["replace"]), entry.get("before"))
    journal.unlink(missing_ok=True)


def _finish_move(root: Path, graph: Graph, name: str) -> None:
    place, trashed = job_directory(root, name), trash_directory(root, name)
    if name in graph.processes:
        if not place.is_dir() and trashed.is_dir():
            move(trashed, place)
        (place / RECORD).unlink(missing_ok=True)
        _restore_links(root, graph, name)
    elif place.is_dir() and (place / RECORD).is_file():
        move(place, trashed)


def _finish_replacement(root: Path, graph: Graph, name: str, before: object) -> None:
    place = job_directory(root, name)
    fresh = place.with_name(f".{place.name}.new")
    now = FileStamp.of(root / pipeline_file.PIPELINE_FILE)
    committed = now is not None and [now.inode, now.size, now.modified_ns] != before
    if not committed:
        shutil.rmtree(fresh, ignore_errors=True)
        (place / RECORD).unlink(missing_ok=True)
    elif fresh.is_dir():
        if os.path.lexists(place):
            move(place, trash_directory(root, name))
        os.rename(fresh, place)
        _restore_links(root, graph, name)


def _restore_links(root: Path, graph: Graph, name: str) -> None:
    process = graph.processes[name]
    if process.alias and not (root / process.alias.rstrip("/")).is_symlink():
        with suppress(OSError):
            make_alias_link(root, process.alias, name)
    node_links.touch_outputs(root, graph, name)


# ---- what cleaning and emptying do -----------------------------------------------------------------------


def keep_cleaned(root: Path, name: str, path: str) -> None:
    """Move one file or directory of a job to the same place below the trash."""
    target = trash_directory(root, name)
    if (target / RECORD).is_file():
        # There lies an older job of this number that was deleted as a whole: it stays as it is.
        os.rename(target, _free_name(target))
    source = root / path.rstrip("/")
    if os.path.lexists(source) and path.startswith(name) and not node_path_problem(path.rstrip("/")):
        move(source, root / TRASH / path.rstrip("/"))


def empty(root: Path) -> int:
    """Delete everything in the trash for good; returns how many bytes that gave back."""
    trash = root / TRASH
    if trash.is_symlink():
        raise PipelineError(f"{trash} is a link, so it is not emptied; make it a plain directory.")
    freed = 0
    for directory, _, files in os.walk(trash):
        for name in files:
            with suppress(OSError):
                freed += os.lstat(os.path.join(directory, name)).st_size
    if trash.is_dir():
        for entry in list(trash.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    return freed
