"""The reference's own example schemes with the real programs, on simulated movies that arrive one by one."""

from __future__ import annotations

import shutil
import sys
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


def arrivals(project: Project, shared: Path) -> Callable[[int], None]:
    """arrive(3) brings the third movie into the project's Micrographs; the gain reference is there already."""
    arriving = project.root / "Micrographs"
    arriving.mkdir()
    shutil.copy(shared / "data/movies/Movies/gain.mrc", project.root / "gain.mrc")

    def arrive(number: int) -> None:
        # as a microscope's computer does it: under another name until it is whole
        partial = arriving / f"mic{number:03d}.part"
        shutil.copy(shared / f"data/movies/Movies/mic{number:03d}.tiff", partial)
        partial.rename(partial.with_suffix(".tiff"))

    return arrive


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
    arrive = arrivals(project, shared)

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


# Answers `topaz extract` with the particles that are there; images reach Topaz as mic000000.mrc and on, in their order.
TOPAZ = """#!{python}
import os, sys
words = sys.argv[1:]
assert words[0] == "extract", words
image = words[words.index("-o") + 2]
stem = os.path.basename(image).rsplit(".", 1)[0]
movie = "Movies/mic%03d.tiff" % (int(stem.removeprefix("mic")) + 1)
rows = [line.split() for line in open({truth!r}) if line.startswith(movie)]
with open(words[words.index("-o") + 1], "w") as file:
    print("image_name", "x_coord", "y_coord", "score", sep=chr(9), file=file)
    for row in rows:
        if len(row) > 7:
            print(stem, round(float(row[1])), round(float(row[2])), 1.5, sep=chr(9), file=file)
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.req("S1", "S2")
def test_proc_picks_with_topaz(project: Project, shared: Path, example: Callable[[str], SchemeStore]) -> None:
    """The other branch of `proc`: do_log is False, so Topaz picks (here a program that stands in for it)."""
    pytest.importorskip("relion_py.compute.picking.topaz", reason="relion_autopick does not call Topaz yet")
    prep, proc = example("prep"), example("proc")
    adapt(prep, PREP)
    adapt(proc, PROC)
    topaz = project.root / "topaz"
    topaz.write_text(TOPAZ.format(python=sys.executable, truth=str(shared / "data/movies/truth.star")))
    topaz.chmod(0o755)
    (project.root / "model.sav").touch()
    adapt(
        proc,
        {
            "autopick": {**PROC["autopick"], "fn_topaz_exe": str(topaz), "topaz_particle_diameter": "160"},
            "class2d": {"nr_iter_grad": "10"},
            "select_parts": {**NO_RANKER, "fn_data": "Schemes/proc/class2d/run_it010_data.star"},
        },
    )
    prepare(prep, wait_sec="1")
    prepare(proc, wait_sec="1", do_log="False", topaz_model="model.sav")  # too few particles to go on with 3D
    arrive = arrivals(project, shared)
    for number in (1, 2):
        arrive(number)
    with Run(project, "prep") as running:
        ctf = project.root / "CtfFind/job003/micrographs_ctf.star"
        running.until(lambda: rows(ctf, "micrographs") == 2, 10 * MINUTES)
        with Run(project, "proc") as following:
            following.until(lambda: proc.read().floats["current_nr_parts"].value > 0, 20 * MINUTES)
            following.until(lambda: proc.read().current_node == "WAIT", MINUTES)
            running.end()
            following.end()
    project.refresh()
    picking = proc.read().jobs["autopick"].current_name
    assert project.process(picking).type_label.startswith("relion.autopick.topaz")
    picks = sum(rows_of_coordinates(path) for path in (project.root / picking).rglob("*_autopick.star"))
    assert picks == 90, "all particles of two movies"


def rows_of_coordinates(path: Path) -> int:
    return len(next(iter(star.read(path).values())))
