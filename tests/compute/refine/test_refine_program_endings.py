"""How refinements end before their time: stopped, killed, out of disc; and how they are taken up again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from refine_runs import (
    ABORT_NOW,
    ABORTED,
    FAILURE,
    SUCCESS,
    Run,
    environment,
    refine,
    refined,
    shell_correlation,
    start,
    usual_without,
)

from relion_py.compute.io import star


def long_run(project: Path, name: str, *more: str) -> Run:
    """A run whose first iteration takes minutes, in the middle of it."""
    run = start(project, name, *more, "--healpix_order", "4", "--auto_local_healpix_order", "9",
                usual=usual_without("--healpix_order", "--auto_local_healpix_order"))  # fmt: skip
    run.until(lambda: run.has("run_it000_optimiser.star"))
    time.sleep(4.0)  # into the expectation
    return run


@pytest.mark.req("P6")
@pytest.mark.parametrize("threads", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_an_abort_request_is_obeyed_within_seconds_and_the_scratch_is_removed(threads: str, d2_project: Path) -> None:
    scratch = d2_project / f"scratch_abort{threads}"
    scratch.mkdir()
    run = long_run(d2_project, f"abort{threads}", "--scratch_dir", scratch.name, "--j", threads)
    assert list(scratch.iterdir())
    (run.out / ABORT_NOW).touch()
    assert run.wait(90.0) < 12.0
    assert run.status != 0 and run.exit_files() == [ABORTED]
    assert "Traceback" not in run.stderr
    assert list(scratch.iterdir()) == []


@pytest.mark.req("P6")
def test_a_queue_that_ends_the_job_makes_an_abort_of_it(d2_project: Path) -> None:
    run = long_run(d2_project, "terminated", "--j", "2")
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(90.0) < 20.0
    assert run.status != 0 and run.exit_files() == [ABORTED]


@pytest.mark.req("I6")
def test_a_killed_run_is_taken_up_from_its_last_iteration(serial_run: Run, d2_project: Path) -> None:
    """Whatever it was doing when it was killed, the last optimiser file can be continued from."""
    run = start(d2_project, "killed")
    run.until(lambda: run.has("run_it002_optimiser.star"))
    assert run.process is not None
    run.process.kill()
    run.wait(10.0)
    assert run.exit_files() == []
    last = max(run.out.glob("run_it*_optimiser.star"))
    number = int(last.name[6:9])
    assert number >= 2
    again = refine(
        d2_project,
        "killed",
        "--continue",
        f"killed/{last.name}",
        "--iter",
        str(number + 1),
        "--j",
        "2",
        usual=[],
    )
    assert again.status == 0, again.stderr
    assert again.exit_files() == [SUCCESS]
    name = f"run_ct{number}_it{number + 1:03d}_half1_class001.mrc"
    old = serial_run.out / f"run_it{number + 1:03d}_half1_class001.mrc"
    if old.exists():
        curve = shell_correlation(again.map(name), serial_run.map(old.name))
        assert curve[1:8].min() > 0.97


def test_every_iteration_on_the_disc_is_whole(serial_run: Run) -> None:
    """An optimiser file names files that exist and is the last to appear: each can be continued from."""
    for optimiser in serial_run.out.glob("run*_optimiser.star"):
        table = star.read(optimiser)["optimiser_general"]
        for label in ("rlnModelStarFile", "rlnModelStarFile2", "rlnExperimentalDataStarFile"):
            if label in table:
                path = serial_run.project / table.strings(label)[0]
                assert path.exists()
                assert path.stat().st_mtime_ns <= optimiser.stat().st_mtime_ns
        assert (serial_run.project / table.strings("rlnOrientSamplingStarFile")[0]).exists()
    assert not [p for p in serial_run.out.iterdir() if "tmp" in p.name]


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv[0] = "relion_refine"
runpy.run_module("relion_py.compute.cli.refine", run_name="__main__")
"""


@pytest.mark.req("G3")
def test_a_file_that_cannot_be_written_whole_is_one_sentence_and_leaves_no_half_file(
    d2_project: Path,
) -> None:
    """Maps of 32^3 are 132 kB and may here be 100 kB at most."""
    out = d2_project / "limited"
    out.mkdir()
    words = [*usual_without(), "--o", "limited/run", "--pipeline_control", "limited/"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        cwd=d2_project, capture_output=True, text=True, timeout=60, env=environment(),
    )  # fmt: skip
    run = Run(d2_project, out, done.returncode, done.stdout, done.stderr)
    assert "limited/run_it000" in run.sentence()
    assert not list(out.glob("*_optimiser.star")) and not list(out.glob("*.mrc"))
    assert {p.suffix for p in out.iterdir()} <= {"", ".star"}


@pytest.mark.req("G3")
def test_a_full_disc_is_one_sentence(d2_project: Path, tmp_path: Path) -> None:
    """A file system of 700 kB holds the first files only."""
    disc = d2_project / "small_disc"
    disc.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disc)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        run = refine(d2_project, "small_disc", seconds=90)
        sentence = run.sentence()
        assert "disc" in sentence and "small_disc" in sentence
    finally:
        subprocess.run(["umount", "-l", str(disc)], check=True)


def test_scratch_copies_go_away_after_success_and_failure(d2_project: Path) -> None:
    scratch = d2_project / "scratch_endings"
    scratch.mkdir()
    refined(d2_project, "scratch_success", "--scratch_dir", scratch.name, "--iter", "1")
    assert list(scratch.iterdir()) == []
    out = d2_project / "scratch_failure"
    out.mkdir()
    run = refine(d2_project, "scratch_failure", "--scratch_dir", scratch.name, "--tau", "truth.star")
    assert run.status != 0 and run.exit_files() == [FAILURE]
    assert list(scratch.iterdir()) == []
