// Radix sort of n keys in digits of 8 bits, the lowest first. Each pass is stable: blocks take chunks in order, the
// warps of a block and the lanes of a warp likewise, and the place of a key is the number of keys that come before it.
//   count_digits_kernel  counts[digit, chunk]
//   scan_digits_kernel   before[digit, chunk] = those of the digit in earlier chunks;  totals[digit]
//   place_keys_kernel    keys and places, moved
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/order_by_key.h"

#include <bit>
#include <utility>

namespace sffn::cuda {
namespace {

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
constexpr int kThreads = kDigits, kWarps = kThreads / 32;
constexpr int kRounds = 8;  // keys a thread takes
constexpr int64_t kChunk = kThreads * kRounds;

__device__ __forceinline__ int digit_of(int32_t key, int shift) { return (key >> shift) & (kDigits - 1); }

// The sum of the values of the threads before this one, and of all.
__device__ int32_t sum_before(int32_t value, int32_t& total) {
  __shared__ int32_t of_warp[kWarps];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int32_t inclusive = value;
  for (int step = 1; step < 32; step *= 2) {
    const int32_t earlier = __shfl_up_sync(0xffffffffu, inclusive, step);
    if (lane >= step) inclusive += earlier;
  }
  if (lane == 31) of_warp[warp] = inclusive;
  __syncthreads();
  int32_t before = inclusive - value;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += of_warp[w];
    total += of_warp[w];
  }
  __syncthreads();
  return before;
}

__global__ void count_digits_kernel(int32_t* counts, const int32_t* keys, int64_t n, int shift) {
  __shared__ int32_t count[kDigits];
  count[threadIdx.x] = 0;
  __syncthreads();
  const int64_t first = int64_t{blockIdx.x} * kChunk;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = first + round * kThreads + threadIdx.x;
    if (i < n) atomicAdd(&count[digit_of(keys[i], shift)], 1);
  }
  __syncthreads();
  counts[int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

// A block a digit. counts becomes before.
__global__ void scan_digits_kernel(int32_t* counts, int32_t* totals, int64_t chunks) {
  int32_t* row = counts + blockIdx.x * chunks;
  int32_t before = 0;
  for (int64_t first = 0; first < chunks; first += kThreads) {
    const int64_t chunk = first + threadIdx.x;
    const int32_t count = chunk < chunks ? row[chunk] : 0;
    int32_t total = 0;
    const int32_t here = before + sum_before(count, total);
    if (chunk < chunks) row[chunk] = here;
    before += total;
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = before;
}

// The lanes of the warp that hold the same digit, of 9 bits.
__device__ __forceinline__ unsigned lanes_with(int digit) {
  unsigned lanes = 0xffffffffu;
  for (int bit = 0; bit <= kDigitBits; ++bit) {
    const bool set = (digit >> bit & 1) != 0;
    const unsigned with = __ballot_sync(0xffffffffu, set);
    lanes &= set ? with : ~with;
  }
  return lanes;
}

// places_in null: the first pass, in which element i is at i.
__global__ void place_keys_kernel(int32_t* keys_out, int32_t* places_out, const int32_t* keys, const int32_t* places_in,
                                  int64_t n, const int32_t* before, const int32_t* totals, int shift) {
  constexpr int kNone = kDigits;  // the digit of a lane without a key
  __shared__ int32_t next[kWarps][kDigits];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int w = 0; w < kWarps; ++w) next[w][threadIdx.x] = 0;
  __syncthreads();
  const int64_t first = int64_t{blockIdx.x} * kChunk + warp * (32 * kRounds) + lane;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = first + round * 32;
    const int digit = i < n ? digit_of(keys[i], shift) : kNone;
    const unsigned lanes = lanes_with(digit);
    if (digit != kNone && lane == __ffs(static_cast<int>(lanes)) - 1) next[warp][digit] += __popc(lanes);
    __syncwarp();
  }
  __syncthreads();
  const int64_t of_digit = threadIdx.x;
  int32_t total = 0;
  int32_t place = sum_before(totals[of_digit], total) + before[of_digit * gridDim.x + blockIdx.x];
  for (int w = 0; w < kWarps; ++w) {
    const int32_t count = next[w][of_digit];
    next[w][of_digit] = place;
    place += count;
  }
  __syncthreads();
  for (int round = 0; round < kRounds; ++round) {
    const int64_t i = first + round * 32;
    const int32_t key = i < n ? keys[i] : 0;
    const int digit = i < n ? digit_of(key, shift) : kNone;
    const unsigned lanes = lanes_with(digit);
    if (digit != kNone) {
      const int32_t to = next[warp][digit] + __popc(lanes & ((1u << lane) - 1));
      keys_out[to] = key;
      places_out[to] = places_in != nullptr ? places_in[i] : static_cast<int32_t>(i);
    }
    __syncwarp();
    if (digit != kNone && lane == __ffs(static_cast<int>(lanes)) - 1) next[warp][digit] += __popc(lanes);
    __syncwarp();
  }
}

}  // namespace

int64_t order_scratch(int64_t n) { return 4 * n + kDigits * (int64_t{blocks_for(n, kChunk)} + 1); }

KeyOrder order_by_key(Stream& stream, int32_t* scratch, const int32_t* keys, int64_t n, int64_t bound) {
  const unsigned chunks = blocks_for(n, kChunk);
  int32_t *to_keys = scratch, *to_places = scratch + n, *free_keys = scratch + 2 * n, *free_places = scratch + 3 * n;
  int32_t *counts = scratch + 4 * n, *totals = counts + int64_t{kDigits} * chunks;
  const int32_t *from_keys = keys, *from_places = nullptr;
  const auto bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(bound > 1 ? bound - 1 : 1)));
  const double of_keys = bytes_for<int32_t>(n), of_counts = bytes_for<int32_t>(int64_t{kDigits} * chunks);
  for (int shift = 0; shift < bits; shift += kDigitBits) {
    launch(stream, count_digits_kernel, {chunks, kThreads}, Work{of_keys + of_counts}, counts, from_keys, n, shift);
    launch(stream, scan_digits_kernel, {chunks == 0 ? 0u : kDigits, kThreads},
           Work{2 * of_counts + bytes_for<int32_t>(kDigits)}, counts, totals, int64_t{chunks});
    launch(stream, place_keys_kernel, {chunks, kThreads}, Work{(from_places != nullptr ? 4 : 3) * of_keys + of_counts},
           to_keys, to_places, from_keys, from_places, n, counts, totals, shift);
    from_keys = to_keys, from_places = to_places;
    std::swap(to_keys, free_keys), std::swap(to_places, free_places);
  }
  return {from_keys, from_places};
}

}  // namespace sffn::cuda
