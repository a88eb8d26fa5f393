"""Real programs under the pipeliner: Import with this package's program and with RELION's; the worked example
of an External picker; a real Slurm where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relion_py.compute.io import star
from relion_py.pipeline import Project, Status, control

from .conftest import external, write_script

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("whose", ["ours", "RELION's"])
@pytest.mark.req("G2", "G3")
def test_import_movies(
    project: Project, whose: str, monkeypatch: pytest.MonkeyPatch, debian_relion: Callable[[str], str]
) -> None:
    """The same job and the same project, whichever relion_import is first on the PATH."""
    own = Path(sys.executable).parent
    if whose == "ours":
        if not (own / "relion_import").exists():
            pytest.skip("relion_import of this package is not installed beside Python")
        monkeypatch.setenv("PATH", "/usr/local/bin")
    else:
        monkeypatch.setenv("PATH", str(Path(debian_relion("relion_import")).parent))
    (project.root / "Movies").mkdir()
    for number in (1, 2, 3):
        (project.root / f"Movies/mic{number}.tiff").touch()
    values = {
        **project.draft("relion.import"),
        "fn_in_raw": "Movies/*.tiff",
        "angpix": "0.885",
        "kV": "200",
        "Cs": "1.4",
    }
    job = project.run("relion.import", values)
    assert project.wait(job, 60) == Status.SUCCEEDED, project.log_paths(job)[1].read_text()
    assert project.process(job).type_label == "relion.import.movies"
    movies = star.read(project.root / project.outputs(job)[0].path)
    assert movies["movies"].strings("rlnMicrographMovieName") == [f"Movies/mic{n}.tiff" for n in (1, 2, 3)]
    assert movies["optics"].floats("rlnVoltage").tolist() == [200.0]
    assert project.nodes_of_type("MicrographMovieGroupMetadata.star.relion")[0].path == f"{job}movies.star"


@pytest.mark.parametrize("whose", ["ours", "RELION's"])
def test_a_program_that_fails_says_why(
    project: Project, whose: str, monkeypatch: pytest.MonkeyPatch, debian_relion: Callable[[str], str]
) -> None:
    if whose == "ours":
        monkeypatch.setenv("PATH", "/usr/local/bin")
    else:
        monkeypatch.setenv("PATH", str(Path(debian_relion("relion_import")).parent))
    values = {
        **project.draft("relion.import"),
        "do_raw": "No",
        "do_other": "Yes",
        "fn_in_other": "nowhere.star",
        "node_type": "Particles STAR file (.star)",
    }
    job = project.run("relion.import", values)
    assert project.wait(job, 60) == Status.FAILED
    assert project.log_paths(job)[1].read_text().strip()


PICKER = f"""#!{sys.executable}
# A picker as in the manual's worked example: coordinates per micrograph, and a file that names their suffix.
import os, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = arguments["--o"]
os.makedirs(out + "Movies")
names = [line.split()[0] for line in open(arguments["--in_mics"]) if line.startswith("Movies/")]
for name in names:
    root = os.path.splitext(os.path.basename(name))[0]
    with open(out + "Movies/" + root + "_topaz.star", "w") as table:
        table.write("data_\\n\\nloop_\\n_rlnCoordinateX #1\\n_rlnCoordinateY #2\\n")
        table.write("_rlnAutopickFigureOfMerit #3\\n")
        table.write("100.0 200.0 " + arguments["--threshold"] + "\\n300.5 50.0 0.9\\n")
open(out + "coords_suffix_topaz.star", "w").write(arguments["--in_mics"] + "\\n")
with open(out + "RELION_OUTPUT_NODES.star", "w") as table:
    table.write("data_output_nodes\\n\\nloop_\\n_rlnPipeLineNodeName #1\\n_rlnPipeLineNodeType #2\\n")
    table.write(out + "coords_suffix_topaz.star 2\\n")
open(out + "RELION_JOB_EXIT_SUCCESS", "w")
"""


@pytest.mark.req("X2", "X4", "X6")
def test_worked_example_of_an_external_picker(project: Project) -> None:
    write_script(project.root / "run_topaz.py", PICKER)
    (project.root / "mics.star").write_text(
        "data_\n\nloop_\n_rlnMicrographName #1\nMovies/mic001.mrc\nMovies/mic002.mrc\n"
    )
    job = project.run(
        "relion.external", external(project, "./run_topaz.py", param1_label="threshold", param1_value="0.3")
    )
    assert project.wait(job, 30) == Status.SUCCEEDED, project.log_paths(job)[1].read_text()
    picks = star.read(project.root / job / "Movies/mic001_topaz.star")[""]
    assert picks.floats("rlnCoordinateX").tolist() == [100.0, 300.5]
    [node] = project.nodes_of_type("MicrographCoordsGroup.star.relion")
    assert node.path == f"{job}coords_suffix_topaz.star"
    assert node in project.displayable(job)
    # The next job takes the coordinates as an input node, so the picker is in its history.
    following = project.schedule("relion.external", external(project, in_coords=node.path))
    assert project.graph.history(following) == [job, following]


@pytest.mark.skipif(
    not all(shutil.which(name) for name in ("sbatch", "squeue", "scancel")), reason="Slurm is not installed"
)
def test_real_slurm(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submission, success, silent death and abort in a real queue."""
    if subprocess.run(["squeue"], capture_output=True, check=False).returncode != 0:
        pytest.skip("Slurm is installed, but does not run")
    (project.root / "template.sh").write_text(
        "#!/bin/bash\n#SBATCH --job-name=XXXnameXXX\n#SBATCH --error=XXXerrfileXXX\n"
        "#SBATCH --output=XXXoutfileXXX\n#SBATCH --ntasks=XXXmpinodesXXX\nXXXcommandXXX\n"
    )
    queue = {"do_queue": "Yes", "qsub": "sbatch", "qsubscript": "template.sh"}
    good = project.run("relion.external", external(project, **queue))
    record = control.read_record(project.directory(good))
    assert record is not None and record.state == "queued" and record.queue_id.isdigit()
    assert project.wait(good, 100) == Status.SUCCEEDED
    write_script(project.root / "slow.py", "#!/bin/sh\nexec sleep 600\n")
    slow = project.run("relion.external", external(project, "./slow.py", **queue))
    record = control.read_record(project.directory(slow))
    assert record is not None
    subprocess.run(["scancel", record.queue_id], check=True)
    assert project.wait(slow, 100) == Status.FAILED
    monkeypatch.setattr("relion_py.pipeline.status.QUEUE_INTERVAL", 0.5)
    monkeypatch.setattr("relion_py.pipeline.status.ORPHAN_GRACE", 1.0)
    deaf = project.run("relion.external", external(project, "./slow.py", **queue))
    project.abort(deaf)
    assert project.wait(deaf, 100) == Status.ABORTED
    record = control.read_record(project.directory(deaf))
    assert record is not None
    left = subprocess.run(["squeue", "--noheader", "--jobs", record.queue_id], capture_output=True, text=True)
    assert record.queue_id not in left.stdout


def test_jobs_end_when_many_run_at_once(project: Project) -> None:
    """Ten jobs at a time, watched by one window; none is left running."""
    jobs = [project.run("relion.external", external(project)) for _ in range(10)]
    assert [project.wait(job, 100) for job in jobs] == [Status.SUCCEEDED] * 10
    assert all(os.path.exists(project.root / node.path) for job in jobs for node in project.outputs(job))
