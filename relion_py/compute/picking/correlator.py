"""Cross-correlations of references at all in-plane angles from the maps of a basis of harmonics: the best are kept.

The maps are inverse transforms; sums of them with cosines and sines of the angles are matrix products, over blocks
of pixels that stay in the processor's cache, where the best angle of each is taken at once. Sums of cosines and of
sines, of even and of odd harmonics, serve four angles: psi, -psi, 180 + psi and 180 - psi differ in their signs.
Only what is needed of the maps is computed: picks keep off the edges, and off what makes a micrograph square.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.picking.harmonics import Basis
from relion_py.compute.picking.micrograph import Image, Memory
from relion_py.compute.picking.peaks import Area
from relion_py.compute.picking.template_kernels import best_of_four, parts_of_sums
from relion_py.compute.picking.transform_kernels import LANES, map_of_harmonic, next_harmonic, stages_of

if TYPE_CHECKING:
    from relion_py.compute.picking.templates import Pixels

_BLOCK = 512  # pixels of maps that are added up: what a cache holds
_TOGETHER = 4  # references at these pixels
_KEPT_RADIAL = 256 * 2**20  # bytes of radial functions at all pixels that stay in memory between micrographs

Transform = NDArray[np.complex64]


class Correlator:
    """Some references, ready for micrographs of one size. Safe to share between threads.

    basis: of the references. pixels: Fourier pixels that are matched, of micrographs of `size` pixels, shrunk to
    `work`. psis: degrees, from 0 on, evenly spaced around the circle.
    """

    def __init__(self, basis: Basis, pixels: Pixels, size: int, work: int, psis: NDArray[np.float64]) -> None:
        self._basis, self._work = basis, work
        # a quarter plane, ky >= 0 and kx >= 0: what is at one pixel serves the three that mirror it
        quarter = pixels.ky >= 0
        self._quarter = pixels.ky[quarter], pixels.kx[quarter]
        self._rows = pixels.ky.max()
        self._at = self._rows + pixels.ky, pixels.kx
        ky, kx = self._quarter
        self._radius = np.hypot(kx, ky) * (basis.density / size)
        self._step = self._in_blocks(np.exp(-1j * np.arctan2(ky, kx)).astype(np.complex64), self._quarter)
        keep = len(basis) * self._step.nbytes <= _KEPT_RADIAL
        self._kept = [self._radial(number) for number in range(len(basis))] if keep else None
        self._stages = stages_of(work)
        self._angles = _Angles(basis, psis)
        self._firsts = np.array([*(mix.maps.start for mix in basis.mixes), len(basis)], np.int32)
        self._factors = _by_map(basis)
        self._memory = Memory()

    def maps(self, signal: Transform, area: Area, check: Callable[[], None]) -> Image:
        """Real and imaginary parts, by turns, of the basis' maps in an area, (2 K, N), of a micrograph whose transform
        at the pixels is `signal`; until the next call in the same thread. N: pixels column by column, these filled up
        to whole vectors, see :meth:`placed`. check: called on the way."""
        rows, columns = area
        height, width = rows.stop - rows.start, columns.stop - columns.start
        deep = -(-height // LANES) * LANES
        at_0 = self._at[1] == 0  # opposites there have both kx = 0, and only one of them is a pixel
        opposite = 2 * self._rows - self._at[0][at_0], self._at[1][at_0]
        both = tuple(np.concatenate(pair) for pair in zip(self._at, opposite, strict=True))
        blocks = self._in_blocks(np.concatenate([signal, signal[at_0].conj()]), both)
        wave, order = self._in_blocks(np.ones(len(self._radius), np.complex64), self._quarter), 0
        # what is 0 in these stays so
        block = self._memory("block", (self._work, 2, LANES))
        between = self._memory("between", (self._work + 1, 2, deep))
        room = self._memory("room", (3 * (self._work + 2 * LANES), 2, LANES))
        out = self._memory("maps", (len(self._basis), 2, width, deep))
        for number, wanted in enumerate(self._basis.orders):
            check()
            while order < wanted:
                next_harmonic(wave, self._step)
                order += 1
            radial = self._radial(number) if self._kept is None else self._kept[number]
            odd, to = bool(wanted % 2), out[number]
            map_of_harmonic(
                blocks, wave, radial, odd, *self._stages, rows.start, columns.start, block, between, room, to
            )
        return out.reshape(2 * len(self._basis), -1)

    def _in_blocks(self, values: Transform, at: tuple[NDArray[np.int32], ...]) -> Image:
        """Values (P,) at rows and columns of a transform as real and imaginary parts of so many columns as a vector
        has, (X / LANES, Y, 2, LANES); 0 elsewhere."""
        rows, columns = at
        out = np.zeros((self._at[1].max() // LANES + 1, rows.max() + 1, 2, LANES), np.float32)
        out[columns // LANES, rows, 0, columns % LANES] = values.real
        out[columns // LANES, rows, 1, columns % LANES] = values.imag
        return out

    def best(self, maps: Image, check: Callable[[], None]) -> tuple[Image, NDArray[np.int16]]:
        """Of all angles the highest cross-correlations, and their angles' numbers, (R, N), from maps (2 K, N)."""
        count, orders, total = self._basis.count, len(self._basis.mixes), maps.shape[1]
        best, which = np.empty((count, total), np.float32), np.empty((count, total), np.int16)
        parts_room = self._memory("parts", (2 * orders * count * _BLOCK,))
        sums_room = self._memory("sums", (4 * self._angles.rows * _TOGETHER * _BLOCK,))
        for start in range(0, total, _BLOCK):
            check()
            width = min(_BLOCK, total - start)
            parts = parts_room[: 2 * orders * count * width].reshape(2, orders, count, width)
            parts_of_sums(maps, start, self._firsts, self._factors, self._angles.places, parts)
            for first in range(0, count, _TOGETHER):
                some = slice(first, min(first + _TOGETHER, count))
                sums = sums_room[: 4 * self._angles.rows * (some.stop - first) * width].reshape(
                    4, -1, some.stop - first, width
                )
                self._angles.sums(parts[:, :, some], sums)
                best_of_four(sums, self._angles.total, start, best[some], which[some])
        return best, which

    @staticmethod
    def placed(values: NDArray[Any], area: Area) -> NDArray[Any]:
        """Values (N,) of `best` as rows and columns of the area."""
        rows, columns = area
        return values.reshape(columns.stop - columns.start, -1)[:, : rows.stop - rows.start].T

    def _radial(self, number: int) -> Image:
        """The radial function of a map at the pixels of the quarter plane."""
        table = self._basis.tables[number]
        low = self._radius.astype(np.int64)
        made = table[low] + (table[low + 1] - table[low]) * (self._radius - low).astype(np.float32)
        return self._in_blocks(made, self._quarter)


def _by_map(basis: Basis) -> Image:
    """How each map adds to the parts of each reference, (K, R, 2, 2): to real and imaginary part, from both."""
    out = np.zeros((len(basis), basis.count, 2, 2), np.float32)
    for mix in basis.mixes:
        matrix = mix.matrix.reshape(-1, basis.count, mix.maps.stop - mix.maps.start, 2)
        out[mix.maps, :, : len(matrix)] = matrix.transpose(2, 1, 0, 3)
    return out


class _Angles:
    """Weights of sums over harmonics at some angles, from which those at all angles follow.

    total: all angles; rows: of the sums, the last may be empty; places: of each order among the parts of sums, even
    orders first.
    """

    def __init__(self, basis: Basis, psis: NDArray[np.float64]) -> None:
        self.total, halved = len(psis), len(psis) % 2 == 0
        angles = np.deg2rad(psis[: len(psis) // (4 if halved else 2) + 1])
        self.rows = -(-len(angles) // 4) * 4  # products of matrices are faster in fours
        orders = np.array([mix.order for mix in basis.mixes])
        odd = orders % 2 == (1 if halved else 2)  # without opposite angles there is no difference
        by_parity = np.argsort(odd, kind="stable")
        self.places = np.argsort(by_parity).astype(np.int32)
        evens = int((~odd).sum())
        self._parities = slice(0, evens), slice(evens, len(orders))
        turns = np.zeros((self.rows, len(orders)))
        turns[: len(angles)] = np.outer(angles, orders[by_parity])
        twice = np.where(orders[by_parity] > 0, 2.0, 1.0)
        self._weights = [(twice * wave(turns)).astype(np.float32) for wave in (np.cos, np.sin)]

    def sums(self, parts: Image, out: Image) -> None:
        """Sums of cosines and of sines of even harmonics, and of odd ones, (4, rows, R, B), from parts (2, M, R, B)."""
        width = parts.shape[2] * parts.shape[3]
        for parity, some in enumerate(self._parities):
            for which, weights in enumerate(self._weights):
                values = parts[which, some].reshape(some.stop - some.start, width)
                np.matmul(weights[:, some], values, out=out[2 * parity + which].reshape(-1, width))
