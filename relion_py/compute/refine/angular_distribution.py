"""`_angdist.bild`: how many particles look along which direction, as coloured cylinders for Chimera.

Source: healpix_sampling.cpp, writeBildFileOrientationalDistribution; ml_model.cpp, MlModel::write.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry.euler import direction

_LENGTH = 0.3
"""Length of the longest cylinder over the radius of the sphere on which they stand."""
_WIDTH = 0.5
"""Width of the cylinders over that at which they would touch."""
_SHORTEST = 0.01
"""A: Chimera complains about shorter cylinders."""


def bild(
    weights: NDArray[np.float64], rot: NDArray[np.float64], tilt: NDArray[np.float64], step: float, radius: float
) -> str:
    """The text of the file.

    weights (D,): share of the particles at each direction (rot, tilt) (D,) in degrees; step: angular step in
    degrees; radius: half the box in A. The map's corner is the origin. Cylinders go from blue to red where
    a weight is from one standard deviation below the mean to five above it; there is none where it is 0.
    """
    deviation = float(weights.std())
    score = (weights - weights.mean()) / deviation if deviation > 0 else np.zeros(len(weights))
    red = (np.clip(score, -1.0, 5.0) + 1.0) / 6.0
    length = _LENGTH * radius * weights / max(float(weights.max()), np.finfo(float).tiny)
    axis = direction(rot, tilt)
    shown = np.flatnonzero((weights > 0) & (np.abs(length[:, None] * axis) > _SHORTEST).any(axis=1))
    bottom = radius * axis + radius
    top = (radius + length)[:, None] * axis + radius
    width = _WIDTH * math.pi * radius * step / 360.0
    lines = []
    for n in shown.tolist():
        places = " ".join(f"{value:g}" for value in (*bottom[n], *top[n]))
        lines.append(f".color {red[n]:g} 0 {1.0 - red[n]:g}\n.cylinder {places} {width:g}\n")
    return "".join(lines)
