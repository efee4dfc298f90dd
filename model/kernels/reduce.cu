// Column sums of partial results, always added in the same order.
#include "common.cuh"

// Sums over the rows of x [rows, outs, cols]: `out[c] (+)= Σ x[r, o, c]`, out being the first, second or third of those given; one that is
// null is left out. A block of 32 × 32 threads takes 32 columns; rows are dealt to the 32 lines of threads in turn.
MAE_KERNEL(1024) column_sums(const float *x, uint32_t rows, uint32_t cols, uint32_t outs, uint32_t add, float *first, float *second,
                             float *third) {
    __shared__ float parts[32][33];
    const uint32_t line = threadIdx.x / 32, lane = threadIdx.x % 32, width = outs * cols;
    const auto target = [=](uint32_t column) -> float * {
        const uint32_t which = column / cols;
        float *out = which == 0 ? first : which == 1 ? second : third;
        return column < width && out ? out + column % cols : nullptr;
    };
    const uint32_t column = 32 * blockIdx.x + lane;
    float sum = 0.0f;
    if (target(column)) {
        // So many loads on their way at once.
        const uint32_t EACH = 8;
        for (uint32_t row = line; row < rows; row += 32 * EACH) {
            float v[EACH];
#pragma unroll
            for (uint32_t i = 0; i < EACH; i++) {
                v[i] = row + 32 * i < rows ? x[(size_t)(row + 32 * i) * width + column] : 0.0f;
            }
#pragma unroll
            for (uint32_t i = 0; i < EACH; i++) {
                sum += v[i];
            }
        }
    }
    parts[line][lane] = sum;
    __syncthreads();
    // Transposed: now a warp holds one column.
    sum = warp_sum(parts[lane][line]);
    float *out = target(32 * blockIdx.x + line);
    if (lane == 0 && out) {
        *out = add ? *out + sum : sum;
    }
}

namespace reduce {

// `parts` [steps, cols]: column sums of rows taken in turn; a block takes a tile of columns, a thread four neighbouring ones, of the last
// ones as many as there are. Where `cols` is no multiple of four, rows begin anywhere, and a number is read at a time.
template <typename T> MAE_DEVICE void column_parts(const T *x, uint32_t rows, uint32_t cols, float *parts) {
    const uint32_t tiles = (cols + 4 * blockDim.x - 1) / (4 * blockDim.x), steps = gridDim.x / tiles, step = blockIdx.x / tiles;
    const uint32_t column = 4 * (blockIdx.x % tiles * blockDim.x + threadIdx.x);
    if (column >= cols) {
        return;
    }
    const bool fours = cols % 4 == 0;
    Four sum = {};
    for (uint32_t row = step; row < rows; row += steps) {
        const T *from = x + (size_t)row * cols + column;
        Four v = {};
        if (fours) {
            v = load4(from);
        } else {
            for (uint32_t i = 0; i < 4; i++) {
                v.x[i] = column + i < cols ? to_float(from[i]) : 0.0f;
            }
        }
        for (int i = 0; i < 4; i++) {
            sum.x[i] += v.x[i];
        }
    }
    float *to = parts + (size_t)step * cols + column;
    if (fours) {
        store4(to, sum);
        return;
    }
    for (uint32_t i = 0; i < 4 && column + i < cols; i++) {
        to[i] = sum.x[i];
    }
}

} // namespace reduce

MAE_KERNEL(256) column_parts_f32(const float *x, uint32_t rows, uint32_t cols, float *parts) { reduce::column_parts(x, rows, cols, parts); }
MAE_KERNEL(256) column_parts_bf16(const bf16 *x, uint32_t rows, uint32_t cols, float *parts) { reduce::column_parts(x, rows, cols, parts); }
