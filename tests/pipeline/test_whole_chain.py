"""From movies to a sharpened map without a person: scheduled jobs, relion_pipeliner, the real programs.

The movies of shared/data were simulated by another program, so positions, poses and defocus are known; the map is
compared with a real structure of the same protein that RELION refined (EMPIAR-10017).
"""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chain import DataSet, protein_volume, run_chain, run_preparation
from truth import agreement, defocus_errors, score_picks

from relion_py.compute.io import star
from relion_py.compute.simulate_movies import MovieSet, simulate_movies
from relion_py.pipeline import Project, Status

BETA_GALACTOSIDASE = DataSet(
    movies="Movies/*.tiff",
    gain="Movies/gain.mrc",
    pixel_size=1.77,
    dose=4.2,
    symmetry="D2",
    shortest=130,
    longest=180,
    volume=protein_volume(465e3),
    box=160,
    small_box=48,
    fine_box=96,
)


class Unattended:
    """Schedules each job and lets relion_pipeliner run it; what it promised must be there when it ends."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def __call__(self, type_label: str, changes: Mapping[str, str]) -> str:
        project = self.project
        values = {**project.spec(type_label).defaults(), **changes}
        assert project.problems(type_label, values) == ()
        name = project.schedule(type_label, values)
        done = subprocess.run(
            ["relion_pipeliner", "--RunJobs", name, "--schedule", "chain", "--sec_wait_after", "0"],
            cwd=project.root,
            capture_output=True,
            text=True,
        )
        project.refresh()
        told = "".join(path.read_text() for path in project.log_paths(name) if path.exists())
        assert done.returncode == 0 and project.process(name).status == Status.SUCCEEDED, (name, done.stderr, told)
        assert (project.root / name / "RELION_JOB_EXIT_SUCCESS").exists(), name
        outputs = [node.path for node in project.outputs(name)]
        assert outputs and [path for path in outputs if not (project.root / path).is_file()] == [], name
        return name


def test_movies_become_particles(project: Project) -> None:
    """Import, motion correction, CTF, picking and extraction of two small movies."""
    what = MovieSet(
        movies=2, particles=36, size=512, frames=4, dose=6.0, angpix=2.5, snr=0.6, ice=0.3, symmetry="D2",
        diameter=150.0, atoms=400, sigma=2.5, box=96, defocus=(12000.0, 18000.0), seed=2,
    )  # fmt: skip
    simulate_movies(project.root, what)
    data = replace(
        BETA_GALACTOSIDASE, pixel_size=2.5, dose=6.0, shortest=110, longest=150, box=96, small_box=48, fine_box=64
    )
    jobs = run_preparation(project, data, Unattended(project))
    truth = project.root / "truth.star"
    picks = score_picks(truth, project.root / jobs["pick"] / "autopick.star", project.root, 25)
    # without a threshold the Laplacian also picks gaps of a particle's size
    assert picks.recall >= 0.95 and picks.precision >= 0.55, picks
    assert np.abs(defocus_errors(truth, project.root / jobs["ctf"] / "micrographs_ctf.star")).max() < 150
    particles = star.read(project.root / jobs["extract"] / "particles.star")
    assert len(particles["particles"]) == picks.picks
    assert particles["optics"].floats("rlnImagePixelSize").tolist() == [5.0]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.req("G2", "G3")
def test_movies_become_a_sharpened_map(project: Project, shared: Path, tmp_path: Path, capsys) -> None:
    (project.root / "Movies").symlink_to(shared / "data/movies/Movies")
    jobs = run_chain(project, BETA_GALACTOSIDASE, Unattended(project))
    root, truth = project.root, shared / "data/movies/truth.star"
    picks = score_picks(truth, root / jobs["pick"] / "autopick.star", root, 35)
    errors = defocus_errors(truth, root / jobs["ctf"] / "micrographs_ctf.star")
    resolution = float(star.read(root / jobs["post"] / "postprocess.star")["general"].strings("rlnFinalResolution")[0])
    real = tmp_path / "real.mrc"
    packed = "data/real/bgal-10017-relion2-project/relion_dataset/Refine3D/job020/run_class001.mrc.gz"
    real.write_bytes(gzip.decompress((shared / packed).read_bytes()))
    found = agreement(root / jobs["post"] / "postprocess.mrc", real, 95)
    with capsys.disabled():
        print(f"\n{picks}\ndefocus errors (A): {np.round(errors)}")
        print(f"resolution {resolution:.2f} A; with the real map FSC 0.5 at {found.resolution:.2f} A")
    assert picks.recall > 0.8 and picks.precision > 0.9, picks
    assert np.abs(errors).max() < 150 and np.median(np.abs(errors)) < 80
    assert resolution < 10.0
    assert found.resolution < 14.0
