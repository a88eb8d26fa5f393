"""Of several random starts of an initial model, the one that explains the particles best goes on."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from relion_py.compute.cli.program import Job
from relion_py.compute.image.fourier import lowpass
from relion_py.compute.image.fsc import fsc
from relion_py.compute.refine import start
from relion_py.compute.refine.data import ParticleSet
from relion_py.compute.refine.initial_model import InitialModel
from relion_py.compute.refine.options import RefineOptions
from relion_py.compute.simulate import simulate_particles

WORDS = {
    "--i": "particles.star", "--o": "run", "--grad": True, "--denovo_3dref": True, "--ctf": True, "--K": "1",
    "--sym": "C1", "--flatten_solvent": True, "--zero_mask": True, "--pad": "1", "--particle_diameter": "130",
    "--oversampling": "1", "--healpix_order": "0", "--offset_range": "2", "--offset_step": "2", "--iter": "10",
    "--random_seed": "1", "--j": "2", "--dont_check_norm": True, "--auto_sampling": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("starts")
    simulate_particles(where, 80, box=24, angpix=8.0, symmetry="D2", seed=3, snr=1.0)
    return where


def new_run(**change: object) -> InitialModel:
    run = start.new_run(RefineOptions.from_args({**WORDS, **change}), ParticleSet.read("particles.star"), Job())  # type: ignore[arg-type]
    assert isinstance(run, InitialModel)
    return run


def agreement(volume: np.ndarray) -> float:
    """Mean FSC with the truth, as it lies, from 100 to 40 A."""
    return float(fsc(volume, mrcfile.read("truth.mrc"))[2:6].mean())


@pytest.mark.parametrize("place", [1, 2, 3])
def test_the_true_map_wins_against_random_blobs(
    project: Path, place: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it stands; and the run goes on from it, not from a start that was tried later."""
    monkeypatch.chdir(project)
    truth = lowpass(mrcfile.read("truth.mrc"), 8.0, 40.0, 2).astype(np.float32)
    run = new_run()
    blobs = [references[0] for references in run.starts[:2]]
    run.starts = [[m] for m in (*blobs[: place - 1], truth, *blobs[place - 1 :])]
    seen: list[int] = []
    monkeypatch.setattr(run, "write", lambda: seen.append(run.state.iteration))
    run.run()
    assert f"going on from {place}" in capsys.readouterr().out
    # after the 2 iterations of the first phase come the others, of this run
    assert seen == list(range(3, 11))
    assert agreement(run.models[0].references[0]) > 0.8
    assert max(agreement(each) for each in blobs) < 0.5


def test_starts_differ_and_the_first_is_that_of_the_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    run = new_run(**{"--K": "2"})
    assert [len(references) for references in run.starts] == [2, 2, 2, 2]
    every = np.array(run.starts).reshape(8, -1)
    assert np.all(np.corrcoef(every) - np.eye(8) < 0.999)
    assert np.allclose(mrcfile.read("run_it000_class002.mrc"), run.starts[0][1], atol=1e-6)


def test_averages_instead_of_blobs_are_one_start(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert len(new_run(**{"--no_init_blobs": True}).starts) == 1
