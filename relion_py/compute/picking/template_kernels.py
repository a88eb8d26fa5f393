"""Kernels of template matching: rotated references times the micrograph, the best rotation, figures of merit."""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_OPTIONS, fastmath=True)
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


@njit(**_OPTIONS, fastmath=True)
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


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def parts_of_sums(maps, start, firsts, factors, places, out):  # type: ignore[no-untyped-def]
    """Real and imaginary parts of the cross-correlations C_m of references, from maps of a basis.

    maps: float32 (2 K, N), real and imaginary parts, from pixel `start` on. firsts: int32 (M + 1,), the first map of
    each harmonic; factors: float32 (K, R, 2, 2), from both parts of a map to both of C_m. out: float32 (2, M, R, B);
    the harmonics have their `places` in it.
    """
    for harmonic in range(len(places)):
        first, last, place = firsts[harmonic], firsts[harmonic + 1], places[harmonic]
        for reference in range(out.shape[2]):
            real, imaginary = out[0, place, reference], out[1, place, reference]
            odd = (last - first) % 2
            if odd:
                _parts_of_one(maps, 2 * first, start, factors[first, reference], real, imaginary)
            for number in range(first + odd, last, 2):
                one, other = factors[number, reference], factors[number + 1, reference]
                _parts_of_two(maps, 2 * number, start, one, other, number > first, real, imaginary)


@njit(**_OPTIONS, fastmath=True)
def _parts_of_one(maps, row, start, factor, real, imaginary):  # type: ignore[no-untyped-def]
    a, b, c, d = factor[0, 0], factor[0, 1], factor[1, 0], factor[1, 1]
    first = np.uint64(start)
    for x in range(real.size):
        re, im = maps[row, first + np.uint64(x)], maps[row + 1, first + np.uint64(x)]
        real[x] = a * re + b * im
        imaginary[x] = c * re + d * im


@njit(**_OPTIONS, fastmath=True)
def _parts_of_two(maps, row, start, one, other, more, real, imaginary):  # type: ignore[no-untyped-def]
    """The sum of two maps' parts; more: added to what is there."""
    a, b, c, d = one[0, 0], one[0, 1], one[1, 0], one[1, 1]
    e, f, g, h = other[0, 0], other[0, 1], other[1, 0], other[1, 1]
    first = np.uint64(start)
    for x in range(real.size):
        pixel = first + np.uint64(x)
        re, im, re2, im2 = maps[row, pixel], maps[row + 1, pixel], maps[row + 2, pixel], maps[row + 3, pixel]
        sum_re, sum_im = a * re + b * im + e * re2 + f * im2, c * re + d * im + g * re2 + h * im2
        real[x] = real[x] + sum_re if more else sum_re
        imaginary[x] = imaginary[x] + sum_im if more else sum_im


@njit(**_OPTIONS)
def best_of_four(sums, total, start, best, which):  # type: ignore[no-untyped-def]
    """The best of all in-plane angles from sums over harmonics at the first ones.

    sums: float32 (4, A, R, B), of cosines and of sines of even harmonics, and of odd ones, at psi from 0 to at least 90
    degrees (180, if `total` is odd; all harmonics then count as even). total: number of angles around the circle.
    best: float32 (R, N), from pixel `start` on; which: int16 (R, N), number of the angle.
    """
    half, first = total // 2, np.uint64(start)
    count = total // 4 + 1 if total % 2 == 0 else half + 1
    for reference in range(sums.shape[2]):
        best[reference, first : first + np.uint64(sums.shape[3])] = -np.inf
        for angle in range(count):
            # of psi and its opposite, and of -psi and its opposite
            same, other = np.int16(angle), np.int16(angle + half)
            back, turned_back = np.int16((total - angle) % total), np.int16(half - angle)
            for x in range(sums.shape[3]):
                pixel = first + np.uint64(x)
                cosines, sines = sums[0, angle, reference, x], sums[1, angle, reference, x]
                odd_cosines, odd_sines = sums[2, angle, reference, x], sums[3, angle, reference, x]
                odd = odd_cosines + odd_sines
                value, name = cosines + sines + abs(odd), same if odd >= 0 else other
                odd = odd_cosines - odd_sines
                value_back, name_back = cosines - sines + abs(odd), back if odd >= 0 else turned_back
                name = name if value >= value_back else name_back
                value = value if value >= value_back else value_back
                better = value > best[reference, pixel]
                best[reference, pixel] = value if better else best[reference, pixel]
                which[reference, pixel] = name if better else which[reference, pixel]


@njit(**_OPTIONS)
def figures_of_merit(best, mean, deviation, first_moment, second_moment):  # type: ignore[no-untyped-def]
    """In place, (rows, columns): from the highest cross-correlations (mean of A X over the circle) to figures of merit.

    The ratio of the probabilities of the reference A and of nothing, less 1, over its expectation: (exp(-d / 2) - 1)
    / (exp(<A^2> / 2) - 1), with d = -2 <A (X - mean) / deviation> + <A^2>. first_moment, second_moment: <A>, <A^2>.
    Source: autopicker.cpp, autoPickOneMicrograph.
    """
    scale = 1.0 / np.expm1(0.5 * second_moment)
    for row in range(best.shape[0]):
        for column in range(best.shape[1]):
            numerator = best[row, column] - mean[row, column] * first_moment
            if deviation[row, column] > 1e-10:
                numerator /= deviation[row, column]
            best[row, column] = np.float32(np.expm1(numerator - 0.5 * second_moment) * scale)
