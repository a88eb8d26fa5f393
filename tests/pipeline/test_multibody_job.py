"""The MultiBody job in a project: a consensus refinement, its bodies, and the analysis of their motions."""

from __future__ import annotations

from pathlib import Path

import pytest

from relion_py.compute.io import star
from relion_py.compute.simulate_bodies import simulate_bodies
from relion_py.pipeline import Project, Status

CONSENSUS = {
    "fn_img": "particles.star",
    "fn_ref": "reference.mrc",
    "ini_high": "25",
    "particle_diameter": "170",
    "sampling": "1.8 degrees",
    "auto_local_sampling": "1.8 degrees",
    "offset_range": "2",
    "offset_step": "1",
    "nr_threads": "2",
    "ref_correct_greyscale": "Yes",
    "other_args": "--iter 2 --random_seed 1",
}
BODIES = {
    "fn_bodies": "bodies.star",
    "nr_movies": "1",
    "do_select": "Yes",
    "eigenval_min": "0",
    "offset_range": "2",
    "offset_step": "0.3",
    "nr_threads": "2",
    "other_args": "--iter 40",
}


def run(project: Project, type_label: str, changes: dict[str, str]) -> Path:
    """Runs a job to its good end; its directory."""
    values = {**project.spec(type_label).defaults(), **changes}
    assert project.problems(type_label, values) == ()
    name = project.run(type_label, values)
    project.wait(name)
    project.refresh()
    told = "".join(path.read_text()[-2000:] for path in project.log_paths(name) if path.exists())
    assert project.process(name).status == Status.SUCCEEDED, told
    return project.root / name


@pytest.mark.slow
def test_from_a_consensus_to_motions(tmp_path: Path) -> None:
    simulate_bodies(tmp_path, n=120, box=36, angpix=5.0, snr=3.0)
    project = Project.create(tmp_path)
    consensus = run(project, "relion.refine3d", CONSENSUS)
    optimiser = consensus / "run_it002_optimiser.star"
    job = run(project, "relion.multibody", {**BODIES, "fn_in": str(optimiser.relative_to(tmp_path))})
    assert all((tmp_path / node.path).exists() for node in project.outputs("MultiBody/job002/"))
    assert sorted(node.path for node in project.outputs("MultiBody/job002/")) == [
        f"MultiBody/job002/{name}"
        for name in (
            "analyse_eval001_select_min0_max999.star", "analyse_logfile.pdf", "run_half1_body001_unfil.mrc",
            "run_half1_body002_unfil.mrc",
        )
    ]  # fmt: skip
    assert len(list(job.glob("analyse_component001_bin*.mrc"))) == 10
    chosen = star.read(job / "analyse_eval001_select_min0_max999.star")["particles"]
    assert 20 < len(chosen) < 100
    shown = {node.extra.get("label") for node in project.displayable("MultiBody/job002/")}
    assert {"Bodies", "Motions"} <= shown
