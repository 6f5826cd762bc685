// count_blocks:       counts[s,i] = choices of block i by the tokens of group s            counts [S,B]  blocks [N,b]
// accumulate_counts:  total[i] += Σ_s counts[s,i]                                          total [B] f64
// exclusive_scan:     offsets[i] = Σ_{j<i} counts[j]                                       offsets [n+1]  counts [n]
// Counting is by integer atomics, whose order does not show: in shared memory where a group has more choices than
// blocks and they fit, else in place. The scan sums pieces first, then each piece begins with the sum of those before
// it.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/unroll.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kAtOnce = 8;   // choices that a thread asks for
constexpr int64_t kTile = 8192;              // choices of a block of threads
constexpr int64_t kMostSharedCounts = 8192;  // 32 KiB

// A tile of one group.
__global__ void count_shared_kernel(int32_t* counts, const int32_t* blocks, int64_t group, int64_t tiles, int64_t B) {
  auto* here = dynamic_shared<int32_t>();
  for (int64_t i = threadIdx.x; i < B; i += kThreads) here[i] = 0;
  __syncthreads();
  const int64_t s = blockIdx.x / tiles, begin = blockIdx.x % tiles * kTile;
  const int64_t end = begin + kTile < group ? begin + kTile : group;
  for (int64_t c = begin + threadIdx.x; c < end; c += kThreads * kAtOnce) {
    int32_t block[kAtOnce];
    SFFN_UNROLL for (int u = 0; u < kAtOnce; ++u) {
      block[u] = c + u * kThreads < end ? blocks[s * group + c + u * kThreads] : -1;
    }
    SFFN_UNROLL for (int u = 0; u < kAtOnce; ++u) {
      if (block[u] >= 0) atomicAdd(&here[block[u]], 1);
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < B; i += kThreads) {
    if (here[i] > 0) atomicAdd(&counts[s * B + i], here[i]);
  }
}

__global__ void count_kernel(int32_t* counts, const int32_t* blocks, int64_t choices, int64_t group, int64_t B) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c < choices && blocks[c] >= 0) atomicAdd(&counts[c / group * B + blocks[c]], 1);
}

// 32 columns; warp w sums rows w, w + 32, …
__global__ void accumulate_kernel(double* total, const int32_t* counts, int64_t S, int64_t B) {
  __shared__ int64_t partial[32][32];
  const int64_t i = int64_t{blockIdx.x} * 32 + threadIdx.x;
  int64_t sum = 0;
  for (int64_t s = threadIdx.y; s < S && i < B; s += 32) sum += counts[s * B + i];
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || i >= B) return;
  for (int w = 1; w < 32; ++w) sum += partial[w][threadIdx.x];
  total[i] += static_cast<double>(sum);
}

// ---- Scan: pieces of kRounds tiles, a tile holds kOwn neighbours of each thread ----

constexpr int kScanThreads = 1024, kOwn = 4, kRounds = 4;
constexpr int64_t kScanTile = kScanThreads * kOwn, kPiece = kScanTile * kRounds;

__global__ void sum_pieces_kernel(int32_t* sums, const int32_t* counts, int64_t n) {
  const int64_t first = blockIdx.x * kPiece, last = first + kPiece < n ? first + kPiece : n;
  int32_t sum = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += kScanThreads) sum += counts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void scan_pieces_kernel(int32_t* offsets, const int32_t* counts, const int32_t* sums, int64_t n) {
  int32_t before = 0;
  for (int64_t piece = threadIdx.x; piece < blockIdx.x; piece += kScanThreads) before += sums[piece];
  before = block_sum(before);
  for (int round = 0; round < kRounds; ++round) {
    const int64_t first = blockIdx.x * kPiece + round * kScanTile + threadIdx.x * int64_t{kOwn};
    int32_t own[kOwn], sum = 0, all;
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      own[k] = first + k < n ? counts[first + k] : 0;
      sum += own[k];
    }
    int32_t offset = before + block_exclusive_scan(sum, all);
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      if (first + k <= n) offsets[first + k] = offset;
      offset += own[k];
    }
    before += all;
  }
}

}  // namespace

void count_blocks(Stream& stream, Tensor counts, const Tensor& blocks) {
  const int64_t S = counts.shape()[0], B = counts.cols(), group = blocks.numel() / S;
  if (counts.numel() == 0) return;
  clear_bytes(stream, counts.raw(), counts.bytes());
  const Work work{bytes_of(blocks, counts, counts)};
  if (B > kMostSharedCounts || group < B) {
    launch(stream, count_kernel, {blocks_for(blocks.numel(), kThreads), kThreads}, work, counts.data<int32_t>(),
           blocks.data<int32_t>(), blocks.numel(), group, B);
    return;
  }
  const int64_t tiles = (group + kTile - 1) / kTile;
  launch(stream, count_shared_kernel, {blocks_for(S * tiles, 1), kThreads, static_cast<size_t>(B) * sizeof(int32_t)},
         work, counts.data<int32_t>(), blocks.data<int32_t>(), group, tiles, B);
}

void accumulate_counts(Stream& stream, Tensor total, const Tensor& counts) {
  launch(stream, accumulate_kernel, {blocks_for(counts.cols(), 32), dim3(32, 32)}, Work{bytes_of(total, total, counts)},
         total.data<double>(), counts.data<int32_t>(), counts.shape()[0], counts.cols());
}

void exclusive_scan(Stream& stream, Tensor offsets, const Tensor& counts) {
  const int64_t n = counts.numel();
  const unsigned pieces = blocks_for(n + 1, kPiece);
  auto* sums = workspace<int32_t>(stream, pieces);
  if (pieces > 1)
    launch(stream, sum_pieces_kernel, {pieces, kScanThreads}, Work{bytes_of(counts) + bytes_for<int32_t>(pieces)}, sums,
           counts.data<int32_t>(), n);
  launch(stream, scan_pieces_kernel, {pieces, kScanThreads},
         Work{bytes_of(offsets, counts) + bytes_for<int32_t>(pieces > 1 ? pieces : 0)}, offsets.data<int32_t>(),
         counts.data<int32_t>(), sums, n);
}

}  // namespace sffn::cuda
