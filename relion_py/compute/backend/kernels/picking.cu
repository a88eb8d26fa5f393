// Template matching: turned references times a micrograph, the best angle, figures of merit; see
// picking/template_kernels.py, whose shapes and meanings these have.
#include "common.cuh"

// Transforms pairs (angles, work * work) of two cross-correlation maps at once: with a reference turned by an angle in
// the real part and, with both, turned by 180 degrees more in the imaginary part. The reference is read off its
// oversampled half transform table (2 R + 3, R + 2), origin at row R + 1, by bilinear interpolation; turns (angles, 2):
// cosine and sine of each angle times the table's pixels for one of the micrograph's transform. signal (P,): the
// micrograph's transform at kx, ky (P,), which lie at plus, and their opposites at minus. One thread an angle and pixel.
KERNEL(turned_products, const float2* table, int rows, int columns, const float* turns, const int* kx, const int* ky,
       const int* plus, const int* minus, const float2* signal, int both, int pixels, int64 plane, int64 total,
       float2* pairs) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        int64 angle = i / pixels;
        int p = (int)(i % pixels);
        float c = turns[2 * angle], s = turns[2 * angle + 1];
        float x = c * (float)kx[p] - s * (float)ky[p], y = s * (float)kx[p] + c * (float)ky[p];
        float side = x < 0.0f ? -1.0f : 1.0f;
        x *= side;
        y = y * side + (float)(rows / 2);
        int ix = (int)x, iy = (int)y;
        float fx = x - (float)ix, fy = y - (float)iy;
        const float2* low = table + (int64)iy * columns + ix;
        float2 value = mix2(fy, mix2(fx, low[0], low[1]), mix2(fx, low[columns], low[columns + 1]));
        float a = value.x, b = value.y * side, re = signal[p].x, im = signal[p].y;
        // times the conjugate of the reference, and times the reference
        float first_re = a * re + b * im, first_im = a * im - b * re;
        float second_re = both ? a * re - b * im : 0.0f, second_im = both ? a * im + b * re : 0.0f;
        float2 here, opposite;
        here.x = first_re - second_im;
        here.y = first_im + second_re;
        opposite.x = first_re + second_im;
        opposite.y = second_re - first_im;
        pairs[angle * plane + plus[p]] = here;
        pairs[angle * plane + minus[p]] = opposite;
    }
}

// Where a map of pairs (angles, plane) exceeds best (plane,), it and its number take the place: first, first + 1 ... of
// real parts and, with both, `opposite` more of imaginary ones. One thread a pixel.
KERNEL(keep_best_angle, const float2* pairs, int angles, int first, int both, int opposite, int64 plane, float* best,
       int* which) {
    PHASE {
        int64 i = thread_number();
        if (i >= plane) SKIP;
        float high = best[i];
        int number = which[i];
        for (int a = 0; a < angles; ++a) {
            float2 value = pairs[a * plane + i];
            if (value.x > high) {
                high = value.x;
                number = first + a;
            }
            if (both && value.y > high) {
                high = value.y;
                number = first + a + opposite;
            }
        }
        best[i] = high;
        which[i] = number;
    }
}

// In place: from the highest cross-correlations best (total,) to figures of merit, and psi (total,) of their angles.
KERNEL(figures_of_merit, const int* which, const float* psis, const float* mean, const float* deviation,
       double first_moment, double second_moment, int64 total, float* best, float* psi) {
    PHASE {
        int64 i = thread_number();
        if (i >= total) SKIP;
        double numerator = (double)best[i] - (double)mean[i] * first_moment;
        if (deviation[i] > 1e-10f) numerator /= (double)deviation[i];
        best[i] = (float)(expm1(numerator - 0.5 * second_moment) / expm1(0.5 * second_moment));
        psi[i] = psis[which[i]];
    }
}
