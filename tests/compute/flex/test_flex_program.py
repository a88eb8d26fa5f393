"""relion_flex_analyse, as the MultiBody job runs it, on a made-up refinement."""

from __future__ import annotations

import json
from pathlib import Path

import moving_bodies as made
import mrcfile
import numpy as np
import pytest
from in_process import exit_status

from relion_py.compute.cli import flex_analyse
from relion_py.compute.cli.options.flex_analyse import FLAGS
from relion_py.compute.io import star

FILES = ["--data", "run_data.star", "--model", "run_model.star", "--bodies", "bodies.star"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made.write_refinement(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    return exit_status(flex_analyse.main, *words)


def test_the_options_are_those_of_the_reference(shared: Path) -> None:
    groups = json.loads((shared / "reference/programs.json").read_text())["relion_flex_analyse"]["groups"]
    wanted = {(o["option"], o["kind"], o["default"]) for options in groups.values() for o in options}
    assert {(flag.name, flag.kind, flag.default) for flag in FLAGS} == wanted


def test_all_that_the_job_asks_for_is_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "--PCA_orient --o out --do_maps --k 2 --maps_per_movie 4 --write_pca_projections --select_eigenvalue 1 "
    asked += "--select_eigenvalue_min -5 --select_eigenvalue_max 20.6 --pipeline_control ./"
    assert run(*FILES, *asked.split()) == 0
    told = capsys.readouterr().out
    assert "Component 1 explains 27.17" in told and "Written out 31 selected particles" in told
    maps = sorted(path.name for path in project.glob("out_component*.mrc"))
    assert maps == [f"out_component00{k}_bin00{b}.mrc" for k in (1, 2) for b in (1, 2, 3, 4)]
    first, last = (np.array(mrcfile.read(project / name)) for name in (maps[0], maps[3]))
    assert np.abs(first - last).max() > 0.1 * first.max()
    header, *vectors = (project / "out_eigenvectors.dat").read_text().splitlines()
    assert header.split()[:4] == ["rot-body-1", "tilt-body-1", "psi-body-1", "x-body-1"] and len(vectors) == 12
    assert float(vectors[0].split()[3]) == pytest.approx(8.592465e-01, rel=1e-4)
    assert (project / "out_pca_weights.dat").read_text().splitlines()[0] == "body rot tilt psi offset"
    values = (project / "out_projections_along_eigenvectors_all_particles.txt").read_text().splitlines()
    along = np.array([float(line.split()[1]) for line in values])
    selected = star.read(project / "out_eval001_select_min-5_max21.star")
    wanted = [f"{n + 1:06d}@particles.mrcs" for n in np.flatnonzero((along > -5) & (along < 20.6))]
    assert selected["particles"].strings("rlnImageName") == wanted and len(selected["optics"]) == 1
    assert (project / "out_logfile.pdf").read_bytes().startswith(b"%PDF")
    assert (project / "RELION_JOB_EXIT_SUCCESS").exists()


def test_maps_of_all_particles(project: Path) -> None:
    assert run(*FILES, "--3dmodels", "--size_3dmodels", "12", "--o", "out", "--verb", "0") == 0
    table = star.read(project / "out_3dmodels.star")[""]
    assert table.strings("rlnReferenceImage")[-1] == "out_part00000040.mrc"
    with mrcfile.open(project / "out_part00000040.mrc") as file:
        assert file.data.shape == (12, 12, 12) and float(file.voxel_size.x) == pytest.approx(2 * made.PIXEL)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--PCA_orient", "--data", "none.star"], "none.star does not exist"),
        (["--o", "x"], "Nothing is asked for: give --PCA_orient"),
        (["--3dmodels", "--do_maps"], "--do_maps has no effect without --PCA_orient"),
        (["--PCA_orient", "--v", "75"], "--v is a part of the variance"),
        (["--PCA_orient", "--select_eigenvalue", "13"], "--select_eigenvalue must be at most 12, not 13"),
        (["--PCA_orient", "--bodies", "three.star"], "three.star has 3 bodies, run_model.star 2"),
        (["--PCA_orient", "--o", "nowhere/out"], "The output directory nowhere does not exist"),
    ],
)
def test_mistakes_are_told(project: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = star.read(project / "bodies.star")[""]
    star.write(project / "three.star", {"": rows.select([0, 1, 1])})
    assert run(*FILES, *words) != 0
    assert told in capsys.readouterr().err
