"""The score of a 2D class average, 0 to 1: our own, not the reference's network.

RELION scores class averages with a trained neural network whose weights are a separate download (Kimanius et al. 2021).
Ours is a logistic function of four things that a person looks at, each a plain number (:data:`EVIDENCE`). Its
coefficients were fitted by `benchmarks/class_ranker.py` to 2D classes of simulated particles mixed with known junk; the
score estimates how likely it is that more than half of a class's particles are good ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image.fourier import lowpass
from relion_py.compute.ranking.features import UNIFORM_ANGPIX, ImageFeatures
from relion_py.compute.refine.model import ModelState

EVIDENCE = {
    "behind the best": "log2 of the resolution over that of the best class",
    "rim": "log of the variation beyond 0.95 of the mask's radius over that within all of it, smoothed",
    "texture": "log of the protein's variation finer than a fifth of the diameter over all within the mask",
    "cut off": "part of the mask's edge that is protein",
}
"""What the score weighs, in the order of the coefficients."""

CONSTANT = 0.12
COEFFICIENTS = (-1.38, -2.04, 1.33, -0.70)
"""For EVIDENCE."""

_FLOOR = 1e-3  # of ratios before their logarithm


def evidence(
    model: ModelState, k: int, features: ImageFeatures, diameter: float, best_resolution: float
) -> NDArray[np.float64]:
    """The numbers (4,) of :data:`EVIDENCE` for class `k` (from 0); diameter and resolutions in A."""
    resolution = min(resolution_of(model, k), diameter)
    image, smooth = features.image, features.smooth
    axis = np.arange(len(image)) - len(image) // 2
    distance = np.hypot(axis[:, None], axis)
    radius = min(len(image) / 2.0, diameter / (2.0 * UNIFORM_ANGPIX))
    circle = distance <= radius
    rim = circle & (distance > 0.95 * radius)
    protein = features.protein if features.protein.any() else circle
    fine = image - lowpass(image, UNIFORM_ANGPIX, diameter / 5.0)
    return np.array(
        [
            np.log2(resolution / min(best_resolution, diameter)),
            _log_ratio(float(smooth[rim].std()), float(smooth[circle].std())),
            _log_ratio(float(fine[protein].std()), float(image[circle].std())),
            features.values["rlnEdgeSignal"],
        ]
    )


def score(evidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (...) of evidence (..., 4)."""
    return 1.0 / (1.0 + np.exp(-(CONSTANT + evidence @ np.array(COEFFICIENTS))))


def resolution_of(model: ModelState, k: int) -> float:
    """Resolution (A) of a class; where the model does not tell it, the last shell before the SNR falls below 1.

    Infinite where even the first shells are noise. Source: class_ranker.cpp, findResolution.
    """
    told = float(model.estimated_resolution[k])
    if told > 0:
        return told
    below = np.flatnonzero(model.data_vs_prior_class[k][1:] < 1.0) + 1
    if not len(below):
        return 2.0 * model.pixel_size
    return model.ori_size * model.pixel_size / (below[0] - 1) if below[0] > 1 else float("inf")


def _log_ratio(part: float, whole: float) -> float:
    return float(np.log(max(_FLOOR, part / whole))) if whole > 0 else 0.0
