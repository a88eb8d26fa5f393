"""The project's lock among processes, stale locks, and RELION's own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from relion_py.pipeline import LockedProject, Project, Status, lock
from relion_py.pipeline.lock import LOCK_DIRECTORY, Owner, ProjectLock, this_process

from . import processes
from .conftest import external

pytestmark = pytest.mark.timeout(60)


def test_the_lock_is_relions_directory_and_names_its_owner(tmp_path: Path) -> None:
    with ProjectLock(tmp_path, "testing") as held:
        directory = tmp_path / LOCK_DIRECTORY
        assert (directory / "lock_default_pipeline.star").read_text() == "testing\n"
        owner = Owner.parse((directory / "owner").read_text())
        assert owner is not None and owner.pid == os.getpid() and not owner.is_dead()
        assert held.is_mine()
    assert not (tmp_path / LOCK_DIRECTORY).exists()


def dead_owner() -> Owner:
    """A process of this host that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = lock.process_start_time(ended.pid)
    ended.wait()
    return Owner(this_process().host, ended.pid, started)


def lay_lock(root: Path, **files: str) -> Path:
    """A lock directory as somebody left it."""
    directory = root / LOCK_DIRECTORY
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def test_a_lock_whose_owner_died_is_taken_over_at_once(tmp_path: Path) -> None:
    lay_lock(tmp_path, owner=dead_owner().text(1), **{"lock_default_pipeline.star": "x"})
    began = time.monotonic()
    with ProjectLock(tmp_path):
        assert time.monotonic() - began < 2
    assert list(tmp_path.glob(LOCK_DIRECTORY + "*")) == [tmp_path / lock.GUARD_FILE]


def test_a_process_id_that_was_used_again_is_no_owner(tmp_path: Path) -> None:
    lay_lock(tmp_path, owner=Owner(this_process().host, os.getpid(), 1000.0).text(1))
    with ProjectLock(tmp_path, timeout=5):
        pass


@pytest.mark.parametrize("left", [{}, {"owner": ""}, {"owner": "half a li"}])
def test_a_lock_left_in_the_moment_of_taking_it(
    tmp_path: Path, left: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_EMPTY", 0.2)
    lay_lock(tmp_path, **left)
    with ProjectLock(tmp_path, timeout=5):
        pass


def test_a_living_owner_and_relion_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    for left in (
        {"owner": me.text(7)},
        {"owner": Owner("elsewhere", 1, 5.0).text(1)},
        {"lock_default_pipeline.star": "RELION"},
    ):
        directory = lay_lock(tmp_path, **left)
        with pytest.raises(LockedProject, match="held the lock"), ProjectLock(tmp_path, timeout=0.5):
            pass
        # It is given back while another waits.
        threading.Timer(0.3, lambda d=directory: [*(p.unlink() for p in d.iterdir()), d.rmdir()]).start()
        with ProjectLock(tmp_path, timeout=5):
            pass
    # A lock that RELION forgot is believed for as long as RELION would wait itself, and no longer.
    monkeypatch.setattr(lock, "PATIENCE_FOREIGN", 0.3)
    lay_lock(tmp_path, **{"lock_default_pipeline.star": "RELION"})
    with ProjectLock(tmp_path, timeout=5):
        pass


def no_flock(*_: object) -> None:
    """flock of a file system that has none."""
    raise OSError(95, "Operation not supported")


def count_up(root: Path, times: int, flock: bool) -> None:
    """Add one to the number in a file, under the lock, the slow and careless way."""
    with pytest.MonkeyPatch.context() as patch:
        if not flock:
            patch.setattr(lock.fcntl, "flock", no_flock)
        for _ in range(times):
            with ProjectLock(root):
                value = int((root / "number").read_text())
                time.sleep(0.0005)
                (root / "number").write_text(str(value + 1))


@pytest.mark.parametrize("flock", [True, False])
def test_many_processes_and_threads_take_turns(tmp_path: Path, flock: bool) -> None:
    """Also where the file system has no flock, and the directory does all the work."""
    (tmp_path / "number").write_text("0")
    workers = [processes.start(count_up, tmp_path, 25, flock) for _ in range(4)]
    thread = threading.Thread(target=count_up, args=(tmp_path, 25, flock))
    thread.start()
    thread.join()
    for worker in workers:
        worker.join()
    assert (tmp_path / "number").read_text() == "125"


def schedule_many(root: Path, times: int) -> None:
    """Another window on the same project."""
    project = Project.open(root)
    for _ in range(times):
        project.schedule("relion.external", external(project))


@pytest.mark.req("G5")
def test_no_window_loses_another_ones_jobs(project: Project) -> None:
    windows = [processes.start(schedule_many, project.root, 15) for _ in range(4)]
    for window in windows:
        window.join()
    assert project.refresh()
    assert sorted(p.number for p in project.graph.processes.values()) == list(range(1, 61))
    assert project.graph.job_counter == 61
    assert all(p.status == Status.SCHEDULED for p in project.graph.processes.values())


def test_nothing_is_written_when_the_lock_was_taken_over(project: Project) -> None:
    job = project.schedule("relion.external", external(project))
    before = (project.root / "default_pipeline.star").read_bytes()
    with pytest.raises(Exception, match="took the project's lock"), project.change("slow") as graph:
        graph.set_process(job, status=Status.FAILED)
        (project.root / LOCK_DIRECTORY / "owner").write_text(Owner("other", 1, 1.0).text(1))
    assert (project.root / "default_pipeline.star").read_bytes() == before
    assert project.process(job).status == Status.SCHEDULED
