"""Kernels of filament picking: peaks that grow to discs, and the next step along an amyloid.

Coordinates are pixels at work from the centre, pixel n // 2; halves are rounded away from it.

Source: RELION 5, autopicker.cpp (pickCCFPeaks, findNextAmyloidCoordinate, findNextCandidateCoordinates).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
_ROUNDS = 3  # of moving a disc to the mean of its pixels
_DEPTH = 4  # steps that are looked ahead
TAKEN = -999.0
"""What a map holds where a filament has been."""


@njit(**_OPTIONS)
def rounded(value):  # type: ignore[no-untyped-def]
    """The nearest whole number; halves away from 0."""
    return int(value + 0.5) if value > 0 else int(value - 0.5)


@njit(**_OPTIONS)
def _disc(free, x, y, radius, bounds):  # type: ignore[no-untyped-def]
    """Pixels of a disc inside of the bounds, how many are free, and these pixels' sums of x and y."""
    middle = free.shape[0] // 2
    total = count = sum_x = sum_y = 0
    for dx in range(-radius, radius + 1):
        for dy in range(-radius, radius + 1):
            px, py = x + dx, y + dy
            if dx * dx + dy * dy > radius * radius or not _within(px, py, bounds):
                continue
            total += 1
            if free[py + middle, px + middle]:
                count += 1
                sum_x += px
                sum_y += py
    return total, count, sum_x, sum_y


@njit(**_OPTIONS)
def _within(x, y, bounds):  # type: ignore[no-untyped-def]
    return bounds[0] <= x <= bounds[1] and bounds[2] <= y <= bounds[3]


@njit(**_OPTIONS)
def grow_peaks(free, order, largest, least_share, bounds):  # type: ignore[no-untyped-def]
    """Discs around high pixels, as large as they are full of such.

    free: bool (n, n), high pixels, changed: those of a disc are taken away. order: flat indices of them, the highest
    first. largest: radii are smaller. least_share: of high pixels in a disc. bounds: least and largest x, y that
    count. Returns (N, 5): x, y (mean of the high pixels), radius, number of high pixels, flat index of the first.
    """
    size = free.shape[0]
    middle = size // 2
    found = np.empty((order.size, 5))
    number = 0
    for flat in order:
        x, y = flat % size - middle, flat // size - middle
        if not free[y + middle, x + middle]:
            continue
        now = np.full(6, -1.0)  # x, y, radius, high pixels, centre of the disc
        before = now.copy()
        for radius in range(1, largest):
            before[:] = now
            share = -1.0
            for _ in range(_ROUNDS):
                total, count, sum_x, sum_y = _disc(free, x, y, radius, bounds)
                now[2] = radius
                share = -1.0
                if count == 0:
                    now[3] = 0
                    break
                share = count / total
                now[0], now[1], now[3], now[4], now[5] = sum_x / count, sum_y / count, count, x, y
                new_x, new_y = rounded(now[0]), rounded(now[1])
                if not _within(new_x, new_y, bounds) or (new_x == x and new_y == y):
                    break
                x, y = new_x, new_y
            if share < least_share:
                break
        if before[2] < 0 or before[3] < 1:
            continue
        radius, x, y = int(before[2]), int(before[4]), int(before[5])
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                if dx * dx + dy * dy <= radius * radius and _within(x + dx, y + dy, bounds):
                    free[y + dy + middle, x + dx + middle] = False
        found[number, :4] = before[:4]
        found[number, 4] = flat
        number += 1
    return found[:number]


@njit(**_OPTIONS)
def _candidates(merit, psi, x, y, angle, ring, threshold, largest_turn, bounds, out):  # type: ignore[no-untyped-def]
    """Steps (x, y, psi, merit) from a point to pixels above the threshold whose psi turns little; their number."""
    middle = merit.shape[0] // 2
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    count = 0
    for index in range(len(ring)):
        new_x, new_y = x + c * ring[index, 0] + s * ring[index, 1], y - s * ring[index, 0] + c * ring[index, 1]
        column, row = rounded(new_x), rounded(new_y)
        if not _within(column, row, bounds):
            continue
        value, new_psi = merit[row + middle, column + middle], psi[row + middle, column + middle]
        turn = abs(angle - new_psi) % 360.0
        if turn > 180.0:
            turn -= 180.0
        if turn > 90.0:
            turn -= 180.0
        if abs(turn) < largest_turn and value > threshold:
            out[count, 0], out[count, 1], out[count, 2], out[count, 3] = new_x, new_y, new_psi, value
            count += 1
    return count


@njit(**_OPTIONS)
def next_step(merit, psi, x, y, angle, ring, radius, threshold, largest_turn, bounds):  # type: ignore[no-untyped-def]
    """The first of four steps along an amyloid with the highest sum of merits: x, y, psi, merit; merit TAKEN if there
    is none.

    merit: (n, n), changed: TAKEN within `radius` of the point. ring: (R, 2), x and y of steps if psi were 0.
    """
    middle, size = merit.shape[0] // 2, merit.shape[0]
    best = np.array([0.0, 0.0, 0.0, TAKEN])
    if merit[rounded(y) + middle, rounded(x) + middle] < threshold:
        return best
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            column, row = rounded(x + dx) + middle, rounded(y + dy) + middle
            if dx * dx + dy * dy < radius * radius and 0 <= column < size and 0 <= row < size:
                merit[row, column] = TAKEN
    levels = np.empty((_DEPTH, len(ring), 4))
    counts, places = np.zeros(_DEPTH, np.int64), np.zeros(_DEPTH, np.int64)
    sums = np.zeros(_DEPTH + 1)
    highest = -9999.0
    counts[0] = _candidates(merit, psi, x, y, angle, ring, threshold, largest_turn, bounds, levels[0])
    level = 0
    while level >= 0:
        if places[level] == counts[level]:
            level -= 1
            continue
        here = levels[level, places[level]]
        places[level] += 1
        sums[level + 1] = sums[level] + here[3]
        if sums[level + 1] > highest:
            highest = sums[level + 1]
            best[:] = levels[0, places[0] - 1]
        if level + 1 < _DEPTH:
            level += 1
            counts[level] = _candidates(
                merit, psi, here[0], here[1], here[2], ring, threshold, largest_turn, bounds, levels[level]
            )
            places[level] = 0
    return best
