"""Projects with schemes: the reference's own examples, and small ones whose jobs are fast scripts."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relion_py.pipeline import Project
from relion_py.pipeline.jobstar import JobStar
from relion_py.pipeline.schemes import SchemeRunner, SchemeStore, add_job

EXAMPLES = Path(__file__).parents[2] / "golden" / "schemes"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project."""
    return Project.create(tmp_path / "project")


def unpack_example(root: Path, name: str) -> SchemeStore:
    """Put one of the reference's example schemes (prep, proc) into a project."""
    for packed in (EXAMPLES / name).rglob("*.star.gz"):
        target = root / "Schemes" / name / packed.relative_to(EXAMPLES / name).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.decompress(packed.read_bytes()))
    return SchemeStore(root, name)


@pytest.fixture
def example(project: Project) -> Callable[[str], SchemeStore]:
    """example("prep") is that scheme of the reference, in the project."""
    return lambda name: unpack_example(project.root, name)


# Every run adds its words and the files that are there to a log, and succeeds.
LOGGING_SCRIPT = f"""#!{sys.executable}
import sys, time, os
words = sys.argv[1:]
out = words[words.index("--o") + 1]
with open("runs.log", "a") as log:
    log.write(" ".join(words) + "\\n")
open(out + "made.star", "w").write("data_\\n")
if os.path.exists("slow"):
    time.sleep(float(open("slow").read()))
if os.path.exists("fail"):
    sys.exit("told to fail")
open(out + "RELION_JOB_EXIT_SUCCESS", "w")
"""


def script_job(project: Project, store: SchemeStore, node: str, mode: str = "new", **values: str) -> None:
    """Add an External job node that runs LOGGING_SCRIPT."""
    script = project.root / "step.py"
    if not script.exists():
        script.write_text(LOGGING_SCRIPT)
        script.chmod(0o755)
        (project.root / "mics.star").write_text("data_\n")
    options = {**project.spec("relion.external").defaults(), "fn_exe": "./step.py", "in_mic": "mics.star", **values}
    add_job(store, JobStar("relion.external", options), node, mode)


def runs(project: Project) -> list[str]:
    """The jobs that ran, in order, from the log of LOGGING_SCRIPT."""
    log = project.root / "runs.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split("--o ")[1].split()[0] for line in lines]


def runner_for(project: Project, name: str, said: list[str] | None = None, **options: object) -> SchemeRunner:
    """A runner that does not let tests wait."""
    say = said.append if said is not None else (lambda _: None)
    settings: dict[str, object] = {"poll": 0.05, "input_patience": 2.0, "busy_pause": 0.2, "verbosity": 2, **options}
    return SchemeRunner(project, name, say=say, **settings)  # type: ignore[arg-type]
