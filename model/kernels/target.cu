// Losses of targets that are made beforehand, with their gradients: coefficients, and tokens. A block takes whole rows. Bound by memory:
// predictions are read and written once (tokens: read three times, of which the cache keeps a row), targets read once.
#include "common.cuh"

namespace head {

// `prediction` [rows, N] lacks its bias and becomes the gradient of the mean error; `targets` [rows, N], `errors` [rows].
template <typename T>
MAE_DEVICE void squared_error(T *prediction, const float *bias, const float *targets, float *errors, uint32_t rows, uint32_t length,
                              float scale) {
    __shared__ float parts[32];
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        float error[1] = {0.0f};
        for (uint32_t i = threadIdx.x; i < length; i += blockDim.x) {
            T &p = prediction[(size_t)row * length + i];
            const float off = to_float(p) + bias[i] - targets[(size_t)row * length + i];
            error[0] += off * off;
            from_float(off * scale, p);
        }
        // Between calls with the same memory every thread must have passed another barrier.
        __syncthreads();
        block_sums(error, parts);
        if (threadIdx.x == 0) {
            errors[row] = error[0] / length;
        }
    }
}

// The larger of two, or what is no number, which must come through.
MAE_DEVICE float larger(float a, float b) { return a != a ? a : b != b ? b : fmaxf(a, b); }

// `logits` [B, R, V] of the removed patches lack their bias and become the gradient of the mean loss; `tokens` [B, L] of all patches,
// `ids` [B, L] their places, `losses` [B, R]. A token that is not in the vocabulary has no loss that is a number.
template <typename T>
MAE_DEVICE void token_loss(T *logits, const float *bias, const uint32_t *tokens, const uint32_t *ids, float *losses, uint32_t batch,
                           uint32_t patches, uint32_t count, uint32_t vocabulary, float scale) {
    __shared__ float parts[3][32];
    const uint32_t warps = blockDim.x / 32;
    for (uint32_t at = blockIdx.x; at < batch * patches; at += gridDim.x) {
        const uint32_t sample = at / patches, place = ids[at], token = tokens[at];
        if (place < patches - count) {
            continue;
        }
        const size_t row = (size_t)sample * count + place - (patches - count);
        T *x = logits + row * vocabulary;
        float top = -INFINITY;
        for (uint32_t i = threadIdx.x; i < vocabulary; i += blockDim.x) {
            top = larger(top, to_float(x[i]) + bias[i]);
        }
        for (int distance = 16; distance > 0; distance /= 2) {
            top = larger(top, __shfl_xor_sync(0xffffffffu, top, distance));
        }
        // What is left of the row before must have been read.
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            parts[0][threadIdx.x / 32] = top;
        }
        __syncthreads();
        for (uint32_t w = 0; w < warps; w++) {
            top = larger(top, parts[0][w]);
        }
        float sum[1] = {0.0f};
        for (uint32_t i = threadIdx.x; i < vocabulary; i += blockDim.x) {
            sum[0] += expf(to_float(x[i]) + bias[i] - top);
        }
        block_sums(sum, parts[1]);
        const float log_sum = logf(sum[0]) + top;
        float loss[1] = {0.0f};
        for (uint32_t i = threadIdx.x; i < vocabulary; i += blockDim.x) {
            const float log_p = to_float(x[i]) + bias[i] - log_sum;
            loss[0] -= i == token ? log_p : 0.0f;
            from_float((expf(log_p) - (i == token ? 1.0f : 0.0f)) * scale, x[i]);
        }
        block_sums(loss, parts[2]);
        if (threadIdx.x == 0) {
            losses[row] = token < vocabulary ? loss[0] : NAN;
        }
    }
}

} // namespace head

#define TARGET(SUFFIX, T)                                                                                                          \
    MAE_KERNEL(256) squared_error_##SUFFIX(T *prediction, const float *bias, const float *targets, float *errors, uint32_t rows,   \
                                           uint32_t length, float scale) {                                                         \
        head::squared_error(prediction, bias, targets, errors, rows, length, scale);                                             \
    }                                                                                                                              \
    MAE_KERNEL(256) token_loss_##SUFFIX(T *logits, const float *bias, const uint32_t *tokens, const uint32_t *ids, float *losses,  \
                                        uint32_t batch, uint32_t patches, uint32_t count, uint32_t vocabulary, float scale) {      \
        head::token_loss(logits, bias, tokens, ids, losses, batch, patches, count, vocabulary, scale);                           \
    }

TARGET(f32, float)
TARGET(bf16, bf16)
