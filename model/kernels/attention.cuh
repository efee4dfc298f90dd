// Where the parts of packed projections qkv [B, N, 3, H, W] stand.
#pragma once
#include "common.cuh"

namespace attention {

struct Shape {
    uint32_t tokens, heads, width;
    // What products of queries and keys are multiplied with.
    float scale;
    // Blocks that share a head of a sample, and rows that pass through shared memory at a time.
    uint32_t parts, chunk;

    MAE_MEMBER uint32_t dim() const { return heads * width; }
};

// A head of a sample in a tensor: rows `step` apart, and the bias that they lack, if any.
template <typename T> struct Rows {
    const T *first;
    uint32_t step;
    const float *bias;
};

// Part 0, 1 or 2 (q, k, v) of a head.
template <typename T> MAE_DEVICE Rows<T> projection(const T *qkv, const float *bias, const Shape &s, uint32_t head, uint32_t part) {
    const uint32_t column = part * s.dim() + head % s.heads * s.width;
    return {qkv + (size_t)(head / s.heads) * s.tokens * 3 * s.dim() + column, 3 * s.dim(), bias + column};
}

// A head's columns of a tensor [B, N, D].
template <typename T> MAE_DEVICE Rows<T> plain(const T *x, const Shape &s, uint32_t head) {
    return {x + (size_t)(head / s.heads) * s.tokens * s.dim() + head % s.heads * s.width, s.dim(), nullptr};
}

} // namespace attention
