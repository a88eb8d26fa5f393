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

from relion_py.compute.image.fourier import frequencies
from relion_py.compute.jit import njit
from relion_py.compute.picking.transform_kernels import LANES, SIDE_BY_SIDE, bits_of, weighted_sums

ALIASED = 5e-7
"""The most that may be left of what has no place among the lowest frequencies."""

_LEAST_SIZE = 2.4
"""Rows that must stay for each of the rows that the lowest frequencies stand for."""

TOGETHER = 16
"""Rows that are made from rows that stay in the processor's cache."""

_MOST_WEIGHTS = 8  # for each row that is kept; rounding then prevails
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
    divisors = [step for step in range(2, int(size / (_LEAST_SIZE * work)) + 1) if size % step == 0]
    for step in reversed(divisors):
        across = np.add.outer(size // step * np.arange(step), frequencies(work))
        for number in range(5, _MOST_WEIGHTS):
            weights = _weights(step, work / (2 * size), number * step)
            passed = np.exp(2j * np.pi / size * np.multiply.outer(across, np.arange(len(weights)))) @ weights
            if np.abs(passed[1:]).max() <= ALIASED * np.abs(passed[0]).min():
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


def width_of(columns: int) -> tuple[int, int]:
    """Columns filled up such that sums of whole vectors can be made of them; and how many more a row has, lest all rows
    have the same places in the processor's cache."""
    block = LANES * SIDE_BY_SIDE
    return -(-columns // block) * block, block


@njit(**_OPTIONS)
def fewer_rows(image, mean, scale, largest, squared, sums, weights, count, room, out):  # type: ignore[no-untyped-def]
    """`count` rows of a standard micrograph, or of its squared values, each a weighted sum of some that follow.

    image: float32 (n, N), n a multiple of `count`; (image - mean) * scale is what counts, 0 where it is beyond
    `largest` (all float32), and it goes on periodically. sums: float64 (2, 3), to the first of which those of the
    values are added, see `standard_row`. weights: float32 (L,). room: float32 (step (T - 1) + L, W), at first 0, from
    which T rows are made at a time. out: float32, the rows in its first ones. For both widths see `width_of`.
    """
    rows, columns = image.shape
    step, reach = rows // count, len(weights)
    together = (len(room) - reach) // step + 1
    line, source, target = np.int64(4 * room.shape[1]), room.ctypes.data, out.ctypes.data
    vector, width = np.int64(4 * LANES), np.int64(4 * LANES * SIDE_BY_SIDE)
    for first in range(0, count, together):
        number = min(together, count - first)
        kept = reach - step if first else 0
        for row in range(kept):
            for x in range(columns):
                room[row, x] = room[row + step * together, x]
        for row in range(kept, step * (number - 1) + reach):
            whole = step * first + row
            standard_row(image[whole % rows], mean, scale, largest, squared, sums[whole // rows], room[row])
        for place in range(-(-columns // (LANES * SIDE_BY_SIDE))):
            for row in range(number):
                to = target + np.int64(4 * out.shape[1]) * (first + row) + width * place
                start = source + line * step * row + width * place
                weighted_sums(weights.ctypes.data, reach, start, line, vector, to, vector)


@njit(**_OPTIONS, fastmath={"reassoc", "contract"})  # but NaN and infinity count
def standard_row(image, mean, scale, largest, squared, sums, out):  # type: ignore[no-untyped-def]
    """(image - mean) * scale, float32 (N,), 0 where that is beyond `largest`, to `out`; or its square.

    sums: float64 (3,), to which are added the values' sum, that of their squares (as exact as a vector's lanes are
    many), and, if that is more, the bits of the largest absolute value.
    """
    total, squares, highest = np.float32(0), np.float32(0), np.int32(0)
    for x in range(len(image)):
        value = (image[x] - mean) * scale
        value = np.float32(0.0) if abs(value) > largest else value
        total += value
        squares += value * value
        # bits of positive numbers are in their order, NaN beyond all
        highest = max(highest, bits_of(abs(value)))
        out[x] = value * value if squared else value
    sums[0] += total
    sums[1] += squares
    sums[2] = max(sums[2], np.float64(highest))
