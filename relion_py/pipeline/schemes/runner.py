"""Running a scheme: from its current node through operators and jobs until an exit, an end, a stop or a failure.

Source: schemer.cpp, Scheme::run. Different from there: what was reached is on disc after every node, with the job
that runs for it, so that a run that was killed goes on where it was and no finished job runs twice; variables and
edges may be edited while it runs; loops without rest are noticed; a person can be asked (operator `gate`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from relion_py.pipeline import control, jobstar, status
from relion_py.pipeline.errors import PipelineError
from relion_py.pipeline.graph import Status
from relion_py.pipeline.paths import job_directory
from relion_py.pipeline.schemes import operators
from relion_py.pipeline.schemes.model import CONTINUE, NEW, UNDEFINED, Operator, Scheme, value_text
from relion_py.pipeline.schemes.store import Gate, SchemeStore, Visit
from relion_py.pipeline.schemes.substitution import prepare_job

if TYPE_CHECKING:
    from relion_py.pipeline.project import Project

# Operators in a row, without a job or a wait between: beyond this the scheme only counts.
_MOST_OPERATORS = 100_000
_ADDRESS = re.compile(r"[^\s@\-][^\s@]*@[^\s@]+|[A-Za-z0-9_.]+")


class Outcome(StrEnum):
    """How a run ended, if no job failed."""

    EXITED = "exited"  # an exit operator, or the time was up
    FINISHED = "finished"  # no edge leads on
    STOPPED = "stopped"  # a person asked it to stop, or the steps that were asked for are done
    ABORTED = "aborted"  # a person asked it to abort


class _Interrupted(Exception):
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


@dataclass
class _Rest:
    """What happened since a job ran or an operator waited: to notice a loop without rest."""

    seen: set[tuple[object, ...]] = field(default_factory=set)
    steps: int = 0
    looks_outside: bool = False
    warned: bool = False

    def clear(self) -> None:
        self.seen.clear()
        self.steps, self.looks_outside = 0, False


class SchemeRunner:
    """Runs one scheme of a project.

    say: is told, in sentences, what happens; verbosity 0 to 3 as in RELION. allow_outside: the person agreed that
    file operators may leave the project where the scheme says so. poll: seconds between looks at jobs and
    requests. input_patience: for how long (s) a job waits for its input files. busy_pause: seconds for each round
    of a loop that neither runs a job nor waits.
    """

    def __init__(
        self,
        project: Project,
        name: str,
        say: Callable[[str], None] = print,
        verbosity: int = 1,
        allow_outside: bool = False,
        poll: float = 0.5,
        input_patience: float = 50.0,
        busy_pause: float = 10.0,
    ) -> None:
        self.project = project
        self.store = SchemeStore(project.root, name)
        self.say = say
        self.verbosity = verbosity
        self.poll = poll
        self.input_patience = input_patience
        self.busy_pause = busy_pause
        self._context = operators.Context(project.root, self._tell, allow_outside)
        self._last_wait: float | None = None
        self._exit_time: float | None = None
        self._rest = _Rest()

    def run(self, steps: int | None = None) -> Outcome:
        """Run from the current node on, at most `steps` nodes. PipelineError if a job or an operator fails."""
        with self.store.running():
            self.store.clear_requests()
            try:
                return self._run(steps)
            except _Interrupted as interruption:
                self._tell(f"The scheme {self.store.name} was {interruption.outcome}.")
                return interruption.outcome
            except PipelineError as error:
                self._mail(str(error))
                raise
            finally:
                self.store.set_gate(None)

    def _run(self, steps: int | None) -> Outcome:
        scheme = self.store.read()
        if scheme.current_node == UNDEFINED:
            raise PipelineError(f"The scheme {scheme.name} has no edges yet, so there is nothing to run.")
        for sentence in scheme.problems():
            self._tell(f"Warning: {sentence}")
        visit = self.store.visit()
        if visit is not None and visit.node != scheme.current_node:
            self.store.set_visit(None)  # a run was killed between going on and forgetting this
        self._tell(f"Starting the scheme {scheme.name} at {scheme.current_node}")
        done = 0
        while steps is None or done < steps:
            self._check()
            scheme = self.store.read()
            node = scheme.current_node
            if node in scheme.operators:
                following = self._run_operator(scheme, node)
                if following is None:
                    self._mail("Finished successfully!")
                    return Outcome.EXITED
            elif node in scheme.jobs:
                self._run_job(node)
                following = self._advance(node)
            else:
                raise PipelineError(f"The scheme {scheme.name} stops: it has no operator or job called {node!r}.")
            done += 1
            if following == UNDEFINED:
                self._tell(f"The scheme {scheme.name} is at its end: no edge leaves {node}.")
                self._mail("Finished successfully!")
                return Outcome.FINISHED
        return Outcome.STOPPED

    def _advance(self, node: str, act: Callable[[Scheme], None] = lambda scheme: None) -> str:
        """Go to the next node; act: what is done to the scheme before, and is on disc only together with that."""
        with self.store.change() as scheme:
            act(scheme)
            if scheme.current_node != node:  # a person went elsewhere meanwhile
                following = scheme.current_node
            else:
                following = scheme.advance()
        self.store.set_visit(None)
        if self.verbosity > 1:
            self._tell(f"Next node: {following}")
        return following

    # ---- operators -----------------------------------------------------------------------------------

    def _run_operator(self, scheme: Scheme, node: str) -> str | None:
        """Execute an operator and go on; the next node, or None if the scheme exits there.

        What it did to a variable must not be on disc before the next node is: a run that was killed between the two
        would do it again.
        """
        op = scheme.operators[node]
        if op.type in operators.DONE_BY_RUNNER:
            wrong = operators.problem(scheme, op)
            if wrong:
                raise PipelineError(f"The operator {node} of the scheme {scheme.name} cannot work: {wrong}")
            if op.type in ("wait", "gate"):
                self._rest.clear()
            else:
                self._notice_busy_loop(scheme, node, op)
            return self._advance(node) if self._run_slow_operator(scheme, node, op) else None
        self._notice_busy_loop(scheme, node, op)

        def perform(fresh: Scheme) -> None:
            if node not in fresh.operators:
                raise PipelineError(f"The operator {node} was taken out of the scheme {fresh.name} while it ran.")
            operators.perform(fresh, node, self._context)
            variable = fresh.variable(op.output)
            if variable is not None:
                self._tell(f"{node}: {op.output} -> {variable.text}")

        return self._advance(node, perform)

    def _run_slow_operator(self, scheme: Scheme, node: str, op: Operator) -> bool:
        """One that waits, asks or tells, which can be done again; False if the scheme exits there."""
        if op.type == "exit":
            self._tell("The scheme has reached an exit point.")
            return False
        if op.type == "exit_maxtime":
            return not self._time_is_up(float(scheme.floats[op.input1].value))
        if op.type == "wait":
            self._wait(scheme, op)
        elif op.type == "gate":
            self._ask(scheme, node, op)
        else:
            self._mail(_mail_text(scheme, op), must=True)
        return True

    def _wait(self, scheme: Scheme, op: Operator) -> None:
        """Wait until so many seconds have passed since the last wait; the first one only starts the clock."""
        now = time.monotonic()
        if self._last_wait is not None:
            elapsed = now - self._last_wait
            if op.output in scheme.floats:
                with self.store.change() as fresh:
                    if op.output in fresh.floats:
                        fresh.floats[op.output].value = elapsed
            seconds = float(scheme.floats[op.input1].value)
            if elapsed < seconds:
                self._tell(f"Waiting for {seconds - elapsed:.0f} seconds ...")
                self._sleep(seconds - elapsed)
            else:
                self._tell(f"Not waiting, as more than {seconds:g} seconds have passed.")
        self._last_wait = time.monotonic()

    def _time_is_up(self, hours: float) -> bool:
        now = time.time()
        if self._exit_time is None:
            self._exit_time = now + hours * 3600
            self._tell(f"The scheme will exit after {time.ctime(self._exit_time)}.")
            return False
        if now < self._exit_time:
            return False
        self._tell("The scheme has reached its exit time.")
        return True

    def _ask(self, scheme: Scheme, node: str, op: Operator) -> None:
        """Wait until a person has decided."""
        question = scheme.strings[op.input1].text if op.input1 in scheme.strings else node
        self.store.set_gate(Gate(node, question))
        self._tell(f"Waiting at {node} for a decision: {question}")
        while True:
            gate = self.store.gate()
            if gate is not None and gate.node == node and gate.answer is not None:
                break
            self._sleep(self.poll)
        with self.store.change() as fresh:
            fresh.bools[op.output].value = gate.answer
        self.store.set_gate(None)
        self._tell(f"{node}: {op.output} -> {value_text(gate.answer)}")

    def _notice_busy_loop(self, scheme: Scheme, node: str, op: Operator) -> None:
        """If nothing has changed since this node was here last, with no job or wait between, the scheme turns round.

        Such a loop ends only if it looks at files or the clock: then it is slowed down, else it is an error.
        """
        rest = self._rest
        state = (node, *((name, variable.value) for _, name, variable in scheme.variables()))
        rest.looks_outside |= op.type in operators.LOOKS_OUTSIDE
        rest.steps += 1
        if state not in rest.seen and rest.steps < _MOST_OPERATORS:
            rest.seen.add(state)
            return
        if not rest.looks_outside or rest.steps >= _MOST_OPERATORS:
            raise PipelineError(
                f"The scheme {scheme.name} goes round through {node} for ever without running a job or waiting; "
                "change its edges, or add a wait operator."
            )
        if not rest.warned:
            self._tell(
                f"Warning: the scheme goes round through {node} without running a job or waiting, so each round "
                f"now takes {self.busy_pause:g} s more; add a wait operator."
            )
            rest.warned = True
        self._sleep(self.busy_pause)
        rest.clear()

    # ---- jobs ----------------------------------------------------------------------------------------

    def _run_job(self, node: str) -> None:
        self._rest.clear()
        under_way = self._job_under_way(node)
        name = under_way or self._start_job(node)
        ended = self._wait_for(name)
        if under_way and ended == Status.FAILED and self._never_began(name):
            self._tell(f"{name} was made, but never started, when the run before this one ended")
            self.store.set_visit(None)
            name = self._start_job(node)
            ended = self._wait_for(name)
        if ended == Status.SUCCEEDED:
            return
        self.store.set_visit(None)
        if ended == Status.ABORTED:
            raise PipelineError(f"The scheme {self.store.name} stops, because its job {name} ({node}) was aborted.")
        raise PipelineError(
            f"The scheme {self.store.name} stops, because its job {name} ({node}) failed; see {name}{control.RUN_ERR}."
        )

    def _job_under_way(self, node: str) -> str:
        """The job that a run before this one started for this node; "" if there is none to go on with."""
        visit = self.store.visit()
        if visit is None or visit.node != node:
            return ""
        self.project.refresh()
        process = self.project.graph.processes.get(visit.job)
        if process is None or (
            process.status == Status.SUCCEEDED and visit.success and self._success_time(visit.job) == visit.success
        ):
            return ""  # gone, or its continuation never began
        if process.status == Status.SCHEDULED:
            self._begin_new(node, visit.job)
        self._tell(f"Going on with the job {visit.job} of {node}, which is {process.status.lower()}")
        return visit.job

    def _never_began(self, name: str) -> bool:
        record = control.read_record(job_directory(self.project.root, name))
        return record is not None and record.state in ("starting", "submitting")

    def _start_job(self, node: str) -> str:
        scheme = self.store.read()
        job = scheme.jobs[node]
        if job.mode not in (NEW, CONTINUE):
            raise PipelineError(f"The mode of {node} must be new or continue, not {job.mode!r}.")
        saved = jobstar.read(self.store.job_directory(node))
        values = prepare_job(self.project.root, scheme, node, saved, self.project.spec(saved.type_label))
        if job.mode == CONTINUE and job.has_started:
            return self._continue(node, job.current_name, values)
        name = self.project.schedule(saved.type_label, values, keep_draft=False)
        self.store.set_visit(Visit(node, name))
        with self.store.change() as fresh:
            fresh.jobs[node].current_name = name
        self._tell(f"Creating the new job {name} from the node {node}")
        self._begin_new(node, name)
        return name

    def _begin_new(self, node: str, name: str) -> None:
        self._wait_for_inputs(name)
        self._tell(f"Executing {name} at {time.ctime()}")
        with self.store.change() as fresh:
            fresh.jobs[node].has_started = True
        self.project.run_scheduled_job(name)

    def _continue(self, node: str, name: str, values: dict[str, str]) -> str:
        self.project.refresh()
        if name not in self.project.graph.processes:
            raise PipelineError(
                f"The job {name} of the node {node} is not in the project any more; reset the scheme "
                f"{self.store.name}, or say that the node has not started."
            )
        if self.project.process(name).status == Status.RUNNING:
            self._wait_for(name)  # somebody else runs it
        while status.still_ending(job_directory(self.project.root, name)):
            self._sleep(self.poll)
        self.store.set_visit(Visit(node, name, self._success_time(name)))
        self._wait_for_inputs(name)
        self._tell(f"Continuing {name} at {time.ctime()}")
        self.project.continue_job(name, values)
        return name

    def _success_time(self, name: str) -> int:
        try:
            return (job_directory(self.project.root, name) / control.SUCCESS).stat().st_mtime_ns
        except OSError:
            return 0

    def _wait_for_inputs(self, name: str) -> None:
        deadline = time.monotonic() + self.input_patience
        told = False
        while missing := [n.path for n in self.project.inputs(name) if not (self.project.root / n.path).exists()]:
            if time.monotonic() > deadline:
                raise PipelineError(
                    f"The scheme {self.store.name} stops, because {name} needs {missing[0]}, which does not exist."
                )
            if not told:
                self._tell(f"{name} waits for its input {missing[0]}, which does not exist yet")
                told = True
            self._sleep(self.poll)
            self.project.refresh()

    def _wait_for(self, name: str) -> str:
        """Wait until a job has ended; its status. An abort of the scheme aborts the job."""
        aborting = False
        while True:
            self.project.refresh()
            found = self.project.process(name).status
            if found != Status.RUNNING:
                if aborting or (found == Status.ABORTED and self.store.abort_requested()):
                    if found != Status.SUCCEEDED:
                        self.store.set_visit(None)
                    raise _Interrupted(Outcome.ABORTED)
                return found
            if not aborting and self.store.abort_requested():
                self._tell(f"Aborting {name}")
                with suppress(PipelineError):  # it may just have ended
                    self.project.abort(name)
                aborting = True
            time.sleep(self.poll)

    # ---- requests, words, mail -----------------------------------------------------------------------

    def _check(self) -> None:
        if self.store.abort_requested():
            raise _Interrupted(Outcome.ABORTED)
        if self.store.stop_requested():
            raise _Interrupted(Outcome.STOPPED)

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not on after a request to abort or stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, self.poll))
        self._check()

    def _tell(self, sentence: str) -> None:
        if self.verbosity > 0:
            self.say(f" + {sentence}")

    def _mail(self, text: str, must: bool = False) -> None:
        """Mail to the scheme's string variable `email`, if it has one. A mail that fails stops nothing."""
        try:
            address = self.store.read().strings.get("email")
        except PipelineError:
            return
        if address is None or address.text in ("", UNDEFINED):
            if must:
                self._tell("No mail is sent, because the scheme has no string variable called email.")
            return
        problem = send_mail(address.text, f"Scheme: {self.store.name}", text)
        self._tell(f"The mail was not sent: {problem}" if problem else f"Sent mail to {address.text}.")


def _mail_text(scheme: Scheme, op: Operator) -> str:
    lines = [time.ctime(), ""]
    for part, name in (("input1", op.input1), ("input2", op.input2)):
        variable = scheme.variable(name)
        if variable is not None:
            lines.append(f"{part}: {name} = {variable.text}")
    return "\n".join(lines) + "\n"


def send_mail(address: str, subject: str, text: str) -> str:
    """Hand a mail to the program `mail`; returns why that did not work, "" if it did."""
    if not _ADDRESS.fullmatch(address):
        return f"{address!r} is not an address."
    program = shutil.which("mail")
    if program is None:
        return "there is no program called mail on this computer."
    try:
        done = subprocess.run(
            [program, "-s", subject, "-r", "RELION", address], input=text.encode(), capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{Path(program).name} did not work ({error})."
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip() or "mail failed."
