"""Schemes at work: loops, forks, waits, requests, failures, crashes; jobs are real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relion_py.pipeline import Project
from relion_py.pipeline.errors import LockedProject, PipelineError
from relion_py.pipeline.schemes import (
    Outcome,
    SchemeStore,
    abort,
    copy,
    from_jobs,
    reset,
    scheduled_jobs,
    scheme_file,
    start_in_background,
)
from relion_py.pipeline.schemes.model import Scheme
from relion_py.pipeline.schemes.operators import make
from relion_py.pipeline.schemes.runner import send_mail

from ..conftest import until
from .conftest import runner_for, runs, script_job


@pytest.fixture
def loop(project: Project) -> SchemeStore:
    """first (continue) -> second (new) -> n += 1 -> back to first until n reaches 3 -> EXIT."""
    store = SchemeStore(project.root, "loop")
    script_job(project, store, "first", "continue", param1_label="n", param1_value="$$n")
    script_job(project, store, "second", "new", in_mic="Schemes/loop/first/made.star")
    with store.change() as scheme:
        scheme.set_variable("n", "0")
        scheme.set_variable("last", "3")
        scheme.set_variable("done", "False")
        make(scheme, "float=plus", "n", "1", "n", name="COUNT")
        make(scheme, "bool=ge", "n", "last", "done", name="CHECK")
        make(scheme, "exit", name="EXIT")
        scheme.add_edge("first", "second")
        scheme.add_edge("second", "COUNT")
        scheme.add_edge("COUNT", "CHECK")
        scheme.add_fork("CHECK", "done", "EXIT", "first")
    return store


@pytest.mark.req("S2")
def test_a_loop_runs_to_its_exit(project: Project, loop: SchemeStore) -> None:
    assert runner_for(project, "loop").run() == Outcome.EXITED
    scheme = loop.read()
    assert scheme.floats["n"].value == 3 and scheme.bools["done"].value is True
    ran = runs(project)
    assert len(ran) == 6
    assert ran[0] == ran[2] == ran[4], "mode continue: the same job each time"
    assert len({ran[1], ran[3], ran[5]}) == 3, "mode new: a new job each time"
    assert scheme.jobs["first"].current_name == ran[0]
    assert scheme.jobs["second"].current_name == ran[5]
    words = (project.root / "runs.log").read_text().splitlines()
    assert [line.split("--n ")[1].split()[0] for line in words[::2]] == ["0", "1", "2"], "$$n is the value of then"
    assert all(f"--in_mics {ran[0]}made.star" in line for line in words[1::2]), "Schemes/loop/first/ is the job"
    project.refresh()
    assert [node.path for node in project.inputs(ran[1])] == [ran[0] + "made.star"]
    assert not loop.is_locked()
    assert not list(project.root.glob(".gui_external*")), "schemes leave the drafts of the window alone"


def test_reset_and_run_again(project: Project, loop: SchemeStore) -> None:
    before = loop.read()
    runner_for(project, "loop").run()
    with loop.change() as scheme:
        scheme.set_variable("last", "1", original="1")
    reset(loop)
    again = loop.read()
    assert again.floats["n"].value == 0 and again.floats["last"].value == 1
    assert again.jobs == before.jobs and again.current_node == "first"
    assert runner_for(project, "loop").run() == Outcome.EXITED
    assert len(runs(project)) == 8


def test_steps_stop_where_asked_and_go_on_there(project: Project, loop: SchemeStore) -> None:
    assert runner_for(project, "loop").run(steps=2) == Outcome.STOPPED
    assert loop.read().current_node == "COUNT" and len(runs(project)) == 2
    assert runner_for(project, "loop").run(steps=1) == Outcome.STOPPED
    assert loop.read().floats["n"].value == 1
    assert runner_for(project, "loop").run() == Outcome.EXITED
    assert len(runs(project)) == 6


def test_scheme_without_exit_ends_at_its_last_node(project: Project) -> None:
    store = SchemeStore(project.root, "line")
    script_job(project, store, "a")
    script_job(project, store, "b")
    with store.change() as scheme:
        scheme.add_edge("a", "b")
    assert runner_for(project, "line").run() == Outcome.FINISHED
    assert len(runs(project)) == 2


def test_failed_job_stops_the_scheme_and_is_named(project: Project, loop: SchemeStore) -> None:
    (project.root / "fail").touch()
    with pytest.raises(PipelineError, match=r"loop stops.*External/job001/ \(first\) failed.*run.err"):
        runner_for(project, "loop").run()
    assert not loop.is_locked() and loop.read().current_node == "first"
    (project.root / "fail").unlink()
    assert runner_for(project, "loop").run() == Outcome.EXITED, "mended, it goes on from there"
    assert len(runs(project)) == 7


def test_missing_input_is_named(project: Project, loop: SchemeStore) -> None:
    with loop.change() as scheme:
        scheme.current_node = "second"
    with pytest.raises(PipelineError, match=r"needs Schemes/loop/first/made\.star, which does not exist"):
        runner_for(project, "loop", input_patience=0.3).run()
    assert runs(project) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [("$$gone", "fn_exe.*'gone'"), ("$$done", "done is a bool"), ("a $$", "no name")],
)
def test_variable_that_does_not_fit_is_named(project: Project, loop: SchemeStore, value: str, words: str) -> None:
    script_job(project, loop, "bad", fn_exe=value)
    with loop.change() as scheme:
        scheme.current_node = "bad"
    with pytest.raises(PipelineError, match=words):
        runner_for(project, "loop").run()


# ---- requests ----------------------------------------------------------------------------------------------


def in_thread(runner) -> tuple[threading.Thread, list]:
    results: list = []

    def work() -> None:
        try:
            results.append(runner.run())
        except PipelineError as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, results


def test_abort_ends_the_job_and_the_scheme(project: Project, loop: SchemeStore) -> None:
    (project.root / "slow").write_text("60")
    project.abort_grace, project.term_grace = 0.5, 0.5
    thread, results = in_thread(runner_for(project, "loop"))
    until(lambda: runs(project))
    assert loop.is_locked()
    with pytest.raises(PipelineError, match="running"):
        reset(loop)
    sentence = abort(Project.open(project.root), loop)
    assert "External/job001/" in sentence
    thread.join(30)
    assert results == [Outcome.ABORTED]
    project.refresh()
    assert project.process("External/job001/").status == "Aborted"
    assert not loop.is_locked()


def test_stop_lets_the_job_end(project: Project, loop: SchemeStore) -> None:
    (project.root / "slow").write_text("1")
    thread, results = in_thread(runner_for(project, "loop"))
    until(lambda: runs(project))
    loop.request_stop()
    thread.join(30)
    assert results == [Outcome.STOPPED]
    assert loop.read().current_node == "second"
    project.refresh()
    assert project.process("External/job001/").status == "Succeeded"


def test_variables_and_edges_can_be_edited_while_it_runs(project: Project, loop: SchemeStore) -> None:
    (project.root / "slow").write_text("1")
    thread, results = in_thread(runner_for(project, "loop"))
    until(lambda: runs(project))
    with loop.change() as scheme:
        scheme.set_variable("last", "1")
        scheme.set_variable("added", "hello")
        scheme.edges = [edge for edge in scheme.edges if edge.source != "first"]
        scheme.add_edge("first", "COUNT")
    thread.join(60)
    assert results == [Outcome.EXITED]
    assert len(runs(project)) == 1 and loop.read().strings["added"].value == "hello"


def test_second_runner_is_refused(project: Project, loop: SchemeStore) -> None:
    (project.root / "slow").write_text("1")
    thread, _ = in_thread(runner_for(project, "loop"))
    until(lambda: runs(project))
    with pytest.raises(LockedProject, match=f"running already .process {os.getpid()}"):
        runner_for(Project.open(project.root), "loop").run()
    loop.request_stop()
    thread.join(30)


def test_lock_that_relion_holds_is_respected(project: Project, loop: SchemeStore, monkeypatch) -> None:
    monkeypatch.setattr("relion_py.pipeline.schemes.store._FOREIGN_PATIENCE", 0.3)
    lock = project.root / ".relion_lock_scheme_loop"
    lock.mkdir()
    (lock / "lock_scheme").write_text("lock mechanism from Schemer\n")
    before = loop.file.read_bytes()
    with pytest.raises(LockedProject, match="another program"):
        runner_for(project, "loop").run()
    with pytest.raises(LockedProject), loop.change() as scheme:
        scheme.set_variable("n", "5")
    assert loop.file.read_bytes() == before and (lock / "lock_scheme").exists()


# ---- waits, time, gates, mail --------------------------------------------------------------------------------


def small(project: Project, name: str = "small") -> SchemeStore:
    store = SchemeStore(project.root, name)
    with store.change(create=True) as scheme:
        scheme.set_variable("seconds", "0.6")
        scheme.set_variable("elapsed", "-1")
        scheme.set_variable("hours", "1")
        scheme.set_variable("flag", "False")
        make(scheme, "exit", name="EXIT")
    return store


def test_wait_counts_from_the_last_wait(project: Project) -> None:
    """The first wait only starts the clock; a later one waits for the rest of the time."""
    store = small(project)
    with store.change() as scheme:
        make(scheme, "wait", "seconds", output="elapsed", name="WAIT")
        make(scheme, "wait", "seconds", output="elapsed", name="WAIT2")
        scheme.add_edge("WAIT", "WAIT2")
        scheme.add_edge("WAIT2", "EXIT")
    began = time.monotonic()
    assert runner_for(project, "small").run(steps=1) == Outcome.STOPPED
    assert time.monotonic() - began < 0.5 and store.read().floats["elapsed"].value == -1
    with store.change() as scheme:
        scheme.current_node = "WAIT"
    began = time.monotonic()
    assert runner_for(project, "small").run() == Outcome.EXITED
    assert 0.6 <= time.monotonic() - began < 3
    assert 0 <= store.read().floats["elapsed"].value < 0.6


def test_exit_maxtime(project: Project) -> None:
    """The first time it sets the time of the exit, afterwards it looks whether that has come."""
    store = small(project)
    with store.change() as scheme:
        scheme.set_variable("hours", str(0.5 / 3600))
        scheme.set_variable("turns", "0")
        make(scheme, "exit_maxtime", "hours", name="TIME")
        make(scheme, "wait", "seconds", name="WAIT")
        make(scheme, "float=plus", "turns", "1", "turns", name="COUNT")
        for source, target in (("TIME", "COUNT"), ("COUNT", "WAIT"), ("WAIT", "TIME")):
            scheme.add_edge(source, target)
    assert runner_for(project, "small").run() == Outcome.EXITED
    assert store.read().current_node == "TIME"
    assert store.read().floats["turns"].value == 2, "the first wait is short, the second passes the time"


def test_gate_waits_for_a_person(project: Project) -> None:
    store = small(project)
    with store.change() as scheme:
        scheme.set_variable("question", "Are the classes good?")
        make(scheme, "gate", "question", output="flag", name="ASK")
        scheme.add_edge("ASK", "EXIT")
    thread, results = in_thread(runner_for(project, "small"))
    until(store.gate)
    gate = store.gate()
    assert gate is not None and gate.question == "Are the classes good?"
    with pytest.raises(PipelineError, match="does not wait"):
        store.decide("OTHER", True)
    store.decide("ASK", True)
    thread.join(20)
    assert results == [Outcome.EXITED]
    assert store.read().bools["flag"].value is True and store.gate() is None


def test_email_is_handed_to_mail_without_a_shell(project: Project, tmp_path: Path, monkeypatch) -> None:
    program = tmp_path / "bin" / "mail"
    program.parent.mkdir()
    code = f"#!{sys.executable}\nimport sys, json\n"
    code += f"json.dump([sys.argv[1:], sys.stdin.read()], open({str(tmp_path / 'sent')!r}, 'w'))\n"
    program.write_text(code)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    store = small(project)
    with store.change() as scheme:
        scheme.set_variable("email", "someone@example.org")
        scheme.set_variable("note", '"; touch hacked; $(touch hacked)')
        make(scheme, "email", "note", "seconds", name="MAIL")
        make(scheme, "wait", "seconds", name="WAIT")
        scheme.add_edge("MAIL", "WAIT")
    runner_for(project, "small").run(steps=1)
    words = (tmp_path / "sent").read_text()
    assert "someone@example.org" in words and "touch hacked; $(touch hacked)" in words and "seconds = 0.6" in words
    assert not (project.root / "hacked").exists()
    assert "is not an address" in send_mail("-x evil", "s", "t")


# ---- loops without rest ---------------------------------------------------------------------------------------


def test_endless_loop_is_an_error(project: Project) -> None:
    store = small(project)
    with store.change() as scheme:
        make(scheme, "bool=not", "flag", output="flag", name="A")
        make(scheme, "float=set", "seconds", output="elapsed", name="B")
        scheme.add_edge("A", "B")
        scheme.add_edge("B", "A")
    assert any("A -> B -> A has no wait" in sentence for sentence in store.read().problems())
    with pytest.raises(PipelineError, match="for ever without running a job or waiting"):
        runner_for(project, "small").run()


def test_loop_that_looks_at_files_is_slowed_down(project: Project) -> None:
    store = small(project)
    with store.change() as scheme:
        scheme.set_variable("file", "arrives.star")
        make(scheme, "bool=file_exists", "file", output="flag", name="LOOK")
        make(scheme, "float=set", "seconds", output="elapsed", name="B")
        scheme.add_edge("B", "LOOK")
        scheme.add_fork("LOOK", "flag", "EXIT", "B")
    said: list[str] = []
    thread, results = in_thread(runner_for(project, "small", said, busy_pause=0.2))
    time.sleep(1.5)
    (project.root / "arrives.star").touch()
    thread.join(20)
    assert results == [Outcome.EXITED]
    assert any("Warning: the scheme goes round" in sentence for sentence in said)
    assert len(said) < 60, "it went round too fast"


# ---- crashes ---------------------------------------------------------------------------------------------------


def program(project: Project, *words: str) -> subprocess.Popen[bytes]:
    code = [sys.executable, "-m", "relion_py.pipeline.schemer_cli", "--scheme", "loop", *words]
    return subprocess.Popen(code, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.req("S2")
@pytest.mark.parametrize("job_ends_meanwhile", [True, False])
@pytest.mark.parametrize("killed_in_run", [1, 3])
def test_killed_runner_goes_on_without_running_a_job_twice(
    project: Project, loop: SchemeStore, killed_in_run: int, job_ends_meanwhile: bool
) -> None:
    """Run 1 is a new job, run 3 a continuation of a job that has succeeded before."""
    (project.root / "slow").write_text("0.1")
    runner_for(project, "loop").run(steps=4 if killed_in_run == 3 else 0)
    (project.root / "slow").write_text("2.5")
    runner = program(project, "--run")
    until(lambda: len(runs(project)) == killed_in_run)
    os.kill(runner.pid, signal.SIGKILL)
    runner.communicate()
    assert loop.read().current_node == "first"
    job = runs(project)[-1]
    if job_ends_meanwhile:
        until(lambda: (project.root / job / "RELION_JOB_EXIT_SUCCESS").exists() and not loop.is_locked())
    (project.root / "slow").write_text("0.1")
    again = program(project, "--run")
    output = again.communicate(timeout=60)[0].decode()
    assert again.returncode == 0, output
    assert "Going on with the job" in output
    assert len(runs(project)) == 6, "a job ran twice, or not at all"
    assert loop.read().floats["n"].value == 3


def test_job_that_was_made_but_never_started_is_started(
    project: Project, loop: SchemeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the runner had died between writing the job into the pipeline and starting its process."""
    with monkeypatch.context() as patch:
        patch.setattr(Project, "_start", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            runner_for(project, "loop").run()
    with monkeypatch.context() as patch:  # of this job only: the next one may take its time to start
        patch.setattr("relion_py.pipeline.status.STARTING_GRACE", 0.1)
        time.sleep(0.5)  # three times as long, as the process that made it lives
        project.refresh()
    assert runs(project) == []
    assert runner_for(Project.open(project.root), "loop").run() == Outcome.EXITED
    assert len(runs(project)) == 6


def test_a_job_that_was_left_does_not_count_for_the_next_visit(
    project: Project, loop: SchemeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the runner had died after going on from a job, before that job was forgotten; in a loop without other
    jobs, and with an edge from the job to itself."""

    def killed(following: str) -> None:
        with loop.change() as scheme:
            scheme.edges.clear()
            scheme.add_edge("first", following)
            scheme.add_edge("COUNT", "first")
            scheme.set_current_node("first")
        with monkeypatch.context() as patch:
            patch.setattr(SchemeStore, "set_visit", keep_visit)
            with pytest.raises(KeyboardInterrupt):
                runner_for(project, "loop").run()
        assert loop.visit().node == "first" and loop.read().current_node == following

    set_visit = SchemeStore.set_visit

    def keep_visit(store: SchemeStore, visit: object) -> None:
        if visit is None:
            raise KeyboardInterrupt
        set_visit(store, visit)

    killed("COUNT")
    runner_for(project, "loop").run(steps=0)
    assert loop.visit() is None
    runner_for(project, "loop").run(steps=2)
    assert len(runs(project)) == 2
    killed("first")
    assert len(runs(project)) == 3
    runner_for(project, "loop").run(steps=2)  # goes on from the third, then runs the fourth
    assert len(runs(project)) == 4


def test_an_operator_is_on_disc_together_with_the_node_after_it(
    project: Project, loop: SchemeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a runner that is killed between the two would count twice."""
    states: list[tuple[float, str]] = []
    write = scheme_file.write

    def note(path: Path, scheme: Scheme) -> None:
        states.append((float(scheme.floats["n"].value), scheme.current_node))
        write(path, scheme)

    monkeypatch.setattr(scheme_file, "write", note)
    runner_for(project, "loop").run()
    assert [n for n, node in dict.fromkeys(states) if node == "COUNT"] == [0, 1, 2]
    assert [n for n, node in dict.fromkeys(states) if node == "CHECK"] == [1, 2, 3]


def test_kills_at_any_moment_lose_and_repeat_nothing(project: Project, loop: SchemeStore) -> None:
    for delay in (0.9, 1.2, 1.6, 2.1, 1.4):
        runner = program(project, "--run")
        time.sleep(delay)
        os.kill(runner.pid, signal.SIGKILL)
        runner.communicate()
    last = program(project, "--run")
    output = last.communicate(timeout=90)[0].decode()
    assert last.returncode == 0, output
    assert loop.read().current_node == "EXIT" and loop.read().floats["n"].value == 3
    words = (project.root / "runs.log").read_text().splitlines()
    firsts = [line.split("--n ")[1].split()[0] for line in words if "--n " in line]
    assert firsts == ["0", "1", "2"]
    assert len(words) == 6, words


def test_background_run_survives_its_starter(project: Project, loop: SchemeStore) -> None:
    start_in_background(project.root, "loop")
    until(lambda: loop.read().current_node == "EXIT" and not loop.is_locked())
    assert "Executing External/job001/" in (loop.directory / "run.out").read_text()
    assert (loop.directory / "run.err").read_text() == ""


# ---- making schemes ---------------------------------------------------------------------------------------------


def test_scheme_of_scheduled_jobs(project: Project, loop: SchemeStore) -> None:
    values = {**project.spec("relion.external").defaults(), "fn_exe": "./step.py", "in_mic": "mics.star"}
    one = project.schedule("relion.external", values, alias="start")
    two = project.schedule("relion.external", {**values, "in_mic": one + "made.star"})
    assert scheduled_jobs(project.graph) == [one, two]
    store = from_jobs(project, "made", scheduled_jobs(project.graph))
    scheme = store.read()
    assert set(scheme.jobs) == {"start", "external"} and scheme.current_node == "start"
    assert runner_for(project, "made").run() == Outcome.EXITED
    ran = runs(project)
    assert ran == ["External/job003/", "External/job004/"]
    assert f"--in_mics {ran[0]}made.star" in (project.root / "runs.log").read_text()


def test_scheme_of_jobs_in_a_loop_waits(project: Project, loop: SchemeStore) -> None:
    values = {**project.spec("relion.external").defaults(), "fn_exe": "./step.py", "in_mic": "mics.star"}
    job = project.schedule("relion.external", values)
    scheme = from_jobs(project, "round", [job], loop=True).read()
    assert scheme.problems() == [] and scheme.current_node == "WAIT"
    assert scheme.next_node("external") == "WAIT"


def test_copy_takes_paths_along(example: Callable[[str], SchemeStore]) -> None:
    store = example("proc")
    other = copy(store, "Schemes/second/")
    assert other.read().strings["selected_mics"].value == "Schemes/second/select_mics/micrographs.star"
    assert other.read().strings["ctffind_mics"].value == "Schemes/prep/ctffind/micrographs_ctf.star"
    text = (other.directory / "extract" / "job.star").read_text()
    assert "Schemes/second/autopick/autopick.star" in text and "Schemes/proc/" not in text
    assert other.read().path in other.file.read_text()
    with pytest.raises(PipelineError, match="already"):
        copy(store, "second")
