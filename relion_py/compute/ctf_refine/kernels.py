"""CPU kernels of CTF refinement: CTFs compared with images, and how predictions change with frequency.

All run on one core without holding the GIL.  The sine and cosine are written out because LLVM turns these, unlike
those of the C library, into vector instructions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"nsz", "arcp", "contract", "afn", "reassoc"}}
_QUARTER = math.pi / 2


@njit(**_OPTIONS)
def _sine_cosine(angle):  # type: ignore[no-untyped-def]
    """Both of an angle in radians, to 1e-10 for |angle| < 1e5: Taylor's series of what is left of quarter turns."""
    quarters = np.rint(angle / _QUARTER)
    r = angle - quarters * _QUARTER
    q = np.int32(quarters) & 3
    r2 = r * r
    sine = r * (1 - r2 / 6 * (1 - r2 / 20 * (1 - r2 / 42 * (1 - r2 / 72 * (1 - r2 / 110)))))
    cosine = 1 - r2 / 2 * (1 - r2 / 12 * (1 - r2 / 30 * (1 - r2 / 56 * (1 - r2 / 90 * (1 - r2 / 132)))))
    swapped = (q & 1) == 1
    s = cosine if swapped else sine
    c = sine if swapped else cosine
    return (-s if q >= 2 else s), (-c if q == 1 or q == 2 else c)


@njit(**_OPTIONS)
def costs(theta, power, agreement, weight, u2, astig1, astig2, u4, offset, out):  # type: ignore[no-untyped-def]
    """out[n] = sum over pixels of weight (power CTF^2 - 2 agreement CTF): squared difference less a constant.

    theta (n, 7) float64: phase, defocus, two of astigmatism, Cs, B-factor, scale (see `defocus.py`).
    power, agreement (n, P) float32; the rest (P,) float64, offset empty or (P,).
    """
    shifted = offset.shape[0] > 0
    for n in range(theta.shape[0]):
        phase, defocus, first, second, cs, bfactor, scale = theta[n]
        total = 0.0
        for p in range(u2.shape[0]):
            gamma = phase + defocus * u2[p] + first * astig1[p] + second * astig2[p] + cs * u4[p]
            if shifted:
                gamma += offset[p]
            sine, _ = _sine_cosine(gamma)
            value = -sine * scale
            if bfactor != 0.0:
                value *= math.exp(-0.25 * bfactor * u2[p])
            total += weight[p] * value * (power[n, p] * value - 2.0 * agreement[n, p])
        out[n] = total


@njit(**_OPTIONS)
def slopes(  # type: ignore[no-untyped-def]
    theta, power, agreement, root, u2, astig1, astig2, u4, offset, curved, out, first_order, second_order
):
    """Half the derivatives of :func:`costs`, pixel by pixel; arguments as there, but the roots of the weights.

    first_order (n, 2, P) float32: by the CTF's phase, and by the CTF times the CTF.
    second_order (n, 3, P) float32: of Gauss and Newton, by phase and phase, phase and CTF, CTF and CTF; with
    ``curved`` 1 instead of 0, the first of them has the curvature of the sine too.
    """
    shifted = offset.shape[0] > 0
    pixels = u2.shape[0]
    # in two loops over short arrays: LLVM vectorises what stores little
    value, slope = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    for n in range(theta.shape[0]):
        phase, defocus, first, second, cs, bfactor, scale = theta[n]
        for p in range(pixels):
            gamma = phase + defocus * u2[p] + first * astig1[p] + second * astig2[p] + cs * u4[p]
            if shifted:
                gamma += offset[p]
            sine, cosine = _sine_cosine(gamma)
            amplitude = scale * root[p]
            if bfactor != 0.0:
                amplitude *= math.exp(-0.25 * bfactor * u2[p])
            value[p] = -sine * amplitude
            slope[p] = -cosine * amplitude
        total = 0.0
        for p in range(pixels):
            wanted, strength = agreement[n, p] * root[p], power[n, p]
            total += value[p] * (strength * value[p] - 2.0 * wanted)
            residual = np.float32(strength * value[p] - wanted)
            first_order[n, 0, p] = residual * slope[p]
            first_order[n, 1, p] = residual * value[p]
        for p in range(pixels):
            second_order[n, 0, p] = power[n, p] * slope[p] * slope[p] - curved * first_order[n, 1, p]
            second_order[n, 1, p] = power[n, p] * slope[p] * value[p]
            second_order[n, 2, p] = power[n, p] * value[p] * value[p]
        out[n] = total


@njit(inline="always", **_OPTIONS)
def _derivatives(volume, part, i, j, k, fx, fy, fz):  # type: ignore[no-untyped-def]
    """Along x, y, z, of the trilinear interpolation between eight voxels of the real (0) or imaginary part (1)."""
    one = np.float32(1.0)
    gx, gy, gz = one - fx, one - fy, one - fz
    v000, v001 = volume[k, j, i, part], volume[k, j, i + 1, part]
    v010, v011 = volume[k, j + 1, i, part], volume[k, j + 1, i + 1, part]
    v100, v101 = volume[k + 1, j, i, part], volume[k + 1, j, i + 1, part]
    v110, v111 = volume[k + 1, j + 1, i, part], volume[k + 1, j + 1, i + 1, part]
    return (
        ((v001 - v000) * gy + (v011 - v010) * fy) * gz + ((v101 - v100) * gy + (v111 - v110) * fy) * fz,
        ((v010 - v000) * gx + (v011 - v001) * fx) * gz + ((v110 - v100) * gx + (v111 - v101) * fx) * fz,
        ((v100 - v000) * gx + (v101 - v001) * fx) * gy + ((v110 - v010) * gx + (v111 - v011) * fx) * fy,
    )


@njit(**_OPTIONS)
def magnification_sums(  # type: ignore[no-untyped-def]
    volume, rotations, kx, ky, pad, limit, factor, ctf, predicted, observed, out
):
    """Add n particles to the equations of a small displacement of each Fourier pixel: out (5, P) float64.

    With g the derivative of CTF * prediction along x and y of the image's Fourier pixels and r what the image differs
    by: xx, xy, yy of sums of g g, and sums of g r (magnification_helper.cpp, updateScaleFreq).
    volume float32 (Z, Y, X, 2): real and imaginary part; rotations, kx, ky, pad as of `kernels_numba.project`.
    limit: squared radius in padded voxels beyond which nothing is looked at.  factor complex64 (P,) multiplies
    projections; ctf float32, predicted (with that factor) and observed complex64 (n, P).  The derivative is that of
    trilinear interpolation (projector.cpp, projectGradient).
    """
    centre_z, centre_y = np.int32(volume.shape[0] // 2), np.int32(volume.shape[1] // 2)
    one = np.float32(1.0)
    for n in range(rotations.shape[0]):
        a = rotations[n] * pad
        for p in range(kx.shape[0]):
            u, v = np.float32(kx[p]), np.float32(ky[p])
            x = a[0, 0] * u + a[1, 0] * v
            y = a[0, 1] * u + a[1, 1] * v
            z = a[0, 2] * u + a[1, 2] * v
            if x * x + y * y + z * z >= limit:
                continue
            side = one if x >= 0 else -one
            x, y, z = x * side, y * side, z * side
            i, j, k = np.int32(x), np.int32(math.floor(y)), np.int32(math.floor(z))
            fx, fy, fz = x - np.float32(i), y - np.float32(j), z - np.float32(k)
            j += centre_y
            k += centre_z
            re = _derivatives(volume, 0, i, j, k, fx, fy, fz)
            im = _derivatives(volume, 1, i, j, k, fx, fy, fz)
            # F(-k) is conj F(k), so its derivative is minus the conjugate
            first = complex(
                (re[0] * a[0, 0] + re[1] * a[0, 1] + re[2] * a[0, 2]) * side,
                im[0] * a[0, 0] + im[1] * a[0, 1] + im[2] * a[0, 2],
            )
            second = complex(
                (re[0] * a[1, 0] + re[1] * a[1, 1] + re[2] * a[1, 2]) * side,
                im[0] * a[1, 0] + im[1] * a[1, 1] + im[2] * a[1, 2],
            )
            c = ctf[n, p]
            first *= factor[p] * c
            second *= factor[p] * c
            rest = observed[n, p] - c * predicted[n, p]
            out[0, p] += first.real * first.real + first.imag * first.imag
            out[1, p] += first.real * second.real + first.imag * second.imag
            out[2, p] += second.real * second.real + second.imag * second.imag
            out[3, p] += first.real * rest.real + first.imag * rest.imag
            out[4, p] += second.real * rest.real + second.imag * rest.imag
