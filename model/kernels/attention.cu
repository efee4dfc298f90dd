// Attention of short sequences over packed projections, head by head: qkv [B, N, 3, H, W] without their bias, output [B, N, H, W].
//
// bfloat16 runs on tensor cores. A block takes up to 128 rows of one head of one sample, a warp 16 of them; the other side of the
// products passes through shared memory, all of it at once where it fits. Scores never leave registers, and the backward makes the
// same probabilities again from each row's maximum and reciprocal sum (Dao 2023, arXiv 2307.08691). The backward runs by query, which
// gives dq, then by key, which gives dk and dv: two more products than with one pass, but no sums whose order is left to chance.
// Bound by the exponentials (one a score forward, two backward) and by what surrounds them rather than by products.
//
// float32 is for comparison: plain loops, a warp a row.
#include "mma.cuh"

namespace attention {

const float LOG2_E = 1.44269504f;

struct Shape {
    uint32_t tokens, heads, width;
    // Blocks that share a head of a sample, and rows that pass through shared memory at a time.
    uint32_t parts, chunk;

    MAE_MEMBER uint32_t dim() const { return heads * width; }
    MAE_MEMBER float scale() const { return 1.0f / sqrtf((float)width); }
};

// A head of a sample in a tensor: rows `step` apart, and the bias that they lack, if any.
template <typename T> struct Rows {
    const T *first;
    size_t step;
    const float *bias;
};

// Part 0, 1 or 2 (q, k, v) of a head.
template <typename T> MAE_DEVICE Rows<T> projection(const T *qkv, const float *bias, const Shape &s, uint32_t head, uint32_t part) {
    const uint32_t column = part * s.dim() + head % s.heads * s.width;
    return {qkv + (size_t)(head / s.heads) * s.tokens * 3 * s.dim() + column, 3 * (size_t)s.dim(), bias + column};
}

// A head's columns of a tensor [B, N, D].
template <typename T> MAE_DEVICE Rows<T> plain(const T *x, const Shape &s, uint32_t head) {
    return {x + (size_t)(head / s.heads) * s.tokens * s.dim() + head % s.heads * s.width, s.dim(), nullptr};
}

// Two neighbouring numbers, with their bias.
MAE_DEVICE uint32_t pair(const Rows<bf16> &rows, uint32_t row, uint32_t column) {
    const uint32_t word = *reinterpret_cast<const uint32_t *>(rows.first + row * rows.step + column);
    if (!rows.bias) {
        return word;
    }
    return pack(low_half(word) + rows.bias[column], high_half(word) + rows.bias[column + 1]);
}

// 16 rows from `first` on as the left side of products; zeros where there are none.
template <int W> MAE_DEVICE void load_left(uint32_t (&a)[W / 16][4], const Rows<bf16> &rows, const Shape &s, uint32_t first) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < W / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t row = first + lane / 4 + i % 2 * 8, column = 16 * k + lane % 4 * 2 + i / 2 * 8;
            a[k][i] = row < s.tokens && column < s.width ? pair(rows, row, column) : 0;
        }
    }
}

// Rows in shared memory are this far apart: 16 bytes more than they need, so that eight of them lie in different banks.
template <int W> struct Shared {
    static const int STEP = W + 8;
};

// `count` rows from `first` on to shared memory, by the whole block; zeros where there are none.
template <int W> MAE_DEVICE void stage(bf16 *to, const Rows<bf16> &rows, const Shape &s, uint32_t first, uint32_t count) {
    for (uint32_t i = threadIdx.x; i < count * (W / 8); i += blockDim.x) {
        const uint32_t row = i / (W / 8), column = i % (W / 8) * 8;
        uint4 eight = {0, 0, 0, 0};
        if (first + row < s.tokens && column < s.width) {
            eight = *reinterpret_cast<const uint4 *>(rows.first + (first + row) * rows.step + column);
            if (rows.bias) {
                const Four b = load4(rows.bias + column), c = load4(rows.bias + column + 4);
                eight.x = pack(low_half(eight.x) + b.x[0], high_half(eight.x) + b.x[1]);
                eight.y = pack(low_half(eight.y) + b.x[2], high_half(eight.y) + b.x[3]);
                eight.z = pack(low_half(eight.z) + c.x[0], high_half(eight.z) + c.x[1]);
                eight.w = pack(low_half(eight.w) + c.x[2], high_half(eight.w) + c.x[3]);
            }
        }
        *reinterpret_cast<uint4 *>(to + row * Shared<W>::STEP + column) = eight;
    }
}

// c [16, 16] += a · bᵀ, b being 16 rows in shared memory.
template <int W> MAE_DEVICE void by_rows(float (&c)[2][4], const uint32_t (&a)[W / 16][4], const bf16 *b) {
    const uint32_t lane = threadIdx.x % 32;
    const bf16 *row = b + (lane % 8 + lane / 16 * 8) * Shared<W>::STEP + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < W / 16; k++) {
        uint32_t r[4];
        load_matrices<false>(r, row + 16 * k);
        mma(c[0], a[k], r[0], r[1]);
        mma(c[1], a[k], r[2], r[3]);
    }
}

// c [16, W] += a [16, 16] · b, b being 16 rows in shared memory.
template <int W> MAE_DEVICE void by_columns(float (&c)[W / 8][4], const uint32_t (&a)[4], const bf16 *b) {
    const uint32_t lane = threadIdx.x % 32;
    const bf16 *row = b + lane % 16 * Shared<W>::STEP + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < W / 16; k++) {
        uint32_t r[4];
        load_matrices<true>(r, row + 16 * k);
        mma(c[2 * k], a, r[0], r[1]);
        mma(c[2 * k + 1], a, r[2], r[3]);
    }
}

// Over the four lanes that share a row.
MAE_DEVICE float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
MAE_DEVICE float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Columns of scores that a warp holds at a time in the forward: what registers have room for.
template <int W> struct Held {
    static const int WIDE = W <= 64 ? 64 : 32;
};

// `stats` [B, H, N, 2]: each row's maximum, in powers of two, and reciprocal sum.
template <int W> MAE_DEVICE void forward(const bf16 *qkv, const float *bias, bf16 *out, float *stats, Shape s) {
    MAE_DYNAMIC_SHARED(memory);
    bf16 *keys = reinterpret_cast<bf16 *>(memory), *values = keys + s.chunk * Shared<W>::STEP;
    const uint32_t head = blockIdx.x / s.parts, part = blockIdx.x % s.parts, lane = threadIdx.x % 32;
    const uint32_t first = (part * (blockDim.x / 32) + threadIdx.x / 32) * 16;
    const float scale = s.scale() * LOG2_E;
    const int WIDE = Held<W>::WIDE;
    uint32_t q[W / 16][4];
    load_left<W>(q, projection(qkv, bias, s, head, 0), s, first);
    float acc[W / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    for (uint32_t start = 0; start < s.tokens; start += s.chunk) {
        __syncthreads();
        stage<W>(keys, projection(qkv, bias, s, head, 1), s, start, s.chunk);
        stage<W>(values, projection(qkv, bias, s, head, 2), s, start, s.chunk);
        __syncthreads();
        if (first >= s.tokens) {
            continue;
        }
        const uint32_t left = min(s.chunk, s.tokens - start);
        for (uint32_t at = 0; at < left; at += WIDE) {
            float p[WIDE / 16][2][4] = {};
            float peak[2] = {-INFINITY, -INFINITY};
#pragma unroll
            for (int n = 0; n < WIDE / 16; n++) {
                if (at + 16 * n < left) {
                    by_rows<W>(p[n], q, keys + (at + 16 * n) * Shared<W>::STEP);
                }
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    float &x = p[n][i / 4][i % 4];
                    x = at + 16 * n + i / 4 * 8 + lane % 4 * 2 + i % 2 < left ? x * scale : -INFINITY;
                    peak[i % 4 / 2] = fmaxf(peak[i % 4 / 2], x);
                }
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float higher = fmaxf(top[r], row_max(peak[r])), factor = exp2f(top[r] - higher);
                top[r] = higher;
                sum[r] *= factor;
#pragma unroll
                for (int w = 0; w < W / 8; w++) {
                    acc[w][2 * r] *= factor;
                    acc[w][2 * r + 1] *= factor;
                }
            }
#pragma unroll
            for (int n = 0; n < WIDE / 16; n++) {
                if (at + 16 * n < left) {
#pragma unroll
                    for (int i = 0; i < 8; i++) {
                        float &x = p[n][i / 4][i % 4];
                        x = exp2f(x - top[i % 4 / 2]);
                        sum[i % 4 / 2] += x;
                    }
                    uint32_t a[4];
                    as_left(a, p[n][0], p[n][1]);
                    by_columns<W>(acc, a, values + (at + 16 * n) * Shared<W>::STEP);
                }
            }
        }
    }
    if (first >= s.tokens) {
        return;
    }
    const Rows<bf16> to = plain(out, s, head);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t row = first + lane / 4 + 8 * r;
        const float inverse = 1.0f / row_sum(sum[r]);
        if (row >= s.tokens) {
            continue;
        }
        bf16 *at = out + (to.first - out) + row * to.step;
#pragma unroll
        for (int w = 0; w < W / 8; w++) {
            const uint32_t column = 8 * w + lane % 4 * 2;
            if (column < s.width) {
                *reinterpret_cast<uint32_t *>(at + column) = pack(acc[w][2 * r] * inverse, acc[w][2 * r + 1] * inverse);
            }
        }
        if (lane % 4 == 0) {
            float *stat = stats + 2 * ((size_t)head * s.tokens + row);
            stat[0] = top[r];
            stat[1] = inverse;
        }
    }
}

// 16 rows of a gradient to its part of `dqkv`, times `scale`, and their column sums to `sums`, [W] in shared memory.
template <int W>
MAE_DEVICE void put(const float (&acc)[W / 8][4], float scale, bf16 *dqkv, const Shape &s, uint32_t head, uint32_t part,
                    uint32_t first, float *sums) {
    const uint32_t lane = threadIdx.x % 32;
    bf16 *to = dqkv + (size_t)(head / s.heads) * s.tokens * 3 * s.dim() + part * s.dim() + head % s.heads * s.width;
#pragma unroll
    for (int w = 0; w < W / 8; w++) {
        const uint32_t column = 8 * w + lane % 4 * 2;
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t row = first + lane / 4 + 8 * r;
            const float low = acc[w][2 * r] * scale, high = acc[w][2 * r + 1] * scale;
            if (row < s.tokens && column < s.width) {
                *reinterpret_cast<uint32_t *>(to + row * 3 * (size_t)s.dim() + column) = pack(low, high);
                sum[0] += low;
                sum[1] += high;
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            for (int distance = 4; distance < 32; distance *= 2) {
                sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], distance);
            }
            if (lane / 4 == 0) {
                sums[column + i] = sum[i];
            }
        }
    }
}

// By query: rows are queries, columns keys; gives dq and each row's product of output and gradient, `dots` [B, H, N].
// By key: rows are keys, columns queries; takes `dots`; gives dk and dv.
// `sums` [B, parts, 3, D]: of a block's rows, the column sums of what it gives.
template <bool BY_KEY, int W>
MAE_DEVICE void backward(const bf16 *qkv, const float *bias, const bf16 *out, const float *stats, const bf16 *dout, float *dots,
                         bf16 *dqkv, float *sums, Shape s) {
    MAE_DYNAMIC_SHARED(memory);
    bf16 *one = reinterpret_cast<bf16 *>(memory), *two = one + s.chunk * Shared<W>::STEP;
    // Of columns, where they are queries: maximum, reciprocal sum, dot.
    float *column_stats = reinterpret_cast<float *>(two + s.chunk * Shared<W>::STEP);
    const uint32_t head = blockIdx.x / s.parts, part = blockIdx.x % s.parts, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t warps = blockDim.x / 32, first = (part * warps + warp) * 16;
    const float scale = s.scale() * LOG2_E;
    const Rows<bf16> q = projection(qkv, bias, s, head, 0), k = projection(qkv, bias, s, head, 1);
    const Rows<bf16> v = projection(qkv, bias, s, head, 2), d = plain(dout, s, head);
    const float *stat = stats + 2 * (size_t)head * s.tokens;
    float *dot = dots + (size_t)head * s.tokens;

    uint32_t left1[W / 16][4], left2[W / 16][4];
    load_left<W>(left1, BY_KEY ? k : q, s, first);
    load_left<W>(left2, BY_KEY ? v : d, s, first);
    float row_top[2] = {}, row_inverse[2] = {}, row_dot[2] = {};
    if (!BY_KEY) {
        uint32_t o[W / 16][4];
        load_left<W>(o, plain(out, s, head), s, first);
#pragma unroll
        for (int i = 0; i < W / 16 * 4; i++) {
            const uint32_t x = o[i / 4][i % 4], y = left2[i / 4][i % 4];
            row_dot[i % 2] += low_half(x) * low_half(y) + high_half(x) * high_half(y);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t row = first + lane / 4 + 8 * r;
            row_dot[r] = row_sum(row_dot[r]);
            if (row < s.tokens) {
                row_top[r] = stat[2 * row];
                row_inverse[r] = stat[2 * row + 1];
                if (lane % 4 == 0) {
                    dot[row] = row_dot[r];
                }
            }
        }
    }
    float acc1[W / 8][4] = {}, acc2[W / 8][4] = {};
    for (uint32_t start = 0; start < s.tokens; start += s.chunk) {
        __syncthreads();
        stage<W>(one, BY_KEY ? q : k, s, start, s.chunk);
        stage<W>(two, BY_KEY ? d : v, s, start, s.chunk);
        if (BY_KEY) {
            for (uint32_t i = threadIdx.x; i < s.chunk; i += blockDim.x) {
                const bool inside = start + i < s.tokens;
                column_stats[3 * i] = inside ? stat[2 * (start + i)] : 0.0f;
                column_stats[3 * i + 1] = inside ? stat[2 * (start + i) + 1] : 0.0f;
                column_stats[3 * i + 2] = inside ? dot[start + i] : 0.0f;
            }
        }
        __syncthreads();
        if (first >= s.tokens) {
            continue;
        }
        const uint32_t left = min(s.chunk, s.tokens - start);
        for (uint32_t at = 0; at < left; at += 16) {
            float p[2][4] = {}, g[2][4] = {};
            by_rows<W>(p, left1, one + at * Shared<W>::STEP);
            by_rows<W>(g, left2, two + at * Shared<W>::STEP);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint32_t column = at + i / 4 * 8 + lane % 4 * 2 + i % 2;
                const float top = BY_KEY ? column_stats[3 * column] : row_top[i % 4 / 2];
                const float inverse = BY_KEY ? column_stats[3 * column + 1] : row_inverse[i % 4 / 2];
                const float product = BY_KEY ? column_stats[3 * column + 2] : row_dot[i % 4 / 2];
                float &x = p[i / 4][i % 4], &y = g[i / 4][i % 4];
                x = column < left ? exp2f(x * scale - top) * inverse : 0.0f;
                y = x * (y - product);
            }
            uint32_t a[4];
            as_left(a, g[0], g[1]);
            by_columns<W>(acc1, a, one + at * Shared<W>::STEP);
            if (BY_KEY) {
                as_left(a, p[0], p[1]);
                by_columns<W>(acc2, a, two + at * Shared<W>::STEP);
            }
        }
    }
    // What was staged is done with; its place takes the warps' sums.
    __syncthreads();
    float *partial = reinterpret_cast<float *>(memory);
    put<W>(acc1, s.scale(), dqkv, s, head, BY_KEY ? 1 : 0, first, partial + warp * W);
    if (BY_KEY) {
        put<W>(acc2, 1.0f, dqkv, s, head, 2, first, partial + (warps + warp) * W);
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < (BY_KEY ? 2 : 1) * s.width; i += blockDim.x) {
        const uint32_t which = i / s.width, column = i % s.width;
        float sum = 0.0f;
        for (uint32_t w = 0; w < warps; w++) {
            sum += partial[(which * warps + w) * W + column];
        }
        const size_t row = (size_t)(head / s.heads) * s.parts + part;
        sums[(row * 3 + (BY_KEY ? 1 : 0) + which) * s.dim() + head % s.heads * s.width + column] = sum;
    }
}

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
        q[i] = number(queries, row, i) * s.scale();
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
        p[j] = expf(dot_product(left1, right1, j, s.width) * s.scale() - stat[2 * query]) * stat[2 * query + 1];
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
        to[(BY_KEY ? s.dim() : 0) + i] = x * s.scale();
        if (BY_KEY) {
            to[2 * s.dim() + i] = y;
        }
    }
}

} // namespace attention

#define ATTENTION(W)                                                                                                               \
    MAE_KERNEL(256) attention_forward_bf16_##W(const bf16 *qkv, const float *bias, bf16 *out, float *stats, uint32_t tokens,       \
                                               uint32_t heads, uint32_t width, uint32_t parts, uint32_t chunk) {                   \
        attention::forward<W>(qkv, bias, out, stats, {tokens, heads, width, parts, chunk});                                        \
    }                                                                                                                              \
    MAE_KERNEL(256) attention_backward_query_bf16_##W(const bf16 *qkv, const float *bias, const bf16 *out, const float *stats,     \
                                                      const bf16 *dout, float *dots, bf16 *dqkv, float *sums, uint32_t tokens,     \
                                                      uint32_t heads, uint32_t width, uint32_t parts, uint32_t chunk) {            \
        attention::backward<false, W>(qkv, bias, out, stats, dout, dots, dqkv, sums, {tokens, heads, width, parts, chunk});        \
    }                                                                                                                              \
    MAE_KERNEL(256) attention_backward_key_bf16_##W(const bf16 *qkv, const float *bias, const bf16 *out, const float *stats,       \
                                                    const bf16 *dout, float *dots, bf16 *dqkv, float *sums, uint32_t tokens,       \
                                                    uint32_t heads, uint32_t width, uint32_t parts, uint32_t chunk) {              \
        attention::backward<true, W>(qkv, bias, out, stats, dout, dots, dqkv, sums, {tokens, heads, width, parts, chunk});         \
    }

ATTENTION(32)
ATTENTION(64)
ATTENTION(80)

MAE_KERNEL(128) attention_forward_f32(const float *qkv, const float *bias, float *out, float *stats, uint32_t tokens, uint32_t heads,
                                      uint32_t width, uint32_t parts, uint32_t chunk) {
    attention::plain_forward(qkv, bias, out, stats, {tokens, heads, width, parts, chunk});
}

MAE_KERNEL(128) attention_backward_query_f32(const float *qkv, const float *bias, const float *out, const float *stats,
                                             const float *dout, float *dots, float *dqkv, float *, uint32_t tokens, uint32_t heads,
                                             uint32_t width, uint32_t parts, uint32_t chunk) {
    attention::plain_backward<false>(qkv, bias, out, stats, dout, dots, dqkv, {tokens, heads, width, parts, chunk});
}

MAE_KERNEL(128) attention_backward_key_f32(const float *qkv, const float *bias, const float *out, const float *stats, const float *dout,
                                           float *dots, float *dqkv, float *, uint32_t tokens, uint32_t heads, uint32_t width,
                                           uint32_t parts, uint32_t chunk) {
    attention::plain_backward<true>(qkv, bias, out, stats, dout, dots, dqkv, {tokens, heads, width, parts, chunk});
}
