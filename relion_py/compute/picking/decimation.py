"""Fewer rows and columns of a micrograph whose lowest frequencies alone are wanted, before these are computed.

Every D-th row of a micrograph that is low-passed by a few weights is a sum over some rows. What the weights leave of
higher frequencies has a place among the lower ones: there it must vanish, and only there; what the weights do to the
frequencies that are wanted is known and divided out. Hence the weights that let the mean pass and the least of these
other frequencies, as the filter of least variance of Capon (1969) Proc IEEE 57:1408. Six or seven for each row that is
kept leave less than the rounding of single precision.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.jit import njit
from relion_py.compute.picking.transform_kernels import LANES, SIDE_BY_SIDE, weighted_sums

ALIASED = 5e-7
"""The most that may be left of what has no place among the lowest frequencies."""

_LEAST_SIZE = 2.4
"""Rows that must stay for each of the rows that the lowest frequencies stand for."""

_MOST_WEIGHTS = 8  # for each row that is kept; rounding then prevails
_TOGETHER = 16  # rows that are made from rows that stay in the processor's cache
_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@dataclass(frozen=True)
class Sieve:
    """Which rows are kept of `size`, and how.

    step: one of so many, a divisor of the size. weights: float32 (L,), of the rows from the kept one on. factors:
    complex64 (work,), of the kept transform at frequencies 0, .., work // 2, .., -1 to the whole one's.
    """

    step: int
    weights: NDArray[np.float32]
    factors: NDArray[np.complex64]


@functools.cache
def sieve_of(size: int, work: int) -> Sieve:
    """How to make fewer rows of `size` such that their transform has the same `work` lowest frequencies."""
    divisors = [step for step in range(1, int(size / (_LEAST_SIZE * work)) + 1) if size % step == 0]
    frequencies = np.arange(work) if work == size else (np.arange(work) + work // 2 - 1) % work - (work // 2 - 1)
    for step in reversed(divisors):
        for number in range(5, _MOST_WEIGHTS):
            weights = _weights(step, work / (2 * size), number * step) if step > 1 else np.ones(1, np.float32)
            across = np.add.outer(size // step * np.arange(step), frequencies)
            passed = np.exp(2j * np.pi / size * np.multiply.outer(across, np.arange(len(weights)))) @ weights
            if step == 1 or np.abs(passed[1:]).max() <= ALIASED * np.abs(passed[0]).min():
                return Sieve(step, weights, (step / passed[0]).astype(np.complex64))
    return Sieve(1, np.ones(1, np.float32), np.ones(work, np.complex64))


def _weights(step: int, highest: float, count: int) -> NDArray[np.float32]:
    """The `count` weights whose sum is 1 that let the least pass of frequencies within `highest` (cycles per row) of
    multiples of 1 / step other than 0."""
    apart = np.subtract.outer(np.arange(count), np.arange(count))
    # of a band around 0, moved to these multiples
    energy = 2 * highest * np.sinc(2 * highest * apart) * (step * (apart % step == 0) - 1.0)
    weights = np.linalg.solve(energy + 1e-15 * np.eye(count), np.ones(count))
    return (weights / weights.sum()).astype(np.float32)


@njit(**_OPTIONS)
def fewer_rows(image, mean, scale, largest, squared, weights, count, room, out):  # type: ignore[no-untyped-def]
    """`count` rows of a standard micrograph, or of its squared values, each a weighted sum of some that follow.

    image: float32 (n, N), n a multiple of `count`; (image - mean) * scale is what counts, 0 where it is beyond
    `largest`, and it goes on periodically. weights: float32 (L,). room: see `rooms`. out: float32, the sums in its
    first rows and columns.
    """
    rows, columns = image.shape
    step, reach = rows // count, len(weights)
    together = (len(room) - reach) // step + 1
    line, source, target = np.int64(4 * room.shape[1]), room.ctypes.data, out.ctypes.data
    vector, width = np.int64(4 * LANES), np.int64(4 * LANES * SIDE_BY_SIDE)
    middle, scale, limit = np.float32(mean), np.float32(scale), np.float32(largest)
    for first in range(0, count, together):
        number = min(together, count - first)
        kept = reach - step if first else 0
        for row in range(kept):
            for x in range(columns):
                room[row, x] = room[row + step * together, x]
        for row in range(kept, step * (number - 1) + reach):
            from_row, to_row = image[(step * first + row) % rows], room[row]
            for x in range(columns):
                value = (from_row[x] - middle) * scale
                value = np.float32(0.0) if abs(value) > limit else value
                to_row[x] = value * value if squared else value
        for place in range(-(-columns // (LANES * SIDE_BY_SIDE))):
            for row in range(number):
                to = target + np.int64(4 * out.shape[1]) * (first + row) + width * place
                start = source + line * step * row + width * place
                weighted_sums(weights.ctypes.data, reach, start, line, vector, to, vector)


def rooms(columns: int, sieve: Sieve, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What `fewer_rows` needs for images of so many columns: `room`, and `out` for `count` rows, filled up to whole
    vectors and their pairs."""
    block = LANES * SIDE_BY_SIDE
    wide = -(-columns // block) * block
    # another block, lest all rows have the same places in the cache
    room = np.zeros((sieve.step * (_TOGETHER - 1) + len(sieve.weights), wide + block), np.float32)
    return room, np.zeros((-(-count // (2 * LANES)) * 2 * LANES, wide), np.float32)
