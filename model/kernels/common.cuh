// What every kernel file starts with. The files compile for the device with nvcc, and as C++ for the host with host/shim.h, which
// runs a block's threads as fibres: so tests run the very kernels where there is no GPU.
#pragma once

#ifdef MAE_HOST
#include "host/shim.h"
#else
#include <cuda_bf16.h>
#include <stdint.h>
typedef __nv_bfloat16 bf16;
#define MAE_DEVICE static __device__ __forceinline__
#define MAE_MEMBER __device__ __forceinline__
// A kernel for blocks of at most so many threads, under its own name, so that the driver finds it.
#define MAE_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
// The launch's own shared memory, as bytes.
#define MAE_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
// Memory as one value of a wider type; the address must be a multiple of its size, which the host checks.
template <typename V> MAE_DEVICE const V &whole(const void *at) { return *static_cast<const V *>(at); }
template <typename V> MAE_DEVICE V &whole(void *at) { return *static_cast<V *>(at); }
#endif

MAE_DEVICE float to_float(float x) { return x; }
MAE_DEVICE float to_float(bf16 x) { return __bfloat162float(x); }

MAE_DEVICE void from_float(float x, float &to) { to = x; }
MAE_DEVICE void from_float(float x, bf16 &to) { to = __float2bfloat16(x); }

// Four neighbouring numbers, read or written at once.
struct Four {
    float x[4];
};

MAE_DEVICE Four load4(const float *from) {
    const float4 v = whole<float4>(from);
    return {{v.x, v.y, v.z, v.w}};
}

MAE_DEVICE Four load4(const bf16 *from) {
    const uint2 v = whole<uint2>(from);
    // A bfloat16 is the upper half of a float.
    return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
             __uint_as_float(v.y & 0xffff0000u)}};
}

MAE_DEVICE void store4(float *to, Four v) { whole<float4>(to) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]); }

MAE_DEVICE void store4(bf16 *to, Four v) {
    bf16 halves[4];
    for (int i = 0; i < 4; i++) {
        from_float(v.x[i], halves[i]);
    }
    uint2 words;
    memcpy(&words, halves, sizeof words);
    whole<uint2>(to) = words;
}

// The sum over a warp, in every lane, always added in the same order.
MAE_DEVICE float warp_sum(float x) {
    for (int distance = 16; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    }
    return x;
}

// Sums over a block of whole warps, in every thread. `parts` is shared memory for COUNT numbers a warp; calls that follow each
// other need different ones.
template <int COUNT> MAE_DEVICE void block_sums(float (&x)[COUNT], float *parts) {
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32;
    for (int i = 0; i < COUNT; i++) {
        x[i] = warp_sum(x[i]);
    }
    if (warps == 1) {
        return;
    }
    if (threadIdx.x % 32 == 0) {
        for (int i = 0; i < COUNT; i++) {
            parts[warp * COUNT + i] = x[i];
        }
    }
    __syncthreads();
    for (int i = 0; i < COUNT; i++) {
        x[i] = 0.0f;
        for (int w = 0; w < warps; w++) {
            x[i] += parts[w * COUNT + i];
        }
    }
}
