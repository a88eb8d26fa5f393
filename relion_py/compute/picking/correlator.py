"""Cross-correlations of references at all in-plane angles from the maps of a basis of harmonics: the best are kept.

The maps are inverse transforms; sums of them with cosines and sines of the angles are matrix products, over blocks
of pixels that stay in the processor's cache, where the best angle of each is taken at once. An angle and its
opposite differ in the sign of odd harmonics: one pair of sums, of even and of odd ones, serves both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from relion_py.compute.picking.harmonics import Basis, Mix
from relion_py.compute.picking.micrograph import Image
from relion_py.compute.picking.template_kernels import best_pair, harmonic_product, next_harmonic, side_by_side

if TYPE_CHECKING:
    from relion_py.compute.picking.templates import Pixels

_BLOCK = 1024  # pixels
_TOGETHER = 2**20  # bytes of maps that are transformed in one call: what a cache holds

Transform = NDArray[np.complex64]


class Correlator:
    """Some references, ready for micrographs of one size. Safe to share between threads.

    basis: of the references. pixels: Fourier pixels that are matched, of micrographs of `size` pixels. psis: degrees,
    from 0 on, evenly spaced around the circle.
    """

    def __init__(self, basis: Basis, pixels: Pixels, size: int, psis: NDArray[np.float64]) -> None:
        self._basis, self._pixels = basis, pixels
        radius = np.hypot(pixels.kx, pixels.ky) * (basis.density / size)
        self._index = radius.astype(np.int32)
        self._fraction = (radius - self._index).astype(np.float32)
        self._step = np.exp(-1j * np.arctan2(pixels.ky, pixels.kx)).astype(np.complex64)
        self._halved = len(psis) % 2 == 0
        angles = np.deg2rad(psis[: len(psis) // 2] if self._halved else psis)
        self._count = len(angles)
        # harmonics whose sums are taken together, and the rows of these sums
        self._families = [self._family(parity, angles) for parity in range(2)]
        self._room = threading.local()  # fresh memory costs as much as what is done in it

    def maps(self, signal: Transform, work: int, check: Callable[[], None]) -> Transform:
        """The basis' maps (K, work * work) of a micrograph whose transform at the pixels is `signal`, until the next
        call in the same thread; check: called on the way."""
        pixels, wave, order = self._pixels, np.ones(signal.size, np.complex64), 0
        out = self._buffer("maps", (len(self._basis), work, work), np.complex64)
        at_once = max(1, _TOGETHER // out[0].nbytes)
        for start in range(0, len(out), at_once):
            check()
            some = out[start : start + at_once]
            for number, one in enumerate(some, start=start):
                wanted = self._basis.orders[number]
                while order < wanted:
                    next_harmonic(wave, self._step)
                    order += 1
                harmonic_product(
                    signal, wave, self._basis.tables[number], self._index, self._fraction, pixels.plus, pixels.minus,
                    bool(wanted % 2), one.reshape(-1),
                )  # fmt: skip
            done = fft.ifft2(some, norm="forward", overwrite_x=True)
            if not np.may_share_memory(done, some):
                some[...] = done
        return out.reshape(len(out), -1)

    def best(self, maps: Transform, check: Callable[[], None]) -> tuple[Image, NDArray[np.int16]]:
        """Of all angles the highest cross-correlations, and their angles' numbers, (R, n), from maps (K, n)."""
        count, total = len(self._basis.most), maps.shape[1]
        best, which = np.empty((count, total), np.float32), np.empty((count, total), np.int16)
        planes_room = self._buffer("planes", (2 * len(maps) * _BLOCK,))
        rooms = [self._buffer(f"mixed{n}", (family.rows * count * _BLOCK,)) for n, family in enumerate(self._families)]
        sums = [self._buffer(f"sums{n}", (self._count * _BLOCK,)) for n in range(2)]
        for start in range(0, total, _BLOCK):
            check()
            block = slice(start, min(start + _BLOCK, total))
            width = block.stop - start
            planes = planes_room[: 2 * len(maps) * width].reshape(-1, width)
            side_by_side(maps, start, planes)
            parts = [
                family.mixed(planes, room[: family.rows * count * width].reshape(family.rows, count, width))
                for family, room in zip(self._families, rooms, strict=True)
            ]
            even, odd = (one[: self._count * width].reshape(-1, width) for one in sums)
            for number in range(count):
                for family, part, out in zip(self._families, parts, (even, odd), strict=True):
                    family.sums(part, number, out)
                best_pair(even, odd, best[number, block], which[number, block])
        return best, which

    def _buffer(self, name: str, shape: tuple[int, ...], kind: type = np.float32) -> NDArray[Any]:
        """Memory of this thread, the same at each call."""
        if not hasattr(self._room, name):
            setattr(self._room, name, np.empty(shape, kind))
        room: NDArray[Any] = getattr(self._room, name)
        return room

    def _family(self, parity: int, angles: NDArray[np.float64]) -> _Family:
        mixes = [mix for mix in self._basis.mixes if (mix.order % 2 if self._halved else 0) == parity]
        return _Family(mixes, angles, self._basis.most)


class _Family:
    """Harmonics of which sums are taken together. most: (R,), the highest harmonic of each reference."""

    def __init__(self, mixes: list[Mix], angles: NDArray[np.float64], most: NDArray[np.int64]) -> None:
        self._mixes = mixes
        weights: list[NDArray[np.float64]] = []
        for mix in mixes:
            turns = mix.order * angles
            weights += [np.ones_like(turns)] if mix.order == 0 else [2 * np.cos(turns), 2 * np.sin(turns)]
        self._weights = np.array(weights, np.float32).reshape(-1, len(angles)).T.copy()
        orders = np.array([mix.order for mix in mixes for _ in range(2 if mix.order else 1)], np.int64)
        self._rows = [int((orders <= highest).sum()) for highest in most]

    @property
    def rows(self) -> int:
        """Real and imaginary parts of the C_m."""
        return self._weights.shape[1]

    def mixed(self, planes: Image, out: Image) -> Image:
        """From parts of the maps (2 K, B) those of C_m of all references, in `out`, (rows, R, B)."""
        row = 0
        for mix in self._mixes:
            after = row + (2 if mix.order else 1)
            maps = planes[2 * mix.maps.start : 2 * mix.maps.stop]
            np.matmul(mix.matrix, maps, out=out[row:after].reshape(len(mix.matrix), -1))
            row = after
        return out

    def sums(self, mixed: Image, number: int, out: Image) -> None:
        """Of one reference, at each angle, (A, B)."""
        rows = self._rows[number]
        np.matmul(self._weights[:, :rows], mixed[:rows, number], out=out)
