// Projections and scores: log p = prior + Re <Y, P> - 1/2 <CTF^2 / sigma2, |P|^2>.
#include "common.cuh"

#define TILE_ROWS 8
#define TILE_COLUMNS 8
#define TILE_SUMS (TILE_ROWS * TILE_COLUMNS + TILE_ROWS)

// The (group, angle) pairs of a work list: keys = block * n_psi + in-plane angle; one thread a group.
KERNEL(list_pairs, const int* block, const int64* psi_start, const int* psi_count, const int* psi_idx,
       const int64* pair_start, int n_psi, int64 groups, int64* keys, int* group_of_pair) {
    PHASE {
        int64 g = thread_number();
        if (g >= groups) SKIP;
        for (int i = 0; i < psi_count[g]; ++i) {
            keys[pair_start[g] + i] = (int64)block[g] * n_psi + psi_idx[psi_start[g] + i];
            group_of_pair[pair_start[g] + i] = (int)g;
        }
    }
}

// Axes (rows, 6) of all children of coarse orientations keys (rows / children,); see estep_numba.block_rotations.
KERNEL(slice_axes, const int64* keys, const float* dir_mats, const float* psi_table, int n_dir, int n_psi,
       int dir_children, int psi_children, float d00, float d01, float d10, float d11, float pad, int64 rows,
       float* axes) {
    PHASE {
        int64 row = thread_number();
        if (row >= rows) SKIP;
        int children = dir_children * psi_children, child = (int)(row % children);
        int64 key = keys[row / children];
        int psi = (int)(key % n_psi), direction = (int)((key / n_psi) % n_dir);
        const float* mat = dir_mats + 9 * ((int64)direction * dir_children + child / psi_children);
        const float* turn = psi_table + 2 * ((int64)psi * psi_children + child % psi_children);
        for (int j = 0; j < 3; ++j) {
            float x = turn[0] * mat[j] + turn[1] * mat[3 + j];
            float y = turn[0] * mat[3 + j] - turn[1] * mat[j];
            axes[6 * row + j] = pad * (d00 * x + d01 * y);
            axes[6 * row + 3 + j] = pad * (d10 * x + d11 * y);
        }
    }
}

// Central slices: out (rows, P); row r is cut out of volume volume_of[r / children]; one thread a pixel.
KERNEL(project_rows, const float2* volumes, int depth, int height, int width, const int* volume_of, int children,
       const float* axes, const int* kx, const int* ky, int pixels, float r_max, int64 total, float2* out) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 row = i / pixels;
        int p = (int)(i % pixels);
        const float2* volume = volumes + (int64)volume_of[row / children] * depth * height * width;
        float limit = radius_limit(depth, height, width, r_max, axes + 6 * row);
        out[i] = value_at(volume, height, width, place_of(depth, height, axes + 6 * row, limit, kx[p], ky[p]));
    }
}

// Scores of a block of orientations for all particles, in place of the products (rows, N, T); one thread a row.
KERNEL(add_dense_terms, float* products, const float* norms, const float* orientation_prior, const float* shift_prior,
       int particles, int shifts, int correlate, int64 total, float* row_best) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 n = i % particles;
        float scale = 1.0f / sqrtf(fmaxf(norms[i], 1e-30f));
        float base = orientation_prior[i / particles] - 0.5f * norms[i];
        float best = MINUS_INFINITY;
        for (int t = 0; t < shifts; ++t) {
            float* score = products + i * shifts + t;
            *score = correlate ? *score * scale : *score + base + shift_prior[n * shifts + t];
            if (*score > best) best = *score;
        }
        row_best[i] = best;
    }
}

// Which group each tile of score_groups belongs to, from tile_start (groups + 1,); one thread a group.
KERNEL(list_tiles, const int64* tile_start, int64 groups, int* group_of_tile) {
    PHASE {
        int64 g = thread_number();
        if (g >= groups) SKIP;
        for (int64 i = tile_start[g]; i < tile_start[g + 1]; ++i) group_of_tile[i] = (int)g;
    }
}

// Log-weights of groups: one block a tile of TILE_ROWS orientations and TILE_COLUMNS shifts, the first_tile + x-th of all
// tiles; those of a group follow each other, shifts fastest.
// rows: projections of the slots from first_slot on, children each. A group's angle i has slot slot_of_pair[pair_start
// + i]. Otherwise as estep_numba.score_groups.
KERNEL(score_groups, const float2* rows, int first_slot, const int* slot_of_pair, const int64* pair_start, int children,
       const int* block, const int* particle, const float* prior, const int64* psi_start, const int* psi_count,
       const float* psi_prior, const int* slot_first, const int* slot_count, const int64* out_start,
       const float* slot_prior, int64 prior_stride, const int64* table_start, const float2* shifted, int n_shifts,
       const float* ctf2, int n_dir, int pixels, int correlate, const int64* tile_start,
       const int* group_of_tile, int64 first_tile, float* out) {
    SHARED(float, partial, TILE_SUMS * (BLOCK_THREADS + 1));
    SHARED(float, sums, TILE_SUMS);
    PER_THREAD(float, acc, TILE_SUMS);
    int64 g = group_of_tile[first_tile + blockIdx.x];
    int n_rows = psi_count[g] * children, columns = slot_count[g] * n_shifts;
    int tile = (int)(first_tile + blockIdx.x - tile_start[g]), across = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    int row_0 = tile / across * TILE_ROWS, column_0 = tile % across * TILE_COLUMNS;
    int64 table_0 = table_start[particle[g]] + (int64)slot_first[g] * n_shifts + column_0;
    const float* power_weight = ctf2 + (int64)particle[g] * pixels;
    PHASE {
        // rows and columns beyond the end repeat the last; their sums are not used
        const float2* row_of[TILE_ROWS];
        const float2* column_of[TILE_COLUMNS];
        for (int r = 0; r < TILE_ROWS; ++r) {
            int row = row_0 + r < n_rows ? row_0 + r : n_rows - 1;
            int64 slot = slot_of_pair[pair_start[g] + row / children] - first_slot;
            row_of[r] = rows + (slot * children + row % children) * pixels;
        }
        for (int c = 0; c < TILE_COLUMNS; ++c) {
            int column = column_0 + c < columns ? c : columns - 1 - column_0;
            column_of[c] = shifted + (table_0 + column) * pixels;
        }
        for (int i = 0; i < TILE_SUMS; ++i) OF(acc)[i] = 0.0f;
        for (int p = threadIdx.x; p < pixels; p += blockDim.x) {
            float2 y[TILE_COLUMNS];
            for (int c = 0; c < TILE_COLUMNS; ++c) y[c] = column_of[c][p];
            float weight = power_weight[p];
            for (int r = 0; r < TILE_ROWS; ++r) {
                float2 x = row_of[r][p];
                for (int c = 0; c < TILE_COLUMNS; ++c) OF(acc)[r * TILE_COLUMNS + c] += x.x * y[c].x + x.y * y[c].y;
                OF(acc)[TILE_ROWS * TILE_COLUMNS + r] += weight * (x.x * x.x + x.y * x.y);
            }
        }
        for (int i = 0; i < TILE_SUMS; ++i) partial[i * (BLOCK_THREADS + 1) + threadIdx.x] = OF(acc)[i];
    }
    BARRIER
    PHASE {
        if (threadIdx.x < TILE_SUMS) {
            float sum = 0.0f;
            for (int t = 0; t < blockDim.x; ++t) sum += partial[threadIdx.x * (BLOCK_THREADS + 1) + t];
            sums[threadIdx.x] = sum;
        }
    }
    BARRIER
    PHASE {
        int r = threadIdx.x / TILE_COLUMNS, c = threadIdx.x % TILE_COLUMNS;
        if (r >= TILE_ROWS || row_0 + r >= n_rows || column_0 + c >= columns) SKIP;
        float norm = sums[TILE_ROWS * TILE_COLUMNS + r], score = sums[threadIdx.x];
        if (correlate) {
            score *= 1.0f / sqrtf(fmaxf(norm, 1e-30f));
        } else {
            score += prior[g] + psi_prior[psi_start[g] + (row_0 + r) / children] - 0.5f * norm;
            score += slot_prior[block[g] / n_dir * prior_stride + (table_0 + c) / n_shifts];
        }
        out[out_start[g] + (int64)(row_0 + r) * columns + column_0 + c] = score;
    }
}

// The largest of each row of so many scores; NaN is passed over.
KERNEL(row_maxima, const float* scores, int columns, int64 total, float* out) {
    PHASE {
        int64 row = thread_number();
        if (row >= total) SKIP;
        float best = MINUS_INFINITY;
        for (int t = 0; t < columns; ++t)
            if (scores[row * columns + t] > best) best = scores[row * columns + t];
        out[row] = best;
    }
}
