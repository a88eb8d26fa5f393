"""Polishing from EER movies, beside MRC movies of the same counts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from moving_particles import PIXEL, Project, make_project
from polish_runs import COMBINE, motion_refine, rms, tracks

from relion_py.compute.io import mrc
from relion_py.compute.motion.model import read_motion, write_motion

sys.path.insert(0, str(Path(__file__).parents[1] / "motion"))
from movie_files import crowded_eer_page, write_eer

READOUTS = 7
MOTION = "MotionCorr/job002/Movies/mic1.star"


def to_counts(made: Project) -> np.ndarray:
    """The movie as numbers of electrons 0..READOUTS, (F, ny, nx); the project's movie becomes that."""
    path = made.root / "Movies/mic1.mrcs"
    gain = mrc.read_map(made.root / "Movies/gain.mrc")[0].squeeze()
    frames = mrc.read_stack(path)[0] * gain
    counts = np.clip(np.rint(READOUTS / 2 + (frames - 100.0)), 0, READOUTS)
    mrc.write_stack(path, counts.astype(np.float32), PIXEL)
    return counts


def use_events(root: Path, counts: np.ndarray) -> None:
    """The same as an EER movie with three readouts that fill no frame, and a gain reference that divides."""
    order = np.random.default_rng(1).random((READOUTS, *counts.shape[1:])).argsort(axis=0)
    pages = [crowded_eer_page(order[n] < frame) for frame in counts for n in range(READOUTS)]
    write_eer(root / "Movies/mic1.eer", pages + pages[:3], *counts.shape[:0:-1], 65000)
    gain = mrc.read_map(root / "Movies/gain.mrc")[0]
    mrc.write_map(root / "Movies/eer_gain.mrc", (gain.mean() / gain).astype(np.float32), PIXEL)
    motion = read_motion(str(root / MOTION))
    motion.movie, motion.gain = "Movies/mic1.eer", "Movies/eer_gain.mrc"
    motion.eer_grouping, motion.eer_upsampling = READOUTS, 1
    write_motion(str(root / MOTION), motion)


def test_electron_events_are_polished_like_frames_of_the_same_counts(tmp_path: Path) -> None:
    made = make_project(tmp_path / "p", micrographs=1, across=4, bad_pixels=False)
    counts = to_counts(made)
    for job in ("Frames", "Events"):
        code, _, err = motion_refine(made.root, *made.arguments, *COMBINE, "--o", f"{job}/")
        assert code == 0, err
        if job == "Frames":
            use_events(made.root, counts)
            (made.root / "Movies/mic1.mrcs").unlink()
    found = tracks(made.root, "Events", 1)
    np.testing.assert_allclose(found, tracks(made.root, "Frames", 1), atol=2e-3)
    assert rms(found, made.tracks[0]) < 0.5 < rms(made.polynomial[0], made.tracks[0])
    frames, events = (mrc.read_stack(made.root / job / "Movies/mic1_shiny.mrcs")[0] for job in ("Frames", "Events"))
    assert min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(frames, events, strict=True)) > 0.999
    code, _, err = motion_refine(made.root, *made.arguments, "--o", "Other/", "--eer_grouping", "5")
    assert code == 1 and "--eer_grouping was 7" in err
