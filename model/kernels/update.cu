// An update of the weights: the loss, the gradient's norm, and AdamW (Loshchilov and Hutter 2019) over every parameter in one launch.
// What an update came to stays on the device, so that nothing waits for the host: once a loss or a norm is no finite number, this and
// all later updates leave the weights alone. Bound by memory: the norm moves 4 bytes a parameter, AdamW 16 + 12, and 2 more with the
// weights' bfloat16 copy.
#include "common.cuh"

// What an update came to.
struct Record {
    // Mean over its batches.
    float loss;
    // Of the gradient, before clipping.
    float norm;
    // What gradients are multiplied with.
    float factor;
    // 1 from the first loss or norm that is no finite number.
    float halted;
    // Batches so far, and the first of them whose loss was no finite number, or -1.
    float batches, bad_batch;
};

// Groups of parameters that are treated alike, at most.
#define MAE_GROUPS 96

struct AdamW {
    float beta1, beta2, rest1, rest2, root_correction, eps;
    // What a group's weights are multiplied with, and their step.
    float decay[MAE_GROUPS], step_size[MAE_GROUPS];
};

MAE_DEVICE bool finite(float x) { return x - x == 0.0f; }

// Adds `share` times the mean of `errors` to the record's loss, or begins it. One block.
MAE_KERNEL(1024) record_loss(const float *errors, uint64_t count, float share, uint32_t add, Record *record) {
    __shared__ float parts[32];
    float sum[1] = {0.0f};
    for (uint64_t i = threadIdx.x; i < count; i += blockDim.x) {
        sum[0] += errors[i];
    }
    block_sums(sum, parts);
    if (threadIdx.x == 0) {
        const float loss = sum[0] / (float)count;
        if (!add) {
            record->loss = record->batches = 0.0f;
            record->bad_batch = -1.0f;
        }
        if (!finite(loss) && record->bad_batch < 0.0f) {
            record->bad_batch = record->batches;
        }
        record->loss += loss * share;
        record->batches += 1.0f;
    }
}

// Each block's sum of squares. Squares beyond f32 make the norm infinite.
MAE_KERNEL(256) sum_squares(const float *x, uint64_t count, float *sums) {
    __shared__ float parts[8];
    float sum[1] = {0.0f};
    for (uint64_t i = 4 * (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x); i < count; i += 4 * (gridDim.x * (uint64_t)blockDim.x)) {
        const Four v = load4(x + i);
        for (int k = 0; k < 4; k++) {
            sum[0] += v.x[k] * v.x[k];
        }
    }
    block_sums(sum, parts);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum[0];
    }
}

// Norm and factor from the sums of squares; `clip` bounds the norm where it is not 0. One thread.
MAE_KERNEL(32) settle(const float *sums, uint32_t count, float clip, Record *record) {
    if (threadIdx.x > 0) {
        return;
    }
    double sum = 0.0;
    for (uint32_t i = 0; i < count; i++) {
        sum += sums[i];
    }
    const float norm = (float)sqrt(sum);
    record->norm = norm;
    // As torch.nn.utils.clip_grad_norm_.
    record->factor = clip > 0.0f ? fminf(clip / (norm + 1e-6f), 1.0f) : 1.0f;
    if (!finite(norm) || !finite(record->loss)) {
        record->halted = 1.0f;
    }
}

// `groups` names the group of each 64 numbers; `low`, where not null, gets the weights rounded.
MAE_KERNEL(256) adamw(float *params, bf16 *low, const float *grads, float *exp_avg, float *exp_avg_sq, const uint32_t *groups,
                      const Record *record, AdamW f, uint64_t count) {
    if (record->halted != 0.0f) {
        return;
    }
    const float factor = record->factor;
    for (uint64_t i = 4 * (blockIdx.x * (uint64_t)blockDim.x + threadIdx.x); i < count; i += 4 * (gridDim.x * (uint64_t)blockDim.x)) {
        const uint32_t group = groups[i / 64];
        Four p = load4(params + i), m = load4(exp_avg + i), v = load4(exp_avg_sq + i);
        const Four d = load4(grads + i);
        for (int k = 0; k < 4; k++) {
            const float g = d.x[k] * factor;
            m.x[k] = f.beta1 * m.x[k] + f.rest1 * g;
            v.x[k] = f.beta2 * v.x[k] + f.rest2 * (g * g);
            const float denominator = sqrtf(v.x[k]) * f.root_correction + f.eps;
            p.x[k] = p.x[k] * f.decay[group] - f.step_size[group] * (m.x[k] / denominator);
        }
        store4(params + i, p);
        store4(exp_avg + i, m);
        store4(exp_avg_sq + i, v);
        if (low) {
            store4(low + i, p);
        }
    }
}
