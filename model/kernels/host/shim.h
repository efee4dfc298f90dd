// The part of CUDA C++ that the kernels use, for the host: slow, in one thread, and strict. A block's threads are fibres that run until
// they wait for each other; blocks run one after the other. What would hang or be undefined on a device aborts with a message.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MAE_DEVICE static inline
#define MAE_MEMBER inline
#define MAE_KERNEL(...) extern "C" void
#define __shared__ static thread_local
// The launch's own shared memory, as bytes.
#define MAE_DYNAMIC_SHARED(name) unsigned char *name = host_dynamic_shared()
unsigned char *host_dynamic_shared();
// Aborts unless the address is a multiple of `bytes`.
void host_check_address(const void *at, size_t bytes);

// Memory as one value of a wider type.
template <typename V> static inline const V &whole(const void *at) {
    host_check_address(at, sizeof(V));
    return *static_cast<const V *>(at);
}
template <typename V> static inline V &whole(void *at) { return const_cast<V &>(whole<V>(static_cast<const void *>(at))); }

struct uint3 {
    uint32_t x, y, z;
};
struct uint2 {
    uint32_t x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static inline uint32_t min(uint32_t a, uint32_t b) { return a < b ? a : b; }
#define __restrict__ __restrict

// Copies 16 bytes, or zeros unless `given`, when the thread waits; until then there is nothing but NaN.
void copy_later(void *to, const void *from, bool given);
void wait_for_copies();

// What the device has instructions for.
static inline float exp2_fast(float x) { return exp2f(x); }
static inline float log2_fast(float x) { return log2f(x); }
static inline float reciprocal_fast(float x) { return 1.0f / x; }

extern thread_local uint3 threadIdx, blockIdx, blockDim, gridDim;

static inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

struct bf16 {
    uint16_t bits;
};
static inline float __bfloat162float(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
// To the nearest, halves to even; NaN stays NaN.
static inline bf16 __float2bfloat16(float x) {
    uint32_t bits = __float_as_uint(x);
    if (x != x) {
        return {0x7fff};
    }
    return {(uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

// Waits until every thread of the block that still runs is here.
void __syncthreads();
// Waits until all 32 lanes of the warp are here.
void __syncwarp();
// The 32 bits that the lane `lane` of the calling thread's warp gives; all 32 lanes must call.
uint32_t host_shuffle(uint32_t mask, uint32_t bits, uint32_t lane);
uint32_t host_lane();

static inline float __shfl_xor_sync(uint32_t mask, float x, int distance) {
    return __uint_as_float(host_shuffle(mask, __float_as_uint(x), host_lane() ^ (uint32_t)distance));
}

// As the device's instructions, by their documented layouts (see mma.cuh).
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void host_load_matrices(uint32_t (&r)[4], const bf16 *row, bool transposed);
template <bool TRANSPOSED> static inline void load_matrices(uint32_t (&r)[4], const bf16 *row) {
    host_load_matrices(r, row, TRANSPOSED);
}
