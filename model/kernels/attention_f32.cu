// Attention in float32, for comparison: plain loops, a warp a row. As attention.cu, which is the one that is fast.
#include "attention.cuh"

namespace attention {

MAE_DEVICE float number(const Rows<float> &rows, uint32_t row, uint32_t column) {
    return rows.first[row * rows.step + column] + (rows.bias ? rows.bias[column] : 0.0f);
}

MAE_DEVICE float dot_product(const float *a, const Rows<float> &b, uint32_t row, uint32_t width) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < width; i++) {
        sum += a[i] * number(b, row, i);
    }
    return sum;
}

// Shared memory: [warps, W + N].
MAE_DEVICE void plain_forward(const float *qkv, const float *bias, float *out, float *stats, Shape s) {
    MAE_DYNAMIC_SHARED(memory);
    const uint32_t head = blockIdx.x / s.parts, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t row = blockIdx.x % s.parts * (blockDim.x / 32) + warp;
    if (row >= s.tokens) {
        return;
    }
    float *q = reinterpret_cast<float *>(memory) + warp * (s.width + s.tokens), *p = q + s.width;
    const Rows<float> queries = projection(qkv, bias, s, head, 0), keys = projection(qkv, bias, s, head, 1);
    const Rows<float> values = projection(qkv, bias, s, head, 2);
    for (uint32_t i = lane; i < s.width; i += 32) {
        q[i] = number(queries, row, i) * s.scale;
    }
    __syncwarp();
    float top = -INFINITY, sum = 0.0f;
    for (uint32_t j = lane; j < s.tokens; j += 32) {
        p[j] = dot_product(q, keys, j, s.width);
        top = fmaxf(top, p[j]);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
    }
    for (uint32_t j = lane; j < s.tokens; j += 32) {
        p[j] = expf(p[j] - top);
        sum += p[j];
    }
    const float inverse = 1.0f / warp_sum(sum);
    __syncwarp();
    float *to = out + (size_t)((head / s.heads) * s.tokens + row) * s.dim() + head % s.heads * s.width;
    for (uint32_t i = lane; i < s.width; i += 32) {
        float x = 0.0f;
        for (uint32_t j = 0; j < s.tokens; j++) {
            x += p[j] * number(values, j, i);
        }
        to[i] = x * inverse;
    }
    if (lane == 0) {
        stats[2 * ((size_t)head * s.tokens + row)] = top;
        stats[2 * ((size_t)head * s.tokens + row) + 1] = inverse;
    }
}

// As `backward`. Shared memory: [warps, 2 W + 2 N].
template <bool BY_KEY>
MAE_DEVICE void plain_backward(const float *qkv, const float *bias, const float *out, const float *stats, const float *dout,
                               float *dots, float *dqkv, Shape s) {
    MAE_DYNAMIC_SHARED(memory);
    const uint32_t head = blockIdx.x / s.parts, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t row = blockIdx.x % s.parts * (blockDim.x / 32) + warp;
    if (row >= s.tokens) {
        return;
    }
    float *left1 = reinterpret_cast<float *>(memory) + warp * 2 * (s.width + s.tokens), *left2 = left1 + s.width;
    float *p = left2 + s.width, *g = p + s.tokens;
    const Rows<float> q = projection(qkv, bias, s, head, 0), k = projection(qkv, bias, s, head, 1);
    const Rows<float> v = projection(qkv, bias, s, head, 2), d = plain(dout, s, head);
    const Rows<float> right1 = BY_KEY ? q : k, right2 = BY_KEY ? d : v;
    const float *stat = stats + 2 * (size_t)head * s.tokens;
    float *dot = dots + (size_t)head * s.tokens, own = 0.0f;
    for (uint32_t i = lane; i < s.width; i += 32) {
        left1[i] = number(BY_KEY ? k : q, row, i);
        left2[i] = number(BY_KEY ? v : d, row, i);
        if (!BY_KEY) {
            own += left2[i] * number(plain(out, s, head), row, i);
        }
    }
    if (!BY_KEY) {
        own = warp_sum(own);
        if (lane == 0) {
            dot[row] = own;
        }
    }
    __syncwarp();
    for (uint32_t j = lane; j < s.tokens; j += 32) {
        const uint32_t query = BY_KEY ? j : row;
        p[j] = expf(dot_product(left1, right1, j, s.width) * s.scale - stat[2 * query]) * stat[2 * query + 1];
        g[j] = p[j] * (dot_product(left2, right2, j, s.width) - (BY_KEY ? dot[j] : own));
    }
    __syncwarp();
    float *to = dqkv + (size_t)((head / s.heads) * s.tokens + row) * 3 * s.dim() + head % s.heads * s.width;
    for (uint32_t i = lane; i < s.width; i += 32) {
        float x = 0.0f, y = 0.0f;
        for (uint32_t j = 0; j < s.tokens; j++) {
            x += g[j] * number(right1, j, i);
            if (BY_KEY) {
                y += p[j] * number(right2, j, i);
            }
        }
        to[(BY_KEY ? s.dim() : 0) + i] = x * s.scale;
        if (BY_KEY) {
            to[2 * s.dim() + i] = y;
        }
    }
}

} // namespace attention

MAE_KERNEL(128) attention_forward_f32(const float *qkv, const float *bias, float *out, float *stats, uint32_t tokens, uint32_t heads,
                                      uint32_t width, float scale, uint32_t parts, uint32_t chunk) {
    attention::plain_forward(qkv, bias, out, stats, {tokens, heads, width, scale, parts, chunk});
}

MAE_KERNEL(128) attention_backward_query_f32(const float *qkv, const float *bias, const float *out, const float *stats,
                                             const float *dout, float *dots, float *dqkv, float *, uint32_t tokens, uint32_t heads,
                                             uint32_t width, float scale, uint32_t parts, uint32_t chunk) {
    attention::plain_backward<false>(qkv, bias, out, stats, dout, dots, dqkv, {tokens, heads, width, scale, parts, chunk});
}

MAE_KERNEL(128) attention_backward_key_f32(const float *qkv, const float *bias, const float *out, const float *stats, const float *dout,
                                           float *dots, float *dqkv, float *, uint32_t tokens, uint32_t heads, uint32_t width,
                                           float scale, uint32_t parts, uint32_t chunk) {
    attention::plain_backward<true>(qkv, bias, out, stats, dout, dots, dqkv, {tokens, heads, width, scale, parts, chunk});
}
