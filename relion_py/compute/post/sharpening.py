"""Sharpening of a map: MTF, FSC weights, B-factor, Guinier plot.

Half transforms are those of ``scipy.fft.rfftn``; curves are float64 (box // 2 + 1,) by shell.  A B-factor is in
A^2 and multiplies amplitudes by exp(-B / 4 s^2), s in 1/A: negative values sharpen.

Facts: RELION 5 ``src/postprocessing.cpp`` (``divideByMtf``, ``makeGuinierPlot``, ``applyFscWeighting``,
``sharpenMap``), ``src/funcs.cpp`` (``fitStraightLine``) and ``src/fftw.cpp`` (``applyBFactorToMap``);
Rosenthal and Henderson (2003), J. Mol. Biol. 333, 721-745.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.image.fourier import radius_grid, shell_grid
from relion_py.compute.io import star
from relion_py.compute.io.particles import OpticsGroup

Curve = NDArray[np.float64]
Complex = NDArray[np.complexfloating]

# What RELION writes as the logarithm of no amplitude.
NO_AMPLITUDE = -99.0


@dataclass(frozen=True)
class LineFit:
    """y = slope * x + intercept; ``correlation`` is the squared correlation coefficient of the points."""

    slope: float
    intercept: float
    correlation: float

    @property
    def bfactor(self) -> float:
        """B-factor in A^2 that makes a Guinier plot with this slope flat."""
        return 4.0 * self.slope


@dataclass(frozen=True)
class Mtf:
    """Detector's modulation transfer function: values at resolutions in 1/A, rising."""

    resolution: Curve
    value: Curve

    def at(self, resolution: Curve) -> Curve:
        """Interpolated values; beyond its ends those of the ends."""
        return np.interp(resolution, self.resolution, self.value)


def read_mtf(path: str, angpix: float) -> Mtf:
    """Read an MTF from a STAR file; ``angpix`` is the pixel size (A) of the raw micrographs.

    Raises UserError unless it has rising rlnResolutionInversePixel and positive rlnMtfValue.
    """
    for table in star.read(path).values():
        if "rlnResolutionInversePixel" in table and "rlnMtfValue" in table:
            resolution = table.floats("rlnResolutionInversePixel") / angpix
            value = table.floats("rlnMtfValue")
            if len(value) < 2 or not (np.diff(resolution) > 0).all():
                raise UserError(f"{path}: the resolution of the MTF does not go up; give another MTF file.")
            if not (value > 1e-10).all():
                raise UserError(f"{path}: the MTF has zero or negative values; give another MTF file.")
            return Mtf(resolution, value)
    raise UserError(f"{path} has no table with _rlnResolutionInversePixel and _rlnMtfValue.")


def read_detectors(groups: Sequence[OpticsGroup]) -> list[Mtf]:
    """The MTF of each optics group, none if all groups have the same or none: then only post-processing divides by it.

    UserError if only some have one. Source: RELION 5, obs_model.cpp (hasMultipleMtfs).
    """
    if len({group.mtf for group in groups}) < 2:
        return []
    for group in groups:
        if not (group.mtf and group.original_pixel_size):
            raise UserError(
                f'The optics groups have different MTFs, but "{group.name}" lacks _rlnMtfFileName or '
                "_rlnMicrographOriginalPixelSize; add them."
            )
    return [read_mtf(group.mtf, group.original_pixel_size) for group in groups]


def relative_mtf(detectors: list[Mtf], number: int, frequency: Curve) -> NDArray[np.float32]:
    """MTF of one of several detectors over the mean of all, at frequencies in 1/A (obs_model.cpp, divideByMtf)."""
    curves = np.array([detector.at(frequency) for detector in detectors])
    return (curves[number] / curves.mean(0)).astype(np.float32)


def divide_by_mtf(transform: Complex, mtf: Mtf, box: int, angpix: float) -> Complex:
    """Half transform of a map over the MTF; at Nyquist's frequency and beyond it stays as it is."""
    radius = radius_grid(box, transform.ndim)
    divisor = np.where(radius < box / 2, mtf.at(radius / (box * angpix)), 1.0)
    return transform / divisor.astype(transform.real.dtype)


def fsc_weights(fsc: Curve) -> Curve:
    """Weights sqrt(2 FSC / (1 + FSC)) by shell, 0 from where the FSC first falls below 0.0001."""
    below = np.flatnonzero(fsc < 0.0001)
    passed = np.arange(len(fsc)) < (below[0] if len(below) else len(fsc))
    passed[0] = True
    clipped = np.clip(fsc, 0.0, None)
    return np.where(passed, np.sqrt(2.0 * clipped / (1.0 + clipped)), 0.0)


def weight_shells(transform: Complex, weights: Curve, box: int) -> Complex:
    """Half transform times weights by shell (box // 2 + 1,); 0 beyond the last of them."""
    padded = np.append(weights, 0.0).astype(transform.real.dtype)
    shells = np.minimum(shell_grid(box, transform.ndim), len(weights))
    return transform * padded[shells]


def apply_bfactor(transform: Complex, bfactor: float, box: int, angpix: float) -> Complex:
    """Half transform with a B-factor (A^2), and 0 beyond Nyquist's frequency."""
    radius = radius_grid(box, transform.ndim)
    factor = np.where(radius <= box / 2, np.exp(-bfactor / 4.0 * (radius / (box * angpix)) ** 2), 0.0)
    return transform * factor.astype(transform.real.dtype)


def guinier_squares(box: int, angpix: float) -> Curve:
    """Abscissa of a Guinier plot: squared resolution (1/A^2) of the shells up to Nyquist's frequency."""
    return (np.arange(box // 2 + 1) / (box * angpix)) ** 2


def guinier_curve(transform: Complex, box: int) -> Curve:
    """ln of the mean amplitude by shell of a half transform, -99 for shells without any.

    Amplitudes are RELION's: those of ``scipy.fft.rfftn`` over the number of voxels.
    """
    shells = shell_grid(box, transform.ndim).ravel()
    count = box // 2 + 1
    amplitudes = np.abs(transform).ravel().astype(np.float64) / float(box) ** transform.ndim
    sums = np.bincount(shells, weights=amplitudes, minlength=count)[:count]
    means = sums / np.bincount(shells, minlength=count)[:count]
    return np.log(means, out=np.full(count, NO_AMPLITUDE), where=means > 0)


def fit_guinier(curve: Curve, box: int, angpix: float, lowres: float, highres: float) -> LineFit:
    """Straight line through the shells of a Guinier plot from ``lowres`` to ``highres`` A.

    highres 0: as far as there are data.  Raises UserError if fewer than two shells are in that range.
    """
    x = guinier_squares(box, angpix)
    resolution = np.divide(1.0, np.sqrt(x), out=np.full(len(x), np.inf), where=x > 0)
    used = (resolution <= lowres) & (resolution >= highres) & (curve > NO_AMPLITUDE)
    if used.sum() < 2:
        finest = resolution[curve > NO_AMPLITUDE].min(initial=np.inf)
        raise UserError(
            f"There are no data between {lowres:g} and {highres:g} A to fit a B-factor to (the map has them to "
            f"{finest:.3g} A): give a lower resolution with --autob_lowres, or a B-factor with --adhoc_bfac."
        )
    return fit_line(x[used], curve[used])


def fit_line(x: Curve, y: Curve) -> LineFit:
    """Least-squares line through points; all zero if they share one abscissa."""
    dx, dy = x - x.mean(), y - y.mean()
    xx, yy, xy = float(dx @ dx), float(dy @ dy), float(dx @ dy)
    if xx <= 0.0:
        return LineFit(0.0, 0.0, 0.0)
    slope = xy / xx
    return LineFit(slope, float(y.mean()) - slope * float(x.mean()), xy * xy / (xx * yy) if yy > 0 else 0.0)
