// Column sums of partial results, always added in the same order.
#include "common.cuh"

// `out[c] (+)= Σ x[r, c]` for `cols` columns of rows that are `stride` apart. A block of 32 × 32 threads takes 32 columns; rows are dealt to
// the 32 lines of threads in turn.
MAE_KERNEL(1024) column_sums(const float *x, uint32_t rows, uint32_t cols, uint32_t stride, float *out, uint32_t add) {
    __shared__ float parts[32][33];
    const uint32_t line = threadIdx.x / 32, lane = threadIdx.x % 32, column = 32 * blockIdx.x + lane;
    float sum = 0.0f;
    if (column < cols) {
        for (uint32_t row = line; row < rows; row += 32) {
            sum += x[(size_t)row * stride + column];
        }
    }
    parts[line][lane] = sum;
    __syncthreads();
    // Transposed: now a warp holds one column.
    sum = warp_sum(parts[lane][line]);
    const uint32_t target = 32 * blockIdx.x + line;
    if (lane == 0 && target < cols) {
        out[target] = add ? out[target] + sum : sum;
    }
}

namespace reduce {

// `parts` [steps, cols]: column sums of rows taken in turn; a block takes a tile of columns, a thread four neighbouring ones.
template <typename T> MAE_DEVICE void column_parts(const T *x, uint32_t rows, uint32_t cols, float *parts) {
    const uint32_t tiles = (cols + 4 * blockDim.x - 1) / (4 * blockDim.x), steps = gridDim.x / tiles, step = blockIdx.x / tiles;
    const uint32_t column = 4 * (blockIdx.x % tiles * blockDim.x + threadIdx.x);
    if (column >= cols) {
        return;
    }
    Four sum = {};
    for (uint32_t row = step; row < rows; row += steps) {
        const Four v = load4(x + (size_t)row * cols + column);
        for (int i = 0; i < 4; i++) {
            sum.x[i] += v.x[i];
        }
    }
    store4(parts + (size_t)step * cols + column, sum);
}

} // namespace reduce

MAE_KERNEL(256) column_parts_f32(const float *x, uint32_t rows, uint32_t cols, float *parts) { reduce::column_parts(x, rows, cols, parts); }
MAE_KERNEL(256) column_parts_bf16(const bf16 *x, uint32_t rows, uint32_t cols, float *parts) { reduce::column_parts(x, rows, cols, parts); }
