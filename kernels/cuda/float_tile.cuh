// A product tile of 64 × 64 in fp32 for any element type and any sizes: 256 threads, 4 × 4 results each, in steps of 16
// along the sum, whose terms are added in order.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace sffn::cuda {

inline constexpr int kTile = 64, kTileDepth = 16, kTileThreads = 256;

struct FloatTile {  // shared
  alignas(16) float a[kTileDepth][kTile + 4], b[kTileDepth][kTile + 4];
};

using TileSum = float[4][4];  // of rows 4·(thread / 16) + r and columns 4·(thread % 16) + c

__device__ __forceinline__ int tile_row(int r) { return static_cast<int>(threadIdx.x) / 16 * 4 + r; }
__device__ __forceinline__ int tile_column(int c) { return static_cast<int>(threadIdx.x) % 16 * 4 + c; }

// to[k][m] = at(m, k). Neighbouring threads take neighbouring k.
template <class At>
__device__ __forceinline__ void fill_along_depth(float (&to)[kTileDepth][kTile + 4], At&& at) {
  for (int e = static_cast<int>(threadIdx.x); e < kTile * kTileDepth; e += kTileThreads) {
    const int m = e / kTileDepth, k = e % kTileDepth;
    to[k][m] = at(m, k);
  }
}
// The same; neighbouring threads take neighbouring m.
template <class At>
__device__ __forceinline__ void fill_across(float (&to)[kTileDepth][kTile + 4], At&& at) {
  for (int e = static_cast<int>(threadIdx.x); e < kTile * kTileDepth; e += kTileThreads) {
    const int m = e % kTile, k = e / kTile;
    to[k][m] = at(m, k);
  }
}

__device__ __forceinline__ void add_products(TileSum& sum, const FloatTile& tile) {
  for (int k = 0; k < kTileDepth; ++k) {
    const float4 a = *reinterpret_cast<const float4*>(&tile.a[k][tile_row(0)]);
    const float4 b = *reinterpret_cast<const float4*>(&tile.b[k][tile_column(0)]);
    const float left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < 4; ++c) sum[r][c] += left[r] * right[c];
    }
  }
}

}  // namespace sffn::cuda
