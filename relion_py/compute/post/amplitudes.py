"""Amplitudes of half maps: evened over directions, and compared shell by shell (`relion_postprocess --ampl_corr`).

Facts: RELION 5 ``src/postprocessing.cpp`` (``correctRadialAmplitudeDistribution``, ``findSurfacePixel``) and
``src/fftw.cpp`` (``getAmplitudeCorrelationAndDifferentialPhaseResidual``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fft
from relion_py.compute.image.fourier import frequencies, shell_grid
from relion_py.compute.jit import njit

Map = NDArray[np.float32]
Curve = NDArray[np.float64]

_SEARCH = 2  # pixels around the direction in which the sphere's pixel is looked for


def even_amplitudes(volume: Map, angpix: float, coarsest: float) -> Map:
    """A map (box, box, box) whose mean power is alike in all directions, as particles seen from everywhere have it.

    Power beyond ``coarsest`` A, relative to its shell's mean, is averaged along rays from the origin (each pixel of
    the sphere of that radius stands for one) and divided by its mean.
    """
    box = volume.shape[-1]
    transform = fft.rfftn(volume).astype(np.complex64)
    shells = shell_grid(box, 3)
    radius = int((box // 2 + 1) * angpix / coarsest)
    power = np.abs(transform).astype(np.float64) ** 2
    inside = shells <= box // 2
    counts = np.bincount(shells[inside], minlength=box // 2 + 1)
    mean = np.bincount(shells[inside], power[inside], minlength=box // 2 + 1) / np.maximum(counts, 1)
    k = frequencies(box).astype(np.int64)
    _divide_by_rays(transform, power, mean, shells, k, radius, _offsets())
    return fft.irfftn(transform, s=volume.shape).astype(np.float32)


def _offsets() -> NDArray[np.int64]:
    """Steps (125, 3) in z, y, x to the neighbours of a pixel, the nearest first."""
    axis = np.arange(-_SEARCH, _SEARCH + 1)
    steps = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return steps[np.argsort((steps**2).sum(1), kind="stable")].astype(np.int64)


@njit(cache=True)
def _on_sphere(z, y, x, shell, radius, offsets):  # type: ignore[no-untyped-def]
    """The pixel of the sphere nearest to where the ray to (z, y, x) meets it."""
    share = radius / shell if shell > 0 else 0.0
    cz, cy, cx = _rounded(share * z), _rounded(share * y), _rounded(share * x)
    for n in range(offsets.shape[0]):
        pz, py, px = cz + offsets[n, 0], cy + offsets[n, 1], cx + offsets[n, 2]
        if _rounded(np.sqrt(float(pz * pz + py * py + px * px))) == radius:
            return pz, py, px
    return cz, cy, cx


@njit(cache=True)
def _rounded(value):  # type: ignore[no-untyped-def]
    return int(np.floor(value + 0.5)) if value > 0 else int(np.ceil(value - 0.5))


@njit(cache=True)
def _divide_by_rays(transform, power, mean, shells, k, radius, offsets):  # type: ignore[no-untyped-def]
    size, half = 2 * radius + 2 * _SEARCH + 1, radius + _SEARCH
    sums, counts = np.zeros((size, size, size)), np.zeros((size, size, size))
    depth, height, width = transform.shape
    for divide in (False, True):
        for i in range(depth):
            for j in range(height):
                for x in range(width):
                    shell = shells[i, j, x]
                    if shell < radius or shell >= width or mean[shell] <= 0:
                        continue
                    pz, py, px = _on_sphere(k[i], k[j], x, shell, radius, offsets)
                    place = (pz + half, py + half, px + half)
                    if not divide:
                        sums[place] += power[i, j, x] / mean[shell]
                        counts[place] += 1
                    elif sums[place] > 0:
                        transform[i, j, x] /= np.sqrt(sums[place] / counts[place])


def amplitude_agreement(first: Map, second: Map) -> tuple[Curve, Curve]:
    """By shell, (box // 2 + 1,): correlation of two maps' amplitudes, and differential phase residual in degrees."""
    box = first.shape[-1]
    shells = shell_grid(box, 3)
    inside = shells <= box // 2
    index = shells[inside]
    one, two = (fft.rfftn(volume.astype(np.float32))[inside] for volume in (first, second))

    def total(values: NDArray[np.floating]) -> Curve:
        return np.bincount(index, values, minlength=box // 2 + 1).astype(np.float64)

    a, b = (np.abs(values).astype(np.float64) for values in (one, two))
    counts = np.maximum(np.bincount(index, minlength=box // 2 + 1), 1)
    apart = np.rad2deg(np.angle(one * np.conj(two))).astype(np.float64)
    weight = total(a + b)
    residual = np.sqrt(np.divide(total(apart**2 * (a + b)), weight, out=np.zeros_like(weight), where=weight > 0))
    a, b = a - (total(a) / counts)[index], b - (total(b) / counts)[index]
    scale = np.sqrt(total(a * a) * total(b * b))
    return np.divide(total(a * b), scale, out=np.ones_like(scale), where=scale > 0), residual
