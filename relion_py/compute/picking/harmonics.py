"""Turned references from few maps: cross-correlations at all in-plane angles from angular harmonics.

A reference turned by psi is T(k, phi) = sum_m A_m(k) exp(i m (phi + psi)), with k, phi the polar coordinates of a
Fourier pixel. Its cross-correlation with a micrograph X is therefore, at every position,

    C(psi) = C_0 + 2 sum_{m > 0} cos(m psi) Re C_m + sin(m psi) Im C_m,

where C_m is the inverse transform of X(k, phi) conj(A_m(k)) exp(-i m phi): as many inverse transforms as the
reference has harmonics, however fine the angles. For each m the radial functions A_m of all references span a space
of few dimensions, and a singular value decomposition finds the functions that hold the most (Kosambi-Karhunen-Loeve;
for one reference turned by all angles these products of harmonics and radial functions are the eigenimages of the
bank). What is left out holds at most `LEFT_OUT` of the energy of any reference.

Source: Zhao Z, Singer A (2013) J Opt Soc Am A 30:871 (steerable principal components); RELION has no such step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from relion_py.compute.picking.micrograph import Image

LEFT_OUT = 3e-4
"""The part of the energy of a reference that its approximation may lack."""

FIRST_PEAK = 30.0
"""A: with a CTF, coarser frequencies count less, as those before its first peak."""

_RADII_PER_WAVE = 16.0  # samples of A_m(k) for one turn of the phase at the rim of the reference, over 2 pi
_FINER = 4  # steps of the tables of radial functions for one of those

Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Mix:
    """How the maps of one harmonic make the cross-correlations C_m of the references.

    order: m. maps: which of the basis' maps. matrix: float32, from their real and imaginary parts by turns to the
    real, and for m > 0 then the imaginary parts of C_m of all references: (R, 2 J) or (2 R, 2 J).
    """

    order: int
    maps: slice
    matrix: Image


@dataclass(frozen=True)
class Basis:
    """What the cross-correlations of some references are made from.

    orders: int64 (K,), ascending, the harmonic of each map. tables: complex64 (K, S), conjugate radial functions, a
    step of 1 / `density` cycles per pixel apart, from 0 on. mixes: one for each harmonic. count: R.
    """

    orders: NDArray[np.int64]
    tables: NDArray[np.complex64]
    density: float
    mixes: list[Mix]
    count: int

    def __len__(self) -> int:
        """Inverse transforms that are needed, complex."""
        return len(self.orders)


def make_basis(images: Image, radius: int, cutoff: float, first_peak: float = 0.0) -> Basis:
    """The basis for references (R, box, box), 0 beyond `radius` pixels of the centre.

    cutoff: highest frequency, cycles per pixel. first_peak: where the CTF has its first peak; frequencies below it
    count with the fourth power of their part of it (0: there is no CTF).
    """
    density = _RADII_PER_WAVE * radius
    harmonics = _harmonics(images, radius, cutoff, density)
    k = np.arange(harmonics.shape[1]) / density
    weight = np.where(k <= cutoff, k, 0.0)
    if first_peak > 0:
        weight *= np.minimum(k / first_peak, 1.0) ** 4
    twice = np.where(np.arange(harmonics.shape[2]) > 0, 2.0, 1.0)  # m and -m
    energy = (np.abs(harmonics) ** 2 * weight[:, None]).sum(1) * twice
    size = np.sqrt(energy.sum(1))
    shapes = harmonics / size[:, None, None]
    parts = [_parts(shapes[:, :, 0].real, weight)]  # of an image without its sine parts: real
    parts += [_parts(shapes[:, :, m], weight * 2) for m in range(1, harmonics.shape[2])]
    kept = _enough(parts)
    orders: list[int] = []
    functions: list[Complex] = []
    mixes = []
    for m, count in enumerate(kept):
        if not count:
            continue
        factors, found = parts[m][0][:, :count] * size[:, None], parts[m][1][:count]
        if m == 0:  # real maps: two make one complex map
            found = np.concatenate([found, np.zeros((count % 2, len(k)))])
            found = found[0::2] - 1j * found[1::2]
            matrix = np.concatenate([factors, np.zeros((len(images), count % 2))], 1)
        else:
            real = np.stack([factors.real, factors.imag], -1)
            imaginary = np.stack([-factors.imag, factors.real], -1)
            matrix = np.concatenate([real, imaginary]).reshape(2 * len(images), 2 * count)
        mixes.append(Mix(m, slice(len(orders), len(orders) + len(found)), matrix.astype(np.float32)))
        orders += [m] * len(found)
        functions += list(found)
    tables = _finer(np.array(functions), np.array(orders)).conj().astype(np.complex64)
    return Basis(np.array(orders), tables, density * _FINER, mixes, len(images))


def _harmonics(images: Image, radius: int, cutoff: float, density: float) -> Complex:
    """A_m(k) of each reference, (R, k, m), m >= 0: harmonics around circles of its Fourier transform, which is
    computed exactly at points of these circles."""
    middle = images.shape[-1] // 2
    axis = np.arange(-radius, radius + 1)
    inside = np.zeros((len(images), len(axis), len(axis)), np.float32)
    low = max(0, radius - middle)  # a circle as wide as an even box lacks its last pixel
    cut = images[:, middle - radius + low : middle + radius + 1, middle - radius + low : middle + radius + 1]
    inside[:, low : low + cut.shape[1], low : low + cut.shape[2]] = cut
    phase = 2 * np.pi * cutoff * radius
    count = 4 * (int(np.ceil((phase + 6 * np.cbrt(phase)) / 2)) + 4)  # Bessel functions of higher orders vanish
    k = np.arange(int(np.ceil(cutoff * density)) + 3) / density
    circles = np.empty((len(images), len(k), count), np.complex128)
    for index in range(count // 4 + 1):
        angle = 2 * np.pi * index / count
        columns = np.exp(-2j * np.pi * np.cos(angle) * np.outer(axis, k)).astype(np.complex64)
        rows = np.exp(-2j * np.pi * np.sin(angle) * np.outer(axis, k)).astype(np.complex64)
        both = np.concatenate([columns.real, columns.imag], 1)
        sums = (inside.reshape(-1, len(axis)) @ both).reshape(len(images), len(axis), 2, len(k))
        across = sums[:, :, 0] + 1j * sums[:, :, 1]
        circles[:, :, index] = (across * rows).sum(1)
        circles[:, :, count // 2 - index] = (across.conj() * rows).sum(1)  # where the cosine has the other sign
    circles[:, :, count // 2 :] = circles[:, :, : count // 2].conj()  # of real images
    return np.fft.fft(circles, axis=-1)[:, :, : count // 2] / count


def _parts(functions: Complex, weight: NDArray[np.float64]) -> tuple[Complex, Complex, NDArray[np.float64]]:
    """Factors (R, J), radial functions (J, k), and energies (J, R), falling: factors @ functions are the functions
    (R, k) given."""
    left, values, _ = np.linalg.svd(functions * np.sqrt(weight), full_matrices=False)
    return left, left.conj().T @ functions, (values[:, None] * np.abs(left.T)) ** 2


def _enough(parts: list[tuple[Complex, Complex, NDArray[np.float64]]]) -> NDArray[np.int64]:
    """How many functions of each harmonic leave out no more than LEFT_OUT of any reference."""
    energies = np.concatenate([energy for _, _, energy in parts])
    owner = np.repeat(np.arange(len(parts)), [len(energy) for _, _, energy in parts])
    order = np.argsort(energies.sum(1), kind="stable")
    dropped = (np.cumsum(energies[order], 0) <= LEFT_OUT).all(1).sum()
    return np.bincount(owner[order[dropped:]], minlength=len(parts))


def _finer(functions: Complex, orders: NDArray[np.int64]) -> Complex:
    """Functions (K, k) between their samples, by cubic Lagrange polynomials. A_m(-k) = (-1)^m A_m(k)."""
    before = functions[:, 1:2] * np.where(orders % 2, -1.0, 1.0)[:, None]
    known = np.concatenate([before, functions], 1)
    at = np.arange(_FINER * (functions.shape[1] - 2)) / _FINER
    base = at.astype(np.int64)
    t = at - base
    weights = (-t * (t - 1) * (t - 2) / 6, (t * t - 1) * (t - 2) / 2, -t * (t + 1) * (t - 2) / 2, t * (t * t - 1) / 6)
    return np.sum([known[:, base + step] * weight for step, weight in enumerate(weights)], 0)
