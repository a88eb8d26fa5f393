"""The whole chain of single-particle analysis through the pipeliner, unattended: from movies to a sharpened map.

`run_chain` declares the jobs, one after the other, with values that depend on nothing but the data set and the
outputs of the jobs before; how a job is run and how its progress is told is the caller's (the demonstration, the
slow test of the whole chain, the benchmark).  `truth.py` compares what was found with what is known.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image.fourier import lowpass
from relion_py.compute.io import star
from relion_py.compute.io.mrc import read_map
from relion_py.pipeline.project import Project

Run = Callable[[str, Mapping[str, str]], str]
"""run(type label, values that differ from the defaults) -> name of the job, which has succeeded."""

CLASS2D_ITERATIONS, INITIAL_MODEL_ITERATIONS, CLASS3D_ITERATIONS = 20, 30, 10
MASK_LOWPASS = 15.0
RANKER = "relion_class_ranker"
RANK_THRESHOLD = 0.25
_A3_PER_DALTON = 1.21  # of protein: 0.73 cm3/g


@dataclass(frozen=True)
class DataSet:
    """What a person knows of a data set before the first job.  Lengths in A unless said otherwise."""

    movies: str
    """Pattern of the movies' names, below the project."""
    gain: str
    pixel_size: float
    dose: float
    """Electrons per A2 and frame."""
    symmetry: str
    shortest: float
    longest: float
    """Diameters of the particle along its shortest and longest axis."""
    volume: float
    """A3 that the particle fills; `protein_volume` knows it from the mass."""
    box: int
    """Pixels of the micrograph that are cut out."""
    small_box: int
    """Pixels to which they are scaled for classification and the initial model: coarse is enough, and quick."""
    fine_box: int
    """Pixels to which the chosen particles are scaled for refinement."""
    voltage: float = 300.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.1

    @property
    def mask_diameter(self) -> float:
        """Of the circle around a particle outside which there is nothing to align."""
        return 1.1 * self.longest


def protein_volume(dalton: float) -> float:
    """A3 that a protein of this mass fills."""
    return _A3_PER_DALTON * dalton


def run_preparation(project: Project, data: DataSet, run: Run, threads: int = 2) -> dict[str, str]:
    """Run the jobs that make particles of movies; returns their names by what they are for, in their order."""
    jobs: dict[str, str] = {}
    jobs["import"] = run(
        "relion.import",
        {
            "fn_in_raw": data.movies,
            "angpix": f"{data.pixel_size:g}",
            "kV": f"{data.voltage:g}",
            "Cs": f"{data.spherical_aberration:g}",
            "Q0": f"{data.amplitude_contrast:g}",
        },
    )
    jobs["motion"] = run(
        "relion.motioncorr",
        {
            "input_star_mics": f"{jobs['import']}movies.star",
            "dose_per_frame": f"{data.dose:g}",
            "fn_gain_ref": data.gain,
            "patch_x": "3",
            "patch_y": "3",
            "group_for_ps": f"{max(1, round(4.0 / data.dose))}",
            "nr_threads": str(threads),
        },
    )
    jobs["ctf"] = run(
        "relion.ctffind",
        {"input_star_mics": f"{jobs['motion']}corrected_micrographs.star", "nr_mpi": str(threads)},
    )
    jobs["pick"] = run(
        "relion.autopick",
        {
            "fn_input_autopick": f"{jobs['ctf']}micrographs_ctf.star",
            "do_log": "Yes",
            "log_diam_min": f"{data.shortest:g}",
            "log_diam_max": f"{data.longest:g}",
        },
    )
    jobs["extract"] = run(
        "relion.extract",
        {
            "star_mics": f"{jobs['ctf']}micrographs_ctf.star",
            "coords_suffix": f"{jobs['pick']}autopick.star",
            "extract_size": str(data.box),
            "do_rescale": "Yes",
            "rescale": str(data.small_box),
        },
    )
    return jobs


def run_chain(project: Project, data: DataSet, run: Run, threads: int = 2) -> dict[str, str]:
    """Run all jobs; returns the job names by what they are for, in the order in which they were run."""
    jobs = run_preparation(project, data, run, threads)
    best = _classify(project, data, run, threads, jobs)
    _refine(project, data, run, threads, jobs, best)
    return jobs


def _refinement(data: DataSet, threads: int) -> dict[str, str]:
    """What all jobs of relion_refine have in common."""
    return {
        "particle_diameter": f"{data.mask_diameter:g}",
        "do_preread_images": "Yes",
        "nr_pool": "30",
        "nr_threads": str(threads),
    }


def _classify(project: Project, data: DataSet, run: Run, threads: int, jobs: dict[str, str]) -> int:
    """2D classes, an initial model and 3D classes of coarse particles; returns the number of the largest 3D class."""
    jobs["class2d"] = run(
        "relion.class2d",
        {
            **_refinement(data, threads),
            "fn_img": f"{jobs['extract']}particles.star",
            "nr_classes": "8",
            "do_grad": "No",
            "do_em": "Yes",
            "nr_iter_em": str(CLASS2D_ITERATIONS),
        },
    )
    jobs["select"] = run("relion.select", _selection(jobs["class2d"], CLASS2D_ITERATIONS))
    chosen = f"{jobs['select']}particles.star"
    jobs["initial"] = run(
        "relion.initialmodel",
        {
            **_refinement(data, threads),
            "fn_img": chosen,
            "sym_name": data.symmetry,
            "nr_iter": str(INITIAL_MODEL_ITERATIONS),
        },
    )
    jobs["class3d"] = run(
        "relion.class3d",
        {
            **_refinement(data, threads),
            "fn_img": chosen,
            "fn_ref": f"{jobs['initial']}initial_model.mrc",
            "ref_correct_greyscale": "Yes",
            "ini_high": "40",
            "sym_name": data.symmetry,
            "nr_classes": "2",
            "nr_iter": str(CLASS3D_ITERATIONS),
        },
    )
    classes = _class3d_files(jobs)
    best = largest_class(project.root / f"{classes}_model.star")
    jobs["select3d"] = run(
        "relion.select",
        {
            "fn_data": f"{classes}_data.star",
            "do_select_values": "Yes",
            "select_label": "rlnClassNumber",
            "select_minval": str(best),
            "select_maxval": str(best),
        },
    )
    return best


def _class3d_files(jobs: Mapping[str, str]) -> str:
    """What the names of the last files of 3D classification begin with."""
    return f"{jobs['class3d']}run_it{CLASS3D_ITERATIONS:03d}"


def _refine(project: Project, data: DataSet, run: Run, threads: int, jobs: dict[str, str], best: int) -> None:
    """The particles of the best 3D class, extracted again with finer pixels: refined, masked and sharpened."""
    jobs["reextract"] = run(
        "relion.extract",
        {
            "star_mics": f"{jobs['ctf']}micrographs_ctf.star",
            "do_reextract": "Yes",
            "fndata_reextract": f"{jobs['select3d']}particles.star",
            "do_recenter": "Yes",
            "extract_size": str(data.box),
            "do_rescale": "Yes",
            "rescale": str(data.fine_box),
        },
    )
    jobs["refine"] = run(
        "relion.refine3d",
        {
            **_refinement(data, threads),
            "fn_img": f"{jobs['reextract']}particles.star",
            "fn_ref": f"{_class3d_files(jobs)}_class{best:03d}.mrc",
            "ref_correct_greyscale": "Yes",
            "ini_high": "40",
            "sym_name": data.symmetry,
        },
    )
    jobs["mask"] = run(
        "relion.maskcreate",
        {
            "fn_in": f"{jobs['refine']}run_class001.mrc",
            "lowpass_filter": f"{MASK_LOWPASS:g}",
            "inimask_threshold": f"{threshold_of(project.root / jobs['refine'] / 'run_class001.mrc', data.volume):.3g}",
            "nr_threads": str(threads),
        },
    )
    jobs["post"] = run(
        "relion.postprocess",
        {"fn_in": f"{jobs['refine']}run_half1_class001_unfil.mrc", "fn_mask": f"{jobs['mask']}mask.mrc"},
    )


def _selection(class2d: str, iterations: int) -> dict[str, str]:
    """Which particles to go on with: those of good class averages; without a class ranker, less the odd images."""
    classes = f"{class2d}run_it{iterations:03d}"
    if shutil.which(RANKER):
        return {
            "fn_model": f"{classes}_optimiser.star",
            "do_class_ranker": "Yes",
            "rank_threshold": str(RANK_THRESHOLD),
        }
    return {"fn_data": f"{classes}_data.star", "do_discard": "Yes", "discard_sigma": "4"}


def largest_class(model: Path) -> int:
    """The number, from 1, of the class that has most particles."""
    return int(np.argmax(star.read(model)["model_classes"].floats("rlnClassDistribution"))) + 1


def threshold_of(path: Path, volume: float) -> float:
    """The density above which the low-passed map fills `volume` A3: where a mask begins."""
    density, pixel_size = read_map(path)
    return _threshold(lowpass(density, pixel_size, MASK_LOWPASS), volume / pixel_size**3)


def _threshold(density: NDArray[np.floating], voxels: float) -> float:
    count = min(max(1, round(voxels)), density.size)
    return float(np.partition(density, density.size - count, axis=None)[density.size - count])
