// Small passes over whole tensors. Bound by memory: every number is read and written once.
#include "common.cuh"

namespace elementwise {

template <typename T> MAE_DEVICE void scale(T *x, float factor, uint64_t count) {
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (uint64_t)blockDim.x) {
        from_float(to_float(x[i]) * factor, x[i]);
    }
}

// `x += bias` in every row of `cols` numbers.
template <typename T> MAE_DEVICE void add_bias(T *x, const float *bias, uint32_t cols, uint64_t count) {
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (uint64_t)blockDim.x) {
        from_float(to_float(x[i]) + bias[i % cols], x[i]);
    }
}

} // namespace elementwise

#define ELEMENTWISE(SUFFIX, T)                                                                                                     \
    MAE_KERNEL(256) scale_##SUFFIX(T *x, float factor, uint64_t count) { elementwise::scale(x, factor, count); }                   \
    MAE_KERNEL(256) add_bias_##SUFFIX(T *x, const float *bias, uint32_t cols, uint64_t count) {                                    \
        elementwise::add_bias(x, bias, cols, count);                                                                               \
    }

ELEMENTWISE(f32, float)
ELEMENTWISE(bf16, bf16)

MAE_KERNEL(256) fill(float *x, float value, uint64_t count) {
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (uint64_t)blockDim.x) {
        x[i] = value;
    }
}

// f32 numbers, four at a time, to bfloat16.
MAE_KERNEL(256) round_to_bf16(const float *x, bf16 *to, uint64_t count) {
    for (uint64_t i = 4 * (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x); i < count; i += 4 * (gridDim.x * (uint64_t)blockDim.x)) {
        store4(to + i, load4(x + i));
    }
}

// `x = residual + factor * (x + bias)`, `bias` being a row of `dim` numbers, the factor that of the row's sample, of `rows` rows each.
MAE_KERNEL(256) join(float *x, const float *residual, const float *bias, const float *factors, uint32_t rows, uint32_t dim,
                     uint64_t count) {
    for (uint64_t i = 4 * (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x); i < count; i += 4 * (gridDim.x * (uint64_t)blockDim.x)) {
        Four v = load4(x + i);
        const Four r = load4(residual + i), b = load4(bias + i % dim);
        const float factor = factors ? factors[i / dim / rows] : 1.0f;
        for (int k = 0; k < 4; k++) {
            v.x[k] = r.x[k] + factor * (v.x[k] + b.x[k]);
        }
        store4(x + i, v);
    }
}

namespace elementwise {

// `to = factor * dx`, rounded.
template <typename T>
MAE_DEVICE void join_backward(const float *dx, const float *factors, uint32_t rows, T *to, uint32_t dim, uint64_t count) {
    for (uint64_t i = 4 * (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x); i < count; i += 4 * (gridDim.x * (uint64_t)blockDim.x)) {
        Four v = load4(dx + i);
        const float factor = factors ? factors[i / dim / rows] : 1.0f;
        for (int k = 0; k < 4; k++) {
            v.x[k] *= factor;
        }
        store4(to + i, v);
    }
}

} // namespace elementwise

MAE_KERNEL(256) join_backward_f32(const float *dx, const float *factors, uint32_t rows, float *to, uint32_t dim, uint64_t count) {
    elementwise::join_backward(dx, factors, rows, to, dim, count);
}
MAE_KERNEL(256) join_backward_bf16(const float *dx, const float *factors, uint32_t rows, bf16 *to, uint32_t dim, uint64_t count) {
    elementwise::join_backward(dx, factors, rows, to, dim, count);
}
