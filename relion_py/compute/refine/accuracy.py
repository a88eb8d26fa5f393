"""How accurately a particle's orientation and offset can be known at the present resolution and noise.

The error at which two projections of the reference become distinguishable, log-likelihood ratio 4.6 (p = 0.01),
averaged over some particles. Source: ml_optimiser.cpp, calculateExpectedAngularErrors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry.euler import euler_to_matrix, matrix_to_euler
from relion_py.compute.refine.images import DiscPixels
from relion_py.compute.refine.projector import FourierReference

LOG_ODDS = 4.60517
"""-log 0.01"""
_MAX_ANGLE, _MAX_SHIFT = 30.0, 10.0
_ANGLE_STEPS = ((0.2, 0.05), (1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (20.0, 2.0), (np.inf, 5.0))
_SHIFT_STEPS = ((1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (np.inf, 2.0))


def _ladder(steps: tuple[tuple[float, float], ...], largest: float) -> NDArray[np.float64]:
    """The errors that are tried: each from the last by the step that belongs to it, to the first beyond `largest`."""
    errors, error = [], 0.0
    while error <= largest:
        error += next(step for below, step in steps if error < below)
        errors.append(error)
    return np.array(errors)


def expected_errors(
    reference: FourierReference,
    matrices: NDArray[np.float64],
    ctf: NDArray[np.float32],
    inv_sigma2: NDArray[np.float32],
    pixels: DiscPixels,
    pixel_size: float,
    random: np.random.Generator,
    *,
    in_plane_only: bool = False,
    distortion: NDArray[np.float32] | None = None,
    box: int = 0,
) -> tuple[float, float, NDArray[np.float64]]:
    """Expected error of angles (degrees) and offsets (A), and what each shell contributes to the former (S,).

    matrices (N, 3, 3): orientations of the trial particles; ctf (N, P); inv_sigma2 (N, S): reciprocal noise variance;
    in_plane_only: 2D references, which turn about one axis only; distortion (2, 2): multiplies the first two rows of
    the matrices from the left, for images whose frequencies are not those of the reference; box: of the images,
    pixels, if it is not the reference's.
    """
    angle_errors, shift_errors = _ladder(_ANGLE_STEPS, _MAX_ANGLE), _ladder(_SHIFT_STEPS, _MAX_SHIFT)
    angles = np.stack(matrix_to_euler(matrices), axis=1)
    sum_angle = sum_shift = 0.0
    contribution = np.zeros(inv_sigma2.shape[1])
    for n, (rot, tilt, psi) in enumerate(angles):
        weight = 0.5 * ctf[n] ** 2 * inv_sigma2[n, pixels.shell]
        turned = np.tile([rot, tilt, psi], (len(angle_errors) + 1, 1))
        turned[1:, 2 if in_plane_only else random.integers(3)] += angle_errors
        matrix = euler_to_matrix(*turned.T)
        if distortion is not None:
            matrix[:, :2] = distortion.astype(np.float64) @ matrix[:, :2]
        views = reference.project(matrix, pixels.kx, pixels.ky)
        difference = np.abs(views[1:] - views[0]) ** 2 * weight
        tried = _first_above(difference.sum(axis=1))
        sum_angle += angle_errors[tried]
        contribution += np.bincount(pixels.shell, difference[tried], len(contribution))
        k = pixels.kx if random.random() < 0.5 else pixels.ky
        phase = 2.0 * np.pi / (box or reference.box) * np.outer(shift_errors, k)
        snr = (2.0 - 2.0 * np.cos(phase)) @ (np.abs(views[0]) ** 2 * weight)
        sum_shift += shift_errors[_first_above(snr)]
    total = contribution.sum()
    return (
        sum_angle / len(angles),
        sum_shift / len(angles) * pixel_size,
        contribution / total if total > 0 else contribution,
    )


def _first_above(snr: NDArray[np.float64]) -> int:
    """Index of the first error that can be told from none, else the last."""
    above = np.nonzero(snr > LOG_ODDS)[0]
    return int(above[0]) if len(above) else len(snr) - 1
