"""Odd and even aberrations: smooth phases fitted to what was summed at each Fourier pixel.

Odd ones (beam tilt, trefoil) are the phase of a complex sum, even ones what is to be added to the CTF's phase.  Both
minimise, over the coefficients of Zernike polynomials in 1/A,

    sum over pixels of  weight * e^T A e,   e = (cos phi, sin phi) - A^-1 b.

Facts: RELION 5, jaz/single_particle/ctf/tilt_estimator.cpp and aberration_estimator.cpp (parametricFit),
tilt_helper.cpp (fitTiltShift, optimiseBasis, extractTilt); Zivanov, Nakane & Scheres (2020), IUCrJ 7, 253-267.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine.particles import Optics
from relion_py.compute.ctf_refine.sums import Sums
from relion_py.compute.image.aberrations import even_indices, odd_indices, zernike
from relion_py.compute.image.ctf import electron_wavelength

Array = NDArray[np.float64]

_RADII = (0.4, 0.55, 0.7, 0.85, 1.0)
"""Parts of the last frequency up to which the fit has grown at each stage: no phase may wrap on the way."""


@dataclass(frozen=True)
class PhaseFit:
    """coefficients of the basis; observed and fitted phases (P,) in radians."""

    coefficients: Array
    observed: Array
    fitted: Array


def ring_weight(weight: Array, frequency: Array, first: float, second: float) -> Array:
    """Weights (P,) with those between two resolutions (A, first not included) set to 0; second <= 0: none are."""
    if second <= 0:
        return weight
    resolution = 1.0 / frequency
    return np.where((resolution > first) & (resolution <= second), 0.0, weight)


def number_of_odd(degree: int) -> int:
    """Odd polynomials up to a degree (Zernike::numberOfOddCoeffs)."""
    levels = (degree - 1) // 2 + 1
    return levels * levels + levels


def number_of_even(degree: int) -> int:
    """Even polynomials up to a degree (Zernike::numberOfEvenCoeffs)."""
    return (degree // 2 + 1) ** 2


def fit_odd(sums: Sums, weight: Array, optics: Optics, degree: int) -> PhaseFit:
    """Coefficients of all odd polynomials up to ``degree``, 3 or more; weight (P,)."""
    x, y = optics.undistorted
    basis = np.stack([zernike(*odd_indices(i), x, y) for i in range(number_of_odd(degree))])
    return _fit_odd(sums, weight, optics, basis)


def fit_tilt(sums: Sums, weight: Array, optics: Optics) -> tuple[PhaseFit, float, float]:
    """A shift and a beam tilt alone: the fit, and the tilt along x and y in mrad."""
    x, y = optics.undistorted
    u2 = x * x + y * y
    fit = _fit_odd(sums, weight, optics, np.stack([x, y, u2 * x, u2 * y]))
    scale = tilt_scale(optics)
    return fit, float(-fit.coefficients[2] / scale), float(-fit.coefficients[3] / scale)


def tilt_scale(optics: Optics) -> float:
    """Radians A^3 for each mrad of beam tilt."""
    return optics.cs * 20000.0 * float(electron_wavelength(optics.voltage)) ** 2 * np.pi


def extract_tilt(coefficients: Array, optics: Optics) -> tuple[Array, float, float]:
    """Odd coefficients without what is a beam tilt, and that tilt along x and y in mrad (extractTilt)."""
    rest = np.array(coefficients, np.float64)
    along_y, along_x = rest[3], rest[4]
    rest[3:5] = 0.0
    rest[0] -= 2.0 * along_y
    rest[1] -= 2.0 * along_x
    scale = tilt_scale(optics)
    if scale == 0.0:
        return np.array(coefficients, np.float64), 0.0, 0.0
    return rest, float(-3.0 * along_x / scale), float(-3.0 * along_y / scale)


def fit_even(sums: Sums, weight: Array, optics: Optics, degree: int) -> PhaseFit:
    """Coefficients of all even polynomials up to ``degree``; weight (P,)."""
    x, y = optics.undistorted
    basis = np.stack([zernike(*even_indices(i), x, y) for i in range(number_of_even(degree))])
    quadratic = np.stack([sums["Axx"], sums["Axy"], sums["Ayy"]])
    linear = np.stack([sums["bx"], sums["by"]])
    determinant = quadratic[0] * quadratic[2] - quadratic[1] ** 2
    usable = determinant > 0
    safe = np.where(usable, determinant, 1.0)
    cosine = (quadratic[2] * linear[0] - quadratic[1] * linear[1]) / safe
    sine = (quadratic[0] * linear[1] - quadratic[1] * linear[0]) / safe
    observed = np.where(usable, np.arctan2(sine, cosine), 0.0)
    clarity = np.where(usable, weight * np.sqrt(safe), 0.0)
    return _fit(basis, observed, clarity, quadratic * weight, linear * weight, optics.frequency)


def _fit_odd(sums: Sums, weight: Array, optics: Optics, basis: Array) -> PhaseFit:
    strength = sums["weight"] * weight
    quadratic = np.stack([strength, np.zeros_like(strength), strength])
    linear = np.stack([sums["real"], sums["imag"]]) * weight
    observed = np.arctan2(sums["imag"], sums["real"])
    return _fit(basis, observed, strength, quadratic, linear, optics.frequency)


def _fit(basis: Array, observed: Array, clarity: Array, quadratic: Array, linear: Array, frequency: Array) -> PhaseFit:
    """The better of two descents: from the phases' own linear fit, and outwards from the lowest frequencies.

    The reference makes the first one only, which phases that wrap lead astray.
    """
    counts = np.flatnonzero(clarity > 0)
    b, q, l = basis[:, counts], quadratic[:, counts], linear[:, counts]
    # polynomials that the pixels cannot tell apart share a coefficient of least size
    ortho, transfer = _orthonormal(b, clarity[counts])
    start = ortho @ (clarity[counts] * observed[counts])
    candidates = [_descend(ortho, q, l, start)]
    grown = np.zeros(len(ortho))
    reach = frequency[counts].max()
    for part in _RADII:
        inside = frequency[counts] <= part * reach
        if inside.sum() > 2 * len(basis):
            grown = _descend(ortho[:, inside], q[:, inside], l[:, inside], grown)
    candidates.append(grown)
    best = min(candidates, key=lambda c: _cost(c @ ortho, q, l).sum())
    coefficients = transfer @ best
    return PhaseFit(coefficients, observed, coefficients @ basis)


def _orthonormal(basis: Array, weight: Array) -> tuple[Array, Array]:
    """Combinations of the basis (C, P) that are orthonormal under the weight, and (C, C') that gives them back."""
    size = np.sqrt((basis**2 * weight).sum(axis=1))
    scaled = basis / np.where(size > 0, size, 1.0)[:, None]
    values, vectors = np.linalg.eigh((scaled * weight) @ scaled.T)
    kept = values > 1e-10 * values[-1]
    transfer = vectors[:, kept] / np.sqrt(values[kept]) / np.where(size > 0, size, 1.0)[:, None]
    return transfer.T @ basis, transfer


def _cost(phase: Array, quadratic: Array, linear: Array) -> Array:
    c, s = np.cos(phase), np.sin(phase)
    xx, xy, yy = quadratic
    return xx * c * c + 2.0 * xy * c * s + yy * s * s - 2.0 * (linear[0] * c + linear[1] * s)


def _descend(basis: Array, quadratic: Array, linear: Array, start: Array) -> Array:
    """Levenberg's and Marquardt's method, with the tangent (-sin, cos) as the residual's derivative."""
    xx, xy, yy = quadratic
    theta, damping = np.array(start, np.float64), 1e-3
    cost = _cost(theta @ basis, quadratic, linear).sum()
    for _ in range(200):
        phase = theta @ basis
        c, s = np.cos(phase), np.sin(phase)
        slope = (yy - xx) * c * s + xy * (c * c - s * s) + linear[0] * s - linear[1] * c
        curvature = xx * s * s - 2.0 * xy * s * c + yy * c * c
        hessian = (basis * curvature) @ basis.T
        matrix = hessian + damping * max(np.trace(hessian) / len(hessian), 1e-30) * np.eye(len(hessian))
        trial = theta - np.linalg.solve(matrix, basis @ slope)
        found = _cost(trial @ basis, quadratic, linear).sum()
        if not found < cost:
            damping *= 10.0
            if damping > 1e10:
                break
            continue
        gain, theta, cost, damping = cost - found, trial, found, max(damping * 0.1, 1e-9)
        if gain < 1e-12 * abs(cost):
            break
    return theta
