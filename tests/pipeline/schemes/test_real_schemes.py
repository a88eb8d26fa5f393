"""The reference's own example schemes with the real programs, on simulated movies that arrive one by one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relion_py.compute.io import star
from relion_py.pipeline import Project, jobstar
from relion_py.pipeline.schemes import SchemeStore

from .test_examples import Run, prepare

MOVIES = 6
MINUTES = 60.0
CLASS2D_ITERATIONS = 40

# What a person writes into the examples for this microscope, this particle and this computer.
PREP = {
    "importmovies": {"fn_in_raw": "Micrographs/*.tiff", "angpix": "1.77", "kV": "300"},
    "motioncorr": {
        "fn_gain_ref": "gain.mrc", "dose_per_frame": "4.2", "bin_factor": "1", "group_for_ps": "1",
        "patch_x": "3", "patch_y": "3", "nr_threads": "2",
    },
    "ctffind": {},
}  # fmt: skip
PROC = {
    "select_mics": {"select_maxval": "10"},
    "autopick": {"log_diam_min": "130", "use_gpu": "No", "nr_mpi": "1"},
    "extract": {"extract_size": "160", "rescale": "48", "nr_mpi": "1"},
    "class2d": {
        "nr_classes": "6", "nr_iter_grad": str(CLASS2D_ITERATIONS), "particle_diameter": "198",
        "use_gpu": "No", "nr_threads": "2",
    },
    "select_parts": {"fn_model": f"Schemes/proc/class2d/run_it{CLASS2D_ITERATIONS:03d}_optimiser.star"},
    "inimodel3d": {"nr_classes": "1", "nr_iter": "30", "sym_name": "D2", "use_gpu": "No", "nr_threads": "2"},
    "refine3d": {"sym_name": "D2", "nr_mpi": "1", "use_gpu": "No", "nr_threads": "2"},
}  # fmt: skip
NO_RANKER = {"do_class_ranker": "No", "do_discard": "Yes", "fn_model": "", "fn_data": ""}
"""Instead of ranking classes, where that program is not here: images with odd statistics are left out."""


def adapt(store: SchemeStore, changes: dict[str, dict[str, str]]) -> None:
    for node, values in changes.items():
        file = store.job_directory(node) / "job.star"
        job = jobstar.read(file)
        jobstar.write(file, replace(job, values={**job.values, **values}))


def rows(path: Path, table: str) -> int:
    return len(star.read(path)[table]) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.req("S1", "S2")
def test_prep_and_proc_from_movies_to_a_refined_map(
    project: Project, shared: Path, example: Callable[[str], SchemeStore]
) -> None:
    prep, proc = example("prep"), example("proc")
    adapt(prep, PREP)
    adapt(proc, PROC)
    if not shutil.which("relion_class_ranker"):
        data = f"Schemes/proc/class2d/run_it{CLASS2D_ITERATIONS:03d}_data.star"
        adapt(proc, {"select_parts": {**NO_RANKER, "fn_data": data}})
    prepare(prep, wait_sec="1")
    prepare(proc, wait_sec="1", min_nr_parts_3d="150")
    arriving = project.root / "Micrographs"
    arriving.mkdir()
    shutil.copy(shared / "data/movies/Movies/gain.mrc", project.root / "gain.mrc")

    def arrive(number: int) -> None:
        # as a microscope's computer does it: under another name until it is whole
        partial = arriving / f"mic{number:03d}.part"
        shutil.copy(shared / f"data/movies/Movies/mic{number:03d}.tiff", partial)
        partial.rename(partial.with_suffix(".tiff"))

    def with_ctf() -> int:
        return rows(project.root / "CtfFind/job003/micrographs_ctf.star", "micrographs")

    arrive(1)
    with Run(project, "prep") as running:
        for number in range(1, MOVIES + 1):
            running.until(lambda number=number: with_ctf() == number, 10 * MINUTES)
            if number < MOVIES:
                arrive(number + 1)
        made = {path: path.stat().st_mtime_ns for path in (project.root / "MotionCorr").rglob("mic*.mrc")}
        with Run(project, "proc") as following:
            following.until(lambda: any(project.root.glob("Refine3D/job*/run_class001.mrc")), 60 * MINUTES)
            following.until(lambda: proc.read().current_node == "WAIT", MINUTES)
            running.end()
            following.end()

    assert all(path.stat().st_mtime_ns == when for path, when in made.items()), "a movie was worked on again"
    project.refresh()
    processes = project.graph.processes.values()
    kinds = Counter(process.type_label.split(".")[1] for process in processes)
    assert kinds == {
        "import": 1, "motioncorr": 1, "ctffind": 1, "select": 2, "autopick": 1, "extract": 1,
        "class2d": 1, "initialmodel": 1, "refine3d": 1,
    }  # fmt: skip
    assert {process.status for process in processes} == {"Succeeded"}
    for process in processes:
        assert (project.root / process.name / "RELION_JOB_EXIT_SUCCESS").exists(), process.name
        missing = [node.path for node in project.outputs(process.name) if not (project.root / node.path).is_file()]
        assert not missing
    refined = project.root / proc.read().jobs["refine3d"].current_name
    model = star.read(refined / "run_model.star")["model_general"]
    assert float(model.strings("rlnCurrentResolution")[0]) < 20.0
