// bf16 products of a warpgroup, four warps of 128 threads in a row, on the tensor cores of sm_90a: both factors are
// read from shared memory, out of panels (panel.cuh), while the threads go on (PTX ISA, "Asynchronous warpgroup level
// matrix multiply-accumulate operation using wgmma.mma_async"). Where SFFN_WGMMA is 0, compiled for another GPU, there
// is none. The SIMT executor has the same operations in tests/simt/warpgroup.h. The order of a step, for every thread:
//   wait_for_copies, publish_copies, __syncthreads    the panels are there for all
//   begin_products, add_products…, commit_products    the products of the step are under way
//   wait_for_products                                 the sums may be read, the panels written
#pragma once
#include "kernels/cuda/panel.cuh"

#ifndef __CUDACC__
#include "simt/warpgroup.h"
#define SFFN_WGMMA 1
#elif !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SFFN_WGMMA 1
#else
#define SFFN_WGMMA 0
#endif

namespace sffn::cuda {

// Descriptors of 16 depths of a factor ("Matrix descriptor"): bits 0…13 the address, 16…29 the leading and 32…45 the
// stride byte offset, all without their 4 lowest bits; bits 62, 63: 1, the swizzle of 128 bytes.
__device__ __forceinline__ uint64_t describe(const bfloat16* from, int leading_bytes) {
#ifdef __CUDACC__
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(from));
#else
  const uint32_t address = simt::shared_address(from, {__FILE__, __LINE__});
#endif
  constexpr uint64_t kStride = 8 * kPanelWidth * sizeof(bfloat16) / 16;  // from 8 rows to the next
  return ((address & 0x3ffff) >> 4) | static_cast<uint64_t>(leading_bytes / 16) << 16 | kStride << 32 |
         uint64_t{1} << 62;
}
// Rows from `row` on, a multiple of 8, and depths k…k + 15 of panel[row][k]
__device__ __forceinline__ uint64_t describe_along(const bfloat16* panel, int row, int k) {
  return describe(panel + row * kPanelWidth + k, 0);
}
// Columns and depths k…k + 15 of panel[k][column]; the next 64 columns are panel_bytes further on.
__device__ __forceinline__ uint64_t describe_across(const bfloat16* panel, int panel_bytes, int k) {
  return describe(panel + k * kPanelWidth, panel_bytes);
}

// After wait_for_copies: lets add_products see what this thread copied.
__device__ __forceinline__ void publish_copies() {
#ifndef __CUDACC__
  simt::publish_copies();
#elif SFFN_WGMMA
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void begin_products() {
#ifndef __CUDACC__
  simt::begin_products();
#elif SFFN_WGMMA
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void commit_products() {
#ifndef __CUDACC__
  simt::commit_products();
#elif SFFN_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}
// Waits for all products of the calling warpgroup but those of its kLeft last groups. With kLeft 0 the sums are there.
template <int kLeft, int kN>
__device__ __forceinline__ void wait_for_products(FragmentC (&sum)[kN]) {
#ifndef __CUDACC__
  (void)sum;
  simt::wait_for_products(kLeft);
#elif SFFN_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kLeft) : "memory");
  if constexpr (kLeft == 0) {  // not read before
    SFFN_UNROLL for (int j = 0; j < kN; ++j) {
      SFFN_UNROLL for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(sum[j].at[e])::"memory");
    }
  }
#endif
}

// Four 8 × 8 matrices to shared memory: lane l gives the address of row l % 8 of matrix l / 8, aligned to 16 bytes, and
// has in word[m] the neighbours 2t, 2t + 1 of row g of matrix m.
__device__ __forceinline__ void store_matrices(bfloat16* row, const uint32_t* word) {
#ifndef __CUDACC__
  simt::store_matrices(row, word);
#elif SFFN_WGMMA
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(row))),
               "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3])
               : "memory");
#endif
}
// A warp has 8 rows and 64 columns of results (FragmentC), rounded: word[j] is the lane's pair of fragment j. Through
// the warp's 1 KiB of shared memory each lane gets 16 bytes of rows lane / 8 and 4 + lane / 8: columns from
// 8·(lane % 8) on, so that eight lanes have 128 bytes of a row.
inline constexpr int kTurnedRows = 8;
__device__ __forceinline__ void turn_rows(uint4 (&piece)[2], const uint32_t (&word)[8], bfloat16* shared) {
  const int lane = lane_of_warp();
  SFFN_UNROLL for (int j = 0; j < 8; j += 4) store_matrices(piece_at(shared, lane % 8, j + lane / 8), word + j);
  __syncwarp();
  SFFN_UNROLL for (int i = 0; i < 2; ++i) {
    piece[i] = *reinterpret_cast<const uint4*>(piece_at(shared, 4 * i + lane / 8, lane % 8));
  }
  __syncwarp();  // the next rows may come
}

#define SFFN_SUM(j) "+f"(sum[j].at[0]), "+f"(sum[j].at[1]), "+f"(sum[j].at[2]), "+f"(sum[j].at[3])
#define SFFN_SUMS_8(j)                                                                                               \
  SFFN_SUM(j), SFFN_SUM(j + 1), SFFN_SUM(j + 2), SFFN_SUM(j + 3), SFFN_SUM(j + 4), SFFN_SUM(j + 5), SFFN_SUM(j + 6), \
      SFFN_SUM(j + 7)

// sum += a·b, or sum = a·b without `add`, for 64 rows, 16 a warp, and 8·kN columns, whose fragments are those of mma
// (FragmentC); 16 depths. b lies along the depth or, kAcross, across it; so does a with kLeftAcross.
template <bool kAcross, bool kLeftAcross = false, int kN>
__device__ __forceinline__ void add_products(FragmentC (&sum)[kN], uint64_t a, uint64_t b, bool add = true) {
  static_assert(kN == 8 || kN == 16 || kN == 32);
#ifndef __CUDACC__
  simt::add_products(sum[0].at, kN, a, b, kLeftAcross, kAcross, add);
#elif SFFN_WGMMA
  if constexpr (kN == 8) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %35, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "
        "%23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, add, 1, 1, %36, %34;}\n"
        : SFFN_SUMS_8(0)
        : "l"(a), "l"(b), "n"(kAcross ? 1 : 0), "r"(static_cast<int>(add)), "n"(kLeftAcross ? 1 : 0));
  } else if constexpr (kN == 16) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %67, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "
        "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "
        "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, add, 1, 1, %68, %66;}\n"
        : SFFN_SUMS_8(0), SFFN_SUMS_8(8)
        : "l"(a), "l"(b), "n"(kAcross ? 1 : 0), "r"(static_cast<int>(add)), "n"(kLeftAcross ? 1 : 0));
  } else {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %131, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "
        "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "
        "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, "
        "%65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, "
        "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, "
        "%106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "
        "%123, %124, %125, %126, %127}, "
        "%128, %129, add, 1, 1, %132, %130;}\n"
        : SFFN_SUMS_8(0), SFFN_SUMS_8(8), SFFN_SUMS_8(16), SFFN_SUMS_8(24)
        : "l"(a), "l"(b), "n"(kAcross ? 1 : 0), "r"(static_cast<int>(add)), "n"(kLeftAcross ? 1 : 0));
  }
#endif
}

#undef SFFN_SUMS_8
#undef SFFN_SUM

}  // namespace sffn::cuda
