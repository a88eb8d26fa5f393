"""How long a large project takes to open and to change, beside ccpem-pipeliner where it is installed.

    python benchmarks/pipeline_scale.py [JOBS]        (2000 jobs with three nodes each, unless told otherwise)

CCPEM_PYTHON names a Python that has ccpem-pipeliner, if it is not this one.

Prints a table. Each change is timed to the moment when it is on the disc (fsync and rename done).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from relion_py.pipeline import Graph, Node, Process, Project, Status, pipeline_file

_CCPEM = """
import os, sys, time
began = time.perf_counter()
from pipeliner.project_graph import ProjectGraph
imported = time.perf_counter()
os.chdir(sys.argv[1])
with ProjectGraph(read_only=True) as graph:
    count = len(graph.process_list)
print(imported - began, time.perf_counter() - imported, count)
"""


def make_project(root: Path, jobs: int) -> None:
    """A chain-like project: each job makes three nodes and uses two of earlier jobs."""
    graph = Graph()
    for number in range(1, jobs + 1):
        kind, label = [
            ("Extract", "relion.extract"),
            ("Class2D", "relion.class2d"),
            ("External", "relion.external"),
        ][number % 3]
        name = f"{kind}/job{number:03d}/"
        graph.add_process(Process(name, "", label, Status.SUCCEEDED))
        for file in ("particles.star", "run_optimiser.star", "logfile.pdf"):
            graph.add_node(Node(name + file, "ParticleGroupMetadata.star.relion"))
            graph.add_output(name, name + file)
        earlier = list(graph.processes)[-4:-1]
        for other in earlier[:2]:
            graph.add_input(other + "particles.star", name)
        (root / name).mkdir(parents=True)
    graph.set_job_counter(jobs + 1)
    pipeline_file.write(root / pipeline_file.PIPELINE_FILE, graph)


def best(action, times: int = 5) -> float:  # type: ignore[no-untyped-def]
    """The shortest of several durations, s."""
    durations = []
    for turn in range(times):
        began = time.perf_counter()
        action(turn)
        durations.append(time.perf_counter() - began)
    return min(durations)


def import_seconds() -> float:
    """Time that `import relion_py.pipeline` takes in a new interpreter, s."""
    code = "import time; t = time.perf_counter(); import relion_py.pipeline; print(time.perf_counter() - t)"
    return min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))


def measure(root: Path, jobs: int) -> list[tuple[str, float]]:
    """(what, seconds) for this package."""
    script = root / "done.sh"
    script.write_text('#!/bin/sh\ntouch "$2RELION_JOB_EXIT_SUCCESS"\n')
    script.chmod(0o755)
    project = Project.open(root)
    values = {
        **project.draft("relion.external"),
        "fn_exe": "./done.sh",
        "in_mic": "Extract/job003/particles.star",
    }
    name = f"Extract/job{3 * (jobs // 6):03d}/"
    rows = [
        ("import", import_seconds()),
        ("open", best(lambda _: Project.open(root))),
        ("refresh, nothing new", best(lambda _: project.refresh())),
        ("mark a job", best(lambda turn: project.mark(name, ["Failed", "Succeeded"][turn % 2]))),
        ("set an alias", best(lambda turn: project.set_alias(name, f"alias{turn}"))),
        ("schedule a job", best(lambda _: project.schedule("relion.external", values))),
        ("delete a job", best(lambda turn: project.delete(f"Extract/job{6 + 3 * turn:03d}/"))),
        ("undelete a job", best(lambda turn: project.undelete(f"Extract/job{6 + 3 * turn:03d}/"))),
    ]
    return rows


def measure_ccpem(root: Path) -> list[tuple[str, float]]:
    """(what, seconds) for ccpem-pipeliner; empty if it is not installed."""
    answer = subprocess.run(
        [os.environ.get("CCPEM_PYTHON", sys.executable), "-c", _CCPEM, str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        return []
    imported, opened, _ = answer.stdout.split()[-3:]
    return [("import", float(imported)), ("open", float(opened))]


def main() -> None:
    """Make the project, measure, print."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make_project(root, jobs)
        other = dict(measure_ccpem(root))
        own = measure(root, jobs)
    print(f"{jobs} jobs, {3 * jobs} nodes                relion_py    ccpem-pipeliner")
    for what, seconds in own:
        theirs = f"{other[what] * 1000:12.0f} ms" if what in other else "              -"
        print(f"{what:32} {seconds * 1000:10.1f} ms {theirs}")


if __name__ == "__main__":
    main()
