// What all kernels share: how they are written so that they run on a device and, for tests, on a processor.
//
// A kernel is a sequence of phases. Within a PHASE every thread of the block does the statement that follows; between
// two phases that hand data over in shared memory stands a BARRIER. What a thread keeps from one phase to the next is
// declared with PER_THREAD and used through OF. Conditions outside of phases are the same for all threads of a block.
// SKIP ends a thread's part in a phase that is the kernel's last. An emulation that defines these words itself runs
// the threads of a phase one after the other.
//
// Shapes and meanings of arguments are those of the Numba kernels of the same name, unless it says otherwise.

#ifndef RELION_PY_EMULATION
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__
#define PHASE
#define BARRIER __syncthreads();
#define SKIP return
#define PER_THREAD(type, name, size) type name[size]
#define OF(name) name
#define SHARED(type, name, size) __shared__ type name[size]
#endif

typedef long long int64;

#define MINUS_INFINITY (-__int_as_float(0x7f800000))

// Weights below exp(-LOG_RANGE) of the largest are dropped; bins of the histogram of log-weights (selection_numba.py).
#define LOG_RANGE 30.0f
#define BINS_PER_LOG 64
#define N_BINS 1920
// Weights are summed as integers, so that the sum does not depend on the order: 2^36 is a weight of one.
#define WEIGHT_UNIT 68719476736.0
#define BLOCK_THREADS 128

DEVICE int64 thread_number() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }

DEVICE bool is_finite(float value) { return fabsf(value) <= 3.402823466e38f; }

// Where a pixel of a slice lies in a transform: its low corner, fractions, and +1, -1 (its Friedel mate) or 0 (outside).
struct Place {
    int x, y, z;
    float fx, fy, fz, side;
};

// Squared radius that keeps every neighbour inside the array; negative when nothing of the slice fits.
DEVICE float radius_limit(int depth, int height, int width, float r_max, const float* axes) {
    r_max = fminf(r_max, fminf((float)(height / 2 - 1), (float)(width - 2)));
    if (axes[2] != 0.0f || axes[5] != 0.0f) {
        r_max = fminf(r_max, (float)(depth / 2 - 1));
        if (r_max <= 0.0f) return -1.0f;
    }
    return r_max * r_max * (1.0f + 1e-5f);
}

// axes (6,): what one step along kx, and one along ky, moves in x, y, z (padded voxels).
DEVICE Place place_of(int depth, int height, const float* axes, float limit, int kx, int ky) {
    Place at;
    float u = (float)kx, v = (float)ky;
    float x = axes[0] * u + axes[3] * v;
    float y = axes[1] * u + axes[4] * v;
    float z = axes[2] * u + axes[5] * v;
    bool inside = x * x + y * y + z * z <= limit;
    at.side = inside ? (x >= 0.0f ? 1.0f : -1.0f) : 0.0f;
    x *= at.side;
    y *= at.side;
    z *= at.side;
    float centre_y = (float)(height / 2), centre_z = (float)(depth / 2);
    at.x = (int)x;
    at.y = (int)(y + centre_y);
    at.z = (int)(z + centre_z);
    at.fx = x - (float)at.x;
    at.fy = y - ((float)at.y - centre_y);
    at.fz = z - ((float)at.z - centre_z);
    return at;
}

DEVICE float mix(float t, float a, float b) { return a + t * (b - a); }

DEVICE float2 mix2(float t, float2 a, float2 b) {
    float2 out;
    out.x = mix(t, a.x, b.x);
    out.y = mix(t, a.y, b.y);
    return out;
}

// Trilinear value of a transform (Z, Y, X) at a place.
DEVICE float2 value_at(const float2* volume, int height, int width, Place at) {
    float2 nothing;
    nothing.x = nothing.y = 0.0f;
    if (at.side == 0.0f) return nothing;
    const float2* row = volume + ((int64)at.z * height + at.y) * width + at.x;
    const float2* far_row = row + (int64)height * width;
    float2 left = mix2(at.fz, mix2(at.fy, row[0], row[width]), mix2(at.fy, far_row[0], far_row[width]));
    float2 right = mix2(at.fz, mix2(at.fy, row[1], row[width + 1]), mix2(at.fy, far_row[1], far_row[width + 1]));
    float2 value = mix2(at.fx, left, right);
    value.y *= at.side;
    return value;
}

// Histogram bin of a log-weight; those at the far end share the last.
DEVICE int bin_of(float score, float best) {
    float depth = (best - score) * BINS_PER_LOG;
    return depth < N_BINS - 1 ? (int)depth : N_BINS - 1;
}

// How far below the best log-weight the smallest significant one lies; sets how many are above it.
DEVICE float depth_of_threshold(
    const unsigned long long* weights, const unsigned int* counts, double fraction, int64 max_count, double* total,
    int64* count) {
    double sum = 0.0, so_far = 0.0;
    for (int b = 0; b < N_BINS; ++b) sum += (double)weights[b];
    *total = sum / WEIGHT_UNIT;
    *count = 0;
    for (int b = 0; b < N_BINS; ++b) {
        if (max_count > 0 && *count > 0 && *count + counts[b] > max_count) return (float)b / BINS_PER_LOG;
        so_far += (double)weights[b];
        *count += counts[b];
        if (so_far > fraction * sum) return (float)(b + 1) / BINS_PER_LOG;
    }
    return (float)N_BINS / BINS_PER_LOG;
}
