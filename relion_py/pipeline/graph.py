"""The project as a graph: processes (jobs), nodes (files with a meaning) and the edges between them.

A node is made by at most one process (output edge) and used by any number of processes (input edges).
Nothing here touches the disc.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from relion_py.jobs.nodes import matches

if TYPE_CHECKING:
    from relion_py.compute.io.star import Table


class Status(StrEnum):
    """States of a job, in the words of `_rlnPipeLineProcessStatusLabel` (pipeline_jobs.h, procstatus)."""

    RUNNING = "Running"
    SCHEDULED = "Scheduled"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    ABORTED = "Aborted"


FINISHED = frozenset({Status.SUCCEEDED, Status.FAILED, Status.ABORTED})

_JOB_NUMBER = re.compile(r"/job(\d+)/?$")


@dataclass(frozen=True)
class Process:
    """One job. `name` is its directory with a slash at the end, `alias` likewise ("" if it has none)."""

    name: str
    alias: str = ""
    type_label: str = ""
    status: str = Status.RUNNING
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The job's number; 0 if its directory is not named jobNNN."""
        match = _JOB_NUMBER.search(self.name)
        return int(match.group(1)) if match else 0

    @property
    def directory(self) -> str:
        """The directory of its job type: "Refine3D" of "Refine3D/job007/"."""
        return self.name.split("/", 1)[0]

    @property
    def display_name(self) -> str:
        """What lists show: the alias if there is one, else the name; without the slash at the end."""
        return (self.alias or self.name).rstrip("/")


@dataclass(frozen=True)
class Node:
    """A file that jobs make and use; `path` is relative to the project, `type` as RELION 5 writes it.

    `depth` counts the dotted parts of the type that file choosers go by (`_rlnPipeLineNodeTypeLabelDepth`).
    """

    path: str
    type: str
    depth: int = 1
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Graph:
    """Processes and nodes by name, in the order of the file, and their edges in both directions.

    `extra_tables` are tables of the pipeline file that this program does not know; `general` are further
    entries of its table pipeline_general; `dangling_inputs` (node, process) and `dangling_outputs`
    (process, node) are edges of which one end is unknown: all are kept as they came. `revision` grows with
    every change; `text_cache` is for the writer of pipeline files, which keeps the text of unchanged tables.
    """

    job_counter: int = 1
    processes: dict[str, Process] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    general: dict[str, str] = field(default_factory=dict)
    extra_tables: dict[str, Table] = field(default_factory=dict)
    dangling_inputs: list[tuple[str, str]] = field(default_factory=list)
    dangling_outputs: list[tuple[str, str]] = field(default_factory=list)
    edge_extra: dict[tuple[str, str, str], Mapping[str, str]] = field(default_factory=dict)
    revision: int = 0
    text_cache: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False, compare=False)
    _revisions: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    _inputs: dict[str, dict[str, None]] = field(default_factory=dict, repr=False)
    _outputs: dict[str, dict[str, None]] = field(default_factory=dict, repr=False)
    _producer: dict[str, str] = field(default_factory=dict, repr=False)
    _consumers: dict[str, dict[str, None]] = field(default_factory=dict, repr=False)

    # ---- looking -------------------------------------------------------------------------------------

    def find(self, name: str) -> Process | None:
        """The process with this name or alias, with or without a slash at the end; None if there is none."""
        key = name.rstrip("/") + "/"
        if key in self.processes:
            return self.processes[key]
        return next((p for p in self.processes.values() if p.alias and p.alias == key), None)

    def inputs_of(self, process: str) -> list[Node]:
        """The nodes that a process uses."""
        return [self.nodes[path] for path in self._inputs.get(process, ())]

    def outputs_of(self, process: str) -> list[Node]:
        """The nodes that a process makes."""
        return [self.nodes[path] for path in self._outputs.get(process, ())]

    def producer_of(self, path: str) -> str | None:
        """The name of the process that makes the node; None for files from outside."""
        return self._producer.get(path)

    def consumers_of(self, path: str) -> list[str]:
        """The names of the processes that use the node."""
        return list(self._consumers.get(path, ()))

    @property
    def inputs(self) -> Iterator[tuple[str, str]]:
        """All input edges as (node path, process name)."""
        return ((node, process) for process in self.processes for node in self._inputs.get(process, ()))

    @property
    def outputs(self) -> Iterator[tuple[str, str]]:
        """All output edges as (process name, node path)."""
        return ((process, node) for process in self.processes for node in self._outputs.get(process, ()))

    def parents(self, process: str) -> list[str]:
        """The processes whose outputs this process uses directly, each once."""
        makers = (self._producer.get(path) for path in self._inputs.get(process, ()))
        return list(dict.fromkeys(maker for maker in makers if maker and maker != process))

    def children(self, process: str) -> list[str]:
        """The processes that use an output of this process directly, each once."""
        users = (user for path in self._outputs.get(process, ()) for user in self._consumers.get(path, ()))
        return list(dict.fromkeys(user for user in users if user != process))

    def upstream(self, process: str) -> list[str]:
        """Every process that this one depends on, nearest first, itself not included."""
        return self._reach(process, self.parents)

    def downstream(self, process: str) -> list[str]:
        """Every process that depends on this one, nearest first, itself not included."""
        return self._reach(process, self.children)

    def history(self, process: str) -> list[str]:
        """The process and everything it came from, in an order in which each comes after what it uses."""
        wanted = {process, *self.upstream(process)}
        done: dict[str, None] = {}
        # Depth first without recursion: a history may be longer than Python's stack.
        stack: list[tuple[str, Iterator[str]]] = [(process, iter(self.parents(process)))]
        open_names = {process}
        while stack:
            name, rest = stack[-1]
            following = next((p for p in rest if p in wanted and p not in done and p not in open_names), None)
            if following is None:
                done[name] = None
                stack.pop()
            else:
                open_names.add(following)
                stack.append((following, iter(self.parents(following))))
        return list(done)

    def _reach(self, start: str, neighbours: Callable[[str], list[str]]) -> list[str]:
        found: dict[str, None] = {}
        queue = deque([start])
        while queue:
            for name in neighbours(queue.popleft()):
                if name != start and name not in found:
                    found[name] = None
                    queue.append(name)
        return list(found)

    def revision_of(self, table: str) -> int:
        """How often one of "processes", "nodes", "inputs", "outputs" was changed."""
        return self._revisions.get(table, 0)

    # ---- changing ------------------------------------------------------------------------------------

    def add_process(self, process: Process, after: str | None = None) -> None:
        """Add a process, or replace the one of the same name where it stands.

        With `after` a new process is put behind the one of that name ("" means: first), else at the end.
        """
        self._changed("processes")
        if process.name in self.processes or after is None or (after and after not in self.processes):
            self.processes[process.name] = process
            return
        self._changed("inputs", "outputs")  # edges are listed in the order of the processes
        others = list(self.processes.items())
        place = 0 if not after else 1 + list(self.processes).index(after)
        self.processes = dict([*others[:place], (process.name, process), *others[place:]])

    def set_process(self, name: str, **changes: str) -> Process:
        """Change fields of a process; returns the new one."""
        changed = replace(self.processes[name], **changes)  # type: ignore[arg-type]
        if changed != self.processes[name]:
            self._changed("processes")
            self.processes[name] = changed
        return changed

    def set_job_counter(self, counter: int) -> None:
        """Set the number that the next job gets."""
        self.revision += counter != self.job_counter
        self.job_counter = counter

    def add_node(self, node: Node) -> Node:
        """Add a node unless one with this path is there already; returns the one that is in the graph."""
        if node.path not in self.nodes:
            self._changed("nodes")
        return self.nodes.setdefault(node.path, node)

    def add_input(self, path: str, process: str) -> None:
        """The process uses the node; both must be in the graph."""
        self._changed("inputs")
        self._inputs.setdefault(process, {})[path] = None
        self._consumers.setdefault(path, {})[process] = None

    def add_output(self, process: str, path: str) -> None:
        """The process makes the node; both must be in the graph. A node keeps its first maker."""
        self._changed("outputs")
        if self._producer.setdefault(path, process) == process:
            self._outputs.setdefault(process, {})[path] = None

    def connect_input(self, node: Node, process: str) -> None:
        """Add an input node as RELION does: a file inside an earlier job's directory becomes its output.

        A path through an alias is turned into the path through the job's own name
        (pipeliner.cpp, addNode and addNewInputEdge).
        """
        path = self.resolve_alias(node.path)
        known = path in self.nodes
        self.add_node(replace(node, path=path))
        self.add_input(path, process)
        if not known:
            maker = self.owner_of_path(path)
            if maker is not None and maker != process:
                self.add_output(maker, path)

    def resolve_alias(self, path: str) -> str:
        """The path with a job's alias at its beginning replaced by the job's name."""
        head = path.split("/", 2)
        if len(head) == 3:
            alias = f"{head[0]}/{head[1]}/"
            owner = next((p for p in self.processes.values() if p.alias == alias), None)
            if owner is not None:
                return owner.name + head[2]
        return path

    def owner_of_path(self, path: str) -> str | None:
        """The name of the process in whose directory the path lies."""
        head = path.split("/", 2)
        name = f"{head[0]}/{head[1]}/" if len(head) == 3 else ""
        return name if name in self.processes else None

    def remove_input(self, path: str, process: str) -> None:
        """Take one input edge away."""
        self._changed("inputs")
        self._inputs.get(process, {}).pop(path, None)
        self._consumers.get(path, {}).pop(process, None)
        self.edge_extra.pop(("in", path, process), None)

    def remove_node(self, path: str) -> None:
        """Take a node and all its edges away."""
        self._changed("nodes", "outputs")
        for process in self.consumers_of(path):
            self.remove_input(path, process)
        self._consumers.pop(path, None)
        maker = self._producer.pop(path, None)
        if maker is not None:
            self._outputs.get(maker, {}).pop(path, None)
            self.edge_extra.pop(("out", maker, path), None)
        self.nodes.pop(path, None)

    def remove_process(self, name: str) -> None:
        """Take a process, its output nodes and all their edges away; its input nodes stay."""
        self._changed("processes")
        for path in list(self._inputs.get(name, ())):
            self.remove_input(path, name)
        for path in list(self._outputs.get(name, ())):
            self.remove_node(path)
        self._inputs.pop(name, None)
        self._outputs.pop(name, None)
        self.processes.pop(name, None)

    def _changed(self, *tables: str) -> None:
        self.revision += 1
        for table in tables:
            self._revisions[table] = self._revisions.get(table, 0) + 1

    def nodes_of_type(self, type_prefix: str) -> list[Node]:
        """Nodes that an entry of this type accepts (relion_py.jobs.nodes.matches)."""
        return [node for node in self.nodes.values() if matches(node.type, type_prefix)]

    def copy(self) -> Graph:
        """A graph of its own that later changes of this one do not reach (for showing, in another thread)."""
        return Graph(
            job_counter=self.job_counter,
            processes=dict(self.processes),
            nodes=dict(self.nodes),
            general=dict(self.general),
            extra_tables={name: table.copy() for name, table in self.extra_tables.items()},
            dangling_inputs=list(self.dangling_inputs),
            dangling_outputs=list(self.dangling_outputs),
            edge_extra=dict(self.edge_extra),
            revision=self.revision,
            _inputs={name: dict(paths) for name, paths in self._inputs.items()},
            _outputs={name: dict(paths) for name, paths in self._outputs.items()},
            _producer=dict(self._producer),
            _consumers={path: dict(users) for path, users in self._consumers.items()},
        )

    def same_as(self, other: Graph) -> bool:
        """True if both hold the same processes, nodes and edges, whatever their order."""

        def essence(graph: Graph) -> tuple[object, ...]:
            return (
                graph.processes,
                graph.nodes,
                set(graph.inputs),
                set(graph.outputs),
            )

        return essence(self) == essence(other)
