"""Jobs as real processes: they end well, badly, without a word, by abort; and outlive the window."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from relion_py.jobs.environment import program_path
from relion_py.pipeline import PipelineError, Project, Status, control, runner

from . import processes
from .conftest import GOOD_SCRIPT, external, until, write_script

PYTHON = f"#!{sys.executable}\nimport sys, os, time, signal\nout = sys.argv[sys.argv.index('--o') + 1]\n"

pytestmark = pytest.mark.timeout(60)


def err(project: Project, job: str) -> str:
    """The text of run.err."""
    return project.log_paths(job)[1].read_text()


@pytest.mark.req("X1", "X3", "X4", "X5", "J1", "J7", "G2", "G3")
def test_external_job_from_start_to_end(project: Project) -> None:
    values = external(project, param1_label="threshold", param1_value="0.5")
    job = project.run("relion.external", values)
    assert job == "External/job001/"
    assert project.process(job).status in (Status.RUNNING, Status.SUCCEEDED)
    assert project.wait(job, 20) == Status.SUCCEEDED
    expected = ["--o", job, "--in_mics", "mics.star", "--threshold", "0.5", "--j", "1"]
    assert project.log_paths(job)[0].read_text() == f"arguments: {expected}\n"
    assert [(n.path, n.type) for n in project.outputs(job)] == [
        (job + "picked.star", "MicrographCoordsGroup.star.relion")
    ]
    assert [n.path for n in project.inputs(job)] == ["mics.star"]
    assert "./good.py --o External/job001/ --in_mics mics.star --threshold 0.5 --j 1\n" in project.note(job)
    assert (project.root / ".Nodes/MicrographCoordsGroup" / job / "picked.star").exists()
    backup = project.directory(job) / "default_pipeline.star"
    assert "External/job001/" in backup.read_text()
    assert job + "picked.star" in [n.path for n in project.displayable(job)]
    # A second job that uses the first one's output hangs below it, also after opening again.
    second = project.run("relion.external", {**values, "in_coords": job + "picked.star"})
    assert second == "External/job002/" and project.wait(second, 20) == Status.SUCCEEDED
    assert Project.open(project.root).graph.downstream(job) == [second]


@pytest.mark.req("X4")
def test_output_nodes_with_old_numbers_and_paths_that_leave(run_external, project: Project) -> None:  # type: ignore[no-untyped-def]
    job = run_external(
        PYTHON
        + """
with open(out + "RELION_OUTPUT_NODES.star", "w") as table:
    table.write("data_output_nodes\\nloop_\\n_rlnPipeLineNodeName #1\\n_rlnPipeLineNodeType #2\\n")
    table.write(out + "coords_suffix_topaz.star 2\\n/etc/passwd 3\\n../outside.star 3\\n")
    table.write(out + "../../../up.mrc 6\\n")
open(out + "RELION_JOB_EXIT_SUCCESS", "w")
"""
    )
    assert project.wait(job, 20) == Status.SUCCEEDED
    assert [(n.path, n.type) for n in project.outputs(job)] == [
        (job + "coords_suffix_topaz.star", "MicrographCoordsGroup.star.relion")
    ]
    assert err(project, job).count("leaves the project directory") == 3


@pytest.mark.req("X5")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("sys.exit(3)", "ended with exit status 3"),
        ("sys.exit(0)", "ended without writing RELION_JOB_EXIT_SUCCESS"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.abort()", "was killed by SIGABRT"),
    ],
)
def test_a_script_that_dies_without_a_word_has_failed(run_external, project: Project, script: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    job = run_external(PYTHON + script)
    assert project.wait(job, 20) == Status.FAILED
    assert reason in err(project, job)
    assert (project.directory(job) / "RELION_JOB_EXIT_FAILURE").exists()


@pytest.mark.req("X5")
def test_control_files_of_the_script_are_honoured(run_external, project: Project) -> None:  # type: ignore[no-untyped-def]
    failed = run_external(PYTHON + "open(out + 'RELION_JOB_EXIT_FAILURE', 'w')")
    assert project.wait(failed, 20) == Status.FAILED
    aborted = run_external(PYTHON + "open(out + 'RELION_JOB_EXIT_ABORTED', 'w')")
    assert project.wait(aborted, 20) == Status.ABORTED


def test_programs_that_cannot_be_started(run_external, project: Project) -> None:  # type: ignore[no-untyped-def]
    job = project.run("relion.external", external(project, "no_such_program_anywhere"))
    assert project.wait(job, 20) == Status.FAILED
    assert "no_such_program_anywhere was not found" in err(project, job)
    (project.root / "plain.py").write_text("not executable")
    job = project.run("relion.external", external(project, "./plain.py"))
    assert project.wait(job, 20) == Status.FAILED
    assert "may not be executed" in err(project, job)


@pytest.mark.req("J2", "X5")
def test_abort_is_asked_for_first(run_external, project: Project) -> None:  # type: ignore[no-untyped-def]
    job = run_external(
        PYTHON
        + """
while not os.path.exists(out + "RELION_JOB_ABORT_NOW"):
    time.sleep(0.02)
print("I stop", flush=True)
open(out + "RELION_JOB_EXIT_ABORTED", "w")
"""
    )
    running_record(project, job)
    project.abort(job)
    assert project.wait(job, 20) == Status.ABORTED
    assert project.log_paths(job)[0].read_text() == "I stop\n"
    assert "SIGTERM" not in err(project, job)
    with pytest.raises(PipelineError, match="not running"):
        project.abort(job)


@pytest.mark.req("J2")
@pytest.mark.parametrize("stubborn", [False, True])
def test_abort_escalates(run_external, project: Project, stubborn: bool) -> None:  # type: ignore[no-untyped-def]
    project.abort_grace, project.term_grace = 0.3, 0.5
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    job = run_external(
        PYTHON
        + ignore
        + "child = os.fork()\nopen(out + f'pid{int(child == 0)}', 'w').write(str(os.getpid()))\n"
        + "time.sleep(600)"
    )
    pids = [project.directory(job) / name for name in ("pid0", "pid1")]
    until(lambda: all(path.exists() and path.read_text() for path in pids))
    project.abort(job)
    assert project.wait(job, 20) == Status.ABORTED
    assert "SIGTERM" in err(project, job) and ("was killed" in err(project, job)) == stubborn
    for path in pids:
        until(lambda path=path: not alive(int(path.read_text())))


def alive(pid: int) -> bool:
    """True if a process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def running_record(project: Project, job: str) -> control.ProcessRecord:
    """The record of a job's processes, once its command runs."""
    directory = project.directory(job)
    until(lambda: (record := control.read_record(directory)) and record.child_pid)
    found = control.read_record(directory)
    assert found is not None
    return found


def test_killed_processes_are_noticed(run_external, project: Project) -> None:  # type: ignore[no-untyped-def]
    """Supervisor and program die at once, as when the computer goes down."""
    job = run_external(PYTHON + "time.sleep(600)")
    record = running_record(project, job)
    assert not project.refresh() and project.process(job).status == Status.RUNNING
    os.kill(record.pid, signal.SIGKILL)
    until(lambda: not alive(record.pid))
    project.refresh()
    assert project.process(job).status == Status.RUNNING, "the program itself still runs"
    os.killpg(record.child_pid, signal.SIGKILL)
    assert project.wait(job, 20) == Status.FAILED
    assert "ended without a word" in err(project, job)


def start_a_job_and_die(root: Path, moment: str) -> None:
    """A window that is killed just before, or just after, the supervisor of its job begins."""
    real_start = runner.start

    def start(*arguments: object) -> None:
        if moment == "after":
            real_start(*arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)

    runner.start = start  # type: ignore[assignment]
    project = Project.open(root)
    project.run("relion.external", external(project))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_window_killed_while_it_starts_a_job(project: Project, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed just before the supervisor begins, the job has failed; just after, it runs to its end."""
    if moment == "before":
        monkeypatch.setattr("relion_py.pipeline.status.STARTING_GRACE", 3.0)
    window = processes.start(start_a_job_and_die, project.root, moment)
    window.join()
    assert window.exitcode == -signal.SIGKILL
    project.refresh()
    assert project.wait("External/job001/", 30) == (Status.FAILED if moment == "before" else Status.SUCCEEDED)
    assert ("was never started" in err(project, "External/job001/")) == (moment == "before")


def test_a_supervisor_that_cannot_begin(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window lives on, the supervisor does not: the job is not taken to be starting for ever."""
    monkeypatch.setattr("relion_py.pipeline.status.STARTING_GRACE", 0.3)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    job = project.run("relion.external", external(project))
    assert project.wait(job, 20) == Status.FAILED
    assert "was never started" in err(project, job)


def test_a_job_whose_process_id_is_somebody_elses_now(run_external, project: Project) -> None:  # type: ignore[no-untyped-def]
    job = run_external(PYTHON + "time.sleep(600)")
    record = running_record(project, job)
    os.kill(record.pid, signal.SIGKILL)
    os.killpg(record.child_pid, signal.SIGKILL)
    until(lambda: not alive(record.pid) and not alive(record.child_pid))
    # After a restart of the computer the same ids belong to other programs, which began at another time.
    other = control.ProcessRecord("running", record.host, os.getpid(), 1000.0, os.getppid(), 1000.0, True)
    control.write_record(project.directory(job), other)
    assert project.wait(job, 20) == Status.FAILED


def test_closing_the_window_ends_no_job(project: Project) -> None:
    write_script(project.root / "slow.py", PYTHON + "time.sleep(1.0)\nopen(out + 'RELION_JOB_EXIT_SUCCESS', 'w')")
    window = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time\nfrom relion_py.pipeline import Project\np = Project.open(sys.argv[1])\n"
            "v = p.draft('relion.external'); v.update(fn_exe='./slow.py', in_mic='mics.star')\n"
            "print(p.run('relion.external', v), flush=True); time.sleep(600)",
            str(project.root),
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert window.stdout is not None
    job = window.stdout.readline().strip()
    os.killpg(window.pid, signal.SIGHUP)
    os.killpg(window.pid, signal.SIGKILL)
    window.wait()
    project.refresh()
    assert project.process(job).status == Status.RUNNING
    assert project.wait(job, 20) == Status.SUCCEEDED


def supervised(project: Project, commands: list[list[str]]) -> str:
    """A job with several commands, put together by hand, run by the real supervisor."""
    job = project.schedule("relion.external", external(project))
    directory = project.directory(job)
    control.write_plan(directory, control.RunPlan(tuple(map(tuple, commands))))
    subprocess.run([sys.executable, "-P", "-m", "relion_py.pipeline.supervise", job], cwd=project.root, check=False)
    return job


def test_commands_run_in_order_and_stop_at_the_first_failure(project: Project) -> None:
    say = write_script(
        project.root / "say.py",
        f"#!{sys.executable}\nimport sys\nprint(sys.argv[2])\n"
        "if sys.argv[3] == 'ok': open(sys.argv[1] + 'RELION_JOB_EXIT_SUCCESS', 'w')\n"
        "sys.exit(int(sys.argv[4]))\n",
    )
    job = "External/job001/"
    words = [
        [str(say), job, "one", "ok", "0"],
        [str(say), job, "two", "no", "1"],
        [str(say), job, "three", "ok", "0"],
    ]
    assert supervised(project, words) == job
    directory = project.directory(job)
    assert (directory / "run.out").read_text() == "one\ntwo\n"
    assert control.told_status(directory) == Status.FAILED, "the first command's success is not the job's"
    job = "External/job002/"
    words = [[str(say), job, "one", "ok", "0"], [str(say), job, "two", "ok", "0"]]
    assert supervised(project, words) == job
    assert control.told_status(project.directory(job)) == Status.SUCCEEDED


@pytest.mark.req("G9", "G8")
def test_continue_keeps_the_directory(project: Project) -> None:
    job = project.run("relion.external", external(project))
    project.wait(job, 20)
    assert project.continue_job(job, {**project.job_values(job), "nr_threads": "3"}) == job
    assert project.wait(job, 20) == Status.SUCCEEDED
    assert project.graph.job_counter == 2
    assert project.note(job).count(" ++++ Executing new job on ") == 2
    assert "'--j', '3'" in project.log_paths(job)[0].read_text()
    assert "_rlnJobIsContinue                       1" in (project.directory(job) / "job.star").read_text()


@pytest.mark.req("G13")
def test_overwrite_keeps_number_alias_and_later_jobs(project: Project) -> None:
    first = project.run("relion.external", external(project), alias="picker")
    project.wait(first, 20)
    later = project.run("relion.external", external(project, in_coords=first + "picked.star"))
    project.wait(later, 20)
    (project.directory(first) / "precious").write_text("old")
    write_script(project.root / "other.py", GOOD_SCRIPT.replace('print("arguments:", arguments)', 'print("anew")'))
    assert project.overwrite(first, {**project.job_values(first), "fn_exe": "./other.py"}) == first
    assert project.wait(first, 20) == Status.SUCCEEDED
    assert project.log_paths("External/picker")[0].read_text() == "anew\n"
    assert (project.root / "Trash" / first / "precious").read_text() == "old"
    assert not (project.directory(first) / "precious").exists()
    assert project.graph.job_counter == 3
    with pytest.raises(PipelineError, match="in the project already"):
        project.undelete(first)


def test_what_rests_may_not_be_disturbed(run_external, project: Project) -> None:  # type: ignore[no-untyped-def]
    job = run_external(PYTHON + "time.sleep(600)")
    values = project.job_values(job)
    for action in (
        lambda: project.delete(job),
        lambda: project.continue_job(job, values),
        lambda: project.overwrite(job, values),
        lambda: project.clean(job),
        lambda: project.mark(job, Status.SUCCEEDED),
    ):
        with pytest.raises(PipelineError):
            action()
    project.abort_grace = 0.1
    os.killpg(running_record(project, job).child_pid, signal.SIGKILL)
    project.wait(job, 20)


@pytest.mark.req("J2")
def test_marking_by_hand(project: Project) -> None:
    job = project.schedule("relion.external", external(project))
    project.mark(job, Status.FAILED)
    assert (project.directory(job) / "RELION_JOB_EXIT_FAILURE").exists()
    project.mark(job, Status.SUCCEEDED)
    assert control.told_status(project.directory(job)) == Status.SUCCEEDED
    with pytest.raises(PipelineError, match="can be marked"):
        project.mark(job, "Wonderful")


def test_refused_jobs_leave_no_trace(project: Project) -> None:
    before = sorted(p.name for p in project.root.iterdir())
    with pytest.raises(PipelineError):
        project.run("relion.external", external(project, ""))
    assert sorted(p.name for p in project.root.iterdir() if p.name != ".relion_lock_guard") == [
        name for name in before if name != ".relion_lock_guard"
    ]
    assert project.graph.job_counter == 1 and not project.graph.processes
    with pytest.raises(PipelineError, match="no job type"):
        project.run("relion.unheardof", {})


def test_own_programs_are_found_when_they_are_not_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_path().split(os.pathsep) == [str(tmp_path), own]
    monkeypatch.setenv("PATH", os.pathsep.join([own, str(tmp_path)]))
    assert program_path().split(os.pathsep) == [own, str(tmp_path)]
