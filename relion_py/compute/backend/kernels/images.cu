// Particle images made ready: moved, masked, cut to the Fourier disc; CTFs; tables of shifted images.
#include "common.cuh"

// out = images (N, box, box) moved by shift (N, 2) = x, y whole pixels, zeros coming in, times factor (N,).
KERNEL(move_images, const float* images, const int64* shift, const float* factor, int box, int64 total, float* out) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 n = i / ((int64)box * box), rest = i % ((int64)box * box);
        int64 y = rest / box - shift[2 * n + 1], x = rest % box - shift[2 * n];
        bool inside = 0 <= x && x < box && 0 <= y && y < box;
        out[i] = inside ? images[(n * box + y) * box + x] * factor[n] : 0.0f;
    }
}

// mean (N,) of each image's background, weighted with outside (pixels,); one block an image.
KERNEL(background_mean, const float* images, const double* outside, double weight, int pixels, double* mean) {
    SHARED(double, partial, BLOCK_THREADS);
    PHASE {
        double sum = 0.0;
        for (int p = threadIdx.x; p < pixels; p += blockDim.x) sum += outside[p] * images[(int64)blockIdx.x * pixels + p];
        partial[threadIdx.x] = sum;
    }
    BARRIER
    PHASE {
        if (threadIdx.x == 0) {
            double sum = 0.0;
            for (int t = 0; t < blockDim.x; ++t) sum += partial[t];
            mean[blockIdx.x] = weight > 0.0 ? sum / weight : 0.0;
        }
    }
}

// images (N, pixels) -> towards the background: the mean (N,), or with has_noise the images noise (N, pixels); in place.
KERNEL(fill_outside, float* images, const double* outside, const double* mean, const float* noise, int has_noise,
       int pixels, int64 total) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        double background = has_noise ? (double)noise[i] : mean[i / pixels];
        images[i] = (float)(images[i] + outside[i % pixels] * (background - images[i]));
    }
}

// out (N, P) = transforms (N, box, box / 2 + 1) at the disc pixels, divided by box^2, phases from pixel box / 2.
KERNEL(gather_disc, const float2* transforms, const int* kx, const int* ky, int box, int pixels, int64 total,
       float2* out) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 n = i / pixels;
        int p = (int)(i % pixels);
        int row = ky[p] < 0 ? ky[p] + box : ky[p];
        float2 value = transforms[(n * box + row) * (box / 2 + 1) + kx[p]];
        float scale = ((kx[p] + ky[p]) & 1 ? -1.0f : 1.0f) / ((float)box * (float)box);
        value.x *= scale;
        value.y *= scale;
        out[i] = value;
    }
}

// out (N, shells): |F|^2 / box^4 of half transforms (N, box, box / 2 + 1), summed over the pixels of each shell, which
// are by_shell[shell_ptr[s] ...]; one block an image and shell.
KERNEL(shell_power, const float2* transforms, const int* by_shell, const int* shell_ptr, int shells, int box,
       double* out) {
    SHARED(double, partial, BLOCK_THREADS);
    int s = blockIdx.x % shells;
    const float2* image = transforms + (int64)(blockIdx.x / shells) * box * (box / 2 + 1);
    PHASE {
        double scale = 1.0 / ((double)box * box), sum = 0.0;
        for (int e = shell_ptr[s] + threadIdx.x; e < shell_ptr[s + 1]; e += blockDim.x) {
            double re = image[by_shell[e]].x * scale, im = image[by_shell[e]].y * scale;
            sum += re * re + im * im;
        }
        partial[threadIdx.x] = sum;
    }
    BARRIER
    PHASE {
        if (threadIdx.x == 0) {
            double sum = 0.0;
            for (int t = 0; t < blockDim.x; ++t) sum += partial[t];
            out[blockIdx.x] = sum;
        }
    }
}

// CTFs (N, P) from coefficients (N, 7); x, y (P,) in 1/A; see image/ctf.py, _fill_ctf.
KERNEL(ctf_values, const double* coefficients, const double* x, const double* y, const double* gamma_offset,
       int has_offset, int intact, int form, int damping, int pixels, int64 total, float* out) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int p = (int)(i % pixels);
        const double* c = coefficients + 7 * (i / pixels);
        double xx = x[p] * x[p], yy = y[p] * y[p], u2 = xx + yy;
        double gamma = c[0] * xx + c[1] * x[p] * y[p] + c[2] * yy + c[3] * u2 * u2 + c[4];
        if (has_offset) gamma += gamma_offset[p];
        float value;
        double right_angle = 1.5707963267948966;
        if ((intact == 1 && fabs(gamma) < right_angle) || (intact == 2 && fabs(gamma) > right_angle)) {
            value = 1.0f;
        } else {
            // whole turns are taken off in double precision, the rest is good enough in single
            double turns = gamma * 0.15915494309189535;
            value = -sinf((float)((turns - rint(turns)) * 6.283185307179586));
        }
        if (damping && c[5] != 0.0) value *= expf((float)(c[5] * u2));
        if (form == 1) value = fabsf(value);
        if (form == 2) value = value < 0.0f ? -1.0f : 1.0f;
        value *= (float)c[6];
        if (fabsf(value) < 1e-8f) value = value < 0.0f ? -1e-8f : 1e-8f;
        out[i] = value;
    }
}

// out[r] = images[rows[r]] exp(-2 pi i (kx x[r] + ky y[r]) / box); one thread a pixel.
KERNEL(shift_rows, const float2* images, const int* rows, const double* x, const double* y, const int* kx,
       const int* ky, int box, int pixels, int64 total, float2* out) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 r = i / pixels;
        int p = (int)(i % pixels);
        double turns = -(kx[p] * x[r] + ky[p] * y[r]) / box;
        float angle = (float)((turns - rint(turns)) * 6.283185307179586);
        float c = cosf(angle), s = sinf(angle);
        float2 value = images[(int64)rows[r] * pixels + p], moved;
        moved.x = value.x * c - value.y * s;
        moved.y = value.x * s + value.y * c;
        out[i] = moved;
    }
}
