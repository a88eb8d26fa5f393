"""Kernels of template matching: rotated references times the micrograph, the best rotation, figures of merit."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@numba.njit(**_OPTIONS, fastmath=True)
def turned(table, step, cosine, sine, kx, ky, out):  # type: ignore[no-untyped-def]
    """The transform of a reference that is turned by psi, complex64 (P,), by bilinear interpolation.

    table: complex64 (2 R + 3, R + 2), the reference's oversampled half transform, origin at row R + 1. step: its
    pixels for one of the micrograph's transform. cosine, sine: of psi. kx, ky: int32 (P,), Fourier pixels of the
    micrograph, at most R / step from the origin.
    """
    middle = np.int32(table.shape[0] // 2)
    c, s = np.float32(cosine * step), np.float32(sine * step)
    for pixel in range(kx.size):
        x = c * np.float32(kx[pixel]) - s * np.float32(ky[pixel])
        y = s * np.float32(kx[pixel]) + c * np.float32(ky[pixel])
        sign = np.float32(1.0)
        if x < 0:
            x, y, sign = -x, -y, np.float32(-1.0)
        y += np.float32(middle)
        ix, iy = np.int32(x), np.int32(y)
        fx, fy = x - np.float32(ix), y - np.float32(iy)
        low = table[iy, ix] + (table[iy, ix + 1] - table[iy, ix]) * fx
        high = table[iy + 1, ix] + (table[iy + 1, ix + 1] - table[iy + 1, ix]) * fx
        value = low + (high - low) * fy
        out[pixel] = complex(value.real, value.imag * sign)


@numba.njit(**_OPTIONS, fastmath=True)
def paired_products(reference, signal, plus, minus, both, out):  # type: ignore[no-untyped-def]
    """The transform of two cross-correlation maps at once: one with a reference, one with it turned by 180 degrees.

    reference, signal: complex64 (P,), transforms at the pixels of a half plane. out: complex64 (n * n,), changed at
    `plus`, where these pixels are, and at `minus`, where their opposites are: its inverse transform has the first
    map as its real part and, if `both`, the second as its imaginary part (a real image turned by 180 degrees has the
    conjugate transform).
    """
    for pixel in range(reference.size):
        a, b = reference[pixel].real, reference[pixel].imag
        re, im = signal[pixel].real, signal[pixel].imag
        same, cross, other, mixed = a * re, b * im, a * im, b * re
        # times the conjugate of the reference, and times the reference
        first_re, first_im = same + cross, other - mixed
        second_re, second_im = np.float32(0), np.float32(0)
        if both:
            second_re, second_im = same - cross, other + mixed
        out[plus[pixel]] = complex(first_re - second_im, first_im + second_re)
        out[minus[pixel]] = complex(first_re + second_im, second_re - first_im)


@numba.njit(**_OPTIONS)
def keep_best(pair, number, opposite, best, which):  # type: ignore[no-untyped-def]
    """Where the real part (or, `opposite` not negative, the imaginary part) of complex64 (n, n) exceeds `best`, it
    and its number take the place."""
    flat, high, index = pair.ravel(), best.ravel(), which.ravel()
    number, other = np.int16(number), np.int16(opposite)
    both = opposite >= 0
    for pixel in range(flat.size):
        value, name = flat[pixel].real, number
        turned_value = flat[pixel].imag
        if both and turned_value > value:
            value, name = turned_value, other
        better = value > high[pixel]
        high[pixel] = value if better else high[pixel]
        index[pixel] = name if better else index[pixel]


@numba.njit(**_OPTIONS, fastmath=True)
def next_harmonic(wave, step):  # type: ignore[no-untyped-def]
    """exp(-i m phi) becomes exp(-i (m + 1) phi), in place, complex64 (P,); step: exp(-i phi)."""
    for pixel in range(wave.size):
        wave[pixel] *= step[pixel]


@numba.njit(**_OPTIONS, fastmath=True)
def harmonic_product(signal, wave, table, index, fraction, plus, minus, odd, out):  # type: ignore[no-untyped-def]
    """The transform of a micrograph times conj(A(k)) exp(-i m phi).

    signal: complex64 (P,), its transform at the pixels of a half plane; wave: complex64 (P,), exp(-i m phi) there.
    table: complex64 (S,), conj(A) at even steps of k; index, fraction: int32 and float32 (P,), where the pixels' k
    lie. plus, minus: where the pixels and their opposites are in out, complex64 (n * n,), 0 elsewhere; odd: whether
    m is, so that exp(-i m phi) has the other sign at opposites.
    """
    out[:] = 0
    sign = np.float32(-1.0 if odd else 1.0)
    for pixel in range(signal.size):
        low, high, part = table[index[pixel]], table[index[pixel] + 1], fraction[pixel]
        factor_re = low.real + (high.real - low.real) * part
        factor_im = low.imag + (high.imag - low.imag) * part
        turn = wave[pixel]
        c = factor_re * turn.real - factor_im * turn.imag
        d = factor_re * turn.imag + factor_im * turn.real
        value = signal[pixel]
        ac, bd, ad, bc = value.real * c, value.imag * d, value.real * d, value.imag * c
        out[minus[pixel]] = complex(sign * (ac + bd), sign * (ad - bc))
        out[plus[pixel]] = complex(ac - bd, ad + bc)


@numba.njit(**_OPTIONS)
def side_by_side(maps, start, out):  # type: ignore[no-untyped-def]
    """Real and imaginary parts, by turns, of the pixels from `start` on of complex64 (K, n): float32 (2 K, B)."""
    for number in range(maps.shape[0]):
        for pixel in range(out.shape[1]):
            value = maps[number, start + pixel]
            out[2 * number, pixel] = value.real
            out[2 * number + 1, pixel] = value.imag


@numba.njit(**_OPTIONS)
def best_pair(even, odd, best, which):  # type: ignore[no-untyped-def]
    """The best of A angles and their opposites: even + odd and even - odd, float32 (A, B) each.

    best: float32 (B,); which: int16 (B,), number of the angle, A added for an opposite.
    """
    count = np.int16(even.shape[0])
    best[:] = -np.inf
    for angle in range(even.shape[0]):
        number, opposite = np.int16(angle), np.int16(angle + count)
        for pixel in range(best.size):
            value = even[angle, pixel] + abs(odd[angle, pixel])
            name = number if odd[angle, pixel] >= 0 else opposite
            better = value > best[pixel]
            best[pixel] = value if better else best[pixel]
            which[pixel] = name if better else which[pixel]


@numba.njit(**_OPTIONS)
def figures_of_merit(best, mean, deviation, first_moment, second_moment):  # type: ignore[no-untyped-def]
    """In place: from the highest cross-correlations (mean of A X over the circle) to figures of merit.

    The ratio of the probabilities of the reference A and of nothing, less 1, over its expectation: (exp(-d / 2) - 1)
    / (exp(<A^2> / 2) - 1), with d = -2 <A (X - mean) / deviation> + <A^2>. first_moment, second_moment: <A>, <A^2>.
    Source: autopicker.cpp, autoPickOneMicrograph.
    """
    flat, local_mean, local_deviation = best.ravel(), mean.ravel(), deviation.ravel()
    scale = 1.0 / np.expm1(0.5 * second_moment)
    for pixel in range(flat.size):
        numerator = flat[pixel] - local_mean[pixel] * first_moment
        if local_deviation[pixel] > 1e-10:
            numerator /= local_deviation[pixel]
        flat[pixel] = np.float32(np.expm1(numerator - 0.5 * second_moment) * scale)
