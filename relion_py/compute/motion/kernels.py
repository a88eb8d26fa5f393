"""Kernels that go over every pixel: mending defective ones, and adding a frame along its local motion."""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}

MIN_NEIGHBOURS = 7
"""With fewer good neighbours a pixel gets a random number instead of a neighbour's value."""


@njit(**_OPTIONS)
def mend(frame, bad, rows, columns, reach, mean, deviation, seed):  # type: ignore[no-untyped-def]
    """Give each bad pixel the value of a good neighbour drawn at random, in place.

    frame           float32 (ny, nx)
    bad             bool (ny, nx)
    rows, columns   the bad pixels, int (N,)
    reach           neighbours are at most that many rows and columns away
    mean, deviation of a frame's pixels, for bad pixels with fewer than MIN_NEIGHBOURS good neighbours

    Source: motioncorr_runner.cpp, executeOwnMotionCorrection.
    """
    np.random.seed(seed)
    ny, nx = frame.shape
    values = np.empty((2 * reach + 1) ** 2, np.float32)
    for k in range(len(rows)):
        count = 0
        for y in range(max(0, rows[k] - reach), min(ny, rows[k] + reach + 1)):
            for x in range(max(0, columns[k] - reach), min(nx, columns[k] + reach + 1)):
                if not bad[y, x]:
                    values[count] = frame[y, x]
                    count += 1
        if count >= MIN_NEIGHBOURS:
            frame[rows[k], columns[k]] = values[np.random.randint(0, count)]
        else:
            frame[rows[k], columns[k]] = np.random.normal(mean, deviation)


@njit(fastmath=True, **_OPTIONS)
def add_moved(total, frame, factors):  # type: ignore[no-untyped-def]
    """total += the frame with each pixel moved by its local shift; bilinear, the nearest pixel at the rim.

    total, frame    float32 (ny, nx)
    factors         of (1, x, x2, y, y2, xy) in the x and y shift, float64 (2, 6); x and y are places over
                    width and height, less 0.5

    Source: motioncorr_runner.cpp, realSpaceInterpolation_ThirdOrderPolynomial.
    """
    ny, nx = frame.shape
    for i in range(ny):
        y = i / ny - 0.5
        x0 = np.float32(factors[0, 0] + (factors[0, 3] + factors[0, 4] * y) * y)
        x1 = np.float32(factors[0, 1] + factors[0, 5] * y)
        x2 = np.float32(factors[0, 2])
        y0 = np.float32(factors[1, 0] + (factors[1, 3] + factors[1, 4] * y) * y)
        y1 = np.float32(factors[1, 1] + factors[1, 5] * y)
        y2 = np.float32(factors[1, 2])
        step = np.float32(1.0 / nx)
        for j in range(nx):
            x = j * step - np.float32(0.5)
            back_x = -(x0 + (x1 + x2 * x) * x)
            back_y = -(y0 + (y1 + y2 * x) * x)
            floor_x = np.floor(back_x)
            floor_y = np.floor(back_y)
            column = j + int(floor_x)
            row = i + int(floor_y)
            if column < 0 or row < 0 or column >= nx - 1 or row >= ny - 1:
                total[i, j] += frame[min(max(row, 0), ny - 1), min(max(column, 0), nx - 1)]
                continue
            part_x = back_x - floor_x
            part_y = back_y - floor_y
            low = frame[row, column]
            low += part_x * (frame[row, column + 1] - low)
            high = frame[row + 1, column]
            high += part_x * (frame[row + 1, column + 1] - high)
            total[i, j] += low + part_y * (high - low)
