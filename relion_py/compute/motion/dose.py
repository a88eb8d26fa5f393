"""Weights of frames by the radiation damage that they have taken.

Source: Grant & Grigorieff, eLife 4:e06980 (2015), equations 3, 5 and 9; RELION 5, motioncorr_runner.cpp,
doseWeighting.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.motion.align import signed

_A, _B, _C = 0.245, -1.665, 2.81  # equation 3
_DAMAGE = {300: 1.0, 200: 0.8, 100: 0.64}  # critical dose over that at 300 kV


def doses_at_300kv(
    frames: NDArray[np.int64], dose_per_frame: float, pre_exposure: float, voltage: float
) -> NDArray[np.float64]:
    """Dose (e/A2) after each frame (numbers from 0), as that of 300 kV electrons that damages as much.

    UserError unless the voltage is about 300, 200 or 100 kV.
    """
    known = [kv for kv in _DAMAGE if abs(voltage - kv) <= 2]
    if not known:
        raise UserError(f"Dose weighting is known for 300, 200 and 100 kV, not for {voltage:g} kV.")
    after = pre_exposure + dose_per_frame * (np.asarray(frames, np.float64) + 1.0)
    return after / _DAMAGE[known[0]]


def decay(ny: int, nx: int, pixel_size: float) -> NDArray[np.float32]:
    """1 / (2 Ne): how fast signal decays with dose, float32 (ny, nx // 2 + 1), 0 at the origin.

    Ne: the critical dose (equation 3). pixel_size: A, of images (ny, nx).
    """
    k2 = (signed(ny)[:, None] / ny) ** 2 + (np.arange(nx // 2 + 1) / nx) ** 2
    k = (np.sqrt(k2) / pixel_size).astype(np.float32)
    k[0, 0] = 1.0
    rate = 0.5 / (_A * k**_B + _C)
    rate[0, 0] = 0.0
    return rate.astype(np.float32)


def weights(rate: NDArray[np.float32], dose: float, norm: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """exp(-dose / 2 Ne) (equation 5), over `norm` (equation 9) if it is given."""
    weight = np.exp(np.float32(-dose) * rate)
    if norm is not None:
        weight /= norm
    return weight


def norm_of(rate: NDArray[np.float32], doses: NDArray[np.float64]) -> NDArray[np.float32]:
    """Square root of the sum over frames of squared weights: with it noise stays white (equation 9)."""
    total = np.zeros_like(rate)
    for dose in doses:
        total += np.exp(np.float32(-2.0 * dose) * rate)
    return np.sqrt(total)
