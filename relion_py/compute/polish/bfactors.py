"""How much each frame is worth at each frequency: B-factors and scale factors, and the weights they give.

The correlation of frame f with the predictions is modelled as d_k a_f exp(-k^2 / (2 s_f^2)), with one envelope d
for all frames. Source: Zivanov et al. (2019) IUCrJ 6:5; RELION 5, damage_helper.cpp (fitBkFactors,
findSigmaKRec, computeWeights) and frame_recombiner.cpp (weightsFromFCC, weightsFromBfacs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.fourier import radius_grid
from relion_py.compute.io import star
from relion_py.compute.io.star import StarFile, Table

_Real = NDArray[np.float64]
_STEPS, _DEPTH, _NARROWER = 20, 4, 0.1
_ROUNDS = 5
_TINY = 1e-20
_BFACTOR, _INTERCEPT = "rlnBfactorUsedForSharpening", "rlnFittedInterceptGuinierPlot"


@dataclass(frozen=True)
class FrameFactors:
    """Per frame, float64 (F,): sigma, the width of its envelope in shells of a map of `box` pixels of
    `pixel_size` A, and scale."""

    sigma: _Real
    scale: _Real
    box: int
    pixel_size: float

    def bfactors(self) -> _Real:
        """B-factors (A^2), negative; RELION's have half the box and one pixel where half the box would be due."""
        return -_unit(self.box, self.pixel_size) / self.sigma**2

    def weights(self, box: int, pixel_size: float) -> NDArray[np.float32]:
        """Weights of frames and Fourier pixels that sum to 1 over the frames, float32 (F, box, box // 2 + 1)."""
        shells = radius_grid(box) * (self.box * self.pixel_size / (box * pixel_size))
        # exponents are taken relative to the best frame's, lest all vanish at high frequency
        exponent = (
            -0.5 * (shells[None] / self.sigma[:, None, None]) ** 2
            + np.log(np.maximum(self.scale, _TINY))[:, None, None]
        )
        weights = np.exp(exponent - exponent.max(axis=0))
        return (weights / weights.sum(axis=0)).astype(np.float32)


def _unit(box: int, pixel_size: float) -> float:
    """-B sigma^2 (frame_recombiner.cpp, weightsFromFCC)."""
    return 8.0 * (pixel_size * (box // 2 + 1)) ** 2


def fit_frame_factors(correlation: _Real, first: int, last: int, pixel_size: float) -> FrameFactors:
    """Widths and scales of all frames from the Fourier cylinder correlation (F, shells).

    first, last: shells [first, last) in which they are fitted. pixel_size: A, of the half maps. UserError if no
    frame correlates with the predictions there.
    """
    shells = correlation.shape[1]
    box = 2 * (shells - 1)
    last = min(last, shells)
    if last - first < 2:
        raise UserError(
            f"There are no frequencies to fit B-factors to: they end at {box * pixel_size / max(last, 1):.1f} A; "
            "change --bfac_minfreq or --bfac_maxfreq."
        )
    k = np.arange(shells, dtype=np.float64)
    envelope = np.maximum(correlation[correlation.sum(axis=1).argmax()], 0.0)
    if not envelope[first:last].any():
        raise UserError("The frames do not correlate with the half maps; are these the maps of these particles?")
    sigma, scale = np.zeros(len(correlation)), np.zeros(len(correlation))
    for _ in range(_ROUNDS):
        for frame, curve in enumerate(correlation):
            sigma[frame], scale[frame] = _fit_one(curve[first:last], envelope[first:last], k[first:last], shells)
        model = scale[:, None] * np.exp(-0.5 * (k / sigma[:, None]) ** 2)
        below = (model**2).sum(axis=0)
        envelope = np.maximum((model * correlation).sum(axis=0) / np.maximum(below, _TINY), 0.0)
    return FrameFactors(sigma, scale, box, pixel_size)


def _fit_one(curve: _Real, envelope: _Real, k: _Real, shells: int) -> tuple[float, float]:
    """The best width on ever finer grids, with the scale that goes with it in closed form."""
    low, high = 1.0, 10.0 * shells
    best = (low, 1.0)
    for _ in range(_DEPTH + 1):
        sigma = np.linspace(low, high, _STEPS)
        sigma = sigma[sigma**2 >= _TINY]
        model = envelope * np.exp(-0.5 * (k / sigma[:, None]) ** 2)
        scale = model @ curve / np.maximum((model**2).sum(axis=1), _TINY)
        error = ((curve - scale[:, None] * model) ** 2).sum(axis=1)
        at = int(error.argmin())
        best = (float(sigma[at]), float(scale[at]))
        reach = _NARROWER * 0.5 * (high - low)
        low, high = max(best[0] - reach, _TINY), best[0] + reach
    return best


def write_bfactors(path: str, factors: FrameFactors) -> None:
    """Write frame numbers (from 0), B-factors (A^2) and logarithms of the scales."""
    table = Table(
        {
            "rlnMovieFrameNumber": np.arange(len(factors.sigma)),
            _BFACTOR: factors.bfactors(),
            _INTERCEPT: np.log(np.maximum(factors.scale, _TINY)),
        }
    )
    star.write(path, StarFile([("perframe_bfactors", table)]))


def read_bfactors(path: str, box: int, pixel_size: float) -> FrameFactors:
    """Factors of another run, for half maps of this box and pixel size (A).

    Were a B-factor positive, the best would count as -1 A^2 (frame_recombiner.cpp, weightsFromBfacs).
    """
    for table in star.read(path).values():
        if _BFACTOR in table and _INTERCEPT in table:
            bfactor = table.floats(_BFACTOR)
            bfactor = bfactor - max(0.0, float(bfactor.max())) - 1.0
            if not (bfactor < 0).all():
                raise UserError(f"{path} has B-factors that are no numbers.")
            sigma = np.sqrt(-_unit(box, pixel_size) / bfactor)
            return FrameFactors(sigma, np.exp(table.floats(_INTERCEPT)), box, pixel_size)
    raise UserError(f"{path} has no table with _{_BFACTOR} and _{_INTERCEPT}.")
