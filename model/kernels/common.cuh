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
// A kernel for blocks of at most so many threads, and where a second number is given with registers for so many blocks at once, under its
// own name, so that the driver finds it.
#define MAE_KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
// The launch's own shared memory, as bytes.
#define MAE_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
// Memory as one value of a wider type; the address must be a multiple of its size, which the host checks.
template <typename V> MAE_DEVICE const V &whole(const void *at) { return *static_cast<const V *>(at); }
template <typename V> MAE_DEVICE V &whole(void *at) { return *static_cast<V *>(at); }

// 16 bytes from global to shared memory, or zeros unless `given`, by the time the thread has waited; it holds no registers for them.
MAE_DEVICE void copy_later(void *to, const void *from, bool given) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(to), bytes = given ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
// Until the calling thread's own copies are there.
MAE_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// 2^x to two units of the last place; 0 where that is below the normal numbers.
MAE_DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// The logarithm of normal numbers, to 2^-22 or two units of the last place.
MAE_DEVICE float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / x to one unit of the last place, of normal numbers.
MAE_DEVICE float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

MAE_DEVICE float to_float(float x) { return x; }
MAE_DEVICE float to_float(bf16 x) { return __bfloat162float(x); }

MAE_DEVICE void from_float(float x, float &to) { to = x; }
MAE_DEVICE void from_float(float x, bf16 &to) { to = __float2bfloat16(x); }

// The two numbers of a word. A bfloat16 is the upper half of a float.
MAE_DEVICE float low_half(uint32_t word) { return __uint_as_float(word << 16); }
MAE_DEVICE float high_half(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }

// Two numbers, rounded, in a word; the first in the lower half.
MAE_DEVICE uint32_t pack(float low, float high) {
    bf16 halves[2];
    from_float(low, halves[0]);
    from_float(high, halves[1]);
    uint32_t word;
    memcpy(&word, halves, sizeof word);
    return word;
}

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
    return {{low_half(v.x), high_half(v.x), low_half(v.y), high_half(v.y)}};
}

MAE_DEVICE void store4(float *to, Four v) { whole<float4>(to) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]); }

MAE_DEVICE void store4(bf16 *to, Four v) { whole<uint2>(to) = {pack(v.x[0], v.x[1]), pack(v.x[2], v.x[3])}; }

// Eight neighbouring numbers.
struct Eight {
    float x[8];
};

// Eight numbers as they stand in memory: what is on its way while others are worked on takes no more registers than it must.
template <typename T> struct Packed;
template <> struct Packed<float> {
    float4 low, high;
};
template <> struct Packed<bf16> {
    uint4 words;
};

MAE_DEVICE Packed<float> fetch8(const float *from) { return {whole<float4>(from), whole<float4>(from + 4)}; }
MAE_DEVICE Packed<bf16> fetch8(const bf16 *from) { return {whole<uint4>(from)}; }

MAE_DEVICE Eight unpack(Packed<float> p) {
    return {{p.low.x, p.low.y, p.low.z, p.low.w, p.high.x, p.high.y, p.high.z, p.high.w}};
}
MAE_DEVICE Eight unpack(Packed<bf16> p) {
    const uint4 w = p.words;
    return {{low_half(w.x), high_half(w.x), low_half(w.y), high_half(w.y), low_half(w.z), high_half(w.z), low_half(w.w), high_half(w.w)}};
}

MAE_DEVICE Eight load8(const float *from) { return unpack(fetch8(from)); }

MAE_DEVICE void store8(float *to, Eight v) {
    whole<float4>(to) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
    whole<float4>(to + 4) = make_float4(v.x[4], v.x[5], v.x[6], v.x[7]);
}
MAE_DEVICE void store8(bf16 *to, Eight v) {
    whole<uint4>(to) = {pack(v.x[0], v.x[1]), pack(v.x[2], v.x[3]), pack(v.x[4], v.x[5]), pack(v.x[6], v.x[7])};
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
    // Up to eight warps: the same in each eight lanes, which takes three steps rather than five.
    const int lane = threadIdx.x % (warps <= 8 ? 8 : 32);
    for (int i = 0; i < COUNT; i++) {
        x[i] = lane < warps ? parts[lane * COUNT + i] : 0.0f;
        if (warps > 8) {
            x[i] += __shfl_xor_sync(0xffffffffu, x[i], 16);
            x[i] += __shfl_xor_sync(0xffffffffu, x[i], 8);
        }
        for (int distance = 4; distance > 0; distance /= 2) {
            x[i] += __shfl_xor_sync(0xffffffffu, x[i], distance);
        }
    }
}
