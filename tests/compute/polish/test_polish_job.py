"""The Bayesian polishing job, from the pipeline to its nodes: training, then polishing with what was trained."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from moving_particles import make_project

from relion_py.compute.io import star
from relion_py.pipeline import Project, Status

PROGRAM = Path(sys.executable).parent / "relion_motion_refine"


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.skipif(not PROGRAM.is_file(), reason="relion_motion_refine is not installed beside Python")
def test_train_and_polish_from_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path / "p", micrographs=1)
    monkeypatch.setenv("PATH", os.pathsep.join([str(PROGRAM.parent), "/usr/local/bin", "/usr/bin", "/bin"]))
    project = Project.create(tmp_path / "p")
    values = {
        **project.draft("relion.polish"),
        "fn_data": "particles.star",
        "fn_mic": "MotionCorr/job002/corrected.star",
        "fn_post": "post.star",
        "optim_min_part": "10",
        "other_args": "--par_iters 2",
    }
    training = project.run("relion.polish", {**values, "do_param_optim": "Yes", "do_polish": "No"})
    assert project.wait(training, 120) == Status.SUCCEEDED, project.log_paths(training)[1].read_text()
    (trained,) = project.outputs(training)
    assert trained.type == "ParamsData.txt.relion.polish"
    assert len((project.root / trained.path).read_text().split()) == 3
    polishing = project.run(
        "relion.polish", {**values, "opt_params": trained.path, "other_args": "", "nr_threads": "2"}
    )
    assert project.wait(polishing, 120) == Status.SUCCEEDED, project.log_paths(polishing)[1].read_text()
    assert {node.path.rpartition("/")[2] for node in project.outputs(polishing)} == {"shiny.star", "logfile.pdf"}
    polished = next(node.path for node in project.outputs(polishing) if node.path.endswith("shiny.star"))
    assert len(star.read(project.root / polished)["particles"]) == 25
