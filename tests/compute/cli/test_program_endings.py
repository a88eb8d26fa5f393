"""How programs end, in real processes: exit files, sentences, aborts, progress."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relion_py.compute.cli import program
from relion_py.compute.cli.program import AbortCheck, ProgressBar
from relion_py.compute.errors import Aborted

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"

PROGRAM = """
import errno, sys, time
from relion_py.compute.cli.parser import Flag, parse
from relion_py.compute.cli.program import run
from relion_py.compute.errors import UserError

def main(argv, job):
    args = parse([Flag("--do")], argv, quiet=not job.leads)
    what = args.text("--do")
    if what == "mistake":
        raise UserError("The box is odd; choose an even one.")
    if what == "bug":
        return 1 / 0
    if what == "memory":
        raise MemoryError("12 GB")
    if what == "disc":
        raise OSError(errno.ENOSPC, "No space left on device", "run_it001_data.star")
    if what == "limit":
        import resource
        from relion_py.compute.io.atomic import atomic_write
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        atomic_write("run.mrcs", bytes(2000))
    if what == "network":
        raise OSError(errno.EIO, "Input/output error", "run.mrc")
    if what == "permission":
        raise PermissionError(errno.EACCES, "Permission denied", "run.mrc")
    if what == "work":
        job.comm.barrier()
        job.say("working")
        with job.progress(1000) as bar:
            for done in range(1000):
                time.sleep(0.05)
                bar.update(done)
                job.check_abort()
    if what == "one rank fails":
        if job.comm.rank == job.comm.size - 1:
            raise UserError("The last rank is lost.")
        job.comm.barrier()
    job.say(f"{job.comm.size} ranks")

sys.exit(run(main, parallel=True))
"""


@pytest.fixture
def job(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    directory = tmp_path / "Class2D" / "job001"
    directory.mkdir(parents=True)
    return script, directory


def start(job, do, launcher=()):
    script, directory = job
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "OMPI"))}
    return subprocess.Popen(
        [*launcher, sys.executable, str(script), "--do", do, "--pipeline_control", f"{directory}/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a shell's background jobs, and what they start, ignore the keyboard: these shall not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def exit_files(job):
    return sorted(path.name for path in job[1].iterdir())


@pytest.mark.req("J7")
def test_success(job):
    (job[1] / FAILURE).touch()
    assert finish(start(job, "nothing")) == (0, "1 ranks\n", "")
    assert exit_files(job) == [SUCCESS]


@pytest.mark.req("J7")
@pytest.mark.parametrize(
    ("do", "sentence"),
    [
        ("mistake", "ERROR: The box is odd; choose an even one.\n"),
        ("memory", "ERROR: There is not enough memory (12 GB); "),
        ("disc", "so run_it001_data.star could not be written; make room.\n"),
        ("limit", "`ulimit -f`) is too low, so run.mrcs could not be written; raise it.\n"),
        ("network", "The disc, or the network to it, failed with run.mrc (Input/output error); try again"),
        ("permission", "There is no permission to use run.mrc;"),
    ],
)
def test_failures_of_people_and_machines_are_one_sentence(job, do, sentence):
    (job[1] / SUCCESS).touch()
    code, _, err = finish(start(job, do))
    assert code == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert exit_files(job) == [FAILURE]


def test_our_own_mistakes_show_where(job):
    code, _, err = finish(start(job, "bug"))
    assert code == 1
    assert "ZeroDivisionError" in err
    assert exit_files(job) == [FAILURE]


@pytest.mark.req("J2")
def test_an_abort_request_is_obeyed_within_seconds(job):
    process = start(job, "work")
    assert process.stdout.readline() == "working\n"
    (job[1] / "RELION_JOB_ABORT_NOW").touch()
    asked = time.monotonic()
    code, out, err = finish(process)
    assert time.monotonic() - asked < 5
    assert code == 1
    assert "abort" in out
    assert "asked to stop" in err
    assert exit_files(job) == [ABORTED]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_abort(job, number):
    process = start(job, "work")
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 1
    assert "Traceback" not in err
    assert exit_files(job) == [ABORTED]


def test_a_request_that_came_too_late_does_not_stop_the_next_run(job):
    (job[1] / "RELION_JOB_ABORT_NOW").touch()
    assert finish(start(job, "nothing"))[0] == 0
    assert exit_files(job) == [SUCCESS]


MPIRUN = Path(sys.executable).parent / "mpirun"


@pytest.mark.req("A2")
@pytest.mark.skipif(not MPIRUN.is_file(), reason="the mpich wheel is not installed")
def test_the_same_program_on_ranks(job):
    launcher = (str(MPIRUN), "-n", "3")
    assert finish(start(job, "nothing", launcher)) == (0, "3 ranks\n", "")
    assert exit_files(job) == [SUCCESS]
    started = time.monotonic()
    code, _, err = finish(start(job, "one rank fails", launcher))
    assert time.monotonic() - started < 30
    assert code != 0
    assert "The last rank is lost." in err
    assert exit_files(job) == [FAILURE]


@pytest.mark.req("J2")
@pytest.mark.skipif(not MPIRUN.is_file(), reason="the mpich wheel is not installed")
@pytest.mark.parametrize("how", ["request", "SIGTERM"])
def test_ranks_are_aborted_together(job, how):
    process = start(job, "work", (str(MPIRUN), "-n", "2"))
    assert process.stdout.readline() == "working\n"
    if how == "request":
        (job[1] / "RELION_JOB_ABORT_NOW").touch()
    else:
        process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code != 0
    if how == "request":
        assert "stop" in err
        assert exit_files(job) == [ABORTED]
    else:  # the launcher may kill the ranks before they have said a word
        assert exit_files(job) in ([ABORTED], [])


def test_a_mistake_that_all_ranks_see_is_told_once(job):
    if not MPIRUN.is_file():
        pytest.skip("the mpich wheel is not installed")
    code, _, err = finish(start(job, "mistake", (str(MPIRUN), "-n", "3")))
    assert code != 0
    assert err.count("The box is odd") == 1


def test_no_abort_without_pipeline_control(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RELION_JOB_ABORT_NOW").touch()
    AbortCheck("")()
    with pytest.raises(Aborted):
        AbortCheck(str(tmp_path))()


def test_the_disc_is_asked_at_most_once_a_second(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(program.os.path, "exists", lambda path: bool(asked.append(path)))
    check = AbortCheck(str(tmp_path))
    for _ in range(1000):
        check()
    assert len(asked) <= 2


# --------------------------------------------------------------------------- progress


def draw(monkeypatch, total, steps):
    """The bar's text when (seconds, done) pass."""
    clock = [0.0]
    monkeypatch.setattr(program.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    bar = ProgressBar(total, stream=stream)
    for seconds, done in steps:
        clock[0] = seconds
        bar.update(done)
    return stream.getvalue()


def test_the_bar_reads_as_relions(monkeypatch):
    text = draw(monkeypatch, 100, [(30, 50), (60, 100)])
    first, half, whole = text.split("\r")
    assert first.startswith('000/??? sec ~~(,_,">')
    assert half.startswith(f'  30/  60 sec {"." * 30}~~(,_,">')
    assert half.endswith("[oo]")
    assert whole == f'  60/  60 sec {"." * 60}~~(,_,"> yum!\n'
    assert "0.50/2.00 min" in draw(monkeypatch, 100, [(30, 25)])
    assert "0.50/2.00 hrs" in draw(monkeypatch, 100, [(1800, 25)])


def test_the_bar_does_not_flood_logs(monkeypatch):
    steps = [(number / 10_000, number) for number in range(1, 100_001)]
    assert len(draw(monkeypatch, 100_000, steps)) < 3000
    assert draw(monkeypatch, 10, [(1, 10), (2, 10), (3, 10)]).count("\n") == 1
