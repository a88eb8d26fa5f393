"""`.Nodes/`: an empty file for every node that exists, by type, from which RELION's file choosers list.

Source: pipeliner.cpp, touchTemporaryNodeFile and deleteTemporaryNodeFile. The path below the type goes
through the job's alias if it has one. Names come from files that anybody may have written, so those that
would leave the directory are passed over.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from relion_py.pipeline.graph import Graph, Node, Status
from relion_py.pipeline.paths import node_path_problem

NODES_DIRECTORY = ".Nodes"


def touch(root: Path, graph: Graph, node: Node) -> None:
    """Make the entries of a node whose file exists, or whose job is only scheduled."""
    maker = graph.processes.get(graph.producer_of(node.path) or "")
    scheduled = maker is not None and maker.status == Status.SCHEDULED
    for entry in _entries(root, graph, node):
        if scheduled or (root / node.path).exists():
            with suppress(OSError):
                entry.parent.mkdir(parents=True, exist_ok=True)
                entry.touch()


def remove(root: Path, graph: Graph, node: Node) -> None:
    """Remove the entries of a node, and directories that this leaves empty."""
    for entry in _entries(root, graph, node):
        with suppress(OSError):
            entry.unlink()
            entry.parent.rmdir()
            entry.parent.parent.rmdir()


def touch_outputs(root: Path, graph: Graph, process: str) -> None:
    """Make the entries of all that a job has made."""
    for node in graph.outputs_of(process):
        touch(root, graph, node)


def remove_outputs(root: Path, graph: Graph, process: str) -> None:
    """Remove the entries of all that a job has made."""
    for node in graph.outputs_of(process):
        remove(root, graph, node)


def remake(root: Path, graph: Graph) -> None:
    """Make the whole directory anew."""
    shutil.rmtree(root / NODES_DIRECTORY, ignore_errors=True)
    (root / NODES_DIRECTORY).mkdir(exist_ok=True)
    for node in graph.nodes.values():
        touch(root, graph, node)


def _entries(root: Path, graph: Graph, node: Node) -> list[Path]:
    parts = node.type.split(".")
    kinds = dict.fromkeys((parts[0], ".".join(parts[: max(node.depth, 1)])))
    shown = node.path
    maker = graph.processes.get(graph.producer_of(node.path) or "")
    if maker is not None and maker.alias and node.path.startswith(maker.name):
        shown = maker.alias + node.path[len(maker.name) :]
    if node_path_problem(shown):
        return []
    return [root / NODES_DIRECTORY / kind / shown for kind in kinds if kind and "/" not in kind and kind != ".."]
