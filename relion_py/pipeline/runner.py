"""Starting a job's programs: a detached supervisor on this computer, or a script in the queue."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from relion_py.compute.io.atomic import atomic_write
from relion_py.jobs.environment import program_path
from relion_py.jobs.spec import BuiltJob
from relion_py.pipeline import control, queue
from relion_py.pipeline.control import ProcessRecord, RunPlan
from relion_py.pipeline.lock import this_process

# Child processes that this program started; asked after now and then so that none stays a zombie.
_children: list[subprocess.Popen[bytes]] = []


def wants_queue(values: Mapping[str, str]) -> bool:
    """True if the job is to be submitted to a queue."""
    return values.get("do_queue", "No") == "Yes"


def prepare(
    root: Path,
    job: Path,
    built: BuiltJob,
    values: Mapping[str, str],
    abort_grace: float,
    term_grace: float,
) -> None:
    """Write into the directory `job` what `start` needs; nothing runs yet. Raises PipelineError."""
    me = this_process()
    for name in (control.RUN_OUT, control.RUN_ERR):
        (job / name).touch()
    if wants_queue(values):
        template = queue.read_template(root, values.get("qsubscript", ""))
        text = queue.script(template, built, values)
        atomic_write(job / queue.SCRIPT, text.encode("utf-8", "surrogateescape"))
    else:
        commands = built.local_commands or built.commands
        control.write_plan(job, RunPlan(commands, abort_grace, term_grace))
    state = "submitting" if wants_queue(values) else "starting"
    control.write_record(job, ProcessRecord(state, me.host, me.pid, me.started))


def start(root: Path, built: BuiltJob, values: Mapping[str, str]) -> None:
    """Start what `prepare` wrote down. Raises PipelineError if the queue does not take it."""
    job = root / built.job_name
    me = this_process()
    if wants_queue(values):
        command = values.get("qsub", "")
        number = queue.submit(root, command, built.job_name + queue.SCRIPT)
        control.write_record(
            job,
            ProcessRecord("queued", me.host, 0, 0.0, queue_id=number, queue_command=command),
        )
        return
    reap()
    # -P keeps the project directory off the module path: a file json.py in a project must not be imported.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "relion_py.pipeline.supervise", built.job_name],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
        env=_environment(),
    )
    adopt(process)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": program_path()}


def adopt(child: subprocess.Popen[bytes]) -> None:
    """Remember a child process until it has ended, so that it does not stay a zombie."""
    _children.append(child)


def reap() -> None:
    """Collect the exit status of children that have ended."""
    _children[:] = [child for child in _children if child.poll() is None]
