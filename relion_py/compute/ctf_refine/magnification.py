"""Anisotropic magnification of an optics group, and the astigmatism that goes with it.

Facts: RELION 5, jaz/optics/magnification_helper.cpp (solvePerPixel, solveLinearlyFreq, adaptAstigmatism) and
jaz/single_particle/ctf/magnification_estimator.cpp (parametricFit).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.ctf_refine.defocus import polar
from relion_py.compute.ctf_refine.particles import Optics
from relion_py.compute.ctf_refine.sums import Sums
from relion_py.compute.errors import UserError
from relion_py.compute.image.ctf import CtfParams

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MagnificationFit:
    """change: (2, 2), what multiplies the frequencies of an image from the left, after the matrix known so far.

    observed, fitted: displacements x, y (2, P) in Fourier pixels.
    """

    change: Array
    observed: Array
    fitted: Array


def fit_magnification(sums: Sums, weight: Array, optics: Optics) -> MagnificationFit:
    """The matrix whose displacements of Fourier pixels explain the images best; weight (P,).

    UserError where the sums do not tell all four elements.
    """
    k = np.stack([optics.kx, optics.ky]).astype(np.float64)
    tensor = np.array([[sums["Axx"], sums["Axy"]], [sums["Axy"], sums["Ayy"]]]) * weight
    force = np.stack([sums["bx"], sums["by"]]) * weight
    # displacement d_i = sum_j m_ij k_j, so the four m_ij have these normal equations
    matrix = np.einsum("ikp,jp,lp->ijkl", tensor, k, k).reshape(4, 4)
    right = np.einsum("ip,jp->ij", force, k).reshape(4)
    if np.linalg.cond(matrix) > 1e12:
        raise UserError(f'The magnification of optics group "{optics.name}" cannot be told: too few frequencies count.')
    change = np.linalg.solve(matrix, right).reshape(2, 2)
    determinant = sums["Axx"] * sums["Ayy"] - sums["Axy"] ** 2
    safe = np.where(determinant > 0, determinant, np.inf)
    observed = np.stack([
        (sums["Ayy"] * sums["bx"] - sums["Axy"] * sums["by"]) / safe,
        (sums["Axx"] * sums["by"] - sums["Axy"] * sums["bx"]) / safe,
    ])  # fmt: skip
    return MagnificationFit(np.eye(2) + change, observed, change @ k)


def anisotropy(matrix: Array) -> tuple[float, float]:
    """Mean of the singular values of a magnification matrix, and their difference."""
    values = np.linalg.svd(matrix, compute_uv=False)
    return float(values.mean()), float(abs(values[0] - values[1]))


def adapt_astigmatism(params: CtfParams, change: Array, groups: NDArray[np.int64] | None = None) -> CtfParams:
    """CTFs (n,) that are the same functions of the image's frequencies after the magnification changed.

    groups (n,): particles of one number (of a micrograph) get one astigmatism, that of their mean; None: each its own.
    """
    azimuth = np.deg2rad(params.defocus_angle)
    c, s = np.cos(azimuth), np.sin(azimuth)
    u, v = params.defocus_u, params.defocus_v
    tensor = np.array([[u * c * c + v * s * s, (u - v) * s * c], [(u - v) * s * c, u * s * s + v * c * c]])
    inverse = np.linalg.inv(change)
    tensor = np.einsum("ji,jkn,kl->iln", inverse, tensor, inverse)
    mean = 0.5 * (tensor[0, 0] + tensor[1, 1])
    along, across = 0.5 * (tensor[0, 0] - tensor[1, 1]), tensor[0, 1]
    if groups is not None:
        _, place = np.unique(groups, return_inverse=True)
        counts = np.bincount(place)
        along = (np.bincount(place, along) / counts)[place]
        across = (np.bincount(place, across) / counts)[place]
    return replace(params, **polar(mean, along, across))
