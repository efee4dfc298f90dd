// Attention of short sequences over packed projections, head by head: qkv [B, N, 3, H, W] without their bias, output [B, N, H, W].
//
// bfloat16 runs on tensor cores. A block takes up to 128 rows of one head of one sample, a warp 16 of them; the other side of the
// products passes through shared memory, all of it at once where it fits, and comes there by asynchronous copies, all of them on their
// way before anything waits. Keys stay without their bias, which adds the same to every score of a row. Scores never leave registers,
// and the backward makes the same probabilities again from each row's maximum and reciprocal sum (Dao 2023, arXiv 2307.08691). The
// backward runs by query, which gives dq, then by key, which gives dk and dv: two more products than with one pass, but no sums whose
// order is left to chance. Bound by the exponentials (one a score forward, two backward) and by what shared memory gives a warp, which
// is twice 16 rows of the other side for 16 of its own (docs/benchmarks/2026-11-24-kernels.md).
//
// float32 is in attention_f32.cu.
#include "attention.cuh"
#include "mma.cuh"

namespace attention {

const float LOG2_E = 1.44269504f;

// 16 rows from `first` on as the left side of products, without their bias; zeros where there are none.
template <int W> MAE_DEVICE void load_left(uint32_t (&a)[W / 16][4], const Rows<bf16> &rows, const Shape &s, uint32_t first) {
    const uint32_t lane = threadIdx.x % 32, row = first + lane / 4;
    const bf16 *from[2] = {rows.first + row * rows.step + lane % 4 * 2, rows.first + (row + 8) * rows.step + lane % 4 * 2};
#pragma unroll
    for (int k = 0; k < W / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            // Widths are multiples of 8.
            const uint32_t column = 16 * k + i / 2 * 8;
            a[k][i] = row + i % 2 * 8 < s.tokens && column < s.width ? whole<uint32_t>(from[i % 2] + column) : 0;
        }
    }
}

template <int W> MAE_DEVICE void add_bias(uint32_t (&a)[W / 16][4], const float *bias, const Shape &s) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < W / 16; k++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t column = 16 * k + half * 8;
            const float2 b = column < s.width ? whole<float2>(bias + column + lane % 4 * 2) : float2{0.0f, 0.0f};
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                a[k][i] = pack(low_half(a[k][i]) + b.x, high_half(a[k][i]) + b.y);
            }
        }
    }
}

// Rows in shared memory are this far apart: 16 bytes more than they need, so that eight of them lie in different banks.
template <int W> struct Shared {
    static const int STEP = W + 8;
};

// A thread's part in staging: eight columns, the same in every row that it takes.
template <int W> struct Stager {
    uint32_t column, row, step;

    MAE_MEMBER Stager() : column(threadIdx.x % (W / 8) * 8), row(threadIdx.x / (W / 8)), step(blockDim.x / (W / 8)) {
        // Threads that are left over take none.
        row = row < step ? row : ~0u;
    }

    // Sends for `count` rows from `first` on, without their bias; zeros where there are none.
    MAE_MEMBER void send_for(bf16 *to, const Rows<bf16> &rows, const Shape &s, uint32_t first, uint32_t count) const {
        const uint32_t given = column < s.width ? min(count, s.tokens - first) : 0;
        for (uint32_t i = row; i < count; i += step) {
            copy_later(to + i * Shared<W>::STEP + column, rows.first + (i < given ? (first + i) * rows.step + column : 0), i < given);
        }
    }

    // Waits for what was sent for, and adds the bias to it.
    MAE_MEMBER void receive(bf16 *to, const float *bias, const Shape &s, uint32_t count) const {
        const Eight b = column < s.width ? load8(bias + column) : Eight{};
        wait_for_copies();
        for (uint32_t i = row; i < count; i += step) {
            bf16 *at = to + i * Shared<W>::STEP + column;
            Eight v = unpack(fetch8(at));
#pragma unroll
            for (int k = 0; k < 8; k++) {
                v.x[k] += b.x[k];
            }
            store8(at, v);
        }
    }
};

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

// What a warp knows of its 16 rows: the weighted sum of values, the highest score, and the sum of the weights.
template <int W> struct Running {
    float acc[W / 8][4], top[2], sum[2];
};

// The next `TILES` × 16 keys; of the last 16 only `last` count where `ENDS`.
template <int W, int TILES, bool ENDS>
MAE_DEVICE void attend(Running<W> &r, const uint32_t (&q)[W / 16][4], const bf16 *keys, const bf16 *values, float scale, uint32_t last) {
    const uint32_t lane = threadIdx.x % 32;
    float p[TILES][2][4] = {}, top[2] = {r.top[0], r.top[1]};
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        by_rows<W>(p[n], q, keys + 16 * n * Shared<W>::STEP);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float &x = p[n][i / 4][i % 4];
            if (ENDS && n == TILES - 1) {
                x = i / 4 * 8 + lane % 4 * 2 + i % 2 < last ? x : -INFINITY;
            }
            top[i % 4 / 2] = fmaxf(top[i % 4 / 2], x);
        }
    }
    float shift[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        top[i] = row_max(top[i]);
        shift[i] = -top[i] * scale;
        const float factor = exp2_fast(r.top[i] * scale + shift[i]);
        r.top[i] = top[i];
        r.sum[i] *= factor;
#pragma unroll
        for (uint32_t w = 0; w < W / 8; w++) {
            r.acc[w][2 * i] *= factor;
            r.acc[w][2 * i + 1] *= factor;
        }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float &x = p[n][i / 4][i % 4];
            x = exp2_fast(x * scale + shift[i % 4 / 2]);
            r.sum[i % 4 / 2] += x;
        }
        uint32_t a[4];
        as_left(a, p[n][0], p[n][1]);
        by_columns<W>(r.acc, a, values + 16 * n * Shared<W>::STEP);
    }
}

// The last `left` keys, up to `TILES` × 16, if there are any.
template <int W, int TILES>
MAE_DEVICE void attend_last(Running<W> &r, const uint32_t (&q)[W / 16][4], const bf16 *keys, const bf16 *values, float scale, uint32_t left) {
    if (left > 16 * (TILES - 1)) {
        attend<W, TILES, true>(r, q, keys, values, scale, left - 16 * (TILES - 1));
    } else if constexpr (TILES > 1) {
        attend_last<W, TILES - 1>(r, q, keys, values, scale, left);
    }
}

// `stats` [B, H, N, 2]: each row's maximum, in powers of two, and reciprocal sum.
template <int W> MAE_DEVICE void forward(const bf16 *qkv, const float *bias, bf16 *out, float *stats, Shape s) {
    // Sixteens of keys whose scores a warp holds at a time: what registers have room for.
    const int TILES = W == 32 ? 3 : 2;
    MAE_DYNAMIC_SHARED(memory);
    bf16 *keys = reinterpret_cast<bf16 *>(memory), *values = keys + s.chunk * Shared<W>::STEP;
    const uint32_t head = blockIdx.x / s.parts, part = blockIdx.x % s.parts, lane = threadIdx.x % 32;
    const uint32_t first = (part * (blockDim.x / 32) + threadIdx.x / 32) * 16;
    const float scale = s.scale * LOG2_E;
    const Rows<bf16> query = projection(qkv, bias, s, head, 0), key = projection(qkv, bias, s, head, 1);
    const Rows<bf16> value = projection(qkv, bias, s, head, 2);
    const Stager<W> stager;
    stager.send_for(keys, key, s, 0, s.chunk);
    stager.send_for(values, value, s, 0, s.chunk);
    uint32_t q[W / 16][4];
    load_left<W>(q, query, s, first);
    add_bias<W>(q, query.bias, s);
    Running<W> r = {{}, {-INFINITY, -INFINITY}, {}};
    for (uint32_t start = 0; start < s.tokens; start += s.chunk) {
        if (start > 0) {
            __syncthreads();
            stager.send_for(keys, key, s, start, s.chunk);
            stager.send_for(values, value, s, start, s.chunk);
        }
        stager.receive(values, value.bias, s, s.chunk);
        __syncthreads();
        if (first >= s.tokens) {
            continue;
        }
        uint32_t left = min(s.chunk, s.tokens - start);
        const bf16 *at = keys;
        for (; left >= 16 * TILES; left -= 16 * TILES) {
            attend<W, TILES, false>(r, q, at, at + (values - keys), scale, 16);
            at += 16 * TILES * Shared<W>::STEP;
        }
        attend_last<W, TILES>(r, q, at, at + (values - keys), scale, left);
    }
    if (first >= s.tokens) {
        return;
    }
    const uint32_t row = first + lane / 4;
    bf16 *to = out + (plain(out, s, head).first - out) + row * s.dim() + lane % 4 * 2;
    const float inverse[2] = {reciprocal_fast(row_sum(r.sum[0])), reciprocal_fast(row_sum(r.sum[1]))};
#pragma unroll
    for (uint32_t w = 0; w < W / 8; w++) {
        if (8 * w >= s.width) {
            continue;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (row + 8 * i < s.tokens) {
                whole<uint32_t>(to + 8 * i * s.dim() + 8 * w) =
                    pack(r.acc[w][2 * i] * inverse[i], r.acc[w][2 * i + 1] * inverse[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (row + 8 * i < s.tokens && lane % 4 == 0) {
            whole<float2>(stats + 2 * ((size_t)head * s.tokens + row + 8 * i)) = {r.top[i] * scale, inverse[i]};
        }
    }
}

// The first `COUNT` numbers summed over the lanes whose numbers differ in the bits from `DISTANCE` on. Of two lanes one takes the first
// half and one the other, while there are halves: a third of the exchanges that every sum in every lane would take. What is left to a
// lane, its return value, begins with the sum of number `begin`.
template <int COUNT, int DISTANCE, int SIZE> MAE_DEVICE int share(float (&x)[SIZE], uint32_t &begin) {
    if constexpr (DISTANCE == 32) {
        return COUNT;
    } else if constexpr (COUNT % 2 == 0) {
        const bool upper = threadIdx.x & DISTANCE;
        begin += upper ? COUNT / 2 : 0;
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            const float first = x[i], second = x[i + COUNT / 2];
            x[i] = (upper ? second : first) + __shfl_xor_sync(0xffffffffu, upper ? first : second, DISTANCE);
        }
        return share<COUNT / 2, 2 * DISTANCE>(x, begin);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            x[i] += __shfl_xor_sync(0xffffffffu, x[i], DISTANCE);
        }
        return share<COUNT, 2 * DISTANCE>(x, begin);
    }
}

// 16 rows of a gradient to its part of `dqkv`, times `scale`, and their column sums to `sums`, [W] in shared memory.
template <int W>
MAE_DEVICE void put(const float (&acc)[W / 8][4], float scale, bf16 *dqkv, const Shape &s, uint32_t head, uint32_t part,
                    uint32_t first, float *sums) {
    const uint32_t lane = threadIdx.x % 32, row = first + lane / 4;
    bf16 *to = dqkv + (size_t)(head / s.heads) * s.tokens * 3 * s.dim() + part * s.dim() + head % s.heads * s.width;
    to += row * 3 * s.dim() + lane % 4 * 2;
    float sum[W / 4] = {};
#pragma unroll
    for (uint32_t w = 0; w < W / 8; w++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float low = acc[w][2 * r] * scale, high = acc[w][2 * r + 1] * scale;
            if (row + 8 * r < s.tokens && 8 * w < s.width) {
                whole<uint32_t>(to + 8 * r * 3 * s.dim() + 8 * w) = pack(low, high);
                sum[2 * w] += low;
                sum[2 * w + 1] += high;
            }
        }
    }
    uint32_t begin = 0;
    const int count = share<W / 4, 4>(sum, begin);
#pragma unroll
    for (int i = 0; i < count; i++) {
        const uint32_t at = begin + i;
        sums[at / 2 * 8 + lane % 4 * 2 + at % 2] = sum[i];
    }
}

// With which a row's probabilities are made again, as 2^(score · scale + shift).
MAE_DEVICE float shift_of(float2 stat) { return log2_fast(stat.y) - stat.x; }

// The products of rows' outputs with their gradients, over the four lanes that share a row.
template <int W> MAE_DEVICE void row_dots(float2 (&rows)[2], const uint32_t (&out)[W / 16][4], const uint32_t (&dout)[W / 16][4]) {
#pragma unroll
    for (int i = 0; i < W / 16 * 4; i++) {
        const uint32_t x = out[i / 4][i % 4], y = dout[i / 4][i % 4];
        rows[i % 2].y += low_half(x) * low_half(y) + high_half(x) * high_half(y);
    }
    rows[0].y = row_sum(rows[0].y);
    rows[1].y = row_sum(rows[1].y);
}

// What a warp makes of 16 rows and 16 columns: to `acc1` the gradients of scores times `one`, by key to `acc2` the probabilities times
// `two`. Of columns that there are not, keys are zeros, so by query it is enough that no probability is infinite; by key they are 0.
template <bool BY_KEY, int W>
MAE_DEVICE void tile(float (&acc1)[W / 8][4], float (&acc2)[W / 8][4], const uint32_t (&left1)[W / 16][4],
                     const uint32_t (&left2)[W / 16][4], const bf16 *one, const bf16 *two, const float2 (&rows)[2], const float2 *columns,
                     float scale) {
    const uint32_t lane = threadIdx.x % 32;
    float p[2][4] = {}, g[2][4] = {};
    by_rows<W>(p, left1, one);
    by_rows<W>(g, left2, two);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t column = half * 8 + lane % 4 * 2;
        // Those of two neighbouring columns.
        const float4 two_columns = BY_KEY ? whole<float4>(columns + column) : float4{};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 own = BY_KEY ? (i % 2 ? float2{two_columns.z, two_columns.w} : float2{two_columns.x, two_columns.y}) : rows[i / 2];
            float &x = p[half][i], &y = g[half][i];
            const float power = x * scale + own.x;
            x = exp2_fast(BY_KEY ? power : fminf(power, 0.0f));
            y = x * (y - own.y);
        }
    }
    uint32_t a[4];
    as_left(a, g[0], g[1]);
    by_columns<W>(acc1, a, one);
    if (BY_KEY) {
        as_left(a, p[0], p[1]);
        by_columns<W>(acc2, a, two);
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
    // Shift and dot of columns, where they are queries.
    float2 *columns = reinterpret_cast<float2 *>(two + s.chunk * Shared<W>::STEP);
    const uint32_t head = blockIdx.x / s.parts, part = blockIdx.x % s.parts, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t warps = blockDim.x / 32, first = (part * warps + warp) * 16;
    const float scale = s.scale * LOG2_E;
    const Rows<bf16> q = projection(qkv, bias, s, head, 0), k = projection(qkv, bias, s, head, 1);
    const Rows<bf16> v = projection(qkv, bias, s, head, 2), d = plain(dout, s, head);
    const Stager<W> stager;
    const auto send = [&](uint32_t start) {
        stager.send_for(one, BY_KEY ? q : k, s, start, s.chunk);
        stager.send_for(two, BY_KEY ? d : v, s, start, s.chunk);
    };
    const auto stage_columns = [&](uint32_t start) {
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < s.chunk; i += blockDim.x) {
            // Those that there are not have probabilities of 0.
            float2 column = {-INFINITY, 0.0f};
            if (start + i < s.tokens) {
                const uint32_t at = head * s.tokens + start + i;
                column = {shift_of(whole<float2>(stats + 2 * (size_t)at)), dots[at]};
            }
            columns[i] = column;
        }
    };
    send(0);
    uint32_t left1[W / 16][4], left2[W / 16][4];
    load_left<W>(left1, BY_KEY ? k : q, s, first);
    load_left<W>(left2, BY_KEY ? v : d, s, first);
    float2 rows[2] = {};
    if (!BY_KEY) {
        uint32_t o[W / 16][4];
        load_left<W>(o, plain(out, s, head), s, first);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t row = first + lane / 4 + 8 * i, at = head * s.tokens + row;
            rows[i].x = row < s.tokens ? shift_of(whole<float2>(stats + 2 * (size_t)at)) : -INFINITY;
        }
        row_dots<W>(rows, o, left2);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t row = first + lane / 4 + 8 * i;
            if (row < s.tokens && lane % 4 == 0) {
                dots[head * s.tokens + row] = rows[i].y;
            }
        }
        add_bias<W>(left1, q.bias, s);
    } else {
        stage_columns(0);
        add_bias<W>(left2, v.bias, s);
    }
    float acc1[W / 8][4] = {}, acc2[W / 8][4] = {};
    for (uint32_t start = 0; start < s.tokens; start += s.chunk) {
        if (start > 0) {
            __syncthreads();
            send(start);
            if (BY_KEY) {
                stage_columns(start);
            }
        }
        stager.receive(BY_KEY ? one : two, (BY_KEY ? q : v).bias, s, s.chunk);
        __syncthreads();
        if (first >= s.tokens) {
            continue;
        }
        const uint32_t left = min(s.chunk, s.tokens - start);
#pragma unroll 1
        for (uint32_t at = 0; at < left; at += 16) {
            const uint32_t row = at * Shared<W>::STEP;
            tile<BY_KEY, W>(acc1, acc2, left1, left2, one + row, two + row, rows, columns + at, scale);
        }
    }
    // What was staged is done with; its place takes the warps' sums.
    __syncthreads();
    float *partial = reinterpret_cast<float *>(memory);
    put<W>(acc1, s.scale, dqkv, s, head, BY_KEY ? 1 : 0, first, partial + warp * W);
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

} // namespace attention

// The last arguments are the bounds of the backward by key, which needs the most registers.
#define ATTENTION(W, ...)                                                                                                          \
    MAE_KERNEL(256) attention_forward_bf16_##W(const bf16 *qkv, const float *bias, bf16 *out, float *stats, uint32_t tokens,       \
                                               uint32_t heads, uint32_t width, float scale, uint32_t parts, uint32_t chunk) {      \
        attention::forward<W>(qkv, bias, out, stats, {tokens, heads, width, scale, parts, chunk});                                 \
    }                                                                                                                              \
    MAE_KERNEL(256) attention_backward_query_bf16_##W(                                                                             \
        const bf16 *qkv, const float *bias, const bf16 *out, const float *stats, const bf16 *dout, float *dots, bf16 *dqkv,        \
        float *sums, uint32_t tokens, uint32_t heads, uint32_t width, float scale, uint32_t parts, uint32_t chunk) {               \
        const attention::Shape shape = {tokens, heads, width, scale, parts, chunk};                                                \
        attention::backward<false, W>(qkv, bias, out, stats, dout, dots, dqkv, sums, shape);                                       \
    }                                                                                                                              \
    MAE_KERNEL(__VA_ARGS__) attention_backward_key_bf16_##W(                                                                       \
        const bf16 *qkv, const float *bias, const bf16 *out, const float *stats, const bf16 *dout, float *dots, bf16 *dqkv,        \
        float *sums, uint32_t tokens, uint32_t heads, uint32_t width, float scale, uint32_t parts, uint32_t chunk) {               \
        const attention::Shape shape = {tokens, heads, width, scale, parts, chunk};                                                \
        attention::backward<true, W>(qkv, bias, out, stats, dout, dots, dqkv, sums, shape);                                        \
    }

ATTENTION(32, 256)
ATTENTION(64, 192, 2)
ATTENTION(80, 192, 2)
