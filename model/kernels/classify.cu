// A classifier's end: one vector from a sequence of tokens, and softmax cross-entropy. Small beside the blocks, and in float32.
#include "common.cuh"

// x [B, N, D] to pooled [B, D]: the class token's row, or the mean of the others. A thread a number.
MAE_KERNEL(256) pool_forward(const float *x, uint32_t average, float *pooled, uint32_t tokens, uint32_t dim, uint64_t count) {
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (uint64_t)blockDim.x) {
        const float *from = x + i / dim * tokens * dim + i % dim;
        float sum = 0.0f;
        if (average) {
            for (uint32_t token = 1; token < tokens; token++) {
                sum += from[(size_t)token * dim];
            }
            sum *= 1.0f / (tokens - 1);
        } else {
            sum = from[0];
        }
        pooled[i] = sum;
    }
}

// The gradient of x from that of the pooled vectors. A thread a number of x.
MAE_KERNEL(256) pool_backward(const float *dpooled, uint32_t average, float *dx, uint32_t tokens, uint32_t dim, uint64_t count) {
    const float scale = average ? 1.0f / (tokens - 1) : 1.0f;
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (uint64_t)blockDim.x) {
        const bool class_token = i / dim % tokens == 0;
        dx[i] = class_token == (bool)average ? 0.0f : scale * dpooled[i / dim / tokens * dim + i % dim];
    }
}

// logits and targets [B, classes]: each sample's loss, and in place of the logits the gradient of the batch's mean. A block a sample.
MAE_KERNEL(256) cross_entropy(float *logits, const float *targets, float *losses, uint32_t classes) {
    __shared__ float parts[3][32];
    float *row = logits + (size_t)blockIdx.x * classes;
    const float *target = targets + (size_t)blockIdx.x * classes;
    float top = -INFINITY;
    for (uint32_t i = threadIdx.x; i < classes; i += blockDim.x) {
        // What is no number must come through.
        top = row[i] != row[i] ? row[i] : fmaxf(top, row[i]);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, top, distance);
        top = other != other ? other : top != top ? top : fmaxf(top, other);
    }
    const uint32_t warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0) {
        parts[0][threadIdx.x / 32] = top;
    }
    __syncthreads();
    for (uint32_t w = 0; w < warps; w++) {
        const float other = parts[0][w];
        top = other != other ? other : top != top ? top : fmaxf(top, other);
    }
    float sum[1] = {0.0f};
    for (uint32_t i = threadIdx.x; i < classes; i += blockDim.x) {
        sum[0] += expf(row[i] - top);
    }
    block_sums(sum, parts[1]);
    const float log_sum = logf(sum[0]) + top;
    float loss[1] = {0.0f};
    for (uint32_t i = threadIdx.x; i < classes; i += blockDim.x) {
        const float log_p = row[i] - log_sum;
        loss[0] -= target[i] * log_p;
        row[i] = (expf(log_p) - target[i]) / gridDim.x;
    }
    block_sums(loss, parts[2]);
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = loss[0];
    }
}
