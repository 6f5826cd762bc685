// Products of a warpgroup (wgmma.cuh) whose left factor lies in registers, and several sums at once.
#pragma once
#include "kernels/cuda/wgmma.cuh"

namespace sffn::cuda {

// The descriptor of what lies that many elements further on in shared memory.
__device__ __forceinline__ uint64_t further(uint64_t descriptor, int elements) {
  return (descriptor & ~uint64_t{0xffffffff}) |
         (static_cast<uint32_t>(descriptor) + static_cast<uint32_t>(elements) / 8);
}

// For the compiler: all of the fragments is made before what follows, and not read before.
template <int kN>
__device__ __forceinline__ void make_here(FragmentC (&fragments)[kN]) {
#ifdef __CUDACC__
  SFFN_UNROLL for (int j = 0; j < kN; ++j) {
    SFFN_UNROLL for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(fragments[j].at[e])::"memory");
  }
#else
  (void)fragments;
#endif
}

// Waits for all products of the calling warpgroup but those of its kLeft last groups; those of the sums are among them.
template <int kLeft, class... Sums>
__device__ __forceinline__ void finish_products(Sums&... sums) {
#ifndef __CUDACC__
  simt::wait_for_products(kLeft);
#elif SFFN_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
#endif
  (make_here(sums), ...);
}

#define SFFN_SUM(j) "+f"(sum[j].at[0]), "+f"(sum[j].at[1]), "+f"(sum[j].at[2]), "+f"(sum[j].at[3])
#define SFFN_SUMS_8(j)                                                                                               \
  SFFN_SUM(j), SFFN_SUM(j + 1), SFFN_SUM(j + 2), SFFN_SUM(j + 3), SFFN_SUM(j + 4), SFFN_SUM(j + 5), SFFN_SUM(j + 6), \
      SFFN_SUM(j + 7)

// As add_products; the warp's 16 rows of a are its fragments, which stay as they are until the products are done.
template <bool kAcross, int kN>
__device__ __forceinline__ void add_products_of_held(FragmentC (&sum)[kN], const FragmentA& a, uint64_t b,
                                                     bool add = true) {
  static_assert(kN == 8 || kN == 16);
#ifndef __CUDACC__
  simt::add_products_of_held(sum[0].at, kN, a.pair, b, kAcross, add);
#elif SFFN_WGMMA
  if constexpr (kN == 8) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %38, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, add, 1, 1, %37;}\n"
        : SFFN_SUMS_8(0)
        : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "l"(b), "n"(kAcross ? 1 : 0),
          "r"(static_cast<int>(add)));
  } else {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %70, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63}, "
        "{%64, %65, %66, %67}, %68, add, 1, 1, %69;}\n"
        : SFFN_SUMS_8(0), SFFN_SUMS_8(8)
        : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "l"(b), "n"(kAcross ? 1 : 0),
          "r"(static_cast<int>(add)));
  }
#endif
}

#undef SFFN_SUMS_8
#undef SFFN_SUM

}  // namespace sffn::cuda
