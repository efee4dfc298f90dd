// Random erasing, mixup and cutmix on patches [B, L, C P P]; a thread takes a number, and of a pair of images both. Bound by memory: in
// bfloat16 mixing moves 2 + 2 bytes a number, erasing 2 for those in the box.
#include "common.cuh"

namespace augment {

struct Shape {
    uint32_t height, width, channels, side;

    MAE_MEMBER uint32_t image() const { return height * width * channels; }
};

struct Place {
    uint32_t channel, y, x;
};

MAE_DEVICE Place place(const Shape &s, uint32_t i) {
    const uint32_t area = s.side * s.side, columns = s.width / s.side;
    const uint32_t patch = i / (area * s.channels), rest = i % (area * s.channels), at = rest % area;
    return {rest / area, patch / columns * s.side + at / s.side, patch % columns * s.side + at % s.side};
}

struct Box {
    uint32_t top, left, height, width;

    MAE_MEMBER bool holds(const Place &p) const { return p.y - top < height && p.x - left < width; }
};

MAE_DEVICE uint32_t high_half(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }

// Philox4x32-10 (Salmon et al. 2011), of whose four numbers two are wanted; then Box and Muller.
MAE_DEVICE float normal(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < 10; i++) {
        const uint32_t a = 0xd2511f53u, b = 0xcd9e8d57u;
        const uint32_t n0 = high_half(b, c2) ^ c1 ^ k0, n2 = high_half(a, c0) ^ c3 ^ k1;
        c1 = b * c2;
        c3 = a * c0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    const float unit = 1.0f / (1 << 24);
    const float radius = sqrtf(-2.0f * logf((c0 >> 8) * unit + 0.5f * unit));
    return radius * cosf(6.28318531f * ((c1 >> 8) * unit));
}

template <typename T> MAE_DEVICE void erase(T *patches, const uint32_t *boxes, uint64_t seed, uint32_t batch, Shape s) {
    const uint64_t image = s.image(), count = batch * image;
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (uint64_t)blockDim.x) {
        const uint32_t sample = i / image;
        const Box box = {boxes[4 * sample], boxes[4 * sample + 1], boxes[4 * sample + 2], boxes[4 * sample + 3]};
        const Place p = place(s, i % image);
        if (box.holds(p)) {
            from_float(normal(seed, p.y * s.width + p.x, p.channel, sample, 0), patches[i]);
        }
    }
}

template <typename T>
MAE_DEVICE void mix(T *patches, float share, uint32_t cut, Box box, uint32_t batch, Shape s) {
    const uint64_t image = s.image(), count = batch / 2 * image;
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < count; i += gridDim.x * (uint64_t)blockDim.x) {
        T &one = patches[i], &two = patches[(batch - 1 - i / image) * image + i % image];
        const float a = to_float(one), b = to_float(two);
        if (!cut) {
            const float rest = 1.0f - share;
            from_float(a * share + b * rest, one);
            from_float(b * share + a * rest, two);
        } else if (box.holds(place(s, i % image))) {
            from_float(b, one);
            from_float(a, two);
        }
    }
}

} // namespace augment

#define AUGMENT(SUFFIX, T)                                                                                                         \
    MAE_KERNEL(256) erase_##SUFFIX(T *patches, const uint32_t *boxes, uint64_t seed, uint32_t batch, uint32_t height,              \
                                   uint32_t width, uint32_t channels, uint32_t side) {                                             \
        augment::erase(patches, boxes, seed, batch, {height, width, channels, side});                                              \
    }                                                                                                                              \
    MAE_KERNEL(256) mix_##SUFFIX(T *patches, float share, uint32_t cut, uint32_t top, uint32_t left, uint32_t box_height,          \
                                 uint32_t box_width, uint32_t batch, uint32_t height, uint32_t width, uint32_t channels,           \
                                 uint32_t side) {                                                                                  \
        augment::mix(patches, share, cut, {top, left, box_height, box_width}, batch, {height, width, channels, side});             \
    }

AUGMENT(f32, float)
AUGMENT(bf16, bf16)
