"""kill -9 at any moment, with several writers: the project opens, and no finished job is lost."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from relion_py.pipeline import Project, Status

from . import processes
from .conftest import external, until

WRITERS = 3


def work(root: Path, journal: Path, seed: int) -> None:
    """Make, finish, name, delete and bring back jobs for ever; the journal says what is done, or about to."""
    choose = random.Random(seed)
    mine: list[str] = []
    with open(journal, "a", buffering=1) as say:
        project = Project.open(root)
        values = external(project)
        while True:
            name = project.schedule("relion.external", values)
            project.mark(name, Status.SUCCEEDED)
            say.write(f"finished {name}\n")
            mine.append(name)
            other = choose.choice(mine)
            action = choose.randrange(4)
            if action == 0:
                project.set_alias(other, f"alias{choose.randrange(10**9)}")
            elif action == 1:
                say.write(f"deleting {other}\n")
                project.delete(other)
                mine.remove(other)
                say.write(f"deleted {other}\n")
                if choose.random() < 0.7:
                    say.write(f"undeleting {other}\n")
                    project.undelete(other)
                    mine.append(other)
                    say.write(f"undeleted {other}\n")
            elif action == 2:
                project.refresh()


def what_must_be(journals: list[Path]) -> tuple[set[str], set[str]]:
    """Jobs that must be there, and jobs that were on their way to or from the trash when the axe fell."""
    last: dict[str, str] = {}
    for journal in journals:
        text = journal.read_text() if journal.exists() else ""
        for line in text.splitlines():
            word, name = line.split(" ")
            last[name] = word
    there = {name for name, word in last.items() if word in ("finished", "undeleted")}
    return there, {name for name, word in last.items() if word in ("deleting", "undeleting", "deleted")}


def kill_and_check(root: Path, rounds: int, seed: int) -> int:
    """Several writers at a time, each killed after a random while; returns the number of jobs that lived."""
    choose = random.Random(seed)
    journals: list[Path] = []
    longest = 0.08  # seconds; more on a machine where writers need more for their first job
    for turn in range(rounds):
        started = []
        for number in range(WRITERS):
            journal = root.parent / f"journal_{turn}_{number}"
            journals.append(journal)
            started.append(processes.start(work, root, journal, choose.randrange(10**9)))
        until(lambda begun=journals[-WRITERS:]: all(journal.exists() for journal in begun))
        for writer in started:
            time.sleep(choose.uniform(0.0, longest))
            writer.kill()
        for writer in started:
            writer.join()
        project = Project.open(root)
        there, moving = what_must_be(journals)
        missing = there - set(project.graph.processes)
        assert not missing, f"round {turn}: lost {sorted(missing)}"
        assert all(project.graph.processes[name].status == Status.SUCCEEDED for name in there)
        numbers = [process.number for process in project.graph.processes.values()]
        assert len(numbers) == len(set(numbers)), "a number was given twice"
        assert all(number < project.graph.job_counter for number in numbers)
        # The next change finishes what was interrupted.
        began = time.monotonic()
        project.mark(project.schedule("relion.external", external(project)), Status.FAILED)
        longest = max(0.08, 4 * (time.monotonic() - began))
        assert all((root / name / "job.star").is_file() for name in project.graph.processes)
        for name in moving - set(project.graph.processes):
            assert (root / "Trash" / name / "job.star").is_file(), f"{name} is neither here nor in the trash"
    return len(project.graph.processes)


@pytest.mark.req("G5")
def test_killed_writers_lose_nothing(project: Project) -> None:
    """105 kills: 35 rounds of three writers."""
    assert kill_and_check(project.root, rounds=35, seed=1) > 35


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_many_killed_writers_lose_nothing(project: Project) -> None:
    """1,500 kills."""
    assert kill_and_check(project.root, rounds=500, seed=2) > 500
