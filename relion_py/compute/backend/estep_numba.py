"""CPU kernels of the expectation step: scores and weighted sums of many particles that share projections.

Work is arranged by *groups*. A group is one particle together with one reference direction ("block": class and
direction), a list of in-plane angles and a span of translations. Groups are sorted by block, so that each
projection is made once per block and serves every particle that needs it; the scores of a group are one matrix
product. With Y = CTF X / sigma2 (shifted) and P a projection, the exponent of the Gaussian likelihood is

    log p = const + Re <Y, P> - 1/2 <CTF^2 / sigma2, |P|^2>        (Scheres 2012, JMB 415:406, eq. 5)

All kernels release the GIL and take a range of groups, so that several threads can work side by side on disjoint
ranges. Arrays are C-contiguous; complex numbers travel as pairs of float32 in the last axis.

Shapes used below: D directions, Q in-plane angles, C child directions, S child in-plane angles, T coarse
translations, V child translations (C = S = V = 1 without oversampling), P pixels of the Fourier disc.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from relion_py.compute.backend.kernels_numba import insert, project
from relion_py.compute.backend.selection_numba import KERNEL_OPTIONS, MINUS_INFINITY

_SMALL_PRODUCT = 24
"""Sums of fewer weights than this are added one by one; a call of BLAS would cost more."""


@njit(**KERNEL_OPTIONS)
def shift_rows(images, image_of_row, shift_x, shift_y, kx, ky, box, out):
    """Fourier transforms of shifted images: out[r] = images[i] exp(-2 pi i (kx tx + ky ty) / box).

    images (N, P, 2) float32; image_of_row (R,) int; shift_x, shift_y (R,) pixels; kx, ky (P,) int;
    out (R, P, 2). A positive shift moves the image to larger x, y (fftw.cpp, shiftImageInFourierTransform).
    """
    k_max = 0
    for p in range(kx.shape[0]):
        k_max = max(k_max, kx[p], abs(ky[p]))
    cos_x = np.empty(k_max + 1, np.float32)
    sin_x = np.empty(k_max + 1, np.float32)
    cos_y = np.empty(2 * k_max + 1, np.float32)
    sin_y = np.empty(2 * k_max + 1, np.float32)
    for r in range(image_of_row.shape[0]):
        angle_x = -2.0 * np.pi * shift_x[r] / box
        angle_y = -2.0 * np.pi * shift_y[r] / box
        for k in range(k_max + 1):
            cos_x[k] = np.cos(angle_x * k)
            sin_x[k] = np.sin(angle_x * k)
        for k in range(-k_max, k_max + 1):
            cos_y[k + k_max] = np.cos(angle_y * k)
            sin_y[k + k_max] = np.sin(angle_y * k)
        source = images[image_of_row[r]]
        target = out[r]
        for p in range(kx.shape[0]):
            i, j = kx[p], ky[p] + k_max
            c = cos_x[i] * cos_y[j] - sin_x[i] * sin_y[j]
            s = cos_x[i] * sin_y[j] + sin_x[i] * cos_y[j]
            re, im = source[p, 0], source[p, 1]
            target[p, 0] = re * c - im * s
            target[p, 1] = re * s + im * c


@njit(**KERNEL_OPTIONS)
def _turn(dir_mat, cosine, sine, out):
    """Euler matrix of a direction at an in-plane angle, from the one at psi = 0 (euler.cpp)."""
    for j in range(3):
        out[0, j] = cosine * dir_mat[0, j] + sine * dir_mat[1, j]
        out[1, j] = cosine * dir_mat[1, j] - sine * dir_mat[0, j]
        out[2, j] = dir_mat[2, j]


@njit(**KERNEL_OPTIONS)
def block_rotations(dir_mats, psi_table, psis, n_psi, distortion, out):
    """Euler matrices of all children of the in-plane angles psis[:n_psi] of one direction.

    dir_mats (C, 3, 3) at psi = 0; psi_table (Q, S, 2) cos, sin; out (>= n_psi C S, 3, 3); distortion (2, 2)
    multiplies the first two rows from the left: the image's frequencies are not those of the reference.
    Order: in-plane angle, child direction, child in-plane angle.
    """
    r = 0
    for i in range(n_psi):
        for c in range(dir_mats.shape[0]):
            for s in range(psi_table.shape[1]):
                matrix = out[r]
                _turn(dir_mats[c], psi_table[psis[i], s, 0], psi_table[psis[i], s, 1], matrix)
                for j in range(3):
                    x, y = matrix[0, j], matrix[1, j]
                    matrix[0, j] = distortion[0, 0] * x + distortion[0, 1] * y
                    matrix[1, j] = distortion[1, 0] * x + distortion[1, 1] * y
                r += 1


@njit(**KERNEL_OPTIONS)
def powers_of(rows, n_rows, out):
    """|P|^2 of the first n_rows projections: rows (R, P) complex64 -> out (R, P) float32."""
    for r in range(n_rows):
        row, power = rows[r], out[r]
        for p in range(row.shape[0]):
            power[p] = row[p].real * row[p].real + row[p].imag * row[p].imag


@njit(**KERNEL_OPTIONS)
def _slots_of_block(first, last, psi_start, psi_count, psi_idx, slot_of_psi, psis):
    """Sorted union of the in-plane angles of the groups of one block; slot_of_psi must be -1 and is filled."""
    for g in range(first, last):
        for i in range(psi_start[g], psi_start[g] + psi_count[g]):
            slot_of_psi[psi_idx[i]] = 0
    n = 0
    for q in range(slot_of_psi.shape[0]):
        if slot_of_psi[q] == 0:
            slot_of_psi[q] = n
            psis[n] = q
            n += 1
    return n


@njit(**KERNEL_OPTIONS)
def _end_of_block(group_block, g, last):
    h = g + 1
    while h < last and group_block[h] == group_block[g]:
        h += 1
    return h


@njit(**KERNEL_OPTIONS)
def score_groups(
    volumes, pad, r_max, kx, ky, distortion, dir_mats, psi_table,
    block, particle, prior, psi_start, psi_count, psi_idx, psi_prior,
    slot_first, slot_count, out_start, slot_prior, table_start, shifted, n_shifts, ctf2, correlate, out, first, last,
):  # fmt: skip
    """Log-weights (up to a constant per particle) of the groups first ... last-1, into out.

    volumes (K, Z, Y, X) complex64: padded transforms of the references, used up to r_max padded voxels;
    dir_mats (D, C, 3, 3) at psi = 0; psi_table (Q, S, 2); distortion (2, 2) as in block_rotations.
    A group g: block[g] = class * D + direction (groups are sorted by it), particle[g], prior[g] (log), in-plane
    angles psi_idx[psi_start[g] : + psi_count[g]] ascending with psi_prior (log), translation slots
    slot_first[g] : + slot_count[g], and its (angles * C * S, slots * V) scores row-major from out[out_start[g]].
    Row table_start[n] + slot * V + child of shifted (rows, P, 2) holds CTF X / sigma2 of particle n, shifted;
    slot_prior[class, row // V] (log) goes with it; V = n_shifts. ctf2 (N, P) = CTF^2 / sigma2.
    correlate: score <Y, P> / sqrt(<ctf2, |P|^2>) without priors, Y and ctf2 given without 1/sigma2, as in a first
    iteration by cross-correlation (ml_optimiser.cpp, getAllSquaredDifferences, do_firstiter_cc).
    """
    n_pix, n_dir = kx.shape[0], dir_mats.shape[0]
    n_children = dir_mats.shape[1] * psi_table.shape[1]
    slot_of_psi = np.full(psi_table.shape[0], -1, np.int32)
    psis = np.empty(psi_table.shape[0], np.int32)
    capacity = 0
    rotations = np.empty((0, 3, 3), np.float32)
    rows = np.empty((0, n_pix), np.complex64)
    powers = np.empty((0, n_pix), np.float32)
    norms = np.empty(0, np.float32)
    products = np.empty(4096, np.float32)
    g = first
    while g < last:
        h = _end_of_block(block, g, last)
        n_psi = _slots_of_block(g, h, psi_start, psi_count, psi_idx, slot_of_psi, psis)
        k, d = block[g] // n_dir, block[g] % n_dir
        if n_psi * n_children > capacity:
            capacity = n_psi * n_children
            rotations = np.empty((capacity, 3, 3), np.float32)
            rows = np.empty((capacity, n_pix), np.complex64)
            powers = np.empty((capacity, n_pix), np.float32)
            norms = np.empty(capacity, np.float32)
        block_rotations(dir_mats[d], psi_table, psis, n_psi, distortion, rotations)
        n_block = n_psi * n_children
        project(volumes[k], rotations[:n_block], kx, ky, pad, r_max, rows[:n_block])
        powers_of(rows, n_block, powers)
        flat_rows = rows.view(np.float32)
        for gg in range(g, h):
            n = particle[gg]
            columns = slot_count[gg] * n_shifts
            start = table_start[n] + slot_first[gg] * n_shifts
            y = shifted[start : start + columns].reshape(columns, 2 * n_pix)
            i, end = psi_start[gg], psi_start[gg] + psi_count[gg]
            target = out_start[gg]
            while i < end:
                # a run of neighbouring angles is one matrix product
                slot = slot_of_psi[psi_idx[i]]
                run = 1
                while i + run < end and slot_of_psi[psi_idx[i + run]] == slot + run:
                    run += 1
                r0, n_rows = slot * n_children, run * n_children
                if n_rows * columns > products.shape[0]:
                    products = np.empty(n_rows * columns, np.float32)
                product = products[: n_rows * columns].reshape(n_rows, columns)
                np.dot(flat_rows[r0 : r0 + n_rows], y.T, product)
                np.dot(powers[r0 : r0 + n_rows], ctf2[n], norms[:n_rows])
                for r in range(n_rows):
                    if correlate:
                        scale = np.float32(1.0) / np.sqrt(max(norms[r], np.float32(1e-30)))
                        for c in range(columns):
                            out[target] = product[r, c] * scale
                            target += 1
                    else:
                        base = prior[gg] + psi_prior[i + r // n_children] - np.float32(0.5) * norms[r]
                        for c in range(columns):
                            out[target] = product[r, c] + base + slot_prior[k, (start + c) // n_shifts]
                            target += 1
                i += run
        for i in range(n_psi):
            slot_of_psi[psis[i]] = -1
        g = h


@njit(**KERNEL_OPTIONS)
def add_dense_terms(products, norms, orientation_prior, shift_prior, correlate, row_best):
    """Scores of a block of orientations for all particles, in place of the products (R, N, T).

    norms (R, N) = <ctf2, |P|^2>; orientation_prior (R,), shift_prior (N, T): log. Same formula as score_groups.
    row_best (R, N): the largest score over the shifts, so that later passes need not look at hopeless rows again.
    """
    for r in range(products.shape[0]):
        for n in range(products.shape[1]):
            if correlate:
                scale = np.float32(1.0) / np.sqrt(max(norms[r, n], np.float32(1e-30)))
                for t in range(products.shape[2]):
                    products[r, n, t] *= scale
            else:
                base = orientation_prior[r] - np.float32(0.5) * norms[r, n]
                for t in range(products.shape[2]):
                    products[r, n, t] += base + shift_prior[n, t]
            best = MINUS_INFINITY
            for t in range(products.shape[2]):
                if products[r, n, t] > best:
                    best = products[r, n, t]
            row_best[r, n] = best


@njit(**KERNEL_OPTIONS)
def _gather_weights(weights, start, n_rows, columns, row_used, column_used, row_list, column_list, out):
    """The rows and columns of a group's weights that are not all zero: their lists, and the dense block in `out`."""
    row_used[:n_rows] = False
    column_used[:columns] = False
    for r in range(n_rows):
        for c in range(columns):
            if weights[start + r * columns + c] > 0.0:
                row_used[r] = True
                column_used[c] = True
    n_used_rows, n_used_columns = 0, 0
    for r in range(n_rows):
        if row_used[r]:
            row_list[n_used_rows] = r
            n_used_rows += 1
    for c in range(columns):
        if column_used[c]:
            column_list[n_used_columns] = c
            n_used_columns += 1
    block = out[: n_used_rows * n_used_columns].reshape(n_used_rows, n_used_columns)
    for i in range(n_used_rows):
        for j in range(n_used_columns):
            block[i, j] = weights[start + row_list[i] * columns + column_list[j]]
    return n_used_rows, n_used_columns


@njit(**KERNEL_OPTIONS)
def _weighted_sums(block, table, rows, gathered, out):
    """out (R, 2P) = block (R, C) times table[rows[:C]] (each 2P): as a matrix product unless that is too small."""
    n_rows, n_columns = block.shape
    if n_rows * n_columns < _SMALL_PRODUCT:
        for i in range(n_rows):
            target = out[i]
            target[:] = 0.0
            for j in range(n_columns):
                w, source = block[i, j], table[rows[j]]
                for p in range(target.shape[0]):
                    target[p] += w * source[p]
    else:
        for j in range(n_columns):
            gathered[j] = table[rows[j]]
        np.dot(block, gathered[:n_columns], out[:n_rows])


@njit(**KERNEL_OPTIONS)
def sum_groups(
    volumes, pad, r_max, kx, ky, shell, distortion, dir_mats, psi_table, block, particle, psi_start, psi_count, psi_idx,
    slot_first, slot_count, out_start, table_start, shifted, n_shifts, recon_row, recon, ctf2, weights, residual,
    grids, signal, power, first, last,
):  # fmt: skip
    """Weighted sums of the groups first ... last-1: back-projections, and signal and reference power per shell.

    shifted as in score_groups (masked images); recon (rows, P, 2) holds the unmasked CTF X / sigma2, shifted, of the
    rows with weight: recon_row[row of shifted] is its index, or -1. shell (P,) the Fourier shell of each pixel.
    grids (K, Z, Y, X, 3): accumulators of numerator (re, im) and weight, this thread's own. With `residual` the
    images are back-projected less their projections: CTF (X - CTF P) / sigma2.
    Adds to signal[n, s] = sum w Re <CTF X / sigma2, P> and power[n, s] = sum w <CTF^2 / sigma2, |P|^2> of shell s
    (ml_optimiser.cpp, storeWeightedSums; here all images of an orientation are summed before the insertion).
    """
    n_pix, n_dir = kx.shape[0], dir_mats.shape[0]
    n_children = dir_mats.shape[1] * psi_table.shape[1]
    slot_of_psi = np.full(psi_table.shape[0], -1, np.int32)
    psis = np.empty(psi_table.shape[0], np.int32)
    all_rows = psi_table.shape[0] * n_children
    largest = 1
    for g in range(first, last):
        largest = max(largest, slot_count[g] * n_shifts)
    rotations = np.empty((all_rows, 3, 3), np.float32)
    row_place = np.full(all_rows, -1, np.int32)  # where a row of the block lies among those in use
    row_used, row_list = np.empty(all_rows, np.bool_), np.empty(all_rows, np.int32)
    column_used, column_list = np.empty(largest, np.bool_), np.empty(largest, np.int32)
    table_rows = np.empty(largest, np.int64)
    gathered = np.empty((largest, 2 * n_pix), np.float32)
    dense = np.empty(64, np.float32)
    masked_sums = np.empty((1, 2 * n_pix), np.float32)
    plain_sums = np.empty((1, 2 * n_pix), np.float32)
    capacity = 0
    used_rotations = np.empty((0, 3, 3), np.float32)
    rows = np.empty((0, n_pix), np.complex64)
    numerators = np.empty((0, n_pix), np.complex64)
    denominators = np.empty((0, n_pix), np.float32)
    signal_sum, power_sum = np.empty(n_pix, np.float32), np.empty(n_pix, np.float32)
    shifted_rows = shifted.reshape(shifted.shape[0], 2 * n_pix)
    recon_rows = recon.reshape(recon.shape[0], 2 * n_pix)
    g = first
    while g < last:
        h = _end_of_block(block, g, last)
        n_psi = _slots_of_block(g, h, psi_start, psi_count, psi_idx, slot_of_psi, psis)
        k, d = block[g] // n_dir, block[g] % n_dir
        n_used = _rows_in_use(
            g, h, psi_start, psi_count, psi_idx, slot_count, out_start, n_shifts, n_children, slot_of_psi, weights,
            row_place, n_psi * n_children,
        )  # fmt: skip
        if n_used > capacity:
            capacity = n_used
            used_rotations = np.empty((capacity, 3, 3), np.float32)
            rows = np.empty((capacity, n_pix), np.complex64)
            numerators = np.empty((capacity, n_pix), np.complex64)
            denominators = np.empty((capacity, n_pix), np.float32)
        if n_used > 0:
            block_rotations(dir_mats[d], psi_table, psis, n_psi, distortion, rotations)
            for r in range(n_psi * n_children):
                if row_place[r] >= 0:
                    used_rotations[row_place[r]] = rotations[r]
            project(volumes[k], used_rotations[:n_used], kx, ky, pad, r_max, rows[:n_used])
            numerators[:n_used] = 0.0
            denominators[:n_used] = 0.0
            flat_rows, flat_numerators = rows.view(np.float32), numerators.view(np.float32)
            for gg in range(g, h):
                n = particle[gg]
                columns = slot_count[gg] * n_shifts
                n_rows = psi_count[gg] * n_children
                if n_rows * columns > dense.shape[0]:
                    dense = np.empty(n_rows * columns, np.float32)
                r_used, c_used = _gather_weights(
                    weights,
                    out_start[gg],
                    n_rows,
                    columns,
                    row_used,
                    column_used,
                    row_list,
                    column_list,
                    dense,
                )
                if r_used == 0:
                    continue
                if r_used > masked_sums.shape[0]:
                    masked_sums = np.empty((r_used, 2 * n_pix), np.float32)
                    plain_sums = np.empty((r_used, 2 * n_pix), np.float32)
                weight_block = dense[: r_used * c_used].reshape(r_used, c_used)
                start = table_start[n] + slot_first[gg] * n_shifts
                for j in range(c_used):
                    table_rows[j] = start + column_list[j]
                _weighted_sums(weight_block, shifted_rows, table_rows, gathered, masked_sums)
                for j in range(c_used):
                    table_rows[j] = recon_row[start + column_list[j]]
                _weighted_sums(weight_block, recon_rows, table_rows, gathered, plain_sums)
                signal_sum[:] = 0.0
                power_sum[:] = 0.0
                for i in range(r_used):
                    angle = psi_idx[psi_start[gg] + row_list[i] // n_children]
                    place = row_place[slot_of_psi[angle] * n_children + row_list[i] % n_children]
                    weight = np.float32(0.0)
                    for j in range(c_used):
                        weight += weight_block[i, j]
                    _add_row(
                        weight, flat_rows[place], masked_sums[i], plain_sums[i], ctf2[n], flat_numerators[place],
                        denominators[place], signal_sum, power_sum,
                    )  # fmt: skip
                for p in range(n_pix):
                    signal[n, shell[p]] += signal_sum[p]
                    power[n, shell[p]] += power_sum[p] * ctf2[n, p]
            if residual:
                for r in range(n_used):
                    for p in range(n_pix):
                        numerators[r, p] -= denominators[r, p] * rows[r, p]
            insert(
                grids[k],
                numerators[:n_used],
                denominators[:n_used],
                used_rotations[:n_used],
                kx,
                ky,
                pad,
                r_max,
            )
        for i in range(n_psi):
            slot_of_psi[psis[i]] = -1
        g = h


@njit(**KERNEL_OPTIONS)
def _rows_in_use(
    first, last, psi_start, psi_count, psi_idx, slot_count, out_start, n_shifts, n_children, slot_of_psi, weights,
    row_place, n_rows,
):  # fmt: skip
    """Numbers the rows (oversampled orientations) of a block that have weight in any of its groups."""
    row_place[:n_rows] = -1
    for g in range(first, last):
        columns = slot_count[g] * n_shifts
        for i in range(psi_count[g]):
            slot = slot_of_psi[psi_idx[psi_start[g] + i]]
            for c in range(n_children):
                at = out_start[g] + (i * n_children + c) * columns
                for j in range(columns):
                    if weights[at + j] > 0.0:
                        row_place[slot * n_children + c] = 0
                        break
    n_used = 0
    for r in range(n_rows):
        if row_place[r] == 0:
            row_place[r] = n_used
            n_used += 1
    return n_used


@njit(**KERNEL_OPTIONS)
def _add_row(weight, row, masked_sum, plain_sum, ctf2, numerator, denominator, signal_sum, power_sum):
    """Adds one particle's share of one orientation: all arguments but `weight` are over pixels (or re, im pairs)."""
    for p in range(numerator.shape[0]):
        numerator[p] += plain_sum[p]
    for p in range(denominator.shape[0]):
        denominator[p] += weight * ctf2[p]
        re, im = row[2 * p], row[2 * p + 1]
        signal_sum[p] += re * masked_sum[2 * p] + im * masked_sum[2 * p + 1]
        power_sum[p] += weight * (re * re + im * im)
