// What reads the images' bytes [B, H, W, C]: the visible patches, and the loss of the removed ones with its gradient. A block takes whole
// patches. Bound by memory: bytes are read once from it, floats written (patches) or read and written (loss) once.
#include "common.cuh"

// What each channel is normalised with.
struct Channels {
    float mean[16], deviation[16];
};

namespace image {

struct Shape {
    uint32_t batch, height, width, channels, side;

    MAE_MEMBER uint32_t columns() const { return width / side; }
    MAE_MEMBER uint32_t patches() const { return height / side * columns(); }
    MAE_MEMBER uint32_t length() const { return side * side * channels; }

    // The first byte of a patch.
    MAE_MEMBER size_t corner(uint32_t sample, uint32_t patch) const {
        const size_t row = (size_t)sample * height + patch / columns() * side;
        return (row * width + patch % columns() * side) * channels;
    }
};

MAE_DEVICE float normalised(uint8_t x, const Channels &c, uint32_t channel) {
    return (x / 255.0f - c.mean[channel]) / c.deviation[channel];
}

// Patches `ids` [B, K] as [B, K, C·P·P] in (channel, row, column) order, a thread a pixel.
template <typename T>
MAE_DEVICE void patchify(const uint8_t *pixels, const uint32_t *ids, T *out, const Channels &c, Shape s, uint32_t kept) {
    const uint32_t area = s.side * s.side;
    for (uint32_t row = blockIdx.x; row < s.batch * kept; row += gridDim.x) {
        const uint8_t *from = pixels + s.corner(row / kept, ids[row]);
        T *to = out + (size_t)row * s.length();
        for (uint32_t i = threadIdx.x; i < area; i += blockDim.x) {
            const uint8_t *pixel = from + ((size_t)(i / s.side) * s.width + i % s.side) * s.channels;
            for (uint32_t channel = 0; channel < s.channels; channel++) {
                from_float(normalised(pixel[channel], c, channel), to[channel * area + i]);
            }
        }
    }
}

// Number i of a patch in (row, column, channel) order.
MAE_DEVICE float target(const uint8_t *from, const Channels &c, Shape s, uint32_t i) {
    const uint32_t line = s.side * s.channels;
    return normalised(from[(size_t)(i / line) * s.width * s.channels + i % line], c, i % s.channels);
}

// `prediction` [B, R, P·P·C] lacks its bias and becomes the gradient of the mean error; `errors` [B, R].
template <typename T>
MAE_DEVICE void loss(const uint8_t *pixels, const uint32_t *ids, T *prediction, const float *bias, float *errors, const Channels &c,
                     Shape s, uint32_t count, uint32_t norm_pix, float eps, float scale) {
    __shared__ float parts[3][32];
    const uint32_t patches = s.patches(), length = s.length();
    for (uint32_t at = blockIdx.x; at < s.batch * patches; at += gridDim.x) {
        const uint32_t sample = at / patches, place = ids[at];
        if (place < patches - count) {
            continue;
        }
        const size_t row = (size_t)sample * count + place - (patches - count);
        const uint8_t *from = pixels + s.corner(sample, at % patches);
        float mean = 0.0f, deviation = 1.0f;
        if (norm_pix) {
            float sum[1] = {0.0f}, squares[1] = {0.0f};
            for (uint32_t i = threadIdx.x; i < length; i += blockDim.x) {
                sum[0] += target(from, c, s, i);
            }
            block_sums(sum, parts[0]);
            mean = sum[0] / length;
            for (uint32_t i = threadIdx.x; i < length; i += blockDim.x) {
                const float off = target(from, c, s, i) - mean;
                squares[0] += off * off;
            }
            block_sums(squares, parts[1]);
            // A patch of one number has no unbiased variance; it is left at zero.
            deviation = sqrtf((length > 1 ? squares[0] / (length - 1) : 0.0f) + eps);
        }
        float error[1] = {0.0f};
        for (uint32_t i = threadIdx.x; i < length; i += blockDim.x) {
            T &p = prediction[row * length + i];
            const float off = to_float(p) + bias[i] - (target(from, c, s, i) - mean) / deviation;
            error[0] += off * off;
            from_float(off * scale, p);
        }
        // Between calls with the same memory every thread must have passed another barrier.
        __syncthreads();
        block_sums(error, parts[2]);
        if (threadIdx.x == 0) {
            errors[row] = error[0] / length;
        }
    }
}

// The removed patches [B, R, P·P·C] in (row, column, channel) order, less the patch `mean` [P·P·C].
MAE_DEVICE void removed(const uint8_t *pixels, const uint32_t *ids, const float *mean, float *out, const Channels &c, Shape s,
                        uint32_t count) {
    const uint32_t patches = s.patches(), length = s.length();
    for (uint32_t at = blockIdx.x; at < s.batch * patches; at += gridDim.x) {
        const uint32_t sample = at / patches, place = ids[at];
        if (place < patches - count) {
            continue;
        }
        const size_t row = (size_t)sample * count + place - (patches - count);
        const uint8_t *from = pixels + s.corner(sample, at % patches);
        for (uint32_t i = threadIdx.x; i < length; i += blockDim.x) {
            out[row * length + i] = target(from, c, s, i) - mean[i];
        }
    }
}

} // namespace image

#define IMAGE(SUFFIX, T)                                                                                                           \
    MAE_KERNEL(256) patchify_##SUFFIX(const uint8_t *pixels, const uint32_t *ids, T *out, Channels c, uint32_t batch,              \
                                      uint32_t height, uint32_t width, uint32_t channels, uint32_t side, uint32_t kept) {          \
        image::patchify(pixels, ids, out, c, image::Shape{batch, height, width, channels, side}, kept);                            \
    }                                                                                                                              \
    MAE_KERNEL(256) masked_loss_##SUFFIX(const uint8_t *pixels, const uint32_t *ids, T *prediction, const float *bias,             \
                                         float *errors, Channels c, uint32_t batch, uint32_t height, uint32_t width,               \
                                         uint32_t channels, uint32_t side, uint32_t count, uint32_t norm_pix, float eps,           \
                                         float scale) {                                                                            \
        const image::Shape shape = {batch, height, width, channels, side};                                                         \
        image::loss(pixels, ids, prediction, bias, errors, c, shape, count, norm_pix, eps, scale);                                 \
    }

IMAGE(f32, float)
IMAGE(bf16, bf16)

MAE_KERNEL(256) removed_patches(const uint8_t *pixels, const uint32_t *ids, const float *mean, float *out, Channels c, uint32_t batch,
                                uint32_t height, uint32_t width, uint32_t channels, uint32_t side, uint32_t count) {
    image::removed(pixels, ids, mean, out, c, image::Shape{batch, height, width, channels, side}, count);
}
