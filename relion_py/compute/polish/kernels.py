"""Kernels over movies of particles: powers of shells, correlations with predictions, sums along tracks.

Transforms are complex64 in the layout of rfft2, (box, box // 2 + 1), with the origin at the first pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def shell_power(movie, shell, out):  # type: ignore[no-untyped-def]
    """Add |F|^2 of the frames of one particle to its shells; returns the sum over the whole plane.

    movie (F, n, n // 2 + 1); shell int32 (n, n // 2 + 1), the last of them for all that is not wanted; out
    float64 (S,). In the sum, columns other than the first count twice (StackHelper::computePower).
    """
    total = 0.0
    for f in range(movie.shape[0]):
        for y in range(movie.shape[1]):
            for x in range(movie.shape[2]):
                value = movie[f, y, x]
                power = np.float64(value.real) * value.real + np.float64(value.imag) * value.imag
                out[shell[y, x]] += power
                total += power if x == 0 else 2.0 * power
    return total


@njit(**_OPTIONS)
def _turns(shift, count, box, signed, out):  # type: ignore[no-untyped-def]
    """exp(2 pi i k shift / box) for the frequencies k of a row, or (signed) of a column."""
    for i in range(count):
        k = i - box if signed and i > box // 2 else i
        angle = 2.0 * np.pi * k * shift / box
        out[i] = complex(np.cos(angle), np.sin(angle))


@njit(**_OPTIONS)
def correlate_along(movie, prediction, track, shell, cross, power, predicted):  # type: ignore[no-untyped-def]
    """Add the correlation of a particle's frames, moved back along its track, with its prediction.

    movie (F, n, n // 2 + 1); prediction (n, n // 2 + 1); track float64 (F, 2), pixels x and y; shell int32
    (n, n // 2 + 1), the last of them for what is not wanted; cross, power, predicted float64 (F, S), added to.
    """
    n, half = prediction.shape
    across, down = np.empty(half, np.complex128), np.empty(n, np.complex128)
    for f in range(movie.shape[0]):
        _turns(track[f, 0], half, n, False, across)
        _turns(track[f, 1], n, n, True, down)
        for y in range(n):
            for x in range(half):
                s = shell[y, x]
                value = np.complex128(movie[f, y, x])
                other = np.complex128(prediction[y, x])
                moved = value * (across[x] * down[y])
                cross[f, s] += moved.real * other.real + moved.imag * other.imag
                power[f, s] += value.real * value.real + value.imag * value.imag
                predicted[f, s] += other.real * other.real + other.imag * other.imag


@njit(**_OPTIONS)
def agreement_along(products, kx, ky, box, track):  # type: ignore[no-untyped-def]
    """Sum over frames and pixels of Re(product * exp(2 pi i k track / box)).

    products complex64 (F, A): weight times frame times conjugate prediction; kx, ky int32 (A,); track (F, 2).
    """
    half = box // 2 + 1
    across, down = np.empty(half, np.complex128), np.empty(box, np.complex128)
    total = 0.0
    for f in range(products.shape[0]):
        _turns(track[f, 0], half, box, False, across)
        _turns(track[f, 1], box, box, True, down)
        for a in range(len(kx)):
            turn = across[kx[a]] * down[ky[a]]
            total += products[f, a].real * turn.real - products[f, a].imag * turn.imag
    return total


@njit(**_OPTIONS)
def add_moved_back(total, transform, weight, x, y):  # type: ignore[no-untyped-def]
    """total += weight * transform of an image moved by (-x, -y) pixels; weight float32 of the same shape."""
    n, half = transform.shape
    across, down = np.empty(half, np.complex128), np.empty(n, np.complex128)
    _turns(x, half, n, False, across)
    _turns(y, n, n, True, down)
    for i in range(n):
        for j in range(half):
            turn = np.complex64(across[j] * down[i])
            total[i, j] += weight[i, j] * (transform[i, j] * turn)


@njit(**_OPTIONS)
def interpolate_all(maps, places, values, slopes):  # type: ignore[no-untyped-def]
    """Values and gradients of periodic maps at one place each, by cubic convolution (a = -1/2).

    maps float32 (P, F, n, n), indexed y, x; places float64 (P, F, 2), x and y; values (P, F) and slopes
    (P, F, 2) float64, overwritten. Source: Interpolation::cubicXY and cubicXYgrad.
    """
    n = maps.shape[2]
    weights, rates = np.empty((2, 4)), np.empty((2, 4))
    index = np.empty((2, 4), np.int64)
    for p in range(maps.shape[0]):
        for f in range(maps.shape[1]):
            for axis in range(2):
                low = np.floor(places[p, f, axis])
                t = places[p, f, axis] - low
                weights[axis, 0] = ((-0.5 * t + 1.0) * t - 0.5) * t
                weights[axis, 1] = (1.5 * t - 2.5) * t * t + 1.0
                weights[axis, 2] = ((-1.5 * t + 2.0) * t + 0.5) * t
                weights[axis, 3] = (0.5 * t - 0.5) * t * t
                rates[axis, 0] = (-1.5 * t + 2.0) * t - 0.5
                rates[axis, 1] = (4.5 * t - 5.0) * t
                rates[axis, 2] = (-4.5 * t + 4.0) * t + 0.5
                rates[axis, 3] = (1.5 * t - 1.0) * t
                for i in range(4):
                    index[axis, i] = (np.int64(low) + i - 1) % n
            value, slope_x, slope_y = 0.0, 0.0, 0.0
            for i in range(4):
                row, row_rate = 0.0, 0.0
                for j in range(4):
                    sample = np.float64(maps[p, f, index[1, i], index[0, j]])
                    row += weights[0, j] * sample
                    row_rate += rates[0, j] * sample
                value += weights[1, i] * row
                slope_x += weights[1, i] * row_rate
                slope_y += rates[1, i] * row
            values[p, f] = value
            slopes[p, f, 0] = slope_x
            slopes[p, f, 1] = slope_y
