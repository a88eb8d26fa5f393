"""What became of a running job: from its control files, its processes and the queue.

A job whose process died without a word becomes Failed, with the reason; it is never "running" for ever. What
cannot be known (a job started by RELION itself, or on another computer without a queue) is left as it is.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relion_py.pipeline import control, queue
from relion_py.pipeline.control import ProcessRecord
from relion_py.pipeline.graph import Status
from relion_py.pipeline.lock import process_is_alive

# A job that is "starting" gets its process within this time (s) even on a machine under load.
STARTING_GRACE = 20.0
# How often (s) a queue is asked about one job, and for how long (s) a finished one may be on its way.
QUEUE_INTERVAL = 20.0
# How long (s) a command without a supervisor is given to stop by itself when it is asked to abort.
ORPHAN_GRACE = 20.0
# How long (s) a program may take to go away after it wrote its control file.
LINGERING_GRACE = 30.0


@dataclass(frozen=True)
class Verdict:
    """How a job ended; `reason` is "" when its own control file tells."""

    status: Status
    reason: str = ""


_last_asked: dict[str, float] = {}


def verdict(job: Path, ask_queue: bool = True) -> Verdict | None:
    """How the running job in this directory ended; None if it still runs or nobody can know.

    Writes nothing. Asking the queue may take as long as its command takes.
    """
    record = control.read_record(job)
    told = control.told_status(job)
    if told is not None and not _more_to_come(job, record):
        return Verdict(told)
    if record is None:
        return None
    if record.state == "queued":
        return _queued(job, record) if ask_queue else None
    if record.host != socket.gethostname():
        return None
    alive = process_is_alive(record.pid, record.started) or (
        record.child_pid > 0 and process_is_alive(record.child_pid, record.child_started)
    )
    age = _age(job / control.PROCESS_RECORD)
    if record.state in ("starting", "submitting"):
        if age < STARTING_GRACE or (alive and (record.state == "submitting" or age < 3 * STARTING_GRACE)):
            return None
        return Verdict(Status.FAILED, "the job was never started: the program that was to do it ended, or failed.")
    if alive:
        _end_orphan(job, record)
        return None
    # The last words may have been written between the two looks.
    return _gone(
        job,
        "its processes ended after it was asked to abort.",
        f"its process ({record.child_pid or record.pid} on {record.host}) ended without a word: it was "
        "killed, ran out of memory, or the computer was restarted.",
    )


def _gone(job: Path, aborted: str, failed: str) -> Verdict:
    """Of a job that nobody works on any more: what it told at last, else that it was aborted, if asked, or failed."""
    told = control.told_status(job)
    if told is not None:
        return Verdict(told)
    return Verdict(Status.ABORTED, aborted) if control.abort_requested(job) else Verdict(Status.FAILED, failed)


def _more_to_come(job: Path, record: ProcessRecord | None) -> bool:
    """True while our supervisor lives: an earlier command's success is not the job's, and its last word may
    still be written. A last command that told its end but does not go away is believed after a while."""
    if record is None or record.state != "running" or not is_here(record):
        return False
    if record.last and _age_of_end(job) > LINGERING_GRACE:
        return False
    return process_is_alive(record.pid, record.started)


def still_ending(job: Path) -> bool:
    """True if processes of an ended job still live, so that they may write into its directory."""
    record = control.read_record(job)
    if record is None or record.state != "running" or not is_here(record):
        return False
    return process_is_alive(record.pid, record.started) or (
        record.child_pid > 0 and process_is_alive(record.child_pid, record.child_started)
    )


def _age_of_end(job: Path) -> float:
    return max(_age(job / name) for name in (control.SUCCESS, control.FAILURE, control.ABORTED))


def _queued(job: Path, record: ProcessRecord) -> Verdict | None:
    key = str(job)
    now = time.monotonic()
    if now - _last_asked.get(key, -QUEUE_INTERVAL) < QUEUE_INTERVAL:
        return None
    _last_asked[key] = now
    if queue.knows(record.queue_command, record.queue_id) is not False:
        if control.abort_requested(job) and _age(job / control.ABORT_NOW) > ORPHAN_GRACE:
            queue.cancel(record.queue_command, record.queue_id)
        return None
    return _gone(
        job,
        "the queue does not have it any more, after it was asked to abort.",
        f"the queue does not have its job {record.queue_id} any more, and it left no control file: it was "
        "cancelled, ran out of time or memory, or died; see run.err.",
    )


def is_here(record: ProcessRecord) -> bool:
    """True if the job's processes belong to this computer."""
    return record.host == socket.gethostname()


def settle(job: Path, end: Verdict) -> None:
    """Make the job directory say what the verdict says: reason in run.err, control file."""
    if end.reason:
        control.say(job, end.reason)
    if job.is_dir() and control.told_status(job) is not end.status:
        with suppress(OSError):
            control.tell(job, end.status)


def _end_orphan(job: Path, record: ProcessRecord) -> None:
    """Kill a command that was asked to abort when the supervisor that should see to it is gone."""
    if process_is_alive(record.pid, record.started) or not control.abort_requested(job):
        return
    if _age(job / control.ABORT_NOW) > ORPHAN_GRACE:
        with suppress(OSError):
            os.killpg(record.child_pid, signal.SIGKILL)


def _age(path: Path) -> float:
    """Seconds since the file was written; 0 if there is none."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0
