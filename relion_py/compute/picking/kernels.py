"""Kernels of pickers: the moments of an image, its standard form, the choice of peaks of many sizes.

None of them makes an array: those that do load more of Numba when they are called first, see `compute.jit`."""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_OPTIONS, fastmath={"reassoc", "contract"})  # but NaN and infinity count
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


@njit(**_OPTIONS)
def standardise(image, mean, scale, largest, out):  # type: ignore[no-untyped-def]
    """(image - mean) * scale, 0 where that is beyond `largest`, to `out`; both float32 (ny, nx).

    Source: autopicker.cpp, autoPickLoGOneMicrograph.
    """
    middle, scale, limit = np.float32(mean), np.float32(scale), np.float32(largest)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            value = (image[row, column] - middle) * scale
            out[row, column] = np.float32(0.0) if abs(value) > limit else value


@njit(**_OPTIONS)
def keep_larger(image, name, best, names):  # type: ignore[no-untyped-def]
    """Where float32 (N,) exceeds `best`, it takes the place, and `name` that in `names`; both float32 (N,)."""
    name = np.float32(name)
    for pixel in range(image.size):
        better = image[pixel] > best[pixel]
        best[pixel] = image[pixel] if better else best[pixel]
        names[pixel] = name if better else names[pixel]


@njit(**_OPTIONS)
def choose_peaks(merit, order, radii, peaks):  # type: ignore[no-untyped-def]
    """Peaks from the highest down, each of which removes its neighbourhood: how many.

    merit: float32 (n, n), changed: what a peak removes becomes 0. order: flat indices of the positive pixels,
    the highest first. radii: int (n, n), a peak there removes the pixels nearer than that. peaks: int64, as `order`,
    to which their flat indices go.

    Source: autopicker.cpp, autoPickLoGOneMicrograph.
    """
    rows, columns = merit.shape
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
                if (y - row) * (y - row) + (x - column) * (x - column) < radius * radius:
                    merit[y, x] = 0.0
    return found


@njit(**_OPTIONS)
def keep_apart(points, label, distance, kept):  # type: ignore[no-untyped-def]
    """Which of the points (N, 2), the best first, have no better one that is kept within less than `distance`: others
    become False in `kept`, bool (N,), at first True.

    Only points of the same label count; those of one label follow each other.
    """
    count = len(points)
    for index in range(count):
        if not kept[index]:
            continue
        for other in range(index + 1, count):
            if label[other] != label[index]:
                break
            down, right = points[other, 0] - points[index, 0], points[other, 1] - points[index, 1]
            if down * down + right * right < distance * distance - 1e-6:
                kept[other] = False


@njit(**_OPTIONS)
def clusters(points, order, squared, parent):  # type: ignore[no-untyped-def]
    """The first point of each point's cluster, to `parent`, int64 (N,), at first the numbers of the points: steps
    between points of a cluster are, squared, less than `squared`.

    points: float64 (N, 2). order: their numbers, the first coordinate rising.
    """
    count = len(points)
    for place in range(count):
        one = order[place]
        for after in range(place + 1, count):
            other = order[after]
            down, right = points[other, 0] - points[one, 0], points[other, 1] - points[one, 1]
            if down * down >= squared:
                break
            if down * down + right * right < squared:
                first, second = _root(parent, one), _root(parent, other)
                parent[max(first, second)] = min(first, second)
    for one in range(count):
        parent[one] = _root(parent, one)


@njit(**_OPTIONS)
def _root(parent, one):  # type: ignore[no-untyped-def]
    while parent[one] != one:
        parent[one] = parent[parent[one]]  # shorter ways for those who follow
        one = parent[one]
    return one


@njit(**_OPTIONS)
def lonely(points, order, squared, alone):  # type: ignore[no-untyped-def]
    """Which points (N, 2) have no other within a distance whose square is `squared`: others become False in `alone`,
    bool (N,), at first True; order: as above."""
    count = len(points)
    for place in range(count):
        one = order[place]
        for after in range(place + 1, count):
            other = order[after]
            down, right = points[other, 0] - points[one, 0], points[other, 1] - points[one, 1]
            if down * down > squared:
                break
            if down * down + right * right <= squared:
                alone[one] = alone[other] = False


@njit(**_OPTIONS)
def peaks_of(merit, allowed, top, bottom, left, right, threshold, beside, rows, columns):  # type: ignore[no-untyped-def]
    """Pixels that no direct neighbour exceeds: how many; to `rows` and `columns`, int64 (N,), the first N, in their
    order.

    merit: float32 (n, n); allowed: bool (n, n); the area's neighbours lie within them. threshold: the least height;
    beside: that of all four neighbours.
    """
    found = 0
    for row in range(top, bottom):
        for column in range(left, right):
            value = merit[row, column]
            if not value >= threshold:
                continue
            up, down = merit[row - 1, column], merit[row + 1, column]
            before, after = merit[row, column - 1], merit[row, column + 1]
            if up > value or down > value or before > value or after > value or not allowed[row, column]:
                continue
            if not (up >= beside and down >= beside and before >= beside and after >= beside):
                continue
            if found < rows.size:
                rows[found], columns[found] = row, column
            found += 1
    return found
