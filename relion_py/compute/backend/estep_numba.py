"""CPU kernels of the expectation step: scores and weighted sums of many particles that share projections.

Work is arranged by *groups*. A group is one particle together with one reference direction ("block": class and
direction), a list of in-plane angles and a span of translations. Groups are sorted by block, so that each
projection is made once per block and serves every particle that needs it. With Y = CTF X / sigma2 and P a
projection, the exponent of the Gaussian likelihood is

    log p = const + Re <Y e, P> - 1/2 <CTF^2 / sigma2, |P|^2>        (Scheres 2012, JMB 415:406, eq. 5)

where e, the phases of a shift, is the same for all particles: the scores of a group are one matrix product of
P conj(Y), a row for each rotation, and the phases, which stay in the processor's cache.

All kernels release the GIL and take a range of groups, so that several threads can work side by side on disjoint
ranges. Arrays are C-contiguous. Complex pixels are split: (..., 2P) float32 holds P real parts, then P imaginary
ones, which vector instructions like better than pairs.

Shapes used below: D directions, Q in-plane angles, C child directions, S child in-plane angles, T coarse
translations, V child translations (C = S = V = 1 without oversampling), P pixels of the Fourier disc.
"""

from __future__ import annotations

import numpy as np

from relion_py.compute.backend.kernels_numba import insert, project
from relion_py.compute.backend.selection_numba import KERNEL_OPTIONS, MINUS_INFINITY
from relion_py.compute.jit import njit

_FEW_ROWS = 16
"""Projections that are made or inserted at a time."""
_SMALL_PRODUCT = 24
"""Sums of fewer weights than this are added one by one; a call of BLAS would cost more."""


@njit(**KERNEL_OPTIONS)
def shift_rows(images, image_of_row, shift_x, shift_y, kx, ky, box, out):
    """Fourier transforms of shifted images: out[r] = images[i] exp(-2 pi i (kx tx + ky ty) / box).

    images (N, P, 2) float32; image_of_row (R,) int; shift_x, shift_y (R,) pixels; kx, ky (P,) int;
    out (R, 2, P). A positive shift moves the image to larger x, y (fftw.cpp, shiftImageInFourierTransform).
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
            target[0, p] = re * c - im * s
            target[1, p] = re * s + im * c


@njit(**KERNEL_OPTIONS)
def offset_priors(offsets, centres, two_sigma2, out):
    """Log of Gaussians of offsets (N, T, C) A around centres (K, C), scaled to a mean of 1 over T; out (K, N, T).

    two_sigma2: twice the variance, A^2 (ml_optimiser.cpp, convertAllSquaredDifferencesToWeights, pdf_offset).
    """
    n_shifts = offsets.shape[1]
    line = np.empty(n_shifts)
    for k in range(centres.shape[0]):
        for n in range(offsets.shape[0]):
            peak = -np.inf
            for t in range(n_shifts):
                squared = 0.0
                for c in range(offsets.shape[2]):
                    squared += (offsets[n, t, c] - centres[k, c]) ** 2
                line[t] = -squared / two_sigma2
                peak = max(peak, line[t])
            total = 0.0
            for t in range(n_shifts):
                total += np.exp(line[t] - peak)
            mean = np.log(total / n_shifts) + peak
            for t in range(n_shifts):
                out[k, n, t] = line[t] - mean


@njit(**KERNEL_OPTIONS)
def split(rows, out):
    """Complex rows (R, P) -> out (R, 2P): their real parts, then their imaginary parts."""
    n_pix = rows.shape[1]
    for r in range(rows.shape[0]):
        for p in range(n_pix):
            out[r, p] = rows[r, p].real
            out[r, n_pix + p] = rows[r, p].imag


@njit(**KERNEL_OPTIONS)
def turn_and_split(rows, phases, out):
    """Complex rows (R, P) times phases (P,) -> out (R, 2P): their real parts, then their imaginary parts."""
    n_pix = rows.shape[1]
    for r in range(rows.shape[0]):
        for p in range(n_pix):
            re, im, c, s = rows[r, p].real, rows[r, p].imag, phases[p].real, phases[p].imag
            out[r, p] = re * c - im * s
            out[r, n_pix + p] = re * s + im * c


@njit(**KERNEL_OPTIONS)
def _project_split(volume, rotations, kx, ky, pad, r_max, few, out):
    """Projections along rotations (R, 3, 3), split, into out (R, 2P); few (F, P) complex64: work space."""
    for first in range(0, rotations.shape[0], few.shape[0]):
        last = min(first + few.shape[0], rotations.shape[0])
        project(volume, rotations[first:last], kx, ky, pad, r_max, few[: last - first])
        split(few[: last - first], out[first:last])


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
def _pairs_of(pair_of_row, start, wanted, columns, place, pairs):
    """The distinct pairs of rows start ... start + columns - 1 whose `wanted` is positive: their number.

    place (H,) must be -1; it becomes the position of each such pair in `pairs`, see _forget_places.
    """
    n = 0
    for c in range(columns):
        q = pair_of_row[start + c]
        if wanted[c] > 0.0 and place[q] < 0:
            place[q] = n
            pairs[n] = q
            n += 1
    return n


@njit(**KERNEL_OPTIONS)
def _forget_places(place, pairs, n_pairs):
    for i in range(n_pairs):
        place[pairs[i]] = -1


@njit(**KERNEL_OPTIONS)
def _rows_of(table, pairs, n_pairs, gathered):
    """Rows pairs[:n_pairs] of a table (H, P), copied only where they are no neighbours."""
    neighbours = True
    for i in range(1, n_pairs):
        neighbours &= pairs[i] == pairs[0] + i
    if neighbours:
        return table[pairs[0] : pairs[0] + n_pairs]
    for i in range(n_pairs):
        gathered[i] = table[pairs[i]]
    return gathered[:n_pairs]


@njit(**KERNEL_OPTIONS)
def _nearly_all(n_pairs, every_pair):
    """Whether a product with all pairs costs less than one with a copy of some."""
    return 4 * n_pairs >= 3 * every_pair


@njit(**KERNEL_OPTIONS)
def _match(row, image, ctf2, out_re, out_im):
    """out_re + i out_im = row conj(image), row and image split (2P,); returns <ctf2, |row|^2>."""
    n_pix = ctf2.shape[0]
    norm = np.float32(0.0)
    for p in range(n_pix):
        re, im = row[p], row[n_pix + p]
        x, y = image[p], image[n_pix + p]
        out_re[p] = re * x + im * y
        out_im[p] = im * x - re * y
        norm += ctf2[p] * (re * re + im * im)
    return norm


@njit(**KERNEL_OPTIONS)
def score_groups(
    volumes, pad, r_max, kx, ky, distortion, dir_mats, psi_table,
    block, particle, prior, psi_start, psi_count, psi_idx, psi_prior,
    slot_first, slot_count, out_start, slot_prior, table_start, images, cosine, sine, pair_of_row, sign_of_row,
    n_shifts, ctf2, correlate, out, first, last,
):  # fmt: skip
    """Log-weights (up to a constant per particle) of the groups first ... last-1, into out.

    volumes (K, Z, Y, X) complex64: padded transforms of the references, used up to r_max padded voxels;
    dir_mats (D, C, 3, 3) at psi = 0; psi_table (Q, S, 2); distortion (2, 2) as in block_rotations.
    A group g: block[g] = class * D + direction (groups are sorted by it), particle[g], prior[g] (log), in-plane
    angles psi_idx[psi_start[g] : + psi_count[g]] ascending with psi_prior (log), translation slots
    slot_first[g] : + slot_count[g], and its (angles * C * S, slots * V) scores row-major from out[out_start[g]].
    images (N, 2P): CTF X / sigma2. Row r = table_start[n] + slot * V + child of particle n's shifts has the phases
    cosine[pair_of_row[r]] + i sign_of_row[r] sine[pair_of_row[r]], (H, P) each, see shift_rows: a shift and its
    opposite are a pair. slot_prior[class, r // V] (log) goes with it; V = n_shifts. ctf2 (N, P) = CTF^2 / sigma2.
    correlate: score <Y, P> / sqrt(<ctf2, |P|^2>) without priors, Y and ctf2 given without 1/sigma2, as in a first
    iteration by cross-correlation (ml_optimiser.cpp, getAllSquaredDifferences, do_firstiter_cc).
    """
    n_pix, n_dir = kx.shape[0], dir_mats.shape[0]
    n_children = dir_mats.shape[1] * psi_table.shape[1]
    slot_of_psi = np.full(psi_table.shape[0], -1, np.int32)
    psis = np.empty(psi_table.shape[0], np.int32)
    capacity = 0
    rotations = np.empty((0, 3, 3), np.float32)
    few = np.empty((_FEW_ROWS, n_pix), np.complex64)
    rows = np.empty((0, 2 * n_pix), np.float32)
    matched_re = matched_im = np.empty((0, n_pix), np.float32)
    norms = np.empty(0, np.float32)
    even, odd = np.empty(4096, np.float32), np.empty(4096, np.float32)
    every_pair, largest = cosine.shape[0], _most_columns(slot_count, n_shifts, first, last)
    place, pairs = np.full(every_pair, -1, np.int64), np.empty(largest, np.int64)
    column, column_prior, wanted = np.empty(largest, np.int64), np.empty(largest, np.float32), np.ones(largest)
    some_cosine, some_sine = np.empty((largest, n_pix), np.float32), np.empty((largest, n_pix), np.float32)
    # a product with rows in the order of these is the faster one
    across = _nearly_all(largest, every_pair)
    all_cosine = np.ascontiguousarray(cosine.T) if across else np.empty((0, 0), np.float32)
    all_sine = np.ascontiguousarray(sine.T) if across else np.empty((0, 0), np.float32)
    g = first
    while g < last:
        h = _end_of_block(block, g, last)
        n_psi = _slots_of_block(g, h, psi_start, psi_count, psi_idx, slot_of_psi, psis)
        k, d = block[g] // n_dir, block[g] % n_dir
        if n_psi * n_children > capacity:
            capacity = n_psi * n_children
            rotations = np.empty((capacity, 3, 3), np.float32)
            rows = np.empty((capacity, 2 * n_pix), np.float32)
            matched_re = np.empty((capacity, n_pix), np.float32)
            matched_im = np.empty((capacity, n_pix), np.float32)
            norms = np.empty(capacity, np.float32)
        block_rotations(dir_mats[d], psi_table, psis, n_psi, distortion, rotations)
        n_block = n_psi * n_children
        _project_split(volumes[k], rotations[:n_block], kx, ky, pad, r_max, few, rows)
        for gg in range(g, h):
            n = particle[gg]
            n_rows, columns = psi_count[gg] * n_children, slot_count[gg] * n_shifts
            start = table_start[n] + slot_first[gg] * n_shifts
            for r in range(n_rows):
                slot = slot_of_psi[psi_idx[psi_start[gg] + r // n_children]]
                row = rows[slot * n_children + r % n_children]
                norms[r] = _match(row, images[n], ctf2[n], matched_re[r], matched_im[r])
            n_pairs = _pairs_of(pair_of_row, start, wanted, columns, place, pairs)
            every = _nearly_all(n_pairs, every_pair)
            width = every_pair if every else n_pairs
            if n_rows * width > even.shape[0]:
                even, odd = np.empty(n_rows * width, np.float32), np.empty(n_rows * width, np.float32)
            evens = even[: n_rows * width].reshape(n_rows, width)
            odds = odd[: n_rows * width].reshape(n_rows, width)
            if every:
                np.dot(matched_re[:n_rows], all_cosine, evens)
                np.dot(matched_im[:n_rows], all_sine, odds)
            else:
                np.dot(matched_re[:n_rows], _rows_of(cosine, pairs, n_pairs, some_cosine).T, evens)
                np.dot(matched_im[:n_rows], _rows_of(sine, pairs, n_pairs, some_sine).T, odds)
            for c in range(columns):
                q = pair_of_row[start + c]
                column[c] = q if every else place[q]
                column_prior[c] = slot_prior[k, (start + c) // n_shifts]
            _forget_places(place, pairs, n_pairs)
            for r in range(n_rows):
                target = out[out_start[gg] + r * columns : out_start[gg] + (r + 1) * columns]
                if correlate:
                    scale = np.float32(1.0) / np.sqrt(max(norms[r], np.float32(1e-30)))
                    for c in range(columns):
                        target[c] = (evens[r, column[c]] + sign_of_row[start + c] * odds[r, column[c]]) * scale
                else:
                    base = prior[gg] + psi_prior[psi_start[gg] + r // n_children] - np.float32(0.5) * norms[r]
                    for c in range(columns):
                        product = evens[r, column[c]] + sign_of_row[start + c] * odds[r, column[c]]
                        target[c] = product + (base + column_prior[c])
        for i in range(n_psi):
            slot_of_psi[psis[i]] = -1
        g = h


@njit(**KERNEL_OPTIONS)
def _most_columns(slot_count, n_shifts, first, last):
    """The largest number of shifts of groups first ... last-1, at least 1."""
    most = 1
    for g in range(first, last):
        most = max(most, slot_count[g] * n_shifts)
    return most


def opposite_angles(psi_table):
    """Whether the in-plane angles (Q, S, 2) of the second half are those of the first, turned by 180 degrees."""
    half, odd = divmod(len(psi_table), 2)
    return not odd and np.allclose(psi_table[:half], -psi_table[half:], atol=1e-5)


@njit(**KERNEL_OPTIONS)
def join_dense_scores(
    real, imaginary, norms, prior, shift_prior, directions, correlate, opposite, first_block, first_particle, scores,
    row_best,
):  # fmt: skip
    """Scores of some blocks (class and direction), at H in-plane angles and all shifts, of some particles.

    real, imaginary (B * H, n * T): the two parts of Re <Y, P>, whose difference is the product with the conjugate of
    P: the projection at the angle that is turned by 180 degrees. norms (B * H, n) = <ctf2, |P|^2>. prior (K * D, Q)
    and shift_prior (K, N, T): log. Into scores (K * D, Q, N, T), and the largest over the shifts into row_best
    (K * D, Q, N), so that later passes need not look at hopeless rows again; Q = 2 H if `opposite`, else H.
    Same formula as score_groups.
    """
    n_shifts, n_half = scores.shape[3], scores.shape[1] // 2 if opposite else scores.shape[1]
    for r in range(real.shape[0]):
        block, angle = first_block + r // n_half, r % n_half
        for n in range(norms.shape[1]):
            particle = first_particle + n
            log_prior = shift_prior[block // directions, particle]
            re, im = real[r, n * n_shifts : (n + 1) * n_shifts], imaginary[r, n * n_shifts : (n + 1) * n_shifts]
            for other in range(2 if opposite else 1):
                q = angle + other * n_half
                target = scores[block, q, particle]
                sign = np.float32(1 - 2 * other)
                if correlate:
                    scale = np.float32(1.0) / np.sqrt(max(norms[r, n], np.float32(1e-30)))
                    for t in range(n_shifts):
                        target[t] = (re[t] + sign * im[t]) * scale
                else:
                    base = prior[block, q] - np.float32(0.5) * norms[r, n]
                    for t in range(n_shifts):
                        target[t] = re[t] + sign * im[t] + (base + log_prior[t])
                best = MINUS_INFINITY
                for t in range(n_shifts):
                    if target[t] > best:
                        best = target[t]
                row_best[block, q, particle] = best


@njit(**KERNEL_OPTIONS)
def _used_weights(weights, start, n_rows, columns, row_list, row_weight, column_sum):
    """The rows of a group's weights that are not all zero: their number, list and sums; and the columns' sums."""
    column_sum[:columns] = 0.0
    n_used = 0
    for r in range(n_rows):
        line = weights[start + r * columns : start + (r + 1) * columns]
        total = np.float32(0.0)
        for c in range(columns):
            total += line[c]
        if total > 0.0:
            row_list[n_used] = r
            row_weight[n_used] = total
            n_used += 1
            for c in range(columns):
                column_sum[c] += line[c]
    return n_used


@njit(**KERNEL_OPTIONS)
def _sum_phases(
    weights, start, columns, row_list, column_sum, pair_of_row, sign_of_row, first, cosine, sine, place, pairs, even,
    odd, some_rows, out_re, out_im,
):  # fmt: skip
    """The sums of the phases of a group's shifts, each with its weight, for the rows of row_list; into out_re, out_im.

    weights[start:] (rows, columns) are the group's, of shifts first ... first + columns - 1 with the phases of
    score_groups; column_sum says which are in use. Both shifts of a pair are summed at once. Matrix products with
    all pairs, if most are used, or with a copy of those in use; sums one by one, if few are.
    place, pairs, even, odd, some_rows: work space.
    """
    n_rows, every_pair = row_list.shape[0], cosine.shape[0]
    n_pairs = _pairs_of(pair_of_row, first, column_sum, columns, place, pairs)
    every = _nearly_all(n_pairs, every_pair)
    width = every_pair if every else n_pairs
    evens = even[: n_rows * width].reshape(n_rows, width)
    odds = odd[: n_rows * width].reshape(n_rows, width)
    evens[:] = 0.0
    odds[:] = 0.0
    for i in range(n_rows):
        line = weights[start + row_list[i] * columns : start + (row_list[i] + 1) * columns]
        for c in range(columns):
            if line[c] > 0.0:
                q = pair_of_row[first + c]
                at = q if every else place[q]
                evens[i, at] += line[c]
                odds[i, at] += sign_of_row[first + c] * line[c]
    _forget_places(place, pairs, n_pairs)
    if every:
        np.dot(evens, cosine, out_re[:n_rows])
        np.dot(odds, sine, out_im[:n_rows])
    elif n_rows * n_pairs < _SMALL_PRODUCT:
        for i in range(n_rows):
            re, im = out_re[i], out_im[i]
            re[:] = 0.0
            im[:] = 0.0
            for j in range(n_pairs):
                w, v, c, s = evens[i, j], odds[i, j], cosine[pairs[j]], sine[pairs[j]]
                for p in range(re.shape[0]):
                    re[p] += w * c[p]
                    im[p] += v * s[p]
    else:
        np.dot(evens, _rows_of(cosine, pairs, n_pairs, some_rows), out_re[:n_rows])
        np.dot(odds, _rows_of(sine, pairs, n_pairs, some_rows), out_im[:n_rows])


@njit(**KERNEL_OPTIONS)
def sum_groups(
    volumes, pad, r_max, kx, ky, shell, distortion, dir_mats, psi_table, block, particle, psi_start, psi_count, psi_idx,
    slot_first, slot_count, out_start, table_start, images, plain_images, cosine, sine, pair_of_row, sign_of_row,
    n_shifts, ctf2, inserted, weights, residual, grids, signal, power, first, last,
):  # fmt: skip
    """Weighted sums of the groups first ... last-1: back-projections, and signal and reference power per shell.

    images (masked ones) and their phases as in score_groups; plain_images (N, 2P): the unmasked CTF X / sigma2, of
    weight inserted (N, P) CTF^2 / sigma2, or X / sigma2 and CTF^2 / sigma2 of images with the CTF in them. A sum
    of shifted images is the image times the sum of the phases. shell (P,) the Fourier shell of each pixel.
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
    largest = _most_columns(slot_count, n_shifts, first, last)
    rotations = np.empty((all_rows, 3, 3), np.float32)
    row_place = np.full(all_rows, -1, np.int32)  # where a row of the block lies among those in use
    row_list, row_weight = np.empty(all_rows, np.int32), np.empty(all_rows, np.float32)
    column_sum = np.empty(largest, np.float32)
    every_pair = cosine.shape[0]
    place, pairs = np.full(every_pair, -1, np.int64), np.empty(largest, np.int64)
    widest = every_pair if _nearly_all(largest, every_pair) else largest
    even = odd = np.empty(widest, np.float32)
    some_rows = np.empty((largest, n_pix), np.float32)
    summed_re = summed_im = np.empty((0, n_pix), np.float32)
    capacity = 0
    used_rotations = np.empty((0, 3, 3), np.float32)
    few = np.empty((_FEW_ROWS, n_pix), np.complex64)
    rows = np.empty((0, 2 * n_pix), np.float32)
    numerators = np.empty((0, 2 * n_pix), np.float32)
    denominators = np.empty((0, n_pix), np.float32)
    signal_sum, power_sum = np.empty(n_pix, np.float32), np.empty(n_pix, np.float32)
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
            rows = np.empty((capacity, 2 * n_pix), np.float32)
            numerators = np.empty((capacity, 2 * n_pix), np.float32)
            denominators = np.empty((capacity, n_pix), np.float32)
        if n_used > 0:
            block_rotations(dir_mats[d], psi_table, psis, n_psi, distortion, rotations)
            for r in range(n_psi * n_children):
                if row_place[r] >= 0:
                    used_rotations[row_place[r]] = rotations[r]
            _project_split(volumes[k], used_rotations[:n_used], kx, ky, pad, r_max, few, rows)
            numerators[:n_used] = 0.0
            denominators[:n_used] = 0.0
            for gg in range(g, h):
                n = particle[gg]
                columns = slot_count[gg] * n_shifts
                n_rows = psi_count[gg] * n_children
                n_list = _used_weights(weights, out_start[gg], n_rows, columns, row_list, row_weight, column_sum)
                if n_list == 0:
                    continue
                if n_list > summed_re.shape[0]:
                    summed_re = np.empty((n_list, n_pix), np.float32)
                    summed_im = np.empty((n_list, n_pix), np.float32)
                    even, odd = np.empty(n_list * widest, np.float32), np.empty(n_list * widest, np.float32)
                start = table_start[n] + slot_first[gg] * n_shifts
                _sum_phases(
                    weights, out_start[gg], columns, row_list[:n_list], column_sum, pair_of_row, sign_of_row, start,
                    cosine, sine, place, pairs, even, odd, some_rows, summed_re, summed_im,
                )  # fmt: skip
                signal_sum[:] = 0.0
                power_sum[:] = 0.0
                for i in range(n_list):
                    angle = psi_idx[psi_start[gg] + row_list[i] // n_children]
                    at = row_place[slot_of_psi[angle] * n_children + row_list[i] % n_children]
                    _add_row(
                        row_weight[i], summed_re[i], summed_im[i], rows[at], images[n], plain_images[n], inserted[n],
                        numerators[at], denominators[at], signal_sum, power_sum,
                    )  # fmt: skip
                for p in range(n_pix):
                    signal[n, shell[p]] += signal_sum[p]
                    power[n, shell[p]] += power_sum[p] * ctf2[n, p]
            for r0 in range(0, n_used, _FEW_ROWS):
                r1 = min(r0 + _FEW_ROWS, n_used)
                for r in range(r0, r1):
                    for p in range(n_pix):
                        re, im = numerators[r, p], numerators[r, n_pix + p]
                        if residual:
                            re -= denominators[r, p] * rows[r, p]
                            im -= denominators[r, p] * rows[r, n_pix + p]
                        few[r - r0, p] = complex(re, im)
                values, weight = few[: r1 - r0], denominators[r0:r1]
                insert(grids[k], values, weight, used_rotations[r0:r1], kx, ky, pad, r_max)
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
def _add_row(
    weight, phases_re, phases_im, row, image, plain_image, inserted, numerator, denominator, signal_sum, power_sum
):  # fmt: skip
    """Adds one particle's share of one orientation; split (2P,) or, phases, weight and power, (P,).

    phases: the sum over shifts that the images are multiplied by.
    """
    n_pix = inserted.shape[0]
    for p in range(n_pix):
        c, s = phases_re[p], phases_im[p]
        x, y = plain_image[p], plain_image[n_pix + p]
        numerator[p] += x * c - y * s
        numerator[n_pix + p] += x * s + y * c
        denominator[p] += weight * inserted[p]
        x, y = image[p], image[n_pix + p]
        re, im = row[p], row[n_pix + p]
        signal_sum[p] += re * (x * c - y * s) + im * (x * s + y * c)
        power_sum[p] += weight * (re * re + im * im)
