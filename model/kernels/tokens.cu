// Rows of tokens moved between layouts, four neighbouring columns a thread, whole rows a block. Bound by memory: every number is read
// and written once.
#include "common.cuh"

namespace tokens {

// The sequence `x` [B, 1 + N, D] from rows of `from` [B, M, D], which lack `bias`, and the position embedding [1 + N, D].
// Row 0 is the class token. Where `restore`, patch p takes the row that stands at ids[p] among the shuffled ones, or the token where
// that is none of from's, and where there is no `bias` from's rows have their positions already; otherwise patch k is row k at the
// position ids[k], and the class token is `token`.
template <bool RESTORE, typename T>
MAE_DEVICE void assemble(const T *from, const float *bias, const uint32_t *ids, const float *token, const float *positions, float *x,
                         uint32_t batch, uint32_t patches, uint32_t given, uint32_t dim) {
    const uint32_t column = 4 * threadIdx.x;
    if (column >= dim) {
        return;
    }
    const bool positioned = RESTORE && !bias;
    const Four b = positioned ? Four{} : load4(bias + column), t = load4(token + column);
    for (uint32_t row = blockIdx.x; row < batch * (1 + patches); row += gridDim.x) {
        const uint32_t sample = row / (1 + patches), place = row % (1 + patches);
        const uint32_t id = place > 0 ? ids[(size_t)sample * patches + place - 1] : 0;
        const uint32_t source = RESTORE ? (place > 0 ? 1 + id : 0) : place - 1;
        const uint32_t position = RESTORE ? place : (place > 0 ? 1 + id : 0);
        const bool own = RESTORE ? source < given : place > 0;
        Four v = t;
        if (own) {
            v = load4(from + ((size_t)sample * given + source) * dim + column);
        }
        if (!positioned || !own) {
            const Four p = load4(positions + (size_t)position * dim + column);
            for (int i = 0; i < 4; i++) {
                v.x[i] = (own ? v.x[i] + b.x[i] : v.x[i]) + p.x[i];
            }
        }
        store4(x + (size_t)row * dim + column, v);
    }
}

// The gradient of `assemble`: rows of `dx` back to `dfrom`; `sums` [blocks, 2, D] are a block's column sums of those rows, and of the
// rows that were the token.
template <bool RESTORE, typename T>
MAE_DEVICE void take_apart(const float *dx, const uint32_t *ids, T *dfrom, float *sums, uint32_t batch, uint32_t patches,
                           uint32_t given, uint32_t dim) {
    const uint32_t column = 4 * threadIdx.x;
    if (column >= dim) {
        return;
    }
    Four own_sum = {}, token_sum = {};
    for (uint32_t row = blockIdx.x; row < batch * (1 + patches); row += gridDim.x) {
        const uint32_t sample = row / (1 + patches), place = row % (1 + patches);
        const uint32_t target = RESTORE ? (place > 0 ? 1 + ids[(size_t)sample * patches + place - 1] : 0) : place - 1;
        const bool own = RESTORE ? target < given : place > 0;
        const Four d = load4(dx + (size_t)row * dim + column);
        if (own) {
            store4(dfrom + ((size_t)sample * given + target) * dim + column, d);
        }
        for (int i = 0; i < 4; i++) {
            own_sum.x[i] += own ? d.x[i] : 0.0f;
            token_sum.x[i] += own ? 0.0f : d.x[i];
        }
    }
    float *to = sums + (size_t)blockIdx.x * 2 * dim + column;
    store4(to, own_sum);
    store4(to + dim, token_sum);
}

// The removed patches' rows of `x` [B, 1 + L, D] to `removed` [B, R, D], or the other way round with zeros elsewhere.
template <bool BACK, typename T>
MAE_DEVICE void select(T *x, const uint32_t *ids, T *removed, uint32_t batch, uint32_t patches, uint32_t count, uint32_t dim) {
    const uint32_t column = 4 * threadIdx.x;
    if (column >= dim) {
        return;
    }
    for (uint32_t row = blockIdx.x; row < batch * (1 + patches); row += gridDim.x) {
        const uint32_t sample = row / (1 + patches), place = row % (1 + patches), keep = patches - count;
        const uint32_t id = place > 0 ? ids[(size_t)sample * patches + place - 1] : 0;
        const bool gone = place > 0 && id >= keep;
        T *whole = x + (size_t)row * dim + column;
        if (gone) {
            T *part = removed + ((size_t)sample * count + (id - keep)) * dim + column;
            if (BACK) {
                store4(whole, load4(part));
            } else {
                store4(part, load4(whole));
            }
        } else if (BACK) {
            store4(whole, Four{});
        }
    }
}

} // namespace tokens

#define TOKENS(SUFFIX, T)                                                                                                          \
    MAE_KERNEL(1024) embed_forward_##SUFFIX(const T *from, const float *bias, const uint32_t *ids, const float *token,             \
                                            const float *positions, float *x, uint32_t batch, uint32_t patches, uint32_t given,    \
                                            uint32_t dim) {                                                                        \
        tokens::assemble<false>(from, bias, ids, token, positions, x, batch, patches, given, dim);                                 \
    }                                                                                                                              \
    MAE_KERNEL(1024) unshuffle_forward_##SUFFIX(const T *from, const float *bias, const uint32_t *ids, const float *token,         \
                                                const float *positions, float *x, uint32_t batch, uint32_t patches,                \
                                                uint32_t given, uint32_t dim) {                                                    \
        tokens::assemble<true>(from, bias, ids, token, positions, x, batch, patches, given, dim);                                  \
    }                                                                                                                              \
    MAE_KERNEL(1024) embed_backward_##SUFFIX(const float *dx, const uint32_t *ids, T *dfrom, float *sums, uint32_t batch,          \
                                             uint32_t patches, uint32_t given, uint32_t dim) {                                     \
        tokens::take_apart<false>(dx, ids, dfrom, sums, batch, patches, given, dim);                                               \
    }                                                                                                                              \
    MAE_KERNEL(1024) unshuffle_backward_##SUFFIX(const float *dx, const uint32_t *ids, T *dfrom, float *sums, uint32_t batch,      \
                                                 uint32_t patches, uint32_t given, uint32_t dim) {                                 \
        tokens::take_apart<true>(dx, ids, dfrom, sums, batch, patches, given, dim);                                                \
    }                                                                                                                              \
    MAE_KERNEL(1024) removed_forward_##SUFFIX(T *x, const uint32_t *ids, T *removed, uint32_t batch, uint32_t patches,             \
                                              uint32_t count, uint32_t dim) {                                                      \
        tokens::select<false>(x, ids, removed, batch, patches, count, dim);                                                        \
    }                                                                                                                              \
    MAE_KERNEL(1024) removed_backward_##SUFFIX(T *x, const uint32_t *ids, T *removed, uint32_t batch, uint32_t patches,            \
                                               uint32_t count, uint32_t dim) {                                                     \
        tokens::select<true>(x, ids, removed, batch, patches, count, dim);                                                         \
    }

TOKENS(f32, float)
TOKENS(bf16, bf16)
