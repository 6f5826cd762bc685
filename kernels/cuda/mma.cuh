// bf16 products on tensor cores, summed in fp32: what a warp of 32 lanes does together, and copies to shared memory
// that go on beside it. The layouts of fragments are those of mma.m16n8k16 (PTX ISA, "Matrix multiply-accumulate
// operation using mma instruction"). The SIMT executor has the same operations, element by element, in
// tests/simt/tensor_core.h.
#pragma once
#include "core/dtype.h"

#include <cuda_runtime.h>

#include <cstdint>

#ifndef __CUDACC__
#include "simt/tensor_core.h"
#endif

namespace sffn::cuda {

// Lane 4g + t holds, by (row, column):
struct FragmentA {  // [16,16]: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each with its right neighbour
  uint32_t pair[4];
};
struct FragmentB {  // [16,8]: (2t, g), (2t + 8, g), each with its lower neighbour
  uint32_t pair[2];
};
struct FragmentC {  // [16,8]: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
  float at[4];
};

// c += a·b
__device__ __forceinline__ void multiply_add(FragmentC& c, const FragmentA& a, const FragmentB& b) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c.at[0]), "+f"(c.at[1]), "+f"(c.at[2]), "+f"(c.at[3])
      : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "r"(b.pair[0]), "r"(b.pair[1]));
#else
  simt::multiply_add(c.at, a.pair, b.pair);
#endif
}

// Two numbers rounded to bf16 as the neighbours of a fragment, `low` the one of the lower index.
__device__ __forceinline__ uint32_t rounded_pair(float low, float high) {
#ifdef __CUDACC__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return bfloat16(low).bits | uint32_t{bfloat16(high).bits} << 16;
#endif
}
__device__ __forceinline__ float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
// Two neighbouring results, 16 columns, rounded to bf16 as the left factor of a product over these columns.
__device__ __forceinline__ FragmentA as_factor(const FragmentC& left, const FragmentC& right) {
  return {{rounded_pair(left.at[0], left.at[1]), rounded_pair(left.at[2], left.at[3]),
           rounded_pair(right.at[0], right.at[1]), rounded_pair(right.at[2], right.at[3])}};
}

// Four 8 × 8 matrices of shared memory: lane l gives the address of row l % 8 of matrix l / 8, aligned to 16 bytes, and
// gets the neighbours 2t, 2t + 1 of row g of each; with kTransposed, elements g of rows 2t and 2t + 1.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const bfloat16* row) {
#ifdef __CUDACC__
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
#else
  simt::load_matrices<kTransposed>(to, row);
#endif
}

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % 32; }

// A at tile[m][k], neighbours in k beside one another
__device__ __forceinline__ void load_a(FragmentA& a, const bfloat16* tile, int stride) {
  const int lane = lane_of_warp();
  load_matrices<false>(a.pair, tile + lane % 16 * stride + lane / 16 * 8);
}
// A at tile[k][m], neighbours in m beside one another
__device__ __forceinline__ void load_a_transposed(FragmentA& a, const bfloat16* tile, int stride) {
  const int lane = lane_of_warp();
  load_matrices<true>(a.pair, tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}
// Two B of neighbouring columns, at tile[n][k]: columns 0…7 and 8…15
__device__ __forceinline__ void load_b_columns(FragmentB (&b)[2], const bfloat16* tile, int stride) {
  const int lane = lane_of_warp();
  uint32_t pairs[4];
  load_matrices<false>(pairs, tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
  b[0] = {{pairs[0], pairs[1]}}, b[1] = {{pairs[2], pairs[3]}};
}
// The same at tile[k][n]
__device__ __forceinline__ void load_b_columns_transposed(FragmentB (&b)[2], const bfloat16* tile, int stride) {
  const int lane = lane_of_warp();
  uint32_t pairs[4];
  load_matrices<true>(pairs, tile + lane % 16 * stride + lane / 16 * 8);
  b[0] = {{pairs[0], pairs[1]}}, b[1] = {{pairs[2], pairs[3]}};
}
// Two B of 8 columns, one after the other in k, at tile[k][n]: k 0…15 and 16…31
__device__ __forceinline__ void load_b_depths_transposed(FragmentB (&b)[2], const bfloat16* tile, int stride) {
  uint32_t pairs[4];
  load_matrices<true>(pairs, tile + lane_of_warp() * stride);
  b[0] = {{pairs[0], pairs[1]}}, b[1] = {{pairs[2], pairs[3]}};
}

// Copies kBytes (4 or 16, aligned to as many) from global to shared memory, or writes zeros where `copied` is false. It
// is done when wait_for_copies has let its group through; other threads see it behind a barrier after that.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool copied) {
  static_assert(kBytes == 4 || kBytes == 16);
#ifdef __CUDACC__
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = copied ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(address), "l"(global), "r"(bytes) : "memory");
  }
#else
  simt::copy_async(shared, copied ? global : nullptr, kBytes);
#endif
}
// 16 bytes of a row whose next ones will be asked for soon: L2 reads the 256 around them.
__device__ __forceinline__ void copy_row_async(void* shared, const void* global, bool copied) {
#ifdef __CUDACC__
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global),
               "r"(copied ? 16 : 0)
               : "memory");
#else
  copy_async<16>(shared, global, copied);
#endif
}
// Ends a group: the calling thread's copies since the last one.
__device__ __forceinline__ void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
  simt::commit_copies();
#endif
}
// Waits for all groups of the calling thread but the `kLeft` last. A kernel that ends has waited for all.
template <int kLeft>
__device__ __forceinline__ void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
#else
  simt::wait_for_copies(kLeft);
#endif
}

}  // namespace sffn::cuda
