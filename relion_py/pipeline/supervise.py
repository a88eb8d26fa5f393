"""Between a project and a job's programs: `python -m relion_py.pipeline.supervise JOB_DIRECTORY`.

It belongs to no window: it has its own session, so closing the window ends nothing. It runs the job's
commands one after the other and stops at the first that fails, adds their output to run.out and run.err,
writes down which process is running, brings a command that was asked to abort to an end (first it may stop
by itself, then SIGTERM and then SIGKILL to its process group), and when a program died without a word says so
in run.err and writes RELION_JOB_EXIT_FAILURE.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from relion_py.jobs.environment import program_path
from relion_py.jobs.quoting import display
from relion_py.pipeline import control
from relion_py.pipeline.control import ProcessRecord, RunPlan
from relion_py.pipeline.graph import Status
from relion_py.pipeline.lock import process_start_time, this_process

_POLL = 0.1


def main(argv: list[str] | None = None) -> int:
    """Run the plan of the job directory given (relative to the current directory, the project's)."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m relion_py.pipeline.supervise JOB_DIRECTORY", file=sys.stderr)
        return 2
    # A signal for the whole session must not take away the one who reports what happened.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    job = Path(arguments[0])
    try:
        return _supervise(job, control.read_plan(job))
    except Exception as error:
        control.say(job, f"the job could not be supervised: {error!r}.")
        control.tell(job, Status.FAILED)
        raise


def _supervise(job: Path, plan: RunPlan) -> int:
    if control.told_status(job) is not None:
        return 1  # started so late that the job was given up
    me = this_process()
    record = ProcessRecord("running", me.host, me.pid, me.started)
    control.write_record(job, record)
    for index, command in enumerate(plan.commands):
        last = index == len(plan.commands) - 1
        if control.abort_requested(job):
            return _finish(job, Status.ABORTED, "the job was aborted before its next command began.")
        code, failure = _run(job, command, record, last, plan)
        told = control.told_status(job)
        if control.abort_requested(job) and told is not Status.SUCCEEDED:
            return _finish(job, Status.ABORTED)
        if told in (Status.FAILED, Status.ABORTED):
            return 1
        if failure or (code != 0 and not (last and told is Status.SUCCEEDED)):
            return _finish(job, Status.FAILED, failure or _how_it_died(command, code))
        if not last:
            # The first command's success is not yet the job's.
            (job / control.SUCCESS).unlink(missing_ok=True)
    if control.told_status(job) is None:
        sentence = (
            f"{plan.commands[-1][0]} ended without writing {control.SUCCESS} into {job}/, so it is not known "
            "whether it did its work, and the job counts as failed. A script must write that file at its end."
        )
        return _finish(job, Status.FAILED, sentence)
    return 0


def _finish(job: Path, status: Status, sentence: str = "") -> int:
    record = control.read_record(job)
    if record is not None and record.pid != os.getpid():
        return 1  # somebody else runs the job by now; what happened here is no longer its state
    if sentence:
        control.say(job, sentence)
    if control.told_status(job) is not status:
        control.tell(job, status)
    return 0 if status is Status.SUCCEEDED else 1


def _how_it_died(command: tuple[str, ...], code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"{command[0]} was killed by {signal.Signals(-code).name} without a word of its own."
        return f"{command[0]} was killed by signal {-code} without a word of its own."
    return f"{command[0]} ended with exit status {code}."


def _run(job: Path, command: tuple[str, ...], record: ProcessRecord, last: bool, plan: RunPlan) -> tuple[int, str]:
    """Run one command to its end; returns its exit status and, if it could not be started, a sentence."""
    with open(job / control.RUN_OUT, "ab") as out, open(job / control.RUN_ERR, "ab") as err:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "PATH": program_path()},
                process_group=0,
                preexec_fn=_default_signals,
            )
        except FileNotFoundError:
            return (
                127,
                f"the program {command[0]} was not found: install it, or put its directory on the PATH.",
            )
        except PermissionError:
            return 126, f"the program {command[0]} may not be executed: make it executable (chmod +x)."
        except OSError as error:
            return 126, f"the command {display(command)} could not be started: {error.strerror}."
    started = process_start_time(process.pid)
    control.write_record(
        job,
        ProcessRecord("running", record.host, record.pid, record.started, process.pid, started, last),
    )
    return _wait(process, job, plan), ""


def _default_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _wait(process: subprocess.Popen[bytes], job: Path, plan: RunPlan) -> int:
    """Wait for the command; end it by force if it was asked to abort and does not."""
    asked_at: float | None = None
    terminated_at: float | None = None
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL)
        if asked_at is None:
            asked_at = time.monotonic() if control.abort_requested(job) else None
            continue
        now = time.monotonic()
        if terminated_at is None and now - asked_at >= plan.abort_grace:
            terminated_at = now
            control.say(job, "the job did not stop by itself when asked to abort; it was sent SIGTERM.")
            _signal_group(process.pid, signal.SIGTERM)
        elif terminated_at is not None and now - terminated_at >= plan.term_grace:
            control.say(job, "the job did not end on SIGTERM; it was killed.")
            _kill_tree(process.pid)
            terminated_at = now


def _signal_group(leader: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _kill_tree(leader: int) -> None:
    """SIGKILL to the group and to descendants that have left it (MPI launchers make groups of their own)."""
    import psutil

    descendants: list[psutil.Process] = []
    with suppress(psutil.Error):
        descendants = psutil.Process(leader).children(recursive=True)
    _signal_group(leader, signal.SIGKILL)
    for process in descendants:
        with suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
