"""The refinement program under mpirun: any number of ranks makes the same map; a lost rank ends them all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from refine_runs import (
    ABORT_NOW,
    ABORTED,
    FAILURE,
    SUCCESS,
    Run,
    needs_mpirun,
    refine,
    refined,
    shell_correlation,
    start,
    usual_without,
)

from relion_py.compute.io import star

pytestmark = needs_mpirun


@pytest.mark.req("A2")
def test_two_ranks_converge_to_the_map_of_one(serial_run: Run, d2_project: Path) -> None:
    run = refined(d2_project, "two_ranks", ranks=2)
    assert shell_correlation(run.map(), serial_run.map())[1:].min() > 0.99
    halves = [star.read(r.out / "run_data.star")["particles"].ints("rlnRandomSubset") for r in (run, serial_run)]
    np.testing.assert_array_equal(*halves)
    # each line is told once, not once a rank
    assert run.stdout.count("Refinement has converged, stopping now") == 1
    assert run.stdout.count("Auto-refine: Iteration= 1\n") == 1


WAYS = {
    "three ranks": (3, ""),
    "three ranks of two threads": (3, "--j 2"),
    "five ranks": (5, ""),
    "sums by way of the disc": (3, "via disc"),
    "the first rank reads for all": (3, "--no_parallel_disc_io"),
    "images in memory": (2, "--preread_images"),
    "a copy on scratch": (2, "--scratch_dir scratch_of_ranks"),
}


SLOW = ("three ranks of two threads", "five ranks", "images in memory")


@pytest.mark.req("A2")
@pytest.mark.req("I1")
@pytest.mark.req("I5")
@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[pytest.mark.slow] if way in SLOW else []) for way in WAYS],
)
def test_no_way_of_sharing_the_work_changes_the_map(way: str, serial_run: Run, d2_project: Path) -> None:
    ranks, words = WAYS[way]
    (d2_project / "scratch_of_ranks").mkdir(exist_ok=True)
    usual = usual_without("--dont_combine_weights_via_disc") if words == "via disc" else usual_without()
    more = [] if words == "via disc" else words.split()
    run = refined(d2_project, way.replace(" ", "_"), "--iter", "2", *more, ranks=ranks, usual=usual)
    for half in (1, 2):
        name = f"run_it002_half{half}_class001.mrc"
        np.testing.assert_allclose(run.map(name), serial_run.map(name), atol=1e-4 * serial_run.map(name).max())
    left = {p.name for p in run.out.iterdir()} - {SUCCESS}
    assert all(name.startswith("run_it00") and name.endswith((".star", ".mrc", ".bild")) for name in left), left
    assert list((d2_project / "scratch_of_ranks").iterdir()) == []


def long_run(project: Path, name: str, *more: str, ranks: int) -> Run:
    """A run whose first iteration takes minutes, in the middle of it."""
    run = start(project, name, *more, "--healpix_order", "4", "--auto_local_healpix_order", "9", ranks=ranks,
                usual=usual_without("--healpix_order", "--auto_local_healpix_order"))  # fmt: skip
    run.until(lambda: run.has("run_it000_optimiser.star"))
    time.sleep(2.0)  # into the expectation
    return run


def worker_processes(run: Run) -> list[psutil.Process]:
    assert run.process is not None
    family = psutil.Process(run.process.pid).children(recursive=True)
    return [p for p in family if "relion_py.compute.cli.refine" in p.cmdline() and "-n" not in p.cmdline()]


@pytest.mark.req("A2")
def test_a_rank_that_is_killed_takes_all_down_within_seconds(d2_project: Path) -> None:
    run = long_run(d2_project, "killed_rank", ranks=3)
    workers = worker_processes(run)
    assert len(workers) == 3
    os.kill(workers[-1].pid, signal.SIGKILL)
    assert run.wait(30.0) < 10.0
    assert run.status != 0
    assert SUCCESS not in run.exit_files()
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in workers)


@pytest.mark.req("P6")
def test_an_abort_request_ends_all_ranks_and_removes_the_scratch_copies(d2_project: Path) -> None:
    (d2_project / "scratch_aborted").mkdir()
    run = long_run(d2_project, "aborted_ranks", "--scratch_dir", "scratch_aborted", ranks=2)
    assert list((d2_project / "scratch_aborted").iterdir())
    (run.out / ABORT_NOW).touch()
    assert run.wait(60.0) < 15.0
    assert run.status != 0 and run.exit_files() == [ABORTED]
    assert list((d2_project / "scratch_aborted").iterdir()) == []


def test_a_mistake_is_told_once_by_all_ranks_together(d2_project: Path) -> None:
    run = refine(d2_project, "mistake_of_ranks", "--sym", "Q9", ranks=2, usual=usual_without("--sym"), seconds=60)
    assert run.status != 0 and run.exit_files() == [FAILURE]
    assert run.stderr.count("Q9") == 1 and "Traceback" not in run.stderr
