// GELU in its exact (erf) form with the bias of the layer before it, over rows of F numbers. Bound by memory: in bfloat16 the forward
// moves 2 + 2 bytes a number, the backward 4 + 4.
#include "common.cuh"

namespace gelu {

// A block takes a tile of columns, a thread four neighbouring ones, of rows in turn.
struct Place {
    uint32_t column, first, step;
};

MAE_DEVICE Place place(uint32_t width) {
    const uint32_t tiles = (width + 4 * blockDim.x - 1) / (4 * blockDim.x);
    return {4 * (blockIdx.x % tiles * blockDim.x + threadIdx.x), blockIdx.x / tiles, gridDim.x / tiles};
}

MAE_DEVICE float cdf(float h) { return 0.5f + 0.5f * erff(h * 0.70710678f); }

template <typename T> MAE_DEVICE void forward(const T *x, const float *bias, T *y, uint32_t rows, uint32_t width) {
    const Place p = place(width);
    if (p.column >= width) {
        return;
    }
    const Four b = load4(bias + p.column);
    for (uint32_t row = p.first; row < rows; row += p.step) {
        const size_t at = (size_t)row * width + p.column;
        Four v = load4(x + at);
        for (int i = 0; i < 4; i++) {
            const float h = v.x[i] + b.x[i];
            v.x[i] = h * cdf(h);
        }
        store4(y + at, v);
    }
}

// `d` is turned in place; y is made again; `sums` [steps, F] are the column sums of the finished d.
template <typename T>
MAE_DEVICE void backward(const T *x, const float *bias, T *y, T *d, float *sums, uint32_t rows, uint32_t width) {
    const Place p = place(width);
    if (p.column >= width) {
        return;
    }
    const Four b = load4(bias + p.column);
    Four sum = {};
    for (uint32_t row = p.first; row < rows; row += p.step) {
        const size_t at = (size_t)row * width + p.column;
        Four v = load4(x + at), g = load4(d + at);
        for (int i = 0; i < 4; i++) {
            const float h = v.x[i] + b.x[i], share = cdf(h);
            v.x[i] = h * share;
            g.x[i] *= share + h * expf(-0.5f * h * h) * 0.39894228f;
            sum.x[i] += g.x[i];
        }
        store4(y + at, v);
        store4(d + at, g);
    }
    store4(sums + (size_t)p.first * width + p.column, sum);
}

} // namespace gelu

#define GELU(SUFFIX, T)                                                                                                            \
    MAE_KERNEL(256) gelu_forward_##SUFFIX(const T *x, const float *bias, T *y, uint32_t rows, uint32_t width) {                    \
        gelu::forward(x, bias, y, rows, width);                                                                                    \
    }                                                                                                                              \
    MAE_KERNEL(256) gelu_backward_##SUFFIX(const T *x, const float *bias, T *y, T *d, float *sums, uint32_t rows,                  \
                                           uint32_t width) {                                                                       \
        gelu::backward(x, bias, y, d, sums, rows, width);                                                                          \
    }

GELU(f32, float)
GELU(bf16, bf16)
