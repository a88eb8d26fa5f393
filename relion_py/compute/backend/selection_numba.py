"""CPU kernels of the expectation step that choose: which coarse samples matter, and the posterior weights of fine ones.

Scores are log-weights up to a constant per particle. Samples that hold a given fraction of a particle's weight are
found with a histogram of log-weights instead of a sort. Work is arranged by groups, see `estep_numba`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from relion_py.compute.jit import njit

LOG_RANGE = 30.0
"""Weights below exp(-LOG_RANGE) of the largest are dropped; they cannot reach 0.1 % of a sum together."""
BINS_PER_LOG = 64
"""Resolution of the histogram that finds the significance threshold: 1.6 % in the weight."""
MINUS_INFINITY = np.float32(-np.inf)

KERNEL_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract", "reassoc", "arcp", "nsz"},
    "cache": True,
    "boundscheck": False,
}
"""Of all kernels here: without the GIL, and with the fast arithmetic that keeps infinities and NaN."""


@njit(**KERNEL_OPTIONS)
def row_maxima(scores, n_trans, out, first, last):
    """out[row] = the largest of scores[row * n_trans : + n_trans], rows first ... last-1; NaN is passed over."""
    for row in range(first, last):
        best = MINUS_INFINITY
        for t in range(n_trans):
            if scores[row * n_trans + t] > best:
                best = scores[row * n_trans + t]
        out[row] = best


@njit(**KERNEL_OPTIONS)
def _bin_of(score, best, n_bins):
    """Histogram bin of a log-weight: 0 for the best, ascending with falling weight; n_bins when out of range."""
    depth = (best - score) * BINS_PER_LOG
    return int(depth) if depth < n_bins else n_bins


@njit(**KERNEL_OPTIONS)
def _depth_of_threshold(weight_in_bin, count_in_bin, fraction, max_count):
    """How far below the best log-weight the smallest significant one lies, and how many are above it."""
    total = 0.0
    for b in range(weight_in_bin.shape[0]):
        total += weight_in_bin[b]
    so_far, count = 0.0, 0
    for b in range(weight_in_bin.shape[0]):
        if max_count > 0 and count > 0 and count + count_in_bin[b] > max_count:
            return b / BINS_PER_LOG, count
        so_far += weight_in_bin[b]
        count += count_in_bin[b]
        if so_far > fraction * total:
            return (b + 1) / BINS_PER_LOG, count
    return weight_in_bin.shape[0] / BINS_PER_LOG, count


@njit(**KERNEL_OPTIONS)
def find_significant(
    scores, row_best, group_ptr, base, row_stride, psi_count, n_trans, fraction, max_count, best_only,
    threshold, n_significant, n_groups, n_angles, trans_used, first, last,
):  # fmt: skip
    """Significance threshold of particles first ... last-1 in the coarse pass, and what lies above it.

    Group g of particle n (group_ptr[n] <= g < group_ptr[n+1]) has its score of angle i and translation t at
    scores[base[g] + i * row_stride + t], and row_best[that / T] is the largest of that row.
    Sets threshold[n] (a log-weight; NaN where no score is finite),
    n_significant[n] samples, n_groups[n], n_angles[n] (group, angle pairs) and trans_used (N, T).
    The samples above it hold `fraction` of the weight (ml_optimiser.cpp, convertAllSquaredDifferencesToWeights);
    max_count > 0 caps their number; best_only keeps the single best one.
    """
    n_bins = int(LOG_RANGE * BINS_PER_LOG)
    weight_in_bin = np.empty(n_bins, np.float64)
    count_in_bin = np.empty(n_bins, np.int64)
    for n in range(first, last):
        best = MINUS_INFINITY
        for g in range(group_ptr[n], group_ptr[n + 1]):
            for i in range(psi_count[g]):
                best = max(best, row_best[(base[g] + i * row_stride) // n_trans])
        if not np.isfinite(best):
            threshold[n] = np.nan
            continue
        if best_only:
            threshold[n] = best
            n_significant[n] = 1
        else:
            weight_in_bin[:] = 0.0
            count_in_bin[:] = 0
            for g in range(group_ptr[n], group_ptr[n + 1]):
                for i in range(psi_count[g]):
                    at = base[g] + i * row_stride
                    if row_best[at // n_trans] <= best - LOG_RANGE:
                        continue
                    for t in range(n_trans):
                        score = scores[at + t]
                        if score > best - LOG_RANGE:
                            b = min(_bin_of(score, best, n_bins), n_bins - 1)
                            weight_in_bin[b] += np.exp(score - best)
                            count_in_bin[b] += 1
            depth, count = _depth_of_threshold(weight_in_bin, count_in_bin, fraction, max_count)
            threshold[n] = best - np.float32(depth)
            n_significant[n] = count
        groups, angles = 0, 0
        for g in range(group_ptr[n], group_ptr[n + 1]):
            group_used = False
            for i in range(psi_count[g]):
                at = base[g] + i * row_stride
                if row_best[at // n_trans] < threshold[n]:
                    continue
                angle_used = False
                for t in range(n_trans):
                    if scores[at + t] >= threshold[n]:
                        trans_used[n, t] = True
                        angle_used = True
                if angle_used:
                    angles += 1
                    group_used = True
            if group_used:
                groups += 1
        n_groups[n] = groups
        n_angles[n] = angles


@njit(**KERNEL_OPTIONS)
def list_significant(
    scores, row_best, group_ptr, base, row_stride,
    coarse_block, coarse_prior, coarse_psi_start, psi_count, coarse_psi_idx,
    coarse_psi_prior, n_trans, threshold, slot_of_trans, fine_group_start, fine_psi_start,
    block, particle, prior, psi_start, psi_count_out, psi_idx, psi_prior, slot_first, slot_count, first, last,
):  # fmt: skip
    """The groups of the fine pass of particles first ... last-1: what find_significant counted.

    fine_group_start, fine_psi_start (N+1): where each particle's groups and angles go. The other arrays are those
    of score_groups, with coarse_* those of the coarse pass.
    """
    for n in range(first, last):
        group, angle = fine_group_start[n], fine_psi_start[n]
        if not np.isfinite(threshold[n]):
            continue
        for g in range(group_ptr[n], group_ptr[n + 1]):
            begin = angle
            low, high = 1 << 30, -1
            for i in range(psi_count[g]):
                at = base[g] + i * row_stride
                if row_best[at // n_trans] < threshold[n]:
                    continue
                used = False
                for t in range(n_trans):
                    if scores[at + t] >= threshold[n]:
                        used = True
                        low = min(low, slot_of_trans[n, t])
                        high = max(high, slot_of_trans[n, t])
                if used:
                    psi_idx[angle] = coarse_psi_idx[coarse_psi_start[g] + i]
                    psi_prior[angle] = coarse_psi_prior[coarse_psi_start[g] + i]
                    angle += 1
            if angle > begin:
                block[group] = coarse_block[g]
                particle[group] = n
                prior[group] = coarse_prior[g]
                psi_start[group] = begin
                psi_count_out[group] = angle - begin
                slot_first[group] = low
                slot_count[group] = high - low + 1
                group += 1


@njit(**KERNEL_OPTIONS)
def mark_significant(
    scores, row_best, group_ptr, base, row_stride, psi_count, coarse_block, n_trans, threshold,
    slot_of_trans, fine_group_start, block, slot_first, slot_count, mask_start, mask, first, last,
):  # fmt: skip
    """Sets mask (uint8): which (angle, translation) samples within each fine group were significant."""
    for n in range(first, last):
        if not np.isfinite(threshold[n]):
            continue
        group = fine_group_start[n]
        for g in range(group_ptr[n], group_ptr[n + 1]):
            if group >= fine_group_start[n + 1] or block[group] != coarse_block[g]:
                continue
            row = 0
            for i in range(psi_count[g]):
                at = base[g] + i * row_stride
                if row_best[at // n_trans] < threshold[n]:
                    continue
                used = False
                for t in range(n_trans):
                    if scores[at + t] >= threshold[n]:
                        used = True
                        mask[mask_start[group] + row * slot_count[group] + slot_of_trans[n, t] - slot_first[group]] = 1
                if used:
                    row += 1
            group += 1


@njit(**KERNEL_OPTIONS)
def _exponentials(line, best, bins, powers):
    """line = exp(line - best) in place, 0 below exp(-LOG_RANGE) and for NaN; bins: see `_bin_of`. best >= line.

    powers: work space, int32. exp(x) is 2^n times a polynomial of the remaining fraction of x / log 2 (its Taylor
    series), right to 2e-6: loops that compilers turn into vector instructions, as they do not a call of exp.
    """
    n = line.shape[0]
    for i in range(n):
        below = best - line[i]
        inside = below < np.float32(LOG_RANGE)
        x = (below if inside else np.float32(0.0)) * np.float32(-1.4426950408889634)
        whole = np.floor(x + np.float32(0.5))
        f = x - whole
        y = np.float32(1.5252734e-5)
        y = y * f + np.float32(1.5403530e-4)
        y = y * f + np.float32(1.3333558e-3)
        y = y * f + np.float32(9.6181291e-3)
        y = y * f + np.float32(5.5504109e-2)
        y = y * f + np.float32(2.4022651e-1)
        y = y * f + np.float32(6.9314718e-1)
        y = y * f + np.float32(1.0)
        bins[i] = np.int32((below if inside else np.float32(0.0)) * np.float32(BINS_PER_LOG))
        powers[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)  # the bits of 2^whole
        line[i] = y if inside else np.float32(0.0)
    scale = powers.view(np.float32)
    for i in range(n):
        line[i] *= scale[i]


@njit(**KERNEL_OPTIONS)
def weigh_samples(
    scores, group_ptr, psi_count, slot_count, out_start, mask, mask_start,
    n_rot_children, n_shifts, fraction, best_only,
    log_sum, best_score, best_group, best_sample, bad, first, last,
):  # fmt: skip
    """Turns the fine scores of particles first ... last-1 into posterior weights, in place.

    Samples outside the coarse significance mask, and those below the smallest weight needed to hold `fraction` of
    the total, become 0; the others exp(score) / total, so that they sum to slightly less than 1 as in the reference.
    Sets log_sum (log of the total), best_score, best_group and best_sample (row * columns + column of that group).
    bad[n] is set where no score is finite. best_only: the best sample, the first of equals (an empty image scores 0
    everywhere), has weight 1, all others 0.
    """
    n_bins = int(LOG_RANGE * BINS_PER_LOG)
    weight_in_bin = np.empty(n_bins, np.float64)
    count_in_bin = np.empty(n_bins, np.int64)
    bins, powers = np.empty(0, np.int32), np.empty(0, np.int32)
    for n in range(first, last):
        best = MINUS_INFINITY
        for g in range(group_ptr[n], group_ptr[n + 1]):
            columns = slot_count[g] * n_shifts
            for r in range(psi_count[g] * n_rot_children):
                at = out_start[g] + r * columns
                marks = mask_start[g] + (r // n_rot_children) * slot_count[g]
                for c in range(columns):
                    if mask[marks + c // n_shifts] == 0:
                        scores[at + c] = MINUS_INFINITY
                    elif scores[at + c] > best:
                        best = scores[at + c]
                        best_group[n] = g
                        best_sample[n] = r * columns + c
        best_score[n] = best
        if not np.isfinite(best):
            bad[n] = True
            for g in range(group_ptr[n], group_ptr[n + 1]):
                scores[out_start[g] : out_start[g] + psi_count[g] * n_rot_children * slot_count[g] * n_shifts] = 0.0
            continue
        weight_in_bin[:] = 0.0
        count_in_bin[:] = 0
        for g in range(group_ptr[n], group_ptr[n + 1]):
            size = psi_count[g] * n_rot_children * slot_count[g] * n_shifts
            if size > bins.shape[0]:
                bins, powers = np.empty(size, np.int32), np.empty(size, np.int32)
            line = scores[out_start[g] : out_start[g] + size]
            _exponentials(line, best, bins[:size], powers[:size])
            for i in range(size):
                if line[i] > 0.0:
                    weight_in_bin[bins[i]] += line[i]
                    count_in_bin[bins[i]] += 1
        total = 0.0
        for b in range(n_bins):
            total += weight_in_bin[b]
        depth, _ = _depth_of_threshold(weight_in_bin, count_in_bin, fraction, 0)
        smallest, norm = np.float32(np.exp(-depth)), np.float32(1.0 / total)
        log_sum[n] = best + np.log(total)
        for g in range(group_ptr[n], group_ptr[n + 1]):
            size = psi_count[g] * n_rot_children * slot_count[g] * n_shifts
            line = scores[out_start[g] : out_start[g] + size]
            for i in range(size):
                line[i] = line[i] * norm if line[i] >= smallest and not best_only else np.float32(0.0)
        if best_only:
            scores[out_start[best_group[n]] + best_sample[n]] = 1.0


@njit(**KERNEL_OPTIONS)
def marginals(
    weights, group_ptr, block, psi_count, slot_first, slot_count, out_start, n_rot_children, n_shifts, n_directions,
    table_start, row_weight, block_weight, first, last,
):  # fmt: skip
    """Adds the posterior weight of each shift, per class, and of each block.

    row_weight (K, rows of the table of shifted images); block_weight (K * n_directions,).
    """
    for n in range(first, last):
        for g in range(group_ptr[n], group_ptr[n + 1]):
            columns = slot_count[g] * n_shifts
            start = table_start[n] + slot_first[g] * n_shifts
            k = block[g] // n_directions
            for r in range(psi_count[g] * n_rot_children):
                line = weights[out_start[g] + r * columns : out_start[g] + (r + 1) * columns]
                total = np.float32(0.0)
                for c in range(columns):
                    total += line[c]
                if total > 0.0:
                    block_weight[block[g]] += total
                    for c in range(columns):
                        row_weight[k, start + c] += line[c]
