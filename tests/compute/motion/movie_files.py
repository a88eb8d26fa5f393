"""Movies for tests: frames of a known scene with known motion, and a writer of EER files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from scipy import ndimage


def scene(ny: int, nx: int, seed: int = 0) -> np.ndarray:
    """Blobs of a few pixels, like protein: zero mean, standard deviation 1, periodic, float64 (ny, nx)."""
    noise = np.random.default_rng(seed).standard_normal((ny, nx))
    image = ndimage.gaussian_filter(noise, 2.0, mode="wrap")
    return image / image.std()


def moved(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The periodic image with its content moved by (x, y) pixels."""
    return np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(image), (y, x))).real


def counts(track: np.ndarray, size: tuple[int, int] = (256, 256), dose: float = 20.0, seed: int = 0) -> np.ndarray:
    """Poisson counts uint8 (n, ny, nx) of a scene that lies `track` (n, 2), x and y, from where it was."""
    rng = np.random.default_rng(seed + 1)
    image = scene(*size, seed)
    frames = [rng.poisson(np.clip(dose * (1 + 0.25 * moved(image, *place)), 0, None)) for place in track]
    return np.clip(frames, 0, 255).astype(np.uint8)


def eer_page(
    events: list[tuple[int, int, int, int]], width: int, height: int, run_bits: int, position_bits: int = 2
) -> bytes:
    """One readout: electrons (x, y, part x, part y), parts -2..1 (2 bits) or -1..0, as a stream of bits."""
    bits = 0
    length = 0

    def put(value: int, n: int) -> None:
        nonlocal bits, length
        bits |= value << length
        length += n

    full = (1 << run_bits) - 1
    pixel = 0

    def run(distance: int) -> None:
        while distance >= full:
            put(full, run_bits)
            if run_bits == 8:
                put(0, 4)
            distance -= full
        put(distance, run_bits)

    for x, y, sub_x, sub_y in sorted(events, key=lambda e: (e[1], e[0])):
        run(y * width + x - pixel)
        mask = (1 << position_bits) - 1
        put((sub_x & mask) | (sub_y & mask) << position_bits, 2 * position_bits)
        pixel = y * width + x + 1
    run(width * height - pixel)
    if run_bits == 8:
        put(0, 4)
    return bits.to_bytes((length + 15) // 16 * 2, "little")


def crowded_eer_page(hit: np.ndarray) -> bytes:
    """One readout with an electron in the middle of each pixel that is True: runs of 8 bits, places of 2 and 2."""
    gaps = np.diff(np.concatenate([[-1], np.flatnonzero(hit), [hit.size]])) - 1
    symbols = gaps // 255 + 1
    runs = np.full(symbols.sum(), 255, "<u2")
    runs[np.cumsum(symbols) - 1] = gaps % 255
    bits = np.unpackbits(runs.view(np.uint8), bitorder="little").reshape(-1, 16)[:, :12]
    data = np.packbits(bits.ravel(), bitorder="little").tobytes()
    return data + b"\0" * (len(data) % 2)


def write_eer(path: Path, pages: list[bytes], width: int, height: int, compression: int = 65001) -> None:
    """A little-endian TIFF with one strip a page; 65002 says 7 bits for runs and one for each position."""
    out = bytearray(b"II*\0" + bytes(4))
    link = 4
    for data in pages:
        start = len(out)
        out += data + b"\0" * (len(data) % 2)
        out[link : link + 4] = struct.pack("<I", len(out))
        tags = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
            (273, 4, 1, start), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data)),
        ]  # fmt: skip
        if compression == 65002:
            tags += [(65007, 3, 1, 7), (65008, 3, 1, 1), (65009, 3, 1, 1)]
        out += struct.pack("<H", len(tags))
        for tag in tags:
            out += struct.pack("<HHII", *tag)
        link = len(out)
        out += bytes(4)
    path.write_bytes(bytes(out))
