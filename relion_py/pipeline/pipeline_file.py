"""`default_pipeline.star`: read as every release from RELION 2 on wrote it, written as RELION 5 writes it.

RELION 2 to 3.1 gave the types of jobs and nodes and the status as numbers (`_rlnPipeLineProcessType`,
`_rlnPipeLineNodeType`, `_rlnPipeLineProcessStatus`), RELION 4 as labels with older names for some node types,
RELION 5 as labels with a depth (pipeliner.cpp, read, write and convertOldNodeTypeLabel). Tables and columns
that are unknown here stay with the graph and are written back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.jobs.nodes import NUMBER_TO_TYPE
from relion_py.pipeline.errors import DamagedPipeline
from relion_py.pipeline.graph import Graph, Node, Process, Status

PIPELINE_FILE = "default_pipeline.star"

GENERAL = "pipeline_general"
PROCESSES = "pipeline_processes"
NODES = "pipeline_nodes"
INPUT_EDGES = "pipeline_input_edges"
OUTPUT_EDGES = "pipeline_output_edges"
_TABLES = (GENERAL, PROCESSES, NODES, INPUT_EDGES, OUTPUT_EDGES)

_COUNTER = "rlnPipeLineJobCounter"
_NAME, _ALIAS = "rlnPipeLineProcessName", "rlnPipeLineProcessAlias"
_TYPE, _STATUS = "rlnPipeLineProcessTypeLabel", "rlnPipeLineProcessStatusLabel"
_OLD_TYPE, _OLD_STATUS = "rlnPipeLineProcessType", "rlnPipeLineProcessStatus"
_NODE, _NODE_TYPE = "rlnPipeLineNodeName", "rlnPipeLineNodeTypeLabel"
_OLD_NODE_TYPE, _DEPTH = "rlnPipeLineNodeType", "rlnPipeLineNodeTypeLabelDepth"
_EDGE_FROM, _EDGE_TO, _EDGE_PROCESS = (
    "rlnPipeLineEdgeFromNode",
    "rlnPipeLineEdgeToNode",
    "rlnPipeLineEdgeProcess",
)

_NO_ALIAS = "None"

# pipeline_jobs.h, PROC_*; 6, 11 and 17 are jobs of RELION 2 that later releases dropped.
PROCESS_TYPES = {
    0: "relion.import",
    1: "relion.motioncorr",
    2: "relion.ctffind",
    3: "relion.manualpick",
    4: "relion.autopick",
    5: "relion.extract",
    6: "relion.sort",
    7: "relion.select",
    8: "relion.class2d",
    9: "relion.class3d",
    10: "relion.refine3d",
    11: "relion.polish.particles",
    12: "relion.maskcreate",
    13: "relion.joinstar",
    14: "relion.subtract",
    15: "relion.postprocess",
    16: "relion.localres",
    17: "relion.movierefine",
    18: "relion.initialmodel",
    19: "relion.multibody",
    20: "relion.polish",
    21: "relion.ctfrefine",
    22: "dynamight",
    23: "modelangelo",
    50: "relion.importtomo",
    51: "relion.pseudosubtomo",
    52: "relion.ctfrefinetomo",
    53: "relion.framealigntomo",
    54: "relion.reconstructparticletomo",
    55: "relion.aligntiltseries",
    56: "relion.reconstructtomograms",
    57: "relion.excludetilts",
    58: "relion.denoisetomo",
    59: "relion.picktomo",
    99: "relion.external",
}
_STATUSES = {0: Status.RUNNING, 1: Status.SCHEDULED, 2: Status.SUCCEEDED, 3: Status.FAILED, 4: Status.ABORTED}
_KNOWN_STATUSES = {str(status): status for status in Status}

# Node types as RELION 4 called them (pipeliner.cpp, convertOldNodeTypeLabel); the first that fits counts.
_RELION4_NODE_TYPES = (
    ("ParticlesData", "ParticleGroupMetadata"),
    ("MicrographMoviesData", "MicrographMovieGroupMetadata"),
    ("MicrographsData", "MicrographGroupMetadata"),
    ("MicrographsCoords", "MicrographCoordsGroup"),
    ("ImagesData", "Image2DGroupMetadata"),
    ("OptimisationSet", "TomoOptimisationSet"),
    ("TomogramData", "TomogramGroupMetadata"),
    ("TrajectoryData", "TomoTrajectoryData"),
    ("ProcessData.star.relion.tomo.relion.tiltseries_set", "TomogramGroupMetadata.star.relion.tomo"),
    ("ProcessData.star.relion.tomo.relion.tomogram_set", "TomogramGroupMetadata.star.relion.tomo"),
)


@dataclass(frozen=True)
class FileStamp:
    """What tells one version of a file from another without reading it."""

    inode: int
    size: int
    modified_ns: int

    @staticmethod
    def of(path: Path) -> FileStamp | None:
        """The stamp of a file; None if there is no such file."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


def modern_node_type(label: str) -> str:
    """A node type of RELION 4 under its name of today; others come back as they are."""
    for old, new in _RELION4_NODE_TYPES:
        if old in label and new not in label:
            return label.replace(old, new)
    return label


def node_type_of(text: str) -> str:
    """The type label for an entry of a node table: a label of any release, or a number of RELION 2 to 3.1."""
    if text.isdigit():
        return NUMBER_TO_TYPE.get(int(text), text)
    return modern_node_type(text)


# ---- reading ---------------------------------------------------------------------------------------------


def read(path: Path) -> Graph:
    """The graph in a pipeline file. DamagedPipeline (without a plan) if it is cut short or not STAR."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="surrogateescape"), str(path))
    except OSError as error:
        raise DamagedPipeline(f"{path} cannot be read: {error.strerror}.") from error


def parse(text: str, where: str = PIPELINE_FILE) -> Graph:
    """The graph in the text of a pipeline file; `where` names it in messages. Raises DamagedPipeline."""
    try:
        try:
            file = star.parse(text, where)
        except UserError:
            file = star.parse(_with_all_depths(text), where)
        _require_whole(text, file, where)
        return _graph(file)
    except DamagedPipeline:
        raise
    except (UserError, ValueError, KeyError) as error:
        raise DamagedPipeline(f"{where} is damaged: {error}") from error


def _with_all_depths(text: str) -> str:
    """Node rows of programs that announce a column for the depth and leave it out, with the depth put in."""
    head, label, rest = text.partition(f"_{_DEPTH} #3")
    if not label or not head.rstrip().endswith("#2"):
        return text
    lines, beyond = [], False
    for line in rest.splitlines(keepends=True):
        beyond = beyond or line.startswith("data_")
        whole = len(line.split()) == 2 and line.endswith("\n") and not line.startswith(("#", "_"))
        lines.append(line if beyond or not whole else f"{line.rstrip()} 1 \n")
    return head + label + "".join(lines)


def _require_whole(text: str, file: star.StarFile, where: str) -> None:
    if GENERAL not in file or _COUNTER not in file[GENERAL]:
        raise DamagedPipeline(f"{where} is damaged: it has no table data_{GENERAL} with _{_COUNTER}.")
    if file.duplicates:
        raise DamagedPipeline(f"{where} is damaged: it has the table data_{file.duplicates[0]} twice.")
    for name, columns in (
        (PROCESSES, (_NAME,)),
        (NODES, (_NODE,)),
        (INPUT_EDGES, (_EDGE_FROM, _EDGE_PROCESS)),
        (OUTPUT_EDGES, (_EDGE_PROCESS, _EDGE_TO)),
    ):
        for column in columns:
            if name in file and column not in file[name]:
                raise DamagedPipeline(f"{where} is damaged: its table data_{name} has no column _{column}.")
    if "\nloop_ \n" in text and not text.rstrip("\n").endswith("\n "):
        # RELION ends each table with a line that holds one blank; here the end of the last table is missing.
        raise DamagedPipeline(f"{where} is damaged: its end is missing.")
    if any(comment.startswith("# version") for comment in file.closing_comments):
        raise DamagedPipeline(f"{where} is damaged: it ends where another table should begin.")
    if not text.endswith("\n") and not _ends_with_known_name(file):
        raise DamagedPipeline(f"{where} is damaged: it ends in the middle of a line.")


def _ends_with_known_name(file: star.StarFile) -> bool:
    """True if the last edge names a process or a node that the file has, so that its line seems whole."""
    name, table = file.blocks[-1]
    if name not in (INPUT_EDGES, OUTPUT_EDGES):
        return False
    if name == INPUT_EDGES:
        known, last = (PROCESSES, _NAME), table.strings(_EDGE_PROCESS)[-1:]
    else:
        known, last = (NODES, _NODE), table.strings(_EDGE_TO)[-1:]
    return known[0] in file and set(last) <= set(file[known[0]].strings(known[1]))


def _graph(file: star.StarFile) -> Graph:
    graph = Graph()
    general = file[GENERAL].row(0)
    graph.job_counter = int(general.pop(_COUNTER))
    graph.general = general
    if graph.job_counter < 0:
        raise ValueError(f"the job counter is {graph.job_counter}.")
    if PROCESSES in file:
        _read_processes(graph, file[PROCESSES])
    if NODES in file:
        _read_nodes(graph, file[NODES])
    if INPUT_EDGES in file:
        _read_edges(graph, file[INPUT_EDGES], "in")
    if OUTPUT_EDGES in file:
        _read_edges(graph, file[OUTPUT_EDGES], "out")
    graph.extra_tables = {name: table for name, table in file.items() if name not in _TABLES}
    return graph


def _read_processes(graph: Graph, table: star.Table) -> None:
    names = table.strings(_NAME)
    aliases = table.strings(_ALIAS) if _ALIAS in table else [_NO_ALIAS] * len(names)
    types = _column(table, _TYPE, _OLD_TYPE, lambda text: PROCESS_TYPES.get(int(float(text)), text))
    statuses = _column(table, _STATUS, _OLD_STATUS, lambda text: _STATUSES.get(int(float(text)), text))
    extras = _extras(table, {_NAME, _ALIAS, _TYPE, _STATUS, _OLD_TYPE, _OLD_STATUS})
    for name, alias, label, status, extra in zip(names, aliases, types, statuses, extras, strict=True):
        if name in graph.processes:
            raise ValueError(f"the job {name} is listed twice.")
        stored = "" if alias in (_NO_ALIAS, "") else alias.rstrip("/") + "/"
        known = _KNOWN_STATUSES.get(status, status)
        graph.processes[name] = Process(name, stored, label, known, extra)


def _read_nodes(graph: Graph, table: star.Table) -> None:
    paths = table.strings(_NODE)
    types = _column(table, _NODE_TYPE, _OLD_NODE_TYPE, node_type_of)
    modern = {text: modern_node_type(text) for text in set(types)}
    depths = [int(float(text)) for text in table.strings(_DEPTH)] if _DEPTH in table else [1] * len(paths)
    extras = _extras(table, {_NODE, _NODE_TYPE, _OLD_NODE_TYPE, _DEPTH})
    for path, label, depth, extra in zip(paths, types, depths, extras, strict=True):
        graph.nodes.setdefault(path, Node(path, modern[label], depth, extra))


def _read_edges(graph: Graph, table: star.Table, kind: str) -> None:
    node_label = _EDGE_FROM if kind == "in" else _EDGE_TO
    nodes, processes = table.strings(node_label), table.strings(_EDGE_PROCESS)
    extras = _extras(table, {node_label, _EDGE_PROCESS})
    for node, process, extra in zip(nodes, processes, extras, strict=True):
        first, second = (node, process) if kind == "in" else (process, node)
        if process not in graph.processes or node not in graph.nodes:
            (graph.dangling_inputs if kind == "in" else graph.dangling_outputs).append((first, second))
            continue
        if kind == "in":
            graph.add_input(node, process)
        else:
            graph.add_output(process, node)
        if extra:
            graph.edge_extra[kind, first, second] = extra


def _column(table: star.Table, label: str, old: str, convert: Callable[[str], str]) -> list[str]:
    """A column by today's label; else the old one, converted; else empty texts."""
    if label in table:
        return table.strings(label)
    if old in table:
        return [convert(text) for text in table.strings(old)]
    return [""] * len(table)


_NOTHING: dict[str, str] = {}


def _extras(table: star.Table, known: set[str]) -> Iterable[dict[str, str]]:
    """For each row what unknown columns say."""
    labels = [label for label in table.labels if label not in known]
    if not labels:
        return [_NOTHING] * len(table)
    return [{label: row[label] for label in labels} for row in table.rows()]


# ---- writing ---------------------------------------------------------------------------------------------


def dumps(graph: Graph) -> str:
    """The text of the pipeline file of a graph, laid out as RELION 5 lays it out; empty tables are left out.

    The texts of tables that did not change since the last call are kept with the graph: in a project of
    thousands of jobs most changes touch one table.
    """
    general = star.Table({_COUNTER: str(graph.job_counter), **graph.general}, loop=False)
    parts = [star.dumps({GENERAL: general})]
    for block, part, make in (
        (PROCESSES, "processes", _process_table),
        (NODES, "nodes", _node_table),
        (INPUT_EDGES, "inputs", _input_table),
        (OUTPUT_EDGES, "outputs", _output_table),
    ):
        revision = graph.revision_of(part)
        kept = graph.text_cache.get(block)
        if kept is None or kept[0] != revision:
            table = make(graph)
            kept = (revision, star.dumps({block: table}) if len(table) else "")
            graph.text_cache[block] = kept
        parts.append(kept[1])
    parts += [star.dumps({block: table}) for block, table in graph.extra_tables.items()]
    return "".join(parts)


def write(path: Path, graph: Graph) -> FileStamp | None:
    """Write the pipeline file whole or not at all; returns the stamp of what was written."""
    atomic_write(path, dumps(graph).encode("utf-8", "surrogateescape"))
    return FileStamp.of(path)


def _process_table(graph: Graph) -> star.Table:
    processes = list(graph.processes.values())
    columns = {
        _NAME: [p.name for p in processes],
        _ALIAS: [p.alias or _NO_ALIAS for p in processes],
        _TYPE: [p.type_label for p in processes],
        _STATUS: [str(p.status) for p in processes],
    }
    return star.Table(columns | _extra_columns([p.extra for p in processes]))


def _node_table(graph: Graph) -> star.Table:
    nodes = list(graph.nodes.values())
    columns = {
        _NODE: [n.path for n in nodes],
        _NODE_TYPE: [n.type for n in nodes],
        _DEPTH: [str(n.depth) for n in nodes],
    }
    return star.Table(columns | _extra_columns([n.extra for n in nodes]))


def _input_table(graph: Graph) -> star.Table:
    return _edge_table([*graph.inputs, *graph.dangling_inputs], (_EDGE_FROM, _EDGE_PROCESS), "in", graph)


def _output_table(graph: Graph) -> star.Table:
    return _edge_table([*graph.outputs, *graph.dangling_outputs], (_EDGE_PROCESS, _EDGE_TO), "out", graph)


def _edge_table(edges: list[tuple[str, str]], labels: tuple[str, str], kind: str, graph: Graph) -> star.Table:
    columns = {labels[0]: [edge[0] for edge in edges], labels[1]: [edge[1] for edge in edges]}
    if not graph.edge_extra:
        return star.Table(columns)
    return star.Table(columns | _extra_columns([graph.edge_extra.get((kind, *edge), _NOTHING) for edge in edges]))


def _extra_columns(extras: list) -> dict[str, list[str]]:  # type: ignore[type-arg]
    """Columns of what came with the rows; rows that came without have the value None, as RELION has it."""
    labels = dict.fromkeys(label for extra in extras for label in extra)
    return {label: [extra.get(label, _NO_ALIAS) for extra in extras] for label in labels}
