"""Projects for the pipeline's tests, with real scripts as jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relion_py.pipeline import Project

# A well-behaved External program: says what it was given, makes a file, lists it, tells success.
GOOD_SCRIPT = f"""#!{sys.executable}
import sys
arguments = sys.argv[1:]
out = arguments[arguments.index("--o") + 1]
print("arguments:", arguments)
open(out + "picked.star", "w").write("data_\\n")
with open(out + "RELION_OUTPUT_NODES.star", "w") as table:
    table.write("data_output_nodes\\n\\nloop_\\n_rlnPipeLineNodeName #1\\n_rlnPipeLineNodeTypeLabel #2\\n")
    table.write(out + "picked.star MicrographCoordsGroup.star.relion\\n")
open(out + "RELION_JOB_EXIT_SUCCESS", "w")
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project with an input file and a good script in it."""
    made = Project.create(tmp_path / "project")
    (made.root / "mics.star").write_text("data_\n")
    write_script(made.root / "good.py", GOOD_SCRIPT)
    return made


def write_script(path: Path, text: str) -> Path:
    """An executable script."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def external(project: Project, script: str = "./good.py", **values: str) -> dict[str, str]:
    """Values of an External job that runs a script of the project on mics.star."""
    return {**project.spec("relion.external").defaults(), "fn_exe": script, "in_mic": "mics.star", **values}


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.fixture
def run_external(project: Project) -> Callable[..., str]:
    """run_external(text of a script, **values) starts it as a job and returns the job's name."""

    def run(text: str = GOOD_SCRIPT, **values: str) -> str:
        write_script(project.root / "script.py", text)
        return project.run("relion.external", external(project, "./script.py", **values))

    return run
