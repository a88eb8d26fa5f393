"""What a job's outputs are when it has ended, or when a person says that it has.

Source: pipeliner.cpp, markAsFinishedJob and getOutputNodesFromStarFile.
"""

from __future__ import annotations

import re
from pathlib import Path

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.jobs import nodes
from relion_py.pipeline import control, node_links, status
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Graph, Node, Process, Status
from relion_py.pipeline.paths import job_directory, node_path_problem
from relion_py.pipeline.pipeline_file import node_type_of

OUTPUT_NODES = "RELION_OUTPUT_NODES.star"
_TABLE = "output_nodes"
_NAME, _TYPE_LABEL, _TYPE = "rlnPipeLineNodeName", "rlnPipeLineNodeTypeLabel", "rlnPipeLineNodeType"
_DEPTH = "rlnPipeLineNodeTypeLabelDepth"
_LARGEST = 64 * 1024 * 1024

_REFINEMENTS = (
    "relion.class2d",
    "relion.class3d",
    "relion.refine3d",
    "relion.initialmodel",
    "relion.multibody",
)
_OPTIMISER = re.compile(r"run_(?:ct(\d{1,3})_)?it(\d{3})_optimiser\.star")


def is_refinement(type_label: str) -> bool:
    """True for the jobs that relion_refine runs, whose output names change when they are continued."""
    return any(type_label == known or type_label.startswith(known + ".") for known in _REFINEMENTS)


def listed_outputs(root: Path, name: str) -> tuple[list[Node], list[str]]:
    """The nodes that a job lists in RELION_OUTPUT_NODES.star, and a sentence for each that is refused.

    Types may be today's labels, RELION 4's, or the numbers of RELION 2 to 3.1, in either column.
    """
    path = job_directory(root, name) / OUTPUT_NODES
    if not path.is_file():
        return [], []
    try:
        if path.stat().st_size > _LARGEST:
            return [], [f"{path} is too large to be a list of output nodes; it was not read."]
        table = star.read(path).get(_TABLE)
    except UserError as error:
        return [], [f"The list of output nodes cannot be read: {error}"]
    if table is None or _NAME not in table:
        return [], [f"{path} has no table data_{_TABLE} with a column _{_NAME}; it was not used."]
    type_column = _TYPE_LABEL if _TYPE_LABEL in table else _TYPE
    found, complaints = [], []
    for row in table.rows():
        node_path = row[_NAME].removeprefix("./")
        problem = node_path_problem(node_path)
        if problem:
            complaints.append(f"An output node was not taken from {OUTPUT_NODES}: {problem}")
            continue
        depth = row.get(_DEPTH, "1")
        found.append(Node(node_path, node_type_of(row.get(type_column, "")), int(depth) if depth.isdigit() else 1))
    return found, complaints


def mark(root: Path, graph: Graph, process: Process, new_status: Status) -> None:
    """Give a job a status by hand, and its control file; a refinement gets its last iteration's nodes.

    Raises PipelineError if its processes live, or if a refinement that is marked as succeeded has no
    iteration to show.
    """
    directory = job_directory(root, process.name)
    if process.status == Status.RUNNING and _lives(directory):
        raise PipelineError(f"{process.display_name} is really running; abort it instead of marking it.")
    if new_status is Status.SUCCEEDED and is_refinement(process.type_label):
        _add_last_iteration(directory, graph, process)
    graph.set_process(process.name, status=new_status)
    if directory.is_dir():
        control.tell(directory, new_status)


def _lives(directory: Path) -> bool:
    record = control.read_record(directory)
    return (
        record is not None
        and record.state in ("starting", "submitting", "running")
        and (status.verdict(directory, ask_queue=False) is None and status.is_here(record))
    )


def _add_last_iteration(directory: Path, graph: Graph, process: Process) -> None:
    try:
        matches = [match for entry in directory.iterdir() if (match := _OPTIMISER.fullmatch(entry.name))]
    except OSError:
        matches = []
    finals = list(directory.glob("run_optimiser.star")) + list(directory.glob("run_ct*_optimiser.star"))
    if not matches and not finals:
        raise PipelineError(
            f"{process.display_name} has not finished a single iteration, so it cannot be marked as "
            "finished; mark it as failed, or delete it."
        )
    if not matches:
        return
    last = max(matches, key=lambda match: (int(match.group(1) or -1), int(match.group(2)))).group(0)
    stem = last.removesuffix("_optimiser.star")
    refine3d = process.type_label.startswith("relion.refine3d")
    listed = [(last, nodes.OPTIMISER), (f"{stem}_data.star", nodes.PARTS)]
    pattern = f"{stem}_half1_class???.mrc" if refine3d else f"{stem}_class???.mrc"
    listed += [(path.name, nodes.MAP) for path in sorted(directory.glob(pattern))]
    for file_name, node_type in listed:
        graph.add_node(Node(process.name + file_name, node_type))
        graph.add_output(process.name, process.name + file_name)


def drop_missing_outputs(root: Path, graph: Graph, name: str) -> None:
    """Take output nodes away whose files do not exist."""
    for node in graph.outputs_of(name):
        if not (root / node.path).exists():
            node_links.remove(root, graph, node)
            graph.remove_node(node.path)
