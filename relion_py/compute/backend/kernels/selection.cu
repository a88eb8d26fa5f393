// Which coarse samples matter, and the posterior weights of fine ones; see selection_numba.py.
#include "common.cuh"

// Adds a weight to a histogram of log-weights.
DEVICE void count_weight(unsigned long long* weights, unsigned int* counts, float score, float best) {
    int b = bin_of(score, best);
    atomicAdd(weights + b, (unsigned long long)((double)expf(score - best) * WEIGHT_UNIT + 0.5));
    atomicAdd(counts + b, 1u);
}

// Threshold, number of samples above it (N,) and shifts in use (N, T); one block a particle. Group g has psi_count[g]
// rows at base[g] + i * row_stride, at most longest.
KERNEL(find_significant, const float* scores, const float* row_best, const int64* group_ptr, const int64* base,
       int64 row_stride, const int* psi_count, int longest, int n_trans, double fraction, int64 max_count,
       int best_only, float* threshold, int64* n_significant, unsigned char* trans_used) {
    SHARED(unsigned long long, weights, N_BINS);
    SHARED(unsigned int, counts, N_BINS);
    SHARED(float, largest, BLOCK_THREADS);
    SHARED(float, cut, 2);
    int64 n = blockIdx.x, first = group_ptr[n], rows = (group_ptr[n + 1] - first) * longest;
    PHASE {
        float best = MINUS_INFINITY;
        for (int64 e = threadIdx.x; e < rows; e += blockDim.x) {
            int64 g = first + e / longest, i = e % longest;
            if (i >= psi_count[g]) continue;
            float value = row_best[(base[g] + i * row_stride) / n_trans];
            if (value > best) best = value;
        }
        largest[threadIdx.x] = best;
        for (int b = threadIdx.x; b < N_BINS; b += blockDim.x) {
            weights[b] = 0;
            counts[b] = 0;
        }
    }
    BARRIER
    PHASE {
        if (threadIdx.x == 0) {
            float best = largest[0];
            for (int t = 1; t < blockDim.x; ++t) best = largest[t] > best ? largest[t] : best;
            cut[0] = best;
        }
    }
    BARRIER
    float best = cut[0];
    if (!is_finite(best)) {
        PHASE {
            if (threadIdx.x == 0) threshold[n] = MINUS_INFINITY - MINUS_INFINITY;
        }
        return;
    }
    PHASE {
        for (int64 e = threadIdx.x; e < rows && !best_only; e += blockDim.x) {
            int64 g = first + e / longest, i = e % longest;
            if (i >= psi_count[g]) continue;
            int64 at = base[g] + i * row_stride;
            if (row_best[at / n_trans] <= best - LOG_RANGE) continue;
            for (int t = 0; t < n_trans; ++t)
                if (scores[at + t] > best - LOG_RANGE) count_weight(weights, counts, scores[at + t], best);
        }
    }
    BARRIER
    PHASE {
        if (threadIdx.x == 0) {
            double total;
            int64 count = 1;
            float depth = 0.0f;
            if (!best_only) depth = depth_of_threshold(weights, counts, fraction, max_count, &total, &count);
            cut[1] = threshold[n] = best - depth;
            n_significant[n] = count;
        }
    }
    BARRIER
    PHASE {
        for (int64 e = threadIdx.x; e < rows; e += blockDim.x) {
            int64 g = first + e / longest, i = e % longest;
            if (i >= psi_count[g]) continue;
            int64 at = base[g] + i * row_stride;
            if (row_best[at / n_trans] < cut[1]) continue;
            for (int t = 0; t < n_trans; ++t)
                if (scores[at + t] >= cut[1]) trans_used[n * n_trans + t] = 1;
        }
    }
}

// Of each coarse group (one thread): significant angles, and first slot and number of slots that span its shifts.
KERNEL(count_significant, const float* scores, const float* row_best, const int* particle, const int64* base,
       int64 row_stride, const int* psi_count, int n_trans, const float* threshold, const int* slot_of_trans,
       int64 groups, int64* n_angles, int* slot_first, int* slot_count) {
    PHASE {
        int64 g = thread_number();
        if (g >= groups) SKIP;
        int64 n = particle[g];
        int angles = 0, low = 1 << 30, high = -1;
        for (int i = 0; i < psi_count[g] && is_finite(threshold[n]); ++i) {
            int64 at = base[g] + i * row_stride;
            if (row_best[at / n_trans] < threshold[n]) continue;
            bool used = false;
            for (int t = 0; t < n_trans; ++t) {
                if (!(scores[at + t] >= threshold[n])) continue;
                int slot = slot_of_trans[n * n_trans + t];
                low = slot < low ? slot : low;
                high = slot > high ? slot : high;
                used = true;
            }
            if (used) ++angles;
        }
        n_angles[g] = angles;
        slot_first[g] = angles ? low : 0;
        slot_count[g] = angles ? high - low + 1 : 0;
    }
}

// Writes the fine groups that count_significant counted: coarse group g becomes group_at[g] with angles from
// angle_at[g] on and marks from mask_at[g] on. One thread a coarse group; mask must be 0.
KERNEL(fill_significant, const float* scores, const float* row_best, const int* particle, const int64* base,
       int64 row_stride, const int* psi_count, int n_trans, const float* threshold, const int* slot_of_trans,
       const int* block, const float* prior, const int64* psi_start, const int* psi_idx, const float* psi_prior,
       const int64* n_angles, const int* slot_first, const int* slot_count, const int64* group_at,
       const int64* angle_at, const int64* mask_at, int64 groups, int* fine_block, int* fine_particle,
       float* fine_prior, int64* fine_psi_start, int* fine_psi_count, int* fine_slot_first, int* fine_slot_count,
       int64* fine_mask_start, int* fine_psi_idx, float* fine_psi_prior, unsigned char* mask) {
    PHASE {
        int64 g = thread_number();
        if (g >= groups) SKIP;
        if (n_angles[g] == 0) SKIP;
        int64 n = particle[g], to = group_at[g], angle = angle_at[g], marks = mask_at[g];
        fine_block[to] = block[g];
        fine_particle[to] = particle[g];
        fine_prior[to] = prior[g];
        fine_psi_start[to] = angle;
        fine_psi_count[to] = (int)n_angles[g];
        fine_slot_first[to] = slot_first[g];
        fine_slot_count[to] = slot_count[g];
        fine_mask_start[to] = marks;
        for (int i = 0; i < psi_count[g]; ++i) {
            int64 at = base[g] + i * row_stride;
            if (row_best[at / n_trans] < threshold[n]) continue;
            bool used = false;
            for (int t = 0; t < n_trans; ++t) {
                if (!(scores[at + t] >= threshold[n])) continue;
                mask[marks + slot_of_trans[n * n_trans + t] - slot_first[g]] = 1;
                used = true;
            }
            if (!used) continue;
            fine_psi_idx[angle] = psi_idx[psi_start[g] + i];
            fine_psi_prior[angle] = psi_prior[psi_start[g] + i];
            ++angle;
            marks += slot_count[g];
        }
    }
}

// Scores of samples outside the mask become minus infinity; one block a group.
KERNEL(mask_scores, float* scores, const int64* out_start, const int* psi_count, const int* slot_count,
       const unsigned char* mask, const int64* mask_start, int children, int n_shifts) {
    PHASE {
        int64 g = blockIdx.x, columns = (int64)slot_count[g] * n_shifts, size = psi_count[g] * children * columns;
        for (int64 i = threadIdx.x; i < size; i += blockDim.x) {
            int64 row = i / columns / children, slot = i % columns / n_shifts;
            if (mask[mask_start[g] + row * slot_count[g] + slot] == 0) scores[out_start[g] + i] = MINUS_INFINITY;
        }
    }
}

// Scores sample_ptr[n] ... of particle n become weights, in place; one block a particle. best_at: the best sample, the
// first of equals. See selection_numba.weigh_samples.
KERNEL(weigh_samples, float* scores, const int64* sample_ptr, double fraction, int best_only, double* log_sum,
       float* best_score, int64* best_at, unsigned char* bad) {
    SHARED(unsigned long long, weights, N_BINS);
    SHARED(unsigned int, counts, N_BINS);
    SHARED(float, largest, BLOCK_THREADS);
    SHARED(int64, place, BLOCK_THREADS);
    SHARED(float, cut, 2);
    SHARED(double, norm, 1);
    int64 n = blockIdx.x, begin = sample_ptr[n], end = sample_ptr[n + 1];
    PHASE {
        float best = MINUS_INFINITY;
        int64 where = begin;
        for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x)
            if (scores[i] > best) {
                best = scores[i];
                where = i;
            }
        largest[threadIdx.x] = best;
        place[threadIdx.x] = where;
        for (int b = threadIdx.x; b < N_BINS; b += blockDim.x) {
            weights[b] = 0;
            counts[b] = 0;
        }
    }
    BARRIER
    PHASE {
        if (threadIdx.x == 0) {
            int best = 0;
            for (int t = 1; t < blockDim.x; ++t)
                if (largest[t] > largest[best] || (largest[t] == largest[best] && place[t] < place[best])) best = t;
            cut[0] = best_score[n] = largest[best];
            best_at[n] = place[best];
            bad[n] = !is_finite(largest[best]);
        }
    }
    BARRIER
    float best = cut[0];
    if (!is_finite(best)) {
        PHASE {
            for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x) scores[i] = 0.0f;
        }
        return;
    }
    PHASE {
        for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x)
            if (scores[i] > best - LOG_RANGE) count_weight(weights, counts, scores[i], best);
    }
    BARRIER
    PHASE {
        if (threadIdx.x == 0) {
            double total;
            int64 count;
            float depth = depth_of_threshold(weights, counts, fraction, 0, &total, &count);
            cut[1] = best - depth;
            log_sum[n] = best + log(total);
            norm[0] = 1.0 / total;
        }
    }
    BARRIER
    PHASE {
        for (int64 i = begin + threadIdx.x; i < end; i += blockDim.x)
            if (best_only)
                scores[i] = i == best_at[n] ? 1.0f : 0.0f;
            else
                scores[i] = scores[i] >= cut[1] ? (float)(expf(scores[i] - best) * norm[0]) : 0.0f;
    }
}

// Weight of each row of the table of shifted images, per class: out (K, rows); one thread a row, so that the order of
// the sum is fixed. group_ptr: the groups of each particle.
KERNEL(row_weights, const float* weights, const int64* group_ptr, const int* block, const int* psi_count,
       const int* slot_first, const int* slot_count, const int64* out_start, int children, int n_shifts, int n_dir,
       const int64* table_start, const int* particle_of_row, int64 rows, double* out) {
    PHASE {
        int64 row = thread_number();
        if (row >= rows) SKIP;
        int n = particle_of_row[row];
        int64 inside = row - table_start[n];
        for (int64 g = group_ptr[n]; g < group_ptr[n + 1]; ++g) {
            int64 column = inside - (int64)slot_first[g] * n_shifts, columns = (int64)slot_count[g] * n_shifts;
            if (column < 0 || column >= columns) continue;
            double sum = 0.0;
            for (int64 r = 0; r < (int64)psi_count[g] * children; ++r) sum += weights[out_start[g] + r * columns + column];
            out[block[g] / n_dir * rows + row] += sum;
        }
    }
}

// Weight of each block, added to out (K * D,); one block of threads a group.
KERNEL(block_weights, const float* weights, const int* block, const int* psi_count, const int* slot_count,
       const int64* out_start, int children, int n_shifts, double* out) {
    SHARED(double, partial, BLOCK_THREADS);
    int64 g = blockIdx.x, size = (int64)psi_count[g] * children * slot_count[g] * n_shifts;
    PHASE {
        double sum = 0.0;
        for (int64 i = threadIdx.x; i < size; i += blockDim.x) sum += weights[out_start[g] + i];
        partial[threadIdx.x] = sum;
    }
    BARRIER
    PHASE {
        if (threadIdx.x == 0) {
            double sum = 0.0;
            for (int t = 0; t < blockDim.x; ++t) sum += partial[t];
            if (sum > 0.0) atomicAdd(out + block[g], sum);
        }
    }
}
