"""Electron-event files (EER) of Falcon detectors: where electrons fell, rendered into frames.

An EER file is a TIFF with one page per readout of the camera. A page is a list of events: the number of
empty pixels since the last electron, then the quarter (or half) of the pixel where it fell.

Facts: RELION 5, renderEER.cpp; tifffile finds the pages.
"""

from __future__ import annotations

import struct
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from relion_py.compute.errors import UserError
from relion_py.compute.jit import njit

COMPRESSIONS = (65000, 65001, 65002)
"""TIFF compression codes of EER: 8-bit runs, 7-bit runs, and runs described by tags of their own."""

_RUN_DEPTH, _X_DEPTH, _Y_DEPTH = 65007, 65008, 65009  # tags of compression 65002


@dataclass(frozen=True)
class Encoding:
    """How events are packed: bits of a run of empty pixels, bits of the position in the pixel per axis.

    symbol_after_full_run: whether a run that is full (no electron at its end) is followed by a position.
    """

    run_bits: int
    position_bits: int
    symbol_after_full_run: bool


def encoding_of(page: Any, path: str) -> Encoding:
    """The encoding that a TIFF page tells; UserError if it is none that is known."""
    code = int(page.compression)
    if code == 65000:
        return Encoding(8, 2, True)
    if code == 65001:
        return Encoding(7, 2, False)
    if code == 65002:
        runs, x_bits = (int(page.tags.valueof(tag, 0)) for tag in (_RUN_DEPTH, _X_DEPTH))
        y_bits = int(page.tags.valueof(_Y_DEPTH, x_bits))
        if 4 <= runs <= 8 and x_bits == y_bits and x_bits in (1, 2):
            return Encoding(runs, x_bits, False)
        raise UserError(
            f"{path}: EER with {runs} bits for runs and {x_bits} x {y_bits} bits for positions is not known."
        )
    raise UserError(f"{path} is not an EER file: its TIFF compression is {code}.")


def is_whole(file: Any, pages: Any) -> bool:
    """Whether the data of all `pages` of an open TIFF file are there and the last one is said to be the last.

    In a file that was cut off, the last page that can be read points to another one.
    """
    handle, tiff = file.filehandle, file.tiff
    offset = file.pages.next_page_offset
    if offset is None or offset + tiff.offsetsize > handle.size:
        return False
    handle.seek(offset)
    if struct.unpack(tiff.offsetformat, handle.read(tiff.offsetsize))[0]:
        return False
    return all(
        place + size <= handle.size
        for page in pages
        for place, size in zip(page.dataoffsets, page.databytecounts, strict=True)
    )


class EerFile:
    """An open EER file.

    n_readouts: pages with events; a summed image that some programs put first is passed over. Safe to share
    between threads.
    """

    def __init__(self, path: str, upsampling: int) -> None:
        if upsampling not in (1, 2):
            raise UserError(f"The EER upsampling must be 1 or 2, not {upsampling}.")
        self.path = path
        self.upsampling = upsampling
        with ExitStack() as opened:  # closed where it is no EER file
            self._tiff = opened.enter_context(tifffile.TiffFile(path))
            self._tiff.filehandle.set_lock(True)
            pages = self._tiff.pages
            skipped = 0
            while skipped < len(pages) and int(pages[skipped].aspage().compression) not in COMPRESSIONS:
                skipped += 1
            if skipped == len(pages):
                raise UserError(f"{path} is not an EER file: no page holds electron events.")
            key = pages[skipped].aspage()
            self.encoding = encoding_of(key, path)
            self.width, self.height = int(key.imagewidth), int(key.imagelength)
            pages.set_keyframe(skipped)
            pages.useframes = True  # the thousands of pages differ in their place in the file only
            readouts = list(pages)[skipped:]
            if not is_whole(self._tiff, readouts):
                raise UserError(f"{path} is cut short after {len(readouts)} readouts.")
            self._places = [tuple(zip(page.dataoffsets, page.databytecounts, strict=True)) for page in readouts]
            opened.pop_all()

    @property
    def n_readouts(self) -> int:
        """How many readouts of the camera there are."""
        return len(self._places)

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of rendered frames."""
        return self.height * self.upsampling, self.width * self.upsampling

    def render(self, first: int, last: int) -> NDArray[np.integer]:
        """The electrons of readouts first..last-1 (from 0), counts, uint8 or uint16 of `shape`.

        A readout whose pixels do not add up is passed over with a line on stderr, as in the reference.
        """
        image = np.zeros(self.shape, np.uint16)
        flat = image.reshape(-1)
        code = self.encoding
        for readout in range(first, last):
            data = self._bytes(readout)
            events = np.empty(8 * len(data) // code.run_bits + 1, np.uint32)
            count = decode(
                data, self.width, self.height, code.run_bits, code.position_bits,
                code.symbol_after_full_run, self.upsampling, events,
            )  # fmt: skip
            if count < 0:
                print(
                    f"WARNING: {self.path}: readout {readout + 1} is damaged and is passed over.",
                    file=sys.stderr,
                )
                continue
            add_events(flat, events, count)
        return image.astype(np.uint8) if image.max(initial=0) < 256 else image

    def _bytes(self, readout: int) -> NDArray[np.uint8]:
        handle = self._tiff.filehandle
        pieces = []
        with handle.lock:
            for offset, size in self._places[readout]:
                handle.seek(offset)
                pieces.append(handle.read(size))
        return np.frombuffer(b"".join(pieces), np.uint8)

    def close(self) -> None:
        """Let go of the file."""
        self._tiff.close()


@njit(nogil=True, cache=True)
def decode(data, width, height, run_bits, position_bits, symbol_after_full_run, upsampling, events):  # type: ignore[no-untyped-def]
    """Pixel numbers (row-major, upsampled frame) of the electrons of one readout; how many, or -1: damaged.

    data    the bytes of the page, uint8; of each byte the low bits come first
    events  receives the pixel numbers, uint32

    The two bits of a position count -2, -1, 0, 1 and the one bit -1, 0, from the middle of the pixel
    (renderEER.cpp, renderFrames): the first half is that with the high bit set.
    """
    total = width * height
    full = (1 << run_bits) - 1
    symbol_bits = 2 * position_bits
    mask = (1 << symbol_bits) - 1
    window = np.int64(0)  # bits that were read and not used yet; at most 55
    held = 0
    byte = 0
    pixel = 0
    count = 0
    x = 0  # of the pixel
    row = 0  # number of the first upsampled pixel of its row
    stride = width * upsampling * upsampling
    while pixel < total:
        while held <= 47 and byte < len(data):
            window |= np.int64(data[byte]) << held
            byte += 1
            held += 8
        if held < run_bits:
            return -1
        run = window & full
        window >>= run_bits
        held -= run_bits
        pixel += run
        if pixel >= total:
            break
        x += run
        if run == full and not symbol_after_full_run:
            continue
        symbol = window & mask
        window >>= symbol_bits
        held = max(0, held - symbol_bits)
        if run == full:
            continue
        if count >= len(events):
            return -1
        while x >= width:
            x -= width
            row += stride
        if upsampling == 2:
            right = 1 - ((symbol >> (position_bits - 1)) & 1)
            lower = 1 - ((symbol >> (symbol_bits - 1)) & 1)
            events[count] = row + lower * 2 * width + 2 * x + right
        else:
            events[count] = row + x
        count += 1
        pixel += 1
        x += 1
    return count if pixel == total else -1


@njit(nogil=True, cache=True)
def add_events(flat, events, count):  # type: ignore[no-untyped-def]
    """flat[event] += 1 for the first `count` events."""
    for k in range(count):
        flat[events[k]] += 1
