// Weighted sums: back-projections, and signal and reference power; see estep_numba.sum_groups.
#include "common.cuh"

// Weight of each fine orientation of each pair, totals (pairs * children,), and which rows (slots * children) and which
// rows of the table of shifts have any.
KERNEL(row_totals, const float* weights, const int* group_of_pair, const int64* pair_start, const int* slot_of_pair,
       const int* particle, const int* slot_first, const int* slot_count, const int64* out_start, int children,
       int n_shifts, const int64* table_start, int64 total, float* totals, unsigned char* row_used,
       unsigned char* shift_used) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 pair = i / children;
        int64 g = group_of_pair[pair], columns = (int64)slot_count[g] * n_shifts;
        const float* w = weights + out_start[g] + ((pair - pair_start[g]) * children + i % children) * columns;
        unsigned char* used = shift_used + table_start[particle[g]] + (int64)slot_first[g] * n_shifts;
        float sum = 0.0f;
        for (int64 c = 0; c < columns; ++c) {
            sum += w[c];
            if (w[c] > 0.0f) used[c] = 1;
        }
        totals[i] = sum;
        if (sum > 0.0f) row_used[(int64)slot_of_pair[pair] * children + i % children] = 1;
    }
}

// Sums all images of a fine orientation and adds the slice to its class's grid (K, Z, Y, X, 3). One block
// BLOCK_THREADS pixels of row used_rows[x / chunks]; the pairs of slot s are pairs_by_slot[slot_ptr[s] ...].
// plain: unmasked images at those shifts that are in use, row plain_row of the table of shifts; inserted (N, P): their
// weight.
KERNEL(sum_and_insert, const int64* used_rows, int chunks, const int64* slot_ptr, const int64* pairs_by_slot,
       const int* group_of_pair, const int64* pair_start, const float* totals, const float* weights,
       const int* particle, const int* slot_first, const int* slot_count, const int64* out_start, int children,
       int n_shifts, const int64* table_start, const int64* plain_row, const float2* plain,
       const float* inserted, const float2* volumes, const int* volume_of, const float* axes, int depth, int height,
       int width, const int* kx, const int* ky, int pixels, float r_max, int residual, float* grids) {
    PHASE {
        int64 u = blockIdx.x / chunks;
        int p = (int)(blockIdx.x % chunks) * blockDim.x + threadIdx.x;
        if (p >= pixels) SKIP;
        int64 row = used_rows[u], slot = row / children, child = row % children;
        float re = 0.0f, im = 0.0f, weight = 0.0f;
        for (int64 s = slot_ptr[slot]; s < slot_ptr[slot + 1]; ++s) {
            int64 pair = pairs_by_slot[s], g = group_of_pair[pair], n = particle[g];
            float total = totals[pair * children + child];
            if (!(total > 0.0f)) continue;
            weight += total * inserted[n * pixels + p];
            int64 columns = (int64)slot_count[g] * n_shifts;
            int64 table_0 = table_start[n] + (int64)slot_first[g] * n_shifts;
            const float* w = weights + out_start[g] + ((pair - pair_start[g]) * children + child) * columns;
            for (int64 c = 0; c < columns; ++c) {
                if (!(w[c] > 0.0f)) continue;
                float2 value = plain[plain_row[table_0 + c] * pixels + p];
                re += w[c] * value.x;
                im += w[c] * value.y;
            }
        }
        const float* mine = axes + 6 * u;
        float limit = radius_limit(depth, height, width, r_max, mine);
        Place at = place_of(depth, height, mine, limit, kx[p], ky[p]);
        if (at.side == 0.0f || !(weight > 0.0f) || (kx[p] == 0 && ky[p] < 0)) SKIP;
        int64 voxels = (int64)depth * height * width, k = volume_of[u];
        if (residual) {
            float2 value = value_at(volumes + k * voxels, height, width, at);
            re -= weight * value.x;
            im -= weight * value.y;
        }
        im *= at.side;
        for (int corner = 0; corner < 8; ++corner) {
            int x = corner & 1, y = corner >> 1 & 1, z = corner >> 2;
            float share = (x ? at.fx : 1.0f - at.fx) * (y ? at.fy : 1.0f - at.fy) * (z ? at.fz : 1.0f - at.fz);
            float* voxel = grids + 3 * (k * voxels + ((int64)(at.z + z) * height + at.y + y) * width + at.x + x);
            atomicAdd(voxel, share * re);
            atomicAdd(voxel + 1, share * im);
            atomicAdd(voxel + 2, share * weight);
        }
    }
}

// signal (N, P) = sum w Re <CTF X / sigma2, P> and power (N, P) = sum w CTF^2 / sigma2 |P|^2; one block BLOCK_THREADS
// pixels of particle x / chunks. axes of row row_place[slot * children + child]; group_ptr: groups_of_particle of each.
KERNEL(signal_and_power, int chunks, const int64* group_ptr, const int64* groups_of_particle, const int64* pair_start,
       const int* psi_count, const int* slot_of_pair, const float* totals, const float* weights, const int* slot_first,
       const int* slot_count, const int64* out_start, int children, int n_shifts, const int64* table_start,
       const float2* shifted, const float* ctf2, const float2* volumes, const int* volume_of, const float* axes,
       const int* row_place, int depth, int height, int width, const int* kx, const int* ky, int pixels, float r_max,
       float* signal, float* power) {
    PHASE {
        int64 n = blockIdx.x / chunks;
        int p = (int)(blockIdx.x % chunks) * blockDim.x + threadIdx.x;
        if (p >= pixels) SKIP;
        float product = 0.0f, square = 0.0f;
        for (int64 e = group_ptr[n]; e < group_ptr[n + 1]; ++e) {
            int64 g = groups_of_particle[e], columns = (int64)slot_count[g] * n_shifts;
            const float2* table = shifted + (table_start[n] + (int64)slot_first[g] * n_shifts) * pixels + p;
            for (int r = 0; r < psi_count[g] * children; ++r) {
                int64 pair = pair_start[g] + r / children, child = r % children;
                float total = totals[pair * children + child];
                if (!(total > 0.0f)) continue;
                int64 u = row_place[(int64)slot_of_pair[pair] * children + child];
                const float* mine = axes + 6 * u;
                float limit = radius_limit(depth, height, width, r_max, mine);
                Place at = place_of(depth, height, mine, limit, kx[p], ky[p]);
                if (at.side == 0.0f) continue;
                const float2* volume = volumes + (int64)volume_of[u] * depth * height * width;
                float2 value = value_at(volume, height, width, at);
                const float* w = weights + out_start[g] + (int64)r * columns;
                float re = 0.0f, im = 0.0f;
                for (int64 c = 0; c < columns; ++c) {
                    if (!(w[c] > 0.0f)) continue;
                    re += w[c] * table[c * pixels].x;
                    im += w[c] * table[c * pixels].y;
                }
                product += value.x * re + value.y * im;
                square += total * (value.x * value.x + value.y * value.y);
            }
        }
        signal[n * pixels + p] = product;
        power[n * pixels + p] = square * ctf2[n * pixels + p];
    }
}

// out (N, shells): sums over the pixels of each shell, by_shell[shell_ptr[s] ...]; one thread a particle and shell.
KERNEL(shell_sums, const float* values, const int64* by_shell, const int64* shell_ptr, int shells, int pixels,
       int64 total, double* out) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 n = i / shells, s = i % shells;
        double sum = 0.0;
        for (int64 e = shell_ptr[s]; e < shell_ptr[s + 1]; ++e) sum += values[n * pixels + by_shell[e]];
        out[i] = sum;
    }
}
