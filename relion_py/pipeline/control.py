"""The files by which a running job and the project talk: control files and the record of its processes.

RELION's programs write RELION_JOB_EXIT_SUCCESS, _FAILURE or _ABORTED into the job directory when they end
and look for RELION_JOB_ABORT_NOW while they run (pipeline_control.cpp). `.job_process.json` is ours: which
process supervises the job, on which host, since when; or which queue has it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from relion_py.compute.io.atomic import atomic_write
from relion_py.pipeline.graph import Status

SUCCESS = "RELION_JOB_EXIT_SUCCESS"
FAILURE = "RELION_JOB_EXIT_FAILURE"
ABORTED = "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
PROCESS_RECORD = ".job_process.json"
RUN_PLAN = ".job_run.json"
RUN_OUT, RUN_ERR = "run.out", "run.err"

_STATUS_OF_FILE = ((SUCCESS, Status.SUCCEEDED), (FAILURE, Status.FAILED), (ABORTED, Status.ABORTED))
_FILE_OF_STATUS = {status: name for name, status in _STATUS_OF_FILE}


def told_status(job: Path) -> Status | None:
    """The end that the control files tell; None if there is none yet."""
    return next((status for name, status in _STATUS_OF_FILE if (job / name).exists()), None)


def tell(job: Path, status: Status) -> None:
    """Write the control file for an end, and take those for other ends away."""
    for name, other in _STATUS_OF_FILE:
        if other != status:
            (job / name).unlink(missing_ok=True)
    (job / _FILE_OF_STATUS[status]).touch()


def clear(job: Path) -> None:
    """Take all control files away, as before a new execution."""
    for name in (SUCCESS, FAILURE, ABORTED, ABORT_NOW):
        (job / name).unlink(missing_ok=True)


def abort_requested(job: Path) -> bool:
    """True if the job was asked to stop."""
    return (job / ABORT_NOW).exists()


def say(job: Path, sentence: str) -> None:
    """Add a sentence to the job's run.err, where people look for the reason."""
    with suppress(OSError), open(job / RUN_ERR, "a", encoding="utf-8") as file:
        file.write(f"\nrelion_py: {sentence}\n")


@dataclass(frozen=True)
class ProcessRecord:
    """Who runs a job.

    state: "starting" or "submitting" (written by the program that will start it or hand it to the queue, pid
    its own), "running" (pid: the supervisor) or "queued". child_pid: the running command, the leader of its
    own process group; last: it is the job's last command. Start times as process_start_time gives them.
    queue_id and queue_command are empty for local jobs.
    """

    state: str
    host: str
    pid: int
    started: float
    child_pid: int = 0
    child_started: float = 0.0
    last: bool = False
    queue_id: str = ""
    queue_command: str = ""


def write_record(job: Path, record: ProcessRecord) -> None:
    """Write the record of a job's process, whole or not at all."""
    atomic_write(job / PROCESS_RECORD, json.dumps(asdict(record)).encode())


def read_record(job: Path) -> ProcessRecord | None:
    """The record of a job's process; None if there is none, or it does not make sense."""
    try:
        entries = json.loads((job / PROCESS_RECORD).read_bytes())
        record = ProcessRecord(**entries)
        return record if isinstance(record.pid, int) and isinstance(record.host, str) else None
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class RunPlan:
    """What the supervisor is to do: argument vectors in order, and for how long (s) an aborted command is
    given to stop by itself, and then to end after SIGTERM."""

    commands: tuple[tuple[str, ...], ...]
    abort_grace: float = 20.0
    term_grace: float = 10.0


def write_plan(job: Path, plan: RunPlan) -> None:
    """Write the plan for the supervisor."""
    atomic_write(job / RUN_PLAN, json.dumps(asdict(plan)).encode())


def read_plan(job: Path) -> RunPlan:
    """The plan that was written for a job."""
    entries = json.loads((job / RUN_PLAN).read_bytes())
    entries["commands"] = tuple(tuple(str(word) for word in command) for command in entries["commands"])
    return RunPlan(**entries)
