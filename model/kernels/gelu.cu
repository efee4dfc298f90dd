// GELU in its exact (erf) form with the bias of the layer before it, over rows of F numbers. Bound by memory: in bfloat16 the forward
// moves 2 + 2 bytes a number, the backward 4 + 4. At 4.3 TB/s a multiprocessor of an H200 has 28 instructions a number for the forward
// and 55 for the backward, so erf is a formula of few.
#include "common.cuh"

namespace gelu {

// A block takes a tile of columns, a thread eight neighbouring ones, of rows in turn. The next row is on its way while one is worked on.
struct Place {
    uint32_t column, first, step;
};

MAE_DEVICE Place place(uint32_t width) {
    const uint32_t tiles = (width + 8 * blockDim.x - 1) / (8 * blockDim.x);
    return {8 * (blockIdx.x % tiles * blockDim.x + threadIdx.x), blockIdx.x / tiles, gridDim.x / tiles};
}

// Of the standard normal, the share beyond |h|, to 7.5e-8 (Abramowitz and Stegun 26.2.17, the same as the CPU's 7.1.26), and
// e^(-h²/2), which its density is a multiple of.
struct Normal {
    float tail, bell;
};

MAE_DEVICE Normal normal(float h) {
    const float bell = exp2_fast(h * h * -0.72134752f), t = reciprocal_fast(1.0f + 0.23164189f * fabsf(h));
    float p = 0.53070271f;
    p = p * t - 0.72657601f;
    p = p * t + 0.71070687f;
    p = p * t - 0.14224837f;
    p = p * t + 0.12741480f;
    return {p * t * bell, bell};
}

template <typename T>
MAE_DEVICE void forward(const T *__restrict__ x, const float *__restrict__ bias, T *__restrict__ y, uint32_t rows, uint32_t width) {
    const Place p = place(width);
    if (p.column >= width || p.first >= rows) {
        return;
    }
    const Eight b = load8(bias + p.column);
    const size_t step = (size_t)p.step * width;
    size_t at = (size_t)p.first * width + p.column;
    Packed<T> next = fetch8(x + at);
    for (uint32_t row = p.first; row < rows; row += p.step, at += step) {
        Eight v = unpack(next);
        if (row + p.step < rows) {
            next = fetch8(x + at + step);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float h = v.x[i] + b.x[i];
            // h Φ(h), whose Φ is the tail below 0 and 1 less it above.
            v.x[i] = fmaxf(h, 0.0f) - fabsf(h) * normal(h).tail;
        }
        store8(y + at, v);
    }
}

// `d` is turned in place; y is made again; `sums` [steps, F] are the column sums of the finished d.
template <typename T>
MAE_DEVICE void backward(const T *__restrict__ x, const float *__restrict__ bias, T *__restrict__ y, T *__restrict__ d,
                         float *__restrict__ sums, uint32_t rows, uint32_t width) {
    const Place p = place(width);
    if (p.column >= width || p.first >= rows) {
        return;
    }
    const Eight b = load8(bias + p.column);
    const size_t step = (size_t)p.step * width;
    size_t at = (size_t)p.first * width + p.column;
    Eight sum = {};
    Packed<T> next_x = fetch8(x + at), next_d = fetch8(d + at);
    for (uint32_t row = p.first; row < rows; row += p.step, at += step) {
        Eight v = unpack(next_x), g = unpack(next_d);
        if (row + p.step < rows) {
            next_x = fetch8(x + at + step);
            next_d = fetch8(d + at + step);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float h = v.x[i] + b.x[i];
            const Normal n = normal(h);
            const float share = h < 0.0f ? n.tail : 1.0f - n.tail;
            v.x[i] = h * share;
            g.x[i] *= share + h * n.bell * 0.39894228f;
            sum.x[i] += g.x[i];
        }
        store8(y + at, v);
        store8(d + at, g);
    }
    store8(sums + (size_t)p.first * width + p.column, sum);
}

} // namespace gelu

#define GELU(SUFFIX, T)                                                                                                            \
    MAE_KERNEL(128) gelu_forward_##SUFFIX(const T *x, const float *bias, T *y, uint32_t rows, uint32_t width) {                    \
        gelu::forward(x, bias, y, rows, width);                                                                                    \
    }                                                                                                                              \
    MAE_KERNEL(128) gelu_backward_##SUFFIX(const T *x, const float *bias, T *y, T *d, float *sums, uint32_t rows,                  \
                                           uint32_t width) {                                                                       \
        gelu::backward(x, bias, y, d, sums, rows, width);                                                                          \
    }

GELU(f32, float)
GELU(bf16, bf16)
