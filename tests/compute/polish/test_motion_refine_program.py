"""relion_motion_refine on movies with known truth: tracks, weights, polished particles, continuation, mistakes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from moving_particles import BFACTORS, BOX, FRAMES, PIXEL, SCALES, make_project
from polish_runs import COMBINE, mean_correlation, motion_refine, rms, tracks

from relion_py.compute.io import mrc, star
from relion_py.compute.io.particles import read_particles
from relion_py.compute.io.star import StarFile, Table
from relion_py.compute.polish.tracks import Correlations

MPIRUN = Path(sys.executable).parent / "mpirun"


# ---- what comes out -------------------------------------------------------------------------------------------


def test_tracks_are_found(project):
    """Within 0.35 pixels rms of the truth, where no polynomial comes nearer than 1.5."""
    for number in (1, 2):
        found, truth = tracks(project.root, "Polish/job010", number), project.tracks[number - 1]
        assert rms(found, truth) < 0.35
        assert rms(project.polynomial[number - 1], truth) > 1.5


def test_weights_follow_the_damage_that_was_simulated(project):
    table = star.read(project.root / "Polish/job010/bfactors.star")["perframe_bfactors"]
    assert table.ints("rlnMovieFrameNumber").tolist() == list(range(FRAMES))
    k2 = 1 / 8.0**2  # at 8 A
    found = table.floats("rlnBfactorUsedForSharpening") / 4 * k2 + table.floats("rlnFittedInterceptGuinierPlot")
    truth = np.log(SCALES) - BFACTORS / 4 * k2
    assert np.corrcoef(found, truth)[0, 1] > 0.95
    assert np.polyfit(truth, found, 1)[0] == pytest.approx(1.0, abs=0.3)


def test_polished_particles_are_nearer_to_the_truth(project):
    """Than frames summed along the best polynomial tracks without weights."""
    flat = Table({"rlnMovieFrameNumber": range(FRAMES), "rlnBfactorUsedForSharpening": [-10.0] * FRAMES})
    flat.set("rlnFittedInterceptGuinierPlot", [0.0] * FRAMES)
    star.write(project.root / "flat.star", StarFile([("perframe_bfactors", flat)]))
    code, _, err = motion_refine(
        project.root, *project.arguments, *COMBINE, "--o", "Plain/", "--max_iters", "0", "--bfactors", "flat.star"
    )
    assert code == 0, err
    for number in (1, 2):
        images = project.images[number - 1]
        polished = mean_correlation(project.root / f"Polish/job010/Movies/mic{number}_shiny.mrcs", images)
        plain = mean_correlation(project.root / f"Plain/Movies/mic{number}_shiny.mrcs", images)
        assert polished > 1.1 * plain > 0
        assert rms(tracks(project.root, "Plain", number), project.polynomial[number - 1]) < 1e-3


def test_the_list_of_polished_particles(project):
    job = project.root / "Polish/job010"
    before, after = read_particles(project.root / "particles.star"), star.read(job / "shiny.star")
    assert list(after) == ["optics", "particles"]
    polished = after["particles"]
    assert len(polished) == len(before) == 50
    assert polished.strings("rlnImageName")[25] == "1@Polish/job010/Movies/mic2_shiny.mrcs"
    assert polished.labels == before.particles.labels
    assert polished.floats("rlnAngleRot").tolist() == before.floats("rlnAngleRot").tolist()
    assert after["optics"].value("rlnImageSize") == str(BOX)
    assert (job / "RELION_JOB_EXIT_SUCCESS").exists()
    assert (job / "logfile.pdf").read_bytes().startswith(b"%PDF")
    assert not (job / "failed_micrographs.star").exists()
    stack, pixel = mrc.read_stack(job / "Movies/mic1_shiny.mrcs")
    assert stack.shape == (25, BOX, BOX) and pixel == pytest.approx(PIXEL)
    assert np.allclose(stack.mean(axis=(1, 2)), 0, atol=1e-5)
    assert np.allclose(stack.std(axis=(1, 2)), 1, atol=0.05)


def test_debian_relion_finds_the_same(tmp_path: Path, debian_relion: Callable[[str], str]) -> None:
    """Tracks, correlations and B-factors of RELION 3.1.3, which mends no pixels of MRC movies."""
    made = make_project(tmp_path / "p", micrographs=1, bad_pixels=False)
    code, _, err = motion_refine(made.root, *made.arguments, *COMBINE, "--o", "Ours/")
    assert code == 0, err
    command = [debian_relion("relion_motion_refine"), *made.arguments, *COMBINE, "--o", "Theirs/"]
    subprocess.run(command, cwd=made.root, check=True, capture_output=True, timeout=120)
    assert rms(tracks(made.root, "Ours", 1), tracks(made.root, "Theirs", 1)) < 0.005
    ours, theirs = (Correlations.read(str(made.root / job / "Movies/mic1")) for job in ("Ours", "Theirs"))
    np.testing.assert_allclose(ours.normalised()[:, 1:], theirs.normalised()[:, 1:], atol=5e-3)
    tables = [star.read(made.root / job / "bfactors.star")["perframe_bfactors"] for job in ("Ours", "Theirs")]
    for label, tolerance in (("rlnBfactorUsedForSharpening", 2.0), ("rlnFittedInterceptGuinierPlot", 0.01)):
        np.testing.assert_allclose(*(table.floats(label) for table in tables), atol=tolerance)
    images = [mrc.read_stack(made.root / job / "Movies/mic1_shiny.mrcs")[0] for job in ("Ours", "Theirs")]
    assert min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(*images, strict=True)) > 0.995


def test_some_of_the_frames_are_used(project):
    """Frames 3 to 7: their weights, and sums of these frames only."""
    some = ("--o", "Some/", "--first_frame", "3", "--last_frame", "7", "--max_MG", "0")
    code, _, err = motion_refine(project.root, *project.arguments, *COMBINE, *some)
    assert code == 0, err
    assert rms(tracks(project.root, "Some", 1), project.tracks[0][:, 2:7]) < 0.5
    table = star.read(project.root / "Some/bfactors.star")["perframe_bfactors"]
    assert table.ints("rlnMovieFrameNumber").tolist() == [0, 1, 2, 3, 4]
    few = mean_correlation(project.root / "Some/Movies/mic1_shiny.mrcs", project.images[0])
    every = mean_correlation(project.root / "Polish/job010/Movies/mic1_shiny.mrcs", project.images[0])
    assert 0.6 * every < few < every


# ---- continuation and ranks -----------------------------------------------------------------------------------


def test_only_what_is_not_there_is_done_again(copy):
    job = copy.root / "Polish/job010/Movies"
    kept = {path.name: path.stat().st_mtime_ns for path in job.iterdir()}
    for name in ("mic2_tracks.star", "mic2_shiny.mrcs"):
        (job / name).unlink()
    code, out, err = motion_refine(
        copy.root, *copy.arguments, *COMBINE, "--o", "Polish/job010/", "--only_do_unfinished"
    )
    assert code == 0, err
    assert "in 1 micrographs of 2" in out and "of 1 micrographs" in out
    now = {path.name: path.stat().st_mtime_ns for path in job.iterdir()}
    assert {name for name in now if now[name] == kept[name]} >= {"mic1_tracks.star", "mic1_shiny.mrcs"}
    assert len(star.read(copy.root / "Polish/job010/shiny.star")["particles"]) == 50
    shutil.rmtree(copy.root / "Movies")
    # nothing is left to do: not even the movies are needed, but they must be there to be counted
    code, _, err = motion_refine(copy.root, *copy.arguments, *COMBINE, "--o", "Polish/job010/", "--only_do_unfinished")
    assert code == 1 and "movie" in err


@pytest.mark.skipif(not MPIRUN.is_file(), reason="mpirun is not installed")
def test_ranks_share_the_micrographs_and_find_the_same(project):
    program = [sys.executable, "-m", "relion_py.compute.cli.motion_refine"]
    command = [str(MPIRUN), "-n", "2", *program, *project.arguments, *COMBINE, "--o", "Ranks/"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lists = [(project.root / job / "shiny.star").read_text() for job in ("Polish/job010", "Ranks")]
    assert lists[0] == lists[1].replace("@Ranks/", "@Polish/job010/")
    tables = [star.read(project.root / job / "bfactors.star") for job in ("Polish/job010", "Ranks")]
    found = [table["perframe_bfactors"].floats("rlnBfactorUsedForSharpening") for table in tables]
    np.testing.assert_allclose(*found, atol=0.1)
    for number in (1, 2):
        assert rms(tracks(project.root, "Ranks", number), tracks(project.root, "Polish/job010", number)) < 1e-4


# ---- mistakes -------------------------------------------------------------------------------------------------


def test_a_broken_movie_is_left_out_and_listed(copy):
    movie = copy.root / "Movies/mic1.mrcs"
    movie.write_bytes(movie.read_bytes()[:100000])
    code, out, err = motion_refine(copy.root, *copy.arguments, *COMBINE, "--o", "Broken/")
    assert code == 0, err
    assert "left out" in out
    listed = star.read(copy.root / "Broken/failed_micrographs.star")["failed"]
    assert listed.strings("rlnMicrographName") == ["MotionCorr/job002/Movies/mic1.mrc"]
    assert len(star.read(copy.root / "Broken/shiny.star")["particles"]) == 25
    assert "25 particles of optics group" in err
    (copy.root / "Movies/mic2.mrcs").unlink()
    code, _, err = motion_refine(copy.root, *copy.arguments, *COMBINE, "--o", "None/")
    assert code == 1 and "cut short" in err


def test_particles_without_halves_are_refused(copy):
    file = star.read(copy.root / "particles.star")
    file["particles"].remove("rlnRandomSubset")
    star.write(copy.root / "particles.star", file)
    code, _, err = motion_refine(copy.root, *copy.arguments, "--o", "Wrong/")
    assert code == 1 and "_rlnRandomSubset" in err
