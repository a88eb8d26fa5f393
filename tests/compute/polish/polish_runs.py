"""Runs of relion_motion_refine in this process, and what they found."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from in_process import outcome
from moving_particles import PIXEL

from relion_py.compute.cli.motion_refine import _main
from relion_py.compute.io import mrc
from relion_py.compute.polish.tracks import read_tracks

SIGMAS = ("--s_vel", "0.8", "--s_div", "200", "--s_acc", "0.5")
COMBINE = (*SIGMAS, "--combine_frames")


motion_refine = partial(outcome, _main)


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def tracks(root: Path, job: str, number: int) -> np.ndarray:
    """Tracks (P, F, 2), pixels, that a run found in micrograph `number`."""
    return read_tracks(str(root / job / f"Movies/mic{number}_tracks.star")) / PIXEL


def mean_correlation(stack: Path, images: np.ndarray) -> float:
    """Of the images of a stack with others, one by one."""
    polished = mrc.read_stack(stack)[0]
    return float(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(polished, images, strict=True)]))
