// The threads that work on one row of a matrix: a warp where rows are short, a block where they are long. A row is cut
// among them in packs of four elements where every row begins with one, else in single elements.
#pragma once
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"

namespace sffn::cuda {

inline constexpr int kRowThreads = 256;
inline constexpr int64_t kLongRow = 2048;  // beyond: a block

struct WarpTeam {
  static constexpr int kSize = 32, kRowsPerBlock = kRowThreads / 32;
  static __device__ int64_t row() { return int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / 32; }
  static __device__ int rank() { return static_cast<int>(threadIdx.x % 32); }
  static __device__ void sync() { __syncwarp(); }
  template <class Op, class T>
  static __device__ T reduce(T value, T, Op op) {
    return warp_reduce(value, op);
  }
};
struct BlockTeam {
  static constexpr int kSize = kRowThreads, kRowsPerBlock = 1;
  static __device__ int64_t row() { return blockIdx.x; }
  static __device__ int rank() { return static_cast<int>(threadIdx.x); }
  static __device__ void sync() { __syncthreads(); }
  template <class Op, class T>
  static __device__ T reduce(T value, T neutral, Op op) {
    return block_reduce(value, neutral, op);
  }
};
template <class Team, class T>
__device__ __forceinline__ T team_sum(T value) {
  return Team::reduce(value, T{0}, Sum());
}

// f(i) for every pack of this thread: elements i … i + kPack - 1 of a row of `width`.
template <class Team, int kPack, class F>
__device__ __forceinline__ void for_packs(int64_t width, F&& f) {
  for (int64_t i = int64_t{Team::rank()} * kPack; i < width; i += int64_t{Team::kSize} * kPack) f(i);
}

template <int kPack, class T>
__device__ __forceinline__ Pack<T, kPack> load_pack(const T* x) {
  return *reinterpret_cast<const Pack<T, kPack>*>(x);
}
template <int kPack, class T>
__device__ __forceinline__ void store_pack(T* x, const Pack<T, kPack>& pack) {
  *reinterpret_cast<Pack<T, kPack>*>(x) = pack;
}

template <class Team, int kPack>
struct RowCut {
  LaunchShape shape;
};

// f(RowCut<Team, kPack>): how kernels on `rows` rows of `width` elements are started. aligned: all matrices begin at 16
// bytes.
template <class F>
void with_rows(int64_t rows, int64_t width, bool aligned, F&& f) {
  const bool packs = aligned && width % 4 == 0;
  if (width > kLongRow) {
    const LaunchShape shape{static_cast<unsigned>(rows), kRowThreads};
    return packs ? f(RowCut<BlockTeam, 4>{shape}) : f(RowCut<BlockTeam, 1>{shape});
  }
  const LaunchShape shape{blocks_for(rows, WarpTeam::kRowsPerBlock), kRowThreads};
  return packs ? f(RowCut<WarpTeam, 4>{shape}) : f(RowCut<WarpTeam, 1>{shape});
}

}  // namespace sffn::cuda
