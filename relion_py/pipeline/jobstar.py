"""A job's parameters on disc: `job.star`, the older `run.job`, and the hidden `.gui_*job.star` drafts.

Source: pipeline_jobs.cpp, RelionJob::read and write. Values are texts; keys that are unknown here, and
further tables, survive reading and writing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relion_py.compute.errors import UserError
from relion_py.compute.io import star
from relion_py.compute.io.atomic import atomic_write
from relion_py.jobs import registry
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.pipeline_file import PROCESS_TYPES

JOB_STAR = "job.star"
RUN_JOB = "run.job"

_HEAD, _VALUES = "job", "joboptions_values"
_NEEDED = (f"data_{_HEAD}", f"data_{_VALUES}")
_TYPE_LABEL, _TYPE_NUMBER = "rlnJobTypeLabel", "rlnJobType"
_CONTINUE, _TOMO = "rlnJobIsContinue", "rlnJobIsTomo"
_KEY, _VALUE = "rlnJobOptionVariable", "rlnJobOptionValue"


@dataclass(frozen=True)
class JobStar:
    """The parameters of one job: its type label, option values by key, and whether it is a continuation."""

    type_label: str
    values: Mapping[str, str]
    is_continue: bool = False
    is_tomo: bool = False
    extra_tables: Mapping[str, star.Table] = field(default_factory=dict)


def read(path: Path) -> JobStar:
    """Read a job's parameters from a job.star, a run.job, or a job directory that holds either.

    Raises PipelineError if there is neither, or if the file is not what it should be.
    """
    if path.is_dir():
        inside = [path / JOB_STAR, path / RUN_JOB]
        found = next((file for file in inside if file.is_file()), None)
        if found is None:
            raise PipelineError(f"{path} holds neither {JOB_STAR} nor {RUN_JOB}, so its parameters are not known.")
        path = found
    if path.name == RUN_JOB:
        return _read_run_job(path)
    try:
        return _from_star(_read_star(path), path)
    except UserError as error:
        raise PipelineError(str(error)) from error


def _read_star(path: Path) -> star.StarFile:
    """The file's tables. RELION 3.1 put line breaks into a table of help texts, which no reader understands:
    if the whole cannot be read, the two tables that count are."""
    try:
        return star.read(path)
    except UserError:
        if not path.is_file():
            raise
        blocks = re.split(r"^(?=data_)", path.read_text(encoding="utf-8", errors="surrogateescape"), flags=re.M)
        wanted = [block for block in blocks if block.split("\n", 1)[0].strip() in _NEEDED]
        if not wanted:
            raise
        return star.parse("".join(wanted), str(path))


def _from_star(file: star.StarFile, path: Path) -> JobStar:
    if _HEAD not in file:
        raise PipelineError(f"{path} has no table data_{_HEAD}, so it is not a job file.")
    head = file[_HEAD]
    label = head.value(_TYPE_LABEL, "")
    if not label:
        number = head.value(_TYPE_NUMBER, "")
        label = PROCESS_TYPES.get(int(number), "") if number.isdigit() else ""
    if not label:
        raise PipelineError(f"{path} does not say of which type its job is (_{_TYPE_LABEL}).")
    values: dict[str, str] = {}
    if _VALUES in file:
        table = file[_VALUES]
        values = dict(zip(table.strings(_KEY), table.strings(_VALUE), strict=True))
    extra = {name: table for name, table in file.items() if name not in (_HEAD, _VALUES)}
    return JobStar(label, values, _is_true(head.value(_CONTINUE, "0")), _is_true(head.value(_TOMO, "0")), extra)


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes")


def _read_run_job(path: Path) -> JobStar:
    """RELION 2 to 3.0: lines `label as shown in the window == value` (JobOption::readValue)."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}.") from error
    pairs = [tuple(part.strip() for part in line.split("==", 1)) for line in lines if "==" in line]
    shown = {_plain(pair[0]): pair[1] for pair in pairs}
    number = shown.pop("job_type", "")
    if not number.isdigit() or int(number) not in PROCESS_TYPES:
        raise PipelineError(f"{path} does not begin with the number of its job type.")
    is_continue = shown.pop("is_continue", "false") == "true"
    label = PROCESS_TYPES[int(number)]
    try:
        options = registry.by_label(label).options
    except registry.JobTypeError:
        return JobStar(label, {}, is_continue)
    values = {key: shown[_plain(o.label)] for key, o in options.items() if _plain(o.label) in shown}
    return JobStar(label, values, is_continue)


def _plain(label: str) -> str:
    """A label for comparing: releases differ in blanks, colons and question marks at the end."""
    return " ".join(label.split()).rstrip(":? ").lower()


def dumps(job: JobStar) -> str:
    """The text of a job.star, laid out as RELION 5 does: options in the order of their keys' characters."""
    head = star.Table(
        {_TYPE_LABEL: job.type_label, _CONTINUE: str(int(job.is_continue)), _TOMO: str(int(job.is_tomo))},
        loop=False,
    )
    keys = sorted(job.values)
    for key in keys:
        if any(character in job.values[key] for character in "\n\r\0\a"):
            raise PipelineError(f"The value of {key} contains a line break or control character; take it out.")
    table = star.Table({_KEY: keys, _VALUE: [job.values[key] for key in keys]})
    return star.dumps(star.StarFile({_HEAD: head, _VALUES: table, **job.extra_tables}))


def write(path: Path, job: JobStar) -> None:
    """Write a job.star whole or not at all. Raises PipelineError for values that a STAR file cannot hold."""
    try:
        text = dumps(job)
    except UserError as error:
        raise PipelineError(str(error)) from error
    atomic_write(path, text.encode("utf-8", "surrogateescape"))
