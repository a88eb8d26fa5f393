"""Schemes/NAME/scheme.star: reading and writing as RELION 5 does (schemer.cpp, Scheme::read and write).

Columns and tables that are unknown here survive. Written files have variables, operators and jobs in the order
of their names' characters, as RELION's have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.schemes.model import UNDEFINED, Edge, Extra, Operator, Scheme, SchemeJob, Value, Variable

SCHEME_STAR = "scheme.star"

_NAME, _CURRENT = "rlnSchemeName", "rlnSchemeCurrentNodeName"
_GENERAL, _FLOATS, _BOOLS, _STRINGS = "scheme_general", "scheme_floats", "scheme_bools", "scheme_strings"
_OPERATORS, _JOBS, _EDGES = "scheme_operators", "scheme_jobs", "scheme_edges"
_TABLES = (_GENERAL, _FLOATS, _BOOLS, _STRINGS, _OPERATORS, _JOBS, _EDGES)
_KINDS = ((_FLOATS, "Float"), (_BOOLS, "Boolean"), (_STRINGS, "String"))
_OPERATOR = ("Name", "Type", "Output", "Input1", "Input2")
_JOB = ("rlnSchemeJobNameOriginal", "rlnSchemeJobName", "rlnSchemeJobMode", "rlnSchemeJobHasStarted")
_EDGE = ("InputNodeName", "OutputNodeName", "IsFork", "OutputNodeNameIfTrue", "BooleanVariable")

Item = TypeVar("Item")


def read(path: Path) -> Scheme:
    """Read a scheme.star; the scheme bears the name of its directory. PipelineError if it does not make sense."""
    try:
        return _scheme(star.read(path), path)
    except UserError as error:
        raise PipelineError(str(error)) from error
    except ValueError as error:
        raise PipelineError(f"{path}: {error} is neither 0 nor 1.") from error


def _scheme(file: star.StarFile, path: Path) -> Scheme:
    if _GENERAL not in file:
        raise PipelineError(f"{path} has no table data_{_GENERAL}, so it is not a scheme.")
    general = file[_GENERAL].row(0) if len(file[_GENERAL]) else {}
    scheme = Scheme(path.parent.name, general.pop(_CURRENT, UNDEFINED))
    general.pop(_NAME, None)
    scheme.extra = general
    scheme.floats = _named(file, _FLOATS, _variable_reader(_FLOATS, "Float", _float, path))
    scheme.bools = _named(file, _BOOLS, _variable_reader(_BOOLS, "Boolean", _bool, path))
    scheme.strings = _named(file, _STRINGS, _variable_reader(_STRINGS, "String", str, path))
    scheme.operators = _named(file, _OPERATORS, _operator)
    scheme.jobs = _named(file, _JOBS, _job)
    scheme.edges = [_edge(row) for row in _rows(file, _EDGES)]
    scheme.extra_tables = {name: table for name, table in file.items() if name not in _TABLES}
    if scheme.current_node == UNDEFINED and scheme.edges:
        scheme.current_node = scheme.edges[0].source
    return scheme


def _rows(file: star.StarFile, name: str) -> list[dict[str, str]]:
    return list(file[name].rows()) if name in file else []


def _named(file: star.StarFile, table: str, make: Callable[[dict[str, str]], tuple[str, Item]]) -> dict[str, Item]:
    return dict(make(row) for row in _rows(file, table))


def _variable_reader(
    table: str, kind: str, convert: Callable[[str], Value], path: Path
) -> Callable[[dict[str, str]], tuple[str, Variable]]:
    stem = f"rlnScheme{kind}Variable"

    def make(row: dict[str, str]) -> tuple[str, Variable]:
        name = _take(row, stem + "Name")
        texts = _take(row, stem + "Value"), _take(row, stem + "ResetValue")
        try:
            return name, Variable(convert(texts[0]), convert(texts[1]), row)
        except ValueError:
            raise PipelineError(
                f"{path}, data_{table}: {name} is {texts[0]!r} ({texts[1]!r}), which is no {kind.lower()} value."
            ) from None

    return make


def _float(text: str) -> float:
    return float(text)


def _bool(text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no"):
        return False
    raise ValueError(text)


def _operator(row: dict[str, str]) -> tuple[str, Operator]:
    name, kind, output, input1, input2 = (_take(row, "rlnSchemeOperator" + end, UNDEFINED) for end in _OPERATOR)
    return name, Operator(kind, output or UNDEFINED, input1 or UNDEFINED, input2 or UNDEFINED, row)


def _job(row: dict[str, str]) -> tuple[str, SchemeJob]:
    name, current, mode = (_take(row, label) for label in _JOB[:3])
    return name, SchemeJob(current, mode, _bool(_take(row, _JOB[3], "0")), row)


def _edge(row: dict[str, str]) -> Edge:
    source, target, is_fork, if_true, condition = (_take(row, "rlnSchemeEdge" + end, UNDEFINED) for end in _EDGE)
    return Edge(source, target, is_fork not in (UNDEFINED, "0"), if_true, condition, row)


def _take(row: dict[str, str], label: str, default: str | None = None) -> str:
    if label in row:
        return row.pop(label)
    if default is None:
        raise star.StarError(f"The scheme has a table without the column _{label}.")
    return default


# ---- writing ---------------------------------------------------------------------------------------------


def dumps(scheme: Scheme) -> str:
    """The text of a scheme.star, laid out as RELION 5 does."""
    head: dict[str, str] = {_NAME: scheme.path, _CURRENT: scheme.current_node, **scheme.extra}
    file = star.StarFile({_GENERAL: star.Table(head, loop=False)})
    for (table, kind), variables in zip(_KINDS, (scheme.floats, scheme.bools, scheme.strings), strict=True):
        stem = f"rlnScheme{kind}Variable"
        labels = (stem + "Name", stem + "Value", stem + "ResetValue")
        _put(file, table, labels, [((n, v.value, v.original), v.extra) for n, v in sorted(variables.items())])
    operators = [((n, o.type, o.output, o.input1, o.input2), o.extra) for n, o in sorted(scheme.operators.items())]
    _put(file, _OPERATORS, tuple("rlnSchemeOperator" + end for end in _OPERATOR), operators)
    jobs = [((n, j.current_name, j.mode, j.has_started), j.extra) for n, j in sorted(scheme.jobs.items())]
    _put(file, _JOBS, _JOB, jobs)
    edges = [((e.source, e.target, e.is_fork, e.target_if_true, e.condition), e.extra) for e in scheme.edges]
    _put(file, _EDGES, tuple("rlnSchemeEdge" + end for end in _EDGE), edges)
    for name, extra_table in scheme.extra_tables.items():
        file[name] = extra_table
    return star.dumps(file)


def _put(
    file: star.StarFile, name: str, labels: tuple[str, ...], rows: Sequence[tuple[tuple[Value, ...], Extra]]
) -> None:
    """Add a table, unless it would be empty. Unknown columns that only some rows have are filled up."""
    if not rows:
        return
    further = list(dict.fromkeys(label for _, extra in rows for label in extra))
    texts = [[*values, *(extra.get(label, UNDEFINED) for label in further)] for values, extra in rows]
    file[name] = star.Table.from_rows([*labels, *further], texts)


def write(path: Path, scheme: Scheme) -> None:
    """Write a scheme.star whole or not at all. PipelineError for values that a STAR file cannot hold."""
    try:
        text = dumps(scheme)
    except UserError as error:
        raise PipelineError(str(error)) from error
    try:
        atomic_write(path, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise PipelineError(f"{path} cannot be written: {error.strerror}.") from error


def current_names(path: Path) -> Mapping[str, str]:
    """The current job of each job node of a scheme.star, for those that have one."""
    return {name: job.current_name for name, job in read(path).jobs.items() if job.current_name != name}
