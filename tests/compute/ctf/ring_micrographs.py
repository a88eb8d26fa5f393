"""Micrographs of pure Thon rings: white noise times a known CTF, in white noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from relion_py.compute.image.ctf import CtfParams, ctf_values


def ring_micrograph(
    shape: tuple[int, int],
    angpix: float,
    defocus: tuple[float, float, float],
    *,
    voltage: float = 300.0,
    cs: float = 2.7,
    q0: float = 0.1,
    phase_shift: float = 0.0,
    snr: float = 0.5,
    bfactor: float = 60.0,
    seed: int = 0,
) -> NDArray[np.float32]:
    """A micrograph (ny, nx), `angpix` A per pixel; defocus U, V in A and angle in degrees."""
    rows, columns = shape
    random = np.random.default_rng(seed)
    ky = np.repeat(fft.fftfreq(rows, angpix), columns // 2 + 1)
    kx = np.tile(np.arange(columns // 2 + 1) / (columns * angpix), rows)
    params = CtfParams(*defocus, voltage, cs, q0, phase_shift, bfactor)
    ctf = ctf_values(params, kx, ky, 1, 1.0)[0].reshape(rows, -1)
    signal = fft.rfft2(random.standard_normal(shape).astype(np.float32)) * ctf * np.float32(np.sqrt(snr))
    noise = random.standard_normal(shape).astype(np.float32)
    return (fft.irfft2(signal, s=shape) + noise).astype(np.float32)


def with_discs(
    image: NDArray[np.float32], count: int, depth: float, seed: int, radius: tuple[float, float] = (8.0, 35.0)
) -> NDArray[np.float32]:
    """The image with dark discs of `depth` and of radii (pixels) within a range, as ice crystals and dirt make."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices(image.shape)
    out = image.copy()
    for _ in range(count):
        row, column = random.uniform(0, image.shape)
        out[(rows - row) ** 2 + (columns - column) ** 2 < random.uniform(*radius) ** 2] -= depth
    return out
