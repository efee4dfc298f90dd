// Products of small bfloat16 matrices on tensor cores (`mma.m16n8k16`), a warp at a time.
//
// A lane's share (PTX ISA, "Matrix Fragments for mma.m16n8k16"), with g = lane / 4 and t = lane % 4; a word holds two neighbours:
//   A [16, 16]: words at rows g, g + 8, g, g + 8 and columns 2t, 2t, 2t + 8, 2t + 8
//   B [16, 8]:  words at rows 2t, 2t + 8 of column g
//   C [16, 8]:  numbers at (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
#pragma once
#include "common.cuh"

#ifndef MAE_HOST
// c += a · b, b being the words b0 and b1.
MAE_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 × 8 matrices from shared memory: lane i gives the address of row i % 8 of matrix i / 8, and gets of each matrix the word at
// row lane / 4, columns 2 (lane % 4) and the next. `TRANSPOSED`: of each matrix's transpose.
template <bool TRANSPOSED> MAE_DEVICE void load_matrices(uint32_t (&r)[4], const bf16 *row) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    }
}
#endif

// Two C tiles next to each other [16, 8 + 8] as the A [16, 16] of another product.
MAE_DEVICE void as_left(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}
