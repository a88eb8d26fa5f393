"""CPU kernels that run once per iteration over a whole 3D transform: shells, symmetry, averages, division.

Arrays and conventions are those of `kernels_numba`: transforms complex64 (Z, Y, X) and grids float32
(Z, Y, X, 3), half a Hermitian transform with x >= 0 and origin at (Z // 2, Y // 2, 0). Radii are in padded
voxels, shells in image pixels (`radius / pad`). A 2D transform has Z == 3; only its middle plane counts.
"""

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def planes(depth):  # type: ignore[no-untyped-def]
    """Bounds of the planes that count: all of a 3D transform, the middle one of a 2D transform."""
    return (1, 2) if depth == 3 else (0, depth)


@njit(**_OPTIONS)
def transform_shells(volume, pad, limit, n_shells):  # type: ignore[no-untyped-def]
    """Mean over each shell (nearest) of |value|^2 / 2, float64 (n_shells,); shells without voxels are 0.

    volume  complex64 (Z, Y, X)
    limit   voxels whose squared radius is above it are not looked at
    """
    power = np.zeros(n_shells)
    counts = np.zeros(n_shells)
    depth, height, width = volume.shape
    first, last = planes(depth)
    for k in range(first, last):
        for i in range(height):
            plane = (k - depth // 2) ** 2 + (i - height // 2) ** 2
            for j in range(width):
                squared = plane + j * j
                if squared > limit:
                    break
                shell = int(np.sqrt(squared) / pad + 0.5)
                if shell < n_shells:
                    value = volume[k, i, j]
                    power[shell] += (value.real * value.real + value.imag * value.imag) * 0.5
                    counts[shell] += 1.0
    for shell in range(n_shells):
        if counts[shell] > 0:
            power[shell] /= counts[shell]
    return power


@njit(**_OPTIONS)
def weight_shells(grid, pad, limit, half, n_shells):  # type: ignore[no-untyped-def]
    """Sum of the grid's weights in each shell, over voxels whose squared radius is below `limit`.

    half  0.5: shell is the nearest integer of radius / pad; 0.0: the integer below it
    Returns (sums, counts), float64 (n_shells,) each; shells beyond the last are left out.
    """
    sums = np.zeros(n_shells)
    counts = np.zeros(n_shells)
    depth, height, width, _ = grid.shape
    first, last = planes(depth)
    for k in range(first, last):
        for i in range(height):
            plane = (k - depth // 2) ** 2 + (i - height // 2) ** 2
            for j in range(width):
                squared = plane + j * j
                if squared >= limit:
                    break
                shell = int(np.sqrt(squared) / pad + half)
                if shell < n_shells:
                    sums[shell] += grid[k, i, j, 2]
                    counts[shell] += 1.0
    return sums, counts


@njit(**_OPTIONS)
def evidence_shells(grid, pad, limit, inverse_tau2):  # type: ignore[no-untyped-def]
    """Weight over prior in each shell (nearest): sum of ratios, number of ratios >= 1, number of voxels.

    inverse_tau2  float64 (n_shells,): prior in the units of the weights; negative where there is none: then
                  1000 / weight stands for it, as in the reference
    Returns three float64 (n_shells,) arrays.
    """
    n_shells = len(inverse_tau2)
    ratios, covered, counts = np.zeros(n_shells), np.zeros(n_shells), np.zeros(n_shells)
    depth, height, width, _ = grid.shape
    first, last = planes(depth)
    for k in range(first, last):
        for i in range(height):
            plane = (k - depth // 2) ** 2 + (i - height // 2) ** 2
            for j in range(width):
                squared = plane + j * j
                if squared >= limit:
                    break
                shell = int(np.sqrt(squared) / pad + 0.5)
                if shell >= n_shells:
                    continue
                weight = float(grid[k, i, j, 2])
                prior = inverse_tau2[shell]
                ratio = weight / prior if prior >= 0.0 else 0.001 * weight * weight
                ratios[shell] += ratio
                covered[shell] += 1.0 if ratio >= 1.0 else 0.0
                counts[shell] += 1.0
    return ratios, covered, counts


@njit(**_OPTIONS)
def add_prior(grid, pad, limit, inverse_tau2, first_shell):  # type: ignore[no-untyped-def]
    """Weights of the grid with the prior added, float64 (Z, Y, X); the grid is not changed.

    limit         squared radius; voxels beyond it get weight 0
    inverse_tau2  float64 (n_shells,) as in `evidence_shells`; empty for no prior
    first_shell   the prior is added from this shell on
    Voxels on the rim (squared radius == limit) keep their weight without prior.
    """
    depth, height, width, _ = grid.shape
    weights = np.zeros((depth, height, width))
    first, last = planes(depth)
    for k in range(first, last):
        for i in range(height):
            plane = (k - depth // 2) ** 2 + (i - height // 2) ** 2
            for j in range(width):
                squared = plane + j * j
                if squared > limit:
                    break
                weight = float(grid[k, i, j, 2])
                if squared < limit and len(inverse_tau2) > 0:
                    shell = int(np.sqrt(squared) / pad + 0.5)
                    if first_shell <= shell < len(inverse_tau2):
                        prior = inverse_tau2[shell]
                        if prior >= 0.0:
                            weight += prior
                        elif weight > 1e-20:
                            weight += 1000.0 / weight
                weights[k, i, j] = weight
    return weights


@njit(**_OPTIONS)
def floored_shells(weights, pad, limit, n_shells):  # type: ignore[no-untyped-def]
    """A thousandth of the mean weight in each shell (integer below radius / pad), float64 (n_shells,).

    limit  squared radius, exclusive
    """
    sums = np.zeros(n_shells)
    counts = np.zeros(n_shells)
    depth, height, width = weights.shape
    first, last = planes(depth)
    for k in range(first, last):
        for i in range(height):
            plane = (k - depth // 2) ** 2 + (i - height // 2) ** 2
            for j in range(width):
                squared = plane + j * j
                if squared >= limit:
                    break
                shell = int(np.sqrt(squared) / pad)
                if shell < n_shells:
                    sums[shell] += weights[k, i, j]
                    counts[shell] += 1.0
    for shell in range(n_shells):
        sums[shell] = sums[shell] / (1000.0 * counts[shell]) if counts[shell] > 0 else 0.0
    return sums


@njit(**_OPTIONS)
def divide(grid, weights, pad, limit, floors):  # type: ignore[no-untyped-def]
    """Data of the grid over max(weights, floors of the shell), complex64 (Z, Y, X); zero beyond `limit`.

    floors  float64 (r_max,); shells beyond the last use the last
    Voxels without any weight stay zero.
    """
    depth, height, width, _ = grid.shape
    out = np.zeros((depth, height, width), np.complex64)
    first, last = planes(depth)
    for k in range(first, last):
        for i in range(height):
            plane = (k - depth // 2) ** 2 + (i - height // 2) ** 2
            for j in range(width):
                squared = plane + j * j
                if squared > limit:
                    break
                shell = min(int(np.sqrt(squared) / pad), len(floors) - 1)
                weight = max(weights[k, i, j], floors[shell])
                if weight > 0.0:
                    out[k, i, j] = complex(grid[k, i, j, 0] / weight, grid[k, i, j, 1] / weight)
    return out


@njit(**_OPTIONS)
def fold_friedel_plane(grid):  # type: ignore[no-untyped-def]
    """Add the Friedel mates of the plane x == 0 to each other, in place.

    Afterwards both members of each pair hold the (conjugate) sum; the origin is left as it is
    (backprojector.cpp, enforceHermitianSymmetry).
    """
    depth, height, _, _ = grid.shape
    first, last = planes(depth)
    for k in range(first, last):
        z = k - depth // 2
        for i in range(height):
            y = i - height // 2
            if y < 0 or (y == 0 and z >= 0):
                continue
            mate_k, mate_i = depth // 2 - z, height // 2 - y
            re = grid[k, i, 0, 0] + grid[mate_k, mate_i, 0, 0]
            im = grid[k, i, 0, 1] - grid[mate_k, mate_i, 0, 1]
            weight = grid[k, i, 0, 2] + grid[mate_k, mate_i, 0, 2]
            grid[k, i, 0, 0], grid[k, i, 0, 1], grid[k, i, 0, 2] = re, im, weight
            grid[mate_k, mate_i, 0, 0], grid[mate_k, mate_i, 0, 1] = re, -im
            grid[mate_k, mate_i, 0, 2] = weight


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _in_plane(grid, z, y, x, fy, fx):  # type: ignore[no-untyped-def]
    """The three values of a grid (Z, Y, X, 3) between voxels y, y + 1 and x, x + 1 of a plane."""
    w00, w01, w10, w11 = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
    near, far = grid[z, y], grid[z, y + 1]
    re = w00 * near[x, 0] + w01 * near[x + 1, 0] + w10 * far[x, 0] + w11 * far[x + 1, 0]
    im = w00 * near[x, 1] + w01 * near[x + 1, 1] + w10 * far[x, 1] + w11 * far[x + 1, 1]
    weight = w00 * near[x, 2] + w01 * near[x + 1, 2] + w10 * far[x, 2] + w11 * far[x + 1, 2]
    return re, im, weight


@njit(**_OPTIONS)
def _comes_first(exact, z, y, x):  # type: ignore[no-untyped-def]
    """Whether no voxel of the half transform that operators turn (z, y, x) onto comes before it, nor Friedel's mate."""
    here = (z, y, x)
    for s in range(len(exact)):
        zt, yt, xt = _turned(exact[s], z, y, x)
        if (xt >= 0 and (zt, yt, xt) < here) or (xt <= 0 and (-zt, -yt, -xt) < here):
            return False
    return True


@njit(**_OPTIONS)
def _turned(operator, z, y, x):  # type: ignore[no-untyped-def]
    return (
        operator[2, 0] * x + operator[2, 1] * y + operator[2, 2] * z,
        operator[1, 0] * x + operator[1, 1] * y + operator[1, 2] * z,
        operator[0, 0] * x + operator[0, 1] * y + operator[0, 2] * z,
    )


@njit(**_OPTIONS)
def _set_orbit(exact, z, y, x, re, im, weight, out):  # type: ignore[no-untyped-def]
    """Gives these sums to all voxels of `out` that operators turn (z, y, x) onto, and to Friedel's mates."""
    half_z, half_y = out.shape[0] // 2, out.shape[1] // 2
    for s in range(len(exact)):
        zt, yt, xt = _turned(exact[s], z, y, x)
        if xt <= 0:
            mate = out[half_z - zt, half_y - yt, -xt]
            mate[0], mate[1], mate[2] = re, -im, weight
        if xt >= 0:
            voxel = out[half_z + zt, half_y + yt, xt]
            voxel[0], voxel[1], voxel[2] = re, im, weight


@njit(**_OPTIONS)
def sum_orbits(exact, radius, first, last, grid):  # type: ignore[no-untyped-def]
    """Sums over operators that turn the grid onto itself, in place: f(x) becomes the sum of all f(E x).

    grid         float32 (Z, Y, X, 3)
    exact        int (K, 3, 3), a group
    radius       voxels farther from the origin are left alone
    first, last  voxels are summed that can be turned onto one of these planes, and onto none before
    """
    depth, height, width, _ = grid.shape
    half_z, half_y = depth // 2, height // 2
    for k in range(first, last):
        z = k - half_z
        for i in range(height):
            y = i - half_y
            for x in range(width):
                if z * z + y * y + x * x > radius * radius:
                    break
                if not _comes_first(exact, z, y, x):
                    continue
                re = im = weight = np.float32(0)
                for s in range(len(exact)):
                    zt, yt, xt = _turned(exact[s], z, y, x)
                    side = 1 if xt >= 0 else -1
                    value = grid[side * zt + half_z, side * yt + half_y, side * xt]
                    re += value[0]
                    im += side * value[1]
                    weight += value[2]
                _set_orbit(exact, z, y, x, re, im, weight, grid)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def add_rotated(grid, operators, turns, exact, radius, first, last, out):  # type: ignore[no-untyped-def]
    """Add to `out` the grid rotated by each operator: out(x) += grid(R x), trilinear.

    grid, out  float32 (Z, Y, X, 3), not the same array
    operators  float32 (S, 3, 3)
    turns      float32 (S,): radians by which the phase of a value at z = 1 is advanced, for a shift along Z
    exact      int (K, 3, 3), a group of operators that turn the grid onto itself, and the sum as well
    The others as for `sum_orbits`.
    """
    depth, height, width, _ = grid.shape
    half_z, half_y = depth // 2, height // 2
    limit = radius * radius
    for k in range(first, last):
        z = k - half_z
        for i in range(height):
            y = i - half_y
            for j in range(width):
                if z * z + y * y + j * j > limit:
                    break
                if not _comes_first(exact, z, y, j):
                    continue
                sums = out[k, i, j]
                sum_re, sum_im, sum_weight = sums[0], sums[1], sums[2]
                for s in range(len(operators)):
                    xp = operators[s, 0, 0] * j + operators[s, 0, 1] * y + operators[s, 0, 2] * z
                    yp = operators[s, 1, 0] * j + operators[s, 1, 1] * y + operators[s, 1, 2] * z
                    zp = operators[s, 2, 0] * j + operators[s, 2, 1] * y + operators[s, 2, 2] * z
                    side = 1.0 if xp >= 0 else -1.0
                    xp, yp, zp = xp * side, yp * side, zp * side
                    x0 = int(xp)
                    y0, z0 = int(np.floor(yp)), int(np.floor(zp))
                    fx, fy, fz = xp - x0, yp - y0, zp - z0
                    y0, z0 = y0 + half_y, z0 + half_z
                    re, im, weight = _in_plane(grid, z0, y0, x0, fy, fx)
                    if fz != 0.0:  # else a turn about Z
                        far_re, far_im, far_weight = _in_plane(grid, z0 + 1, y0, x0, fy, fx)
                        re += fz * (far_re - re)
                        im += fz * (far_im - im)
                        weight += fz * (far_weight - weight)
                    im *= side
                    if turns[s] != 0.0:
                        cosine, sine = np.cos(turns[s] * z), np.sin(turns[s] * z)
                        re, im = re * cosine - im * sine, re * sine + im * cosine
                    sum_re += re
                    sum_im += im
                    sum_weight += weight
                _set_orbit(exact, z, y, j, sum_re, sum_im, sum_weight, out)


@njit(**_OPTIONS)
def copy_inside(grid, radius, out):  # type: ignore[no-untyped-def]
    """Copies the sums (Z, Y, X, 3) within a radius (voxels) from the origin to another grid like it."""
    depth, height, width, _ = grid.shape
    for k in range(depth):
        for i in range(height):
            rest = radius * radius - (k - depth // 2) ** 2 - (i - height // 2) ** 2
            if rest >= 0:
                end = min(int(np.sqrt(rest)) + 1, width)
                out[k, i, :end] = grid[k, i, :end]


@njit(**_OPTIONS)
def scale_by_radius(volume, factor):  # type: ignore[no-untyped-def]
    """Multiplies a map (Z, Y, X), origin in the middle, in place by factor[r^2]; r in voxels. Depth 1: an image."""
    depth, height, width = volume.shape
    for k in range(depth):
        z = k - depth // 2
        for i in range(height):
            y = i - height // 2
            for j in range(width):
                x = j - width // 2
                volume[k, i, j] *= factor[z * z + y * y + x * x]


@njit(**_OPTIONS)
def downsample(grid, pad, half_size):  # type: ignore[no-untyped-def]
    """Weighted average of the padded voxels that are nearest to each unpadded one.

    half_size  r_max + 1: the result is complex128 (2 half_size + 1,) * 2 + (half_size + 1,); a 2D grid
               gives depth 1
    (backprojector.cpp, getDownsampledAverage with divide)
    """
    depth, height, width, _ = grid.shape
    first, last = planes(depth)
    flat = depth == 3
    size = 2 * half_size + 1
    sums = np.zeros((1 if flat else size, size, half_size + 1), np.complex128)
    weights = np.zeros(sums.shape)
    for k in range(first, last):
        z = _nearest((k - depth // 2) / pad)
        kk = 0 if flat else z + half_size
        for i in range(height):
            ii = _nearest((i - height // 2) / pad) + half_size
            for j in range(width):
                jj = _nearest(j / pad)
                if 0 <= kk < sums.shape[0] and 0 <= ii < size and jj <= half_size:
                    sums[kk, ii, jj] += complex(grid[k, i, j, 0], grid[k, i, j, 1])
                    weights[kk, ii, jj] += grid[k, i, j, 2]
    for kk in range(sums.shape[0]):
        for ii in range(size):
            for jj in range(half_size + 1):
                if weights[kk, ii, jj] > 0.0:
                    sums[kk, ii, jj] /= weights[kk, ii, jj]
                else:
                    sums[kk, ii, jj] = 0.0
    return sums


@njit(**_OPTIONS)
def _nearest(value):  # type: ignore[no-untyped-def]
    """Nearest integer, halves away from zero (macros.h, ROUND)."""
    return int(value + 0.5) if value > 0 else int(value - 0.5)


@njit(**_OPTIONS)
def correlate_shells(first, second, r_max, n_shells):  # type: ignore[no-untyped-def]
    """Fourier shell correlation of two unpadded transforms, float64 (n_shells,); shells beyond r_max are 0.

    first, second  complex128 (Z, Y, X), origin in the centre of z and y, as `downsample` makes them
    """
    cross, power_1, power_2 = np.zeros(n_shells), np.zeros(n_shells), np.zeros(n_shells)
    depth, height, width = first.shape
    for k in range(depth):
        for i in range(height):
            plane = (k - depth // 2) ** 2 + (i - height // 2) ** 2
            for j in range(width):
                squared = plane + j * j
                if squared > r_max * r_max:
                    break
                shell = int(np.sqrt(squared) + 0.5)
                if shell >= n_shells:
                    continue
                a, b = first[k, i, j], second[k, i, j]
                cross[shell] += a.real * b.real + a.imag * b.imag
                power_1[shell] += a.real * a.real + a.imag * a.imag
                power_2[shell] += b.real * b.real + b.imag * b.imag
    fsc = np.zeros(n_shells)
    for shell in range(n_shells):
        if power_1[shell] * power_2[shell] > 0.0:
            fsc[shell] = cross[shell] / np.sqrt(power_1[shell] * power_2[shell])
    return fsc


@njit(**_OPTIONS)
def values_at(transform, points, matrix, pad, nearest, out):  # type: ignore[no-untyped-def]
    """Values of a transform at points k of the unpadded grid, turned: out[n] = F(pad k[n] M), trilinear.

    transform  complex64 (Z, Y, X); points that fall outside of it give 0
    points     float32 (N, 3): x, y, z in Fourier pixels
    matrix     float32 (3, 3)
    nearest    take the nearest voxel instead
    out        complex64 (N,)
    """
    depth, height, width = transform.shape
    half_z, half_y = depth // 2, height // 2
    for n in range(len(points)):
        a, b, c = points[n, 0] * pad, points[n, 1] * pad, points[n, 2] * pad
        x = a * matrix[0, 0] + b * matrix[1, 0] + c * matrix[2, 0]
        y = a * matrix[0, 1] + b * matrix[1, 1] + c * matrix[2, 1]
        z = a * matrix[0, 2] + b * matrix[1, 2] + c * matrix[2, 2]
        mirrored = x < 0
        if mirrored:
            x, y, z = -x, -y, -z
        if nearest:
            x, y, z = np.floor(x + 0.5), np.floor(y + 0.5), np.floor(z + 0.5)
        x0, y0, z0 = int(x), int(np.floor(y)), int(np.floor(z))
        fx, fy, fz = np.float32(x - x0), np.float32(y - y0), np.float32(z - z0)
        y0, z0 = y0 + half_y, z0 + half_z
        if x0 + 1 >= width or y0 < 0 or y0 + 1 >= height or z0 < 0 or z0 + 1 >= depth:
            out[n] = 0
            continue
        one = np.float32(1)
        near = (one - fy) * ((one - fx) * transform[z0, y0, x0] + fx * transform[z0, y0, x0 + 1])
        near += fy * ((one - fx) * transform[z0, y0 + 1, x0] + fx * transform[z0, y0 + 1, x0 + 1])
        far = (one - fy) * ((one - fx) * transform[z0 + 1, y0, x0] + fx * transform[z0 + 1, y0, x0 + 1])
        far += fy * ((one - fx) * transform[z0 + 1, y0 + 1, x0] + fx * transform[z0 + 1, y0 + 1, x0 + 1])
        value = (one - fz) * near + fz * far
        out[n] = np.conj(value) if mirrored else value
