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
