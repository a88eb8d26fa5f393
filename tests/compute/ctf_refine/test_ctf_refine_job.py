"""The CTF refinement job under the pipeliner: run, continued, what the Results panel finds of it, cleaned."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from refined_project import make_project

from relion_py.compute.io import star
from relion_py.pipeline import Project, Status

pytestmark = pytest.mark.timeout(200)


def test_job_runs_continues_and_is_cleaned(tmp_path, monkeypatch):
    if not (Path(sys.executable).parent / "relion_ctf_refine").exists():
        pytest.skip("the package is not installed beside Python")
    project = Project.create(tmp_path / "project")
    make_project(project.root, {"rlnBeamTiltX": "0.5"}, errors=100.0, count=60)
    values = {
        **project.draft("relion.ctfrefine"),
        "fn_data": "start.star",
        "fn_post": "postprocess.star",
        "do_defocus": "Per-particle",
        "do_astig": "Per-micrograph",
        "do_tilt": "Yes",
        "do_trefoil": "Yes",
        "do_4thorder": "Yes",
        "minres": "20",
        "nr_mpi": "1",
        "nr_threads": "2",
    }
    assert not project.problems("relion.ctfrefine", values)
    job = project.run("relion.ctfrefine", values)
    assert project.wait(job, 120) == Status.SUCCEEDED, project.log_paths(job)[1].read_text()
    outputs = {node.path: node.type for node in project.outputs(job)}
    assert outputs == {
        f"{job}logfile.pdf": "LogFile.pdf.relion.ctfrefine",
        f"{job}particles_ctf_refine.star": "ParticleGroupMetadata.star.relion.ctfrefine",
    }
    directory = project.root / job
    written = directory / "particles_ctf_refine.star"
    optics = star.read(written)["optics"]
    assert {"rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike", "rlnEvenZernike"} <= set(optics.labels)
    shown = [node.path for node in project.displayable(job)]
    assert f"{job}logfile.pdf" in shown and f"{job}particles_ctf_refine.star" in shown

    first = written.read_text()
    kept = {path: os.stat(path).st_mtime_ns for path in (directory / "Micrographs").iterdir()}
    written.unlink()
    project.continue_job(job, values)
    assert project.wait(job, 120) == Status.SUCCEEDED, project.log_paths(job)[1].read_text()
    assert written.read_text() == first
    assert kept == {path: os.stat(path).st_mtime_ns for path in (directory / "Micrographs").iterdir()}

    project.clean(job, harsh=False, dry_run=False)
    assert written.exists() and not list((directory / "Micrographs").glob("*Acc_*"))
