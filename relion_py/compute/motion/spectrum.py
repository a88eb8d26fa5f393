"""Sums of amplitude spectra of groups of frames, from which the CTF is estimated.

Source: RELION 5, motioncorr_runner.cpp, executeOwnMotionCorrection (the steps of CTFFIND 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.image import fft
from relion_py.compute.motion.align import Complex, Run, crop, serially, total

TARGET_PIXEL_SIZE = 1.4
"""A: of a finer image the outer part of the spectrum is cut off, as CTFFIND 4.1 does."""


def amplitude_sum(frames: Sequence[Complex], group: int, ny: int, nx: int, run: Run = serially) -> NDArray[np.float32]:
    """Sum over groups of `group` frames of the amplitudes of their sum, float32 (ny, nx), centred.

    frames: unaligned half transforms (norm="forward"). The origin gets the mean of its neighbours, for the
    mean of the image would ring when the spectrum is resized.
    """

    def of_group(start: int) -> NDArray[np.float32]:
        return np.abs(total(frames[start : start + group]))

    half = np.zeros((ny, nx // 2 + 1), np.float32)
    for amplitudes in run(of_group, range(0, len(frames), group)):
        half += amplitudes
    half[0, 0] = (half[0, 1] + half[1, 0] + half[-1, 0] + half[1, 1] + half[-1, 1]) / 5
    return _whole(half, nx)


def _whole(half: NDArray[np.float32], nx: int) -> NDArray[np.float32]:
    """Both halves, centred: columns -nx/2 .. nx/2 - 1; |F(-y, -x)| = |F(y, x)|."""
    ny = half.shape[0]
    full = np.empty((ny, nx), np.float32)
    positive = np.fft.fftshift(half, axes=0)  # rows -ny/2 .. ny/2 - 1
    negative = np.roll(positive[::-1], 1, axis=0)  # the same rows of F(-y, .)
    full[:, nx // 2 :] = positive[:, : nx // 2]
    full[:, : nx // 2] = negative[:, nx // 2 : 0 : -1]
    return full


def power_spectrum(amplitudes: NDArray[np.float32], pixel_size: float, size: int) -> tuple[NDArray[np.float32], float]:
    """The spectrum as an image (size, size), size even, and the pixel size (A) that belongs to it.

    amplitudes  from `amplitude_sum`, of an image with `pixel_size`
    """
    ny, nx = amplitudes.shape
    square = min(ny, nx)
    if nx != ny:
        amplitudes = _resized(amplitudes, square)
    if pixel_size < TARGET_PIXEL_SIZE:
        needed = math.ceil(square * pixel_size / TARGET_PIXEL_SIZE)
        needed += needed % 2
        start = square // 2 - needed // 2
        amplitudes = amplitudes[start : start + needed, start : start + needed]
        pixel_size = square * pixel_size / needed
    return _resized(amplitudes, size), pixel_size


def _resized(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The image with (size, size) pixels, by cropping its transform, or filling it up with zeros."""
    ny, nx = image.shape
    transform = fft.rfft2(np.ascontiguousarray(image), norm="forward")
    rows, columns = min(ny, size), min(nx, size)
    kept = crop(transform, rows, columns)
    out = np.zeros((size, size // 2 + 1), np.complex64)
    half = rows // 2
    out[:half, : kept.shape[1]] = kept[:half]
    out[size - (rows - half) :, : kept.shape[1]] = kept[half:]
    return fft.irfft2(out, s=(size, size), norm="forward").astype(np.float32, copy=False)
