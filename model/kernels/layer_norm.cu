// Layer norm over rows of D numbers, with the residual on the way in. A block takes whole rows, a thread four neighbouring columns of
// them, so the row stays in registers and the columns' sums of the backward do too. Bound by memory: the forward moves 8 + 4 + 2
// bytes a number (x and residual in, x out, y out in bfloat16), the backward 4 + 2 + 8 + 2.
#include "common.cuh"

namespace layer_norm {

// Rows are shared among blocks in turn. With a residual, x becomes `residual + factor * (x + added)` first; the factor, 1 where there are
// none, is that of the row's sample, of `sample` rows each.
template <bool RESIDUAL, typename T>
MAE_DEVICE void forward(float *x, const float *residual, const float *added, const float *factors, uint32_t sample, const float *weight,
                        const float *bias, float eps, T *y, float *stats, uint32_t rows, uint32_t dim) {
    __shared__ float parts[2][32];
    const uint32_t column = 4 * threadIdx.x;
    const bool inside = column < dim;
    Four w = {}, b = {}, a = {};
    if (inside) {
        w = load4(weight + column);
        b = load4(bias + column);
        if (RESIDUAL) {
            a = load4(added + column);
        }
    }
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const size_t at = (size_t)row * dim + column;
        Four v = {};
        if (inside) {
            v = load4(x + at);
            if (RESIDUAL) {
                const Four r = load4(residual + at);
                const float factor = factors ? factors[row / sample] : 1.0f;
                for (int i = 0; i < 4; i++) {
                    v.x[i] = r.x[i] + factor * (v.x[i] + a.x[i]);
                }
                store4(x + at, v);
            }
        }
        float sum[1] = {v.x[0] + v.x[1] + v.x[2] + v.x[3]};
        block_sums(sum, parts[0]);
        const float mean = sum[0] / dim;
        float squares[1] = {0.0f};
        if (inside) {
            for (int i = 0; i < 4; i++) {
                squares[0] += (v.x[i] - mean) * (v.x[i] - mean);
            }
        }
        block_sums(squares, parts[1]);
        const float scale = 1.0f / sqrtf(squares[0] / dim + eps);
        if (inside) {
            for (int i = 0; i < 4; i++) {
                v.x[i] = (v.x[i] - mean) * scale * w.x[i] + b.x[i];
            }
            store4(y + at, v);
        }
        if (threadIdx.x == 0) {
            stats[2 * (size_t)row] = mean;
            stats[2 * (size_t)row + 1] = scale;
        }
    }
}

// `sums` [blocks, 3, D]: of the rows of a block, the gradients of weight and bias, and the column sums of the finished dx times its
// factor (as in the forward). `low`, where not null, gets dx times its factor, rounded.
template <typename T>
MAE_DEVICE void backward(const float *x, const float *stats, const float *weight, const T *dy, float *dx, bf16 *low,
                         const float *factors, uint32_t sample, float *sums, uint32_t rows, uint32_t dim) {
    __shared__ float parts[2][64];
    const uint32_t column = 4 * threadIdx.x;
    const bool inside = column < dim;
    Four w = {}, dweight = {}, dbias = {}, dadded = {};
    if (inside) {
        w = load4(weight + column);
    }
    int turn = 0;
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const size_t at = (size_t)row * dim + column;
        const float mean = stats[2 * (size_t)row], scale = stats[2 * (size_t)row + 1];
        Four normal = {}, d = {}, out = {};
        float sum[2] = {0.0f, 0.0f};
        if (inside) {
            normal = load4(x + at);
            d = load4(dy + at);
            out = load4(dx + at);
            for (int i = 0; i < 4; i++) {
                normal.x[i] = (normal.x[i] - mean) * scale;
                sum[0] += d.x[i] * w.x[i];
                sum[1] += d.x[i] * w.x[i] * normal.x[i];
            }
        }
        // Two places in turn: a warp that is ahead must not write where another still reads.
        block_sums(sum, parts[turn]);
        turn ^= 1;
        if (inside) {
            for (int i = 0; i < 4; i++) {
                out.x[i] += scale * (d.x[i] * w.x[i] - sum[0] / dim - normal.x[i] * (sum[1] / dim));
                dweight.x[i] += d.x[i] * normal.x[i];
                dbias.x[i] += d.x[i];
            }
            store4(dx + at, out);
            const float factor = factors ? factors[row / sample] : 1.0f;
            for (int i = 0; i < 4; i++) {
                out.x[i] *= factor;
                dadded.x[i] += out.x[i];
            }
            if (low) {
                store4(low + at, out);
            }
        }
    }
    if (inside) {
        float *to = sums + (size_t)blockIdx.x * 3 * dim + column;
        store4(to, dweight);
        store4(to + dim, dbias);
        store4(to + 2 * dim, dadded);
    }
}

} // namespace layer_norm

#define LAYER_NORM(SUFFIX, T)                                                                                                      \
    MAE_KERNEL(1024) layer_norm_forward_##SUFFIX(float *x, const float *weight, const float *bias, float eps, T *y, float *stats,  \
                                                 uint32_t rows, uint32_t dim) {                                                    \
        layer_norm::forward<false>(x, nullptr, nullptr, nullptr, 1, weight, bias, eps, y, stats, rows, dim);                       \
    }                                                                                                                              \
    MAE_KERNEL(1024) layer_norm_residual_##SUFFIX(float *x, const float *residual, const float *added, const float *factors,       \
                                                  uint32_t sample, const float *weight, const float *bias, float eps, T *y,        \
                                                  float *stats, uint32_t rows, uint32_t dim) {                                     \
        layer_norm::forward<true>(x, residual, added, factors, sample, weight, bias, eps, y, stats, rows, dim);                    \
    }                                                                                                                              \
    MAE_KERNEL(1024) layer_norm_backward_##SUFFIX(const float *x, const float *stats, const float *weight, const T *dy, float *dx, \
                                                  bf16 *low, const float *factors, uint32_t sample, float *sums, uint32_t rows,   \
                                                  uint32_t dim) {                                                                  \
        layer_norm::backward(x, stats, weight, dy, dx, low, factors, sample, sums, rows, dim);                                     \
    }

LAYER_NORM(f32, float)
LAYER_NORM(bf16, bf16)
