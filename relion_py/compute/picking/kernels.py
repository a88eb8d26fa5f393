"""Kernels of pickers: the moments of an image, its standard form, the choice of peaks of many sizes."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@numba.njit(**_OPTIONS)
def moments(image):  # type: ignore[no-untyped-def]
    """Mean and standard deviation of float32 (ny, nx), in float64; NaN if any pixel is no finite number."""
    pivot = np.float64(image[0, 0])  # differences from it keep the second moment exact
    total, squares = 0.0, 0.0
    for row in range(image.shape[0]):
        row_total, row_squares = 0.0, 0.0
        for column in range(image.shape[1]):
            value = image[row, column] - pivot
            row_total += value
            row_squares += value * value
        total += row_total
        squares += row_squares
    mean = total / image.size
    return mean + pivot, np.sqrt(max(squares - total * mean, 0.0 * squares) / max(image.size - 1, 1))


@numba.njit(**_OPTIONS)
def standardise(image, mean, deviation, largest, sign):  # type: ignore[no-untyped-def]
    """In place: mean 0, standard deviation 1, times `sign`; pixels beyond `largest` deviations become 0.

    Source: autopicker.cpp, autoPickLoGOneMicrograph.
    """
    scale = np.float32(sign / deviation)
    limit = np.float32(largest)
    middle = np.float32(mean)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            value = (image[row, column] - middle) * scale
            image[row, column] = np.float32(0.0) if abs(value) > limit else value


@numba.njit(**_OPTIONS)
def choose_peaks(merit, order, radii):  # type: ignore[no-untyped-def]
    """Peaks from the highest down, each of which removes its neighbourhood.

    merit: float32 (n, n), changed: what a peak removes becomes 0. order: flat indices of the positive pixels,
    the highest first. radii: int (n, n), a peak there removes the pixels nearer than that. Returns flat indices.

    Source: autopicker.cpp, autoPickLoGOneMicrograph.
    """
    rows, columns = merit.shape
    peaks = np.empty(order.size, np.int64)
    found = 0
    for flat in order:
        row, column = flat // columns, flat % columns
        if merit[row, column] <= 0.0:
            continue
        peaks[found] = flat
        found += 1
        merit[row, column] = 0.0
        radius = radii[row, column]
        for y in range(max(0, row - radius), min(rows, row + radius + 1)):
            for x in range(max(0, column - radius), min(columns, column + radius + 1)):
                if (y - row) ** 2 + (x - column) ** 2 < radius * radius:
                    merit[y, x] = 0.0
    return peaks[:found]


@numba.njit(**_OPTIONS)
def keep_apart(points, label, distance):  # type: ignore[no-untyped-def]
    """Which of the points (N, 2), the best first, have no better one that is kept within less than `distance`.

    Only points of the same label count; those of one label follow each other. Returns bool (N,).
    """
    count = len(points)
    kept = np.ones(count, np.bool_)
    for index in range(count):
        if not kept[index]:
            continue
        for other in range(index + 1, count):
            if label[other] != label[index]:
                break
            apart = (points[other, 0] - points[index, 0]) ** 2 + (points[other, 1] - points[index, 1]) ** 2
            if apart < distance * distance - 1e-6:
                kept[other] = False
    return kept
