"""Running scheduled jobs in order, once or repeatedly, with waits (pipeliner.cpp, runScheduledJobs).

While a schedule runs, a file `RUNNING_PIPELINER_<name>` lies in the project; removing it stops the schedule
before its next job. What happens is told in `pipeline_<name>.log`. Motion correction, CTF estimation,
auto-picking, extraction and selection are repeated as continuations: they only do what is new.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from relion_py.pipeline import control, jobstar, node_links, runner
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Status
from relion_py.pipeline.lock import Owner, this_process
from relion_py.pipeline.paths import job_directory

if TYPE_CHECKING:
    from relion_py.pipeline.project import Project

_MARK = "RUNNING_PIPELINER_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_POLL = 0.5
_INPUT_POLL = 5.0
_ONLY_WHAT_IS_NEW = (
    "relion.motioncorr",
    "relion.ctffind",
    "relion.autopick",
    "relion.extract",
    "relion.select",
)


@dataclass(frozen=True)
class Plan:
    """A schedule: its name, job names in order, how often, and waits.

    wait_minutes: least time from the start of one repeat to the next. wait_before_minutes: before the first
    job. seconds_after: after each job has ended (for slow discs).
    """

    name: str
    jobs: tuple[str, ...]
    repeat: int = 1
    wait_minutes: float = 0
    wait_before_minutes: float = 0
    seconds_after: float = 10

    def check(self) -> None:
        """Raises PipelineError if it cannot be run."""
        if not _NAME.fullmatch(self.name):
            raise PipelineError(f"{self.name!r} cannot name a schedule; use letters, digits, '_', '-' and '.'.")
        if not self.jobs:
            raise PipelineError("No jobs are given for the schedule; name at least one.")
        if self.repeat < 1:
            raise PipelineError(f"A schedule cannot be repeated {self.repeat} times; give at least 1.")
        if min(self.wait_minutes, self.wait_before_minutes, self.seconds_after) < 0:
            raise PipelineError("The waiting times of a schedule cannot be negative.")


class _Stopped(Exception):
    """The mark of the schedule was removed."""


def run(project: Project, plan: Plan) -> bool:
    """Run a schedule; returns True if all its jobs succeeded. PipelineError if one fails."""
    plan.check()
    mark = _take_mark(project.root, plan.name)
    log = _Log(project.root / f"pipeline_{plan.name}.log")
    log.say(f"Starting a schedule called {plan.name}, {plan.repeat} time(s), of: {', '.join(plan.jobs)}")
    log.say(f"It stops when the file {mark.name} is removed.")
    try:
        _sleep(plan.wait_before_minutes * 60, mark)
        for turn in range(plan.repeat):
            began = time.monotonic()
            log.say(f"Repeat {turn + 1} of {plan.repeat}")
            for name in plan.jobs:
                _run_one(project, name, plan, turn, mark, log)
            if turn + 1 < plan.repeat:
                _sleep(plan.wait_minutes * 60 - (time.monotonic() - began), mark)
        log.say("All jobs have finished.")
        return True
    except _Stopped:
        log.say(f"The file {mark.name} was removed, so the schedule stops.")
        return False
    except PipelineError as error:
        log.say(f"The schedule stops: {error}")
        raise
    finally:
        mark.unlink(missing_ok=True)


def _run_one(project: Project, name: str, plan: Plan, turn: int, mark: Path, log: _Log) -> None:
    project.refresh()
    process = project.process(name)
    while missing := [n.path for n in project.inputs(process.name) if not (project.root / n.path).exists()]:
        log.say(f"{process.name} waits for its input {missing[0]}, which does not exist yet.")
        _sleep(_INPUT_POLL, mark)
        project.refresh()
    _check(mark)
    log.say(f"Executing {process.name}")
    project.run_scheduled_job(process.name)
    while project.process(process.name).status == Status.RUNNING:
        time.sleep(_POLL)
        project.refresh()
        if not mark.exists():
            raise _Stopped
    _sleep(plan.seconds_after, mark)
    ended = project.process(process.name).status
    if ended == Status.ABORTED:
        raise PipelineError(f"{process.name} was aborted.")
    if ended != Status.SUCCEEDED:
        raise PipelineError(f"{process.name} failed; see {process.name}{control.RUN_ERR}.")
    if turn + 1 < plan.repeat:
        _schedule_again(project, process.name)


def _schedule_again(project: Project, name: str) -> None:
    with project.change(f"schedule {name} again") as graph:
        process = graph.processes[name]
        directory = job_directory(project.root, name)
        if any(process.type_label == t or process.type_label.startswith(t + ".") for t in _ONLY_WHAT_IS_NEW):
            saved = jobstar.read(directory)
            jobstar.write(directory / jobstar.JOB_STAR, replace(saved, is_continue=True))
        graph.set_process(name, status=Status.SCHEDULED)
        node_links.touch_outputs(project.root, graph, name)


# ---- the mark --------------------------------------------------------------------------------------------


def _take_mark(root: Path, name: str) -> Path:
    mark = root / (_MARK + name)
    owner = this_process().text(1)
    while True:
        try:
            handle = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            if not _is_dead(mark):
                raise PipelineError(
                    f"A schedule called {name} is running already; give this one another name, or, if it "
                    f"is gone, remove {mark}."
                ) from None
            mark.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as file:
            file.write(owner)
        return mark


def _is_dead(mark: Path) -> bool:
    try:
        owner = Owner.parse(mark.read_text())
    except OSError:
        return True
    return owner is not None and owner.is_dead()


def running(root: Path) -> list[str]:
    """The names of the schedules that run in a project."""
    marks = [mark for mark in sorted(root.glob(_MARK + "*")) if not _is_dead(mark)]
    return [mark.name.removeprefix(_MARK) for mark in marks]


def stop(root: Path, name: str) -> None:
    """Remove the mark of a schedule. Raises PipelineError if there is none of that name."""
    if not _NAME.fullmatch(name) or not (root / (_MARK + name)).exists():
        raise PipelineError(f"No schedule called {name!r} is running.")
    (root / (_MARK + name)).unlink(missing_ok=True)


def start_in_background(root: Path, plan: Plan) -> None:
    """Run a schedule in a process of its own, which does not end with this program."""
    plan.check()
    if plan.name in running(root):
        raise PipelineError(f"A schedule called {plan.name} is running already; give this one another name.")
    command = [
        *(sys.executable, "-P", "-m", "relion_py.pipeline.cli", "--schedule", plan.name),
        *("--repeat", str(plan.repeat), "--min_wait", f"{plan.wait_minutes:g}"),
        *(
            "--min_wait_before",
            f"{plan.wait_before_minutes:g}",
            "--sec_wait_after",
            f"{plan.seconds_after:g}",
        ),
        *("--RunJobs", " ".join(plan.jobs)),
    ]
    with open(root / f"pipeline_{plan.name}.log", "ab") as log:
        child = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    runner.adopt(child)


def _check(mark: Path) -> None:
    if not mark.exists():
        raise _Stopped


def _sleep(seconds: float, mark: Path) -> None:
    """Sleep, but not on after the mark is gone."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _check(mark)
        time.sleep(min(left, _POLL))


class _Log:
    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, sentence: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f" + {time.ctime()} {sentence}\n")
