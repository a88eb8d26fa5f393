"""Turns and shifts a map onto a known one, as a map made from nothing has a frame, and perhaps a hand, of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from relion_py.compute.image.fourier import resize_map
from relion_py.compute.image.masks import soft_mask

COARSE, FINE = 24, 64
"""Boxes of the search and of its refinement, in pixels at most."""
ORIENTATIONS = 4000
"""Of the search, at random: a dozen degrees from one to the next."""
CANDIDATES = 6
"""Orientations of the search that are refined."""

Map = NDArray[np.float32]


@dataclass
class _Fit:
    """How a map (perhaps mirrored) is turned, and then shifted in shares of the box, to be the known one."""

    score: float
    mirrored: bool
    rotation: Rotation
    shift: NDArray[np.float64]


def aligned(volume: Map, known: Map, radius: float) -> tuple[Map, bool]:
    """The cubic map where the known one is, and whether that is its mirror image; radius of both in pixels.

    Many orientations at the best shift of each, for both hands, then the best few to convergence.
    """
    fits = sorted(_search(volume, known, radius), key=lambda fit: -fit.score)[:CANDIDATES]
    best = max((_refined(volume, known, radius, fit, COARSE) for fit in fits), key=lambda fit: fit.score)
    best = _refined(volume, known, radius, best, FINE)
    return _moved(_hand(volume, best.mirrored), best, order=3), best.mirrored


def _search(volume: Map, known: Map, radius: float) -> list[_Fit]:
    mask = _mask(known, radius, COARSE)
    small, wanted = _cropped(volume, COARSE) * mask, _cropped(known, COARSE) * mask
    transform = np.conj(np.fft.rfftn(wanted - wanted.mean()))
    quaternions = np.random.default_rng(0).normal(size=(ORIENTATIONS, 4))  # of any length: even over the sphere
    box, fits = len(wanted), []
    for mirrored in (False, True):
        hand = _hand(small, mirrored)
        for quaternion in quaternions:
            fit = _Fit(0.0, mirrored, Rotation.from_quat(quaternion), np.zeros(3))
            turned = _moved(hand, fit, order=1)
            peaks = np.fft.irfftn(np.fft.rfftn(turned) * transform, turned.shape)
            place = np.array(np.unravel_index(peaks.argmax(), peaks.shape))
            fit.shift = -np.where(place < box / 2, place, place - box) / box
            fit.score = float(peaks.max() / np.linalg.norm(turned))
            fits.append(fit)
    return fits


def _refined(volume: Map, known: Map, radius: float, start: _Fit, box: int) -> _Fit:
    mask = _mask(known, radius, box)
    hand, wanted = _hand(_cropped(volume, box), start.mirrored), (_cropped(known, box) * mask).ravel()

    def fit_of(p: NDArray[np.float64]) -> _Fit:
        return _Fit(0.0, start.mirrored, Rotation.from_rotvec(p[:3]) * start.rotation, start.shift + p[3:])

    def cost(p: NDArray[np.float64]) -> float:
        return -float(np.corrcoef((_moved(hand, fit_of(p), order=1) * mask).ravel(), wanted)[0, 1])

    simplex = np.vstack([np.zeros(6), np.diag([0.1, 0.1, 0.1, 0.02, 0.02, 0.02])])
    found = minimize(cost, np.zeros(6), method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-3})
    fit = fit_of(found.x)
    fit.score = -found.fun
    return fit


def _moved(volume: Map, fit: _Fit, order: int) -> Map:
    """Turned about the centre, then shifted."""
    centre, back = np.full(3, len(volume) // 2), fit.rotation.as_matrix().T
    return affine_transform(volume, back, centre - back @ (centre + fit.shift * len(volume)), order=order)


def _hand(volume: Map, mirrored: bool) -> Map:
    """The map, or its mirror image, whose centre stays (the first plane of an even box has no partner)."""
    return np.roll(volume[::-1], 1 - len(volume) % 2, axis=0) if mirrored else volume


def _mask(known: Map, radius: float, box: int) -> Map:
    box = min(box, len(known))
    return soft_mask(box, radius * box / len(known), 2.0)


def _cropped(volume: Map, box: int) -> Map:
    """The same in coarser pixels, at most so many along a side."""
    return resize_map(volume, min(box, len(volume)))
