"""How accurately a particle's orientation and offset can be known at the present resolution and noise.

The error at which two projections of the reference become distinguishable, log-likelihood ratio 4.6 (p = 0.01),
averaged over some particles. Source: ml_optimiser.cpp, calculateExpectedAngularErrors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.geometry.euler import euler_to_matrix, matrix_to_euler
from relion_py.compute.jit import njit
from relion_py.compute.refine.images import DiscPixels
from relion_py.compute.refine.projector import FourierReference

LOG_ODDS = 4.60517
"""-log 0.01"""
_MAX_ANGLE, _MAX_SHIFT = 30.0, 10.0
_VIEWS_AT_ONCE = 8
_ANGLE_STEPS = ((0.2, 0.05), (1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (20.0, 2.0), (np.inf, 5.0))
_SHIFT_STEPS = ((1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (np.inf, 2.0))


def _ladder(steps: tuple[tuple[float, float], ...], largest: float) -> NDArray[np.float64]:
    """The errors that are tried: each from the last by the step that belongs to it, to the first beyond `largest`."""
    errors, error = [], 0.0
    while error <= largest:
        error += next(step for below, step in steps if error < below)
        errors.append(error)
    return np.array(errors)


def random_axes(
    n: int, random: np.random.Generator, in_plane_only: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """About which of rot, tilt and psi (0, 1, 2) each of n particles is turned, and whether it is moved along x."""
    axes, along_x = np.full(n, 2), np.zeros(n, np.bool_)
    for i in range(n):
        if not in_plane_only:
            axes[i] = random.integers(3)
        along_x[i] = random.random() < 0.5
    return axes, along_x


def expected_errors(
    reference: FourierReference,
    matrices: NDArray[np.float64],
    ctf: NDArray[np.float32],
    inv_sigma2: NDArray[np.float32],
    pixels: DiscPixels,
    pixel_size: float,
    axes: NDArray[np.int64],
    along_x: NDArray[np.bool_],
    *,
    distortion: NDArray[np.float32] | None = None,
    box: int = 0,
) -> tuple[float, float, NDArray[np.float64]]:
    """Sums over N particles of errors of angles (degrees) and offsets (A), and of what shells tell of angles (S,).

    matrices (N, 3, 3): orientations of the trial particles; ctf (N, P); inv_sigma2 (N, S): reciprocal noise variance;
    axes (N,), along_x (N,): see `random_axes`; distortion (2, 2): multiplies the first two rows of
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
        turned[1:, axes[n]] += angle_errors
        matrix = euler_to_matrix(*turned.T)
        if distortion is not None:
            matrix[:, :2] = distortion.astype(np.float64) @ matrix[:, :2]
        view = reference.project(matrix[:1], pixels.kx, pixels.ky)[0]
        tried, difference = _first_distinct(reference, matrix[1:], view, weight, pixels)
        sum_angle += angle_errors[tried]
        contribution += np.bincount(pixels.shell, difference, len(contribution))
        k = pixels.kx if along_x[n] else pixels.ky
        power = np.abs(view) ** 2 * weight
        sum_shift += shift_errors[_first_moved(power, k, 2.0 * np.pi / (box or reference.box) * shift_errors)]
    return sum_angle, sum_shift * pixel_size, contribution


def _first_distinct(
    reference: FourierReference, matrices: NDArray[np.float64], view: NDArray, weight: NDArray, pixels: DiscPixels
) -> tuple[int, NDArray[np.floating]]:
    """Number of the first of some views (E, 3, 3) that can be told from `view` (P,), else of the last; by what (P,)."""
    power = np.zeros(len(weight), np.float32)
    for first in range(0, len(matrices), _VIEWS_AT_ONCE):
        others = reference.project(matrices[first : first + _VIEWS_AT_ONCE], pixels.kx, pixels.ky)
        told = _first_told_apart(others, view, weight, power)
        if told < len(others):
            return first + told, power
    return len(matrices) - 1, power


@njit(cache=True, nogil=True)
def _first_told_apart(others, view, weight, power):  # type: ignore[no-untyped-def]
    """Number of the first of `others` (E, P) that can be told from `view` (P,), or E; power (P,): by what, the last."""
    for e in range(others.shape[0]):
        snr = 0.0
        for p in range(view.shape[0]):
            difference = others[e, p] - view[p]
            power[p] = (difference.real * difference.real + difference.imag * difference.imag) * weight[p]
            snr += power[p]
        if snr > LOG_ODDS:
            return e
    return others.shape[0]


@njit(cache=True, nogil=True)
def _first_moved(power, k, angles):  # type: ignore[no-untyped-def]
    """Number of the first shift, in radians at k = 1, that can be told from none, else that of the last."""
    of_frequency = np.zeros(np.max(np.abs(k)) + 1)  # all that are at k or -k are moved alike
    for p in range(power.shape[0]):
        of_frequency[abs(k[p])] += power[p]
    for e in range(angles.shape[0]):
        snr = 0.0
        for f in range(of_frequency.shape[0]):
            snr += of_frequency[f] * (2.0 - 2.0 * np.cos(angles[e] * f))
        if snr > LOG_ODDS:
            return e
    return angles.shape[0] - 1
