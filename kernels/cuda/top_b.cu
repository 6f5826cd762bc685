// blocks[n] = the b blocks of the largest scores[n,i] + bias[i], ascending, ties to the lower block; nans[0] += sums
// that are NaN.
//                                  blocks [N,b] i32  scores [N,B] f32  bias [B] f32, or absent  nans [1] f64, or absent
//
// Scores become integers in the same order (score_key). Up to 1024 blocks: a warp per token holds them in
// registers and finds the b-th largest bit by bit, from the top, until exactly b are reached. More: a block per token
// finds it in three digits by histograms in shared memory, where the keys stay if they fit. Then both write what lies
// above the threshold, and of the keys equal to it the first, in order: by ballots, or by scans of tiles.
#include "kernels/cuda/counter.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/scan.cuh"
#include "kernels/cuda/score_key.cuh"
#include "kernels/ops.h"

#include <algorithm>
#include <type_traits>

namespace sffn::cuda {
namespace {

struct Problem {
  int32_t* blocks;
  EventCount* nans;  // or null
  const float *scores, *bias;
  int64_t tokens;
  int32_t block_count, chosen;  // B, b
  bool packed;                  // rows of scores, and bias, may be read in packs of four

  __device__ float sum(int64_t n, int32_t i) const {
    const float score = scores[n * block_count + i];
    return bias == nullptr ? score : score + bias[i];
  }
};

// What is chosen: keys above `least`, and the first `ties` of those equal to it.
struct Threshold {
  uint32_t least;
  int32_t ties;
};

// ---- A warp per token: lane l holds the keys of blocks l, l + 32, … ----

template <int kKeys>
__device__ Threshold warp_threshold(const uint32_t (&keys)[kKeys], int32_t wanted) {
  const auto reaching = [&](uint32_t least) {
    int32_t count = 0;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) count += keys[j] >= least;
    return warp_sum(count);
  };
  uint32_t found = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t trial = found | 1u << bit;
    const int32_t reached = reaching(trial);
    if (reached >= wanted) found = trial;
    if (reached == wanted) return {found, wanted};
  }
  return {found, wanted - (found == kNanKey ? 0 : reaching(found + 1))};
}

template <int kKeys>
__device__ void warp_choose(int32_t* out, const uint32_t (&keys)[kKeys], const Threshold& threshold) {
  const int lane = WarpTeam::rank();
  const unsigned below = (1u << lane) - 1;
  int32_t taken = 0, tied = 0;
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
    const bool equal = keys[j] == threshold.least;
    const unsigned equals = __ballot_sync(0xffffffffu, equal);
    const bool take = keys[j] > threshold.least || (equal && tied + __popc(equals & below) < threshold.ties);
    const unsigned takes = __ballot_sync(0xffffffffu, take);
    if (take) out[taken + __popc(takes & below)] = j * 32 + lane;
    tied += __popc(equals), taken += __popc(takes);
  }
}

template <int kKeys>
__global__ void warp_top_b_kernel(Problem p) {
  const int64_t n = WarpTeam::row();
  if (n >= p.tokens) return;
  uint32_t keys[kKeys];
  int32_t nans = 0;
#pragma unroll
  for (int j = 0; j < kKeys; ++j) {
    const int32_t i = j * 32 + WarpTeam::rank();
    keys[j] = i < p.block_count ? score_key(p.sum(n, i)) : 0;
    nans += keys[j] == kNanKey;
  }
  warp_choose(p.blocks + n * p.chosen, keys, warp_threshold(keys, p.chosen));
  if (p.nans == nullptr) return;
  nans = warp_sum(nans);
  if (nans > 0 && WarpTeam::rank() == 0) atomicAdd(p.nans, static_cast<EventCount>(nans));
}

// ---- A block per token: thread t holds four neighbours of every tile ----

constexpr int kWidth = 4;                  // keys of a thread in a tile
constexpr int kBins = 2048;                // of a digit
constexpr int64_t kMostCached = 24 << 10;  // keys: two blocks fit a multiprocessor
using Keys = Pack<uint32_t, kWidth>;

// Keys i … i + 3 of token n, 0 behind the row. cache: those of the whole row, or null.
__device__ Keys make_keys(const Problem& p, int64_t n, int32_t i) {
  Keys keys;
  if (p.packed && i < p.block_count) {
    Pack<float, kWidth> sums = load_pack<kWidth>(p.scores + n * p.block_count + i);
    if (p.bias != nullptr) {
      const Pack<float, kWidth> bias = load_pack<kWidth>(p.bias + i);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sums.at[k] += bias.at[k];
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) keys.at[k] = score_key(sums.at[k]);
    return keys;
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) keys.at[k] = i + k < p.block_count ? score_key(p.sum(n, i + k)) : 0;
  return keys;
}

// The digit whose keys, from the largest down, hold the wanted-th, with those still wanted of it and all it has.
struct Digit {
  uint32_t value;
  int32_t wanted, count;
};

template <int kThreads>
__device__ Digit find_digit(const int32_t* bins, int32_t wanted) {
  constexpr int kOwn = kBins / kThreads;  // bins of a thread, from the top
  __shared__ Digit found;
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kOwn;
  int32_t own = 0, all;
  for (int j = 0; j < kOwn; ++j) own += bins[top - j];
  int32_t above = block_exclusive_scan(own, all);
  if (above < wanted && wanted <= above + own) {
    int j = 0;
    for (; above + bins[top - j] < wanted; ++j) above += bins[top - j];
    found = {static_cast<uint32_t>(top - j), wanted - above, bins[top - j]};
  }
  __syncthreads();
  return found;
}

// keys(i): those of blocks i … i + 3. The first pass may leave them in a cache.
template <int kThreads, class KeysAt>
__device__ Threshold block_threshold(const Problem& p, KeysAt&& keys_at) {
  __shared__ int32_t bins[kBins];
  uint32_t prefix = 0;
  int32_t wanted = p.chosen;
  int shift = 32;
  for (int pass = 0; pass < 3; ++pass) {
    const int bits = pass < 2 ? 11 : 10;
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) bins[bin] = 0;
    __syncthreads();
    for (int32_t i = static_cast<int32_t>(threadIdx.x) * kWidth; i < p.block_count; i += kThreads * kWidth) {
      const Keys keys = keys_at(i, shift == 32);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const bool in = shift == 32 || keys.at[k] >> shift == prefix;
        if (in) atomicAdd(&bins[keys.at[k] >> (shift - bits) & (kBins - 1) >> (11 - bits)], 1);
      }
    }
    __syncthreads();
    const Digit digit = find_digit<kThreads>(bins, wanted);
    prefix = prefix << bits | digit.value, shift -= bits, wanted = digit.wanted;
    if (wanted == digit.count) return {prefix << shift, p.block_count};  // every key of this digit
  }
  return {prefix, wanted};
}

template <int kThreads, class KeysAt>
__device__ void block_choose(int32_t* out, const Problem& p, const Threshold& threshold, KeysAt&& keys_at) {
  uint32_t above = 0, tied = 0;  // so far
  const auto ties = static_cast<uint32_t>(threshold.ties), wanted = static_cast<uint32_t>(p.chosen);
  for (int32_t tile = 0; tile < p.block_count; tile += kThreads * kWidth) {
    const int32_t i = tile + static_cast<int32_t>(threadIdx.x) * kWidth;
    Keys keys{};
    if (i < p.block_count) keys = keys_at(i, false);
    uint32_t both = 0, all;  // two counts in one scan: above in the low half, tied in the high one
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      both += keys.at[k] > threshold.least ? 1u : keys.at[k] == threshold.least ? 0x10000u : 0u;
    }
    both = block_exclusive_scan(both, all);
    uint32_t above_here = above + (both & 0xffffu), tied_here = tied + (both >> 16);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const bool larger = keys.at[k] > threshold.least, equal = keys.at[k] == threshold.least;
      const uint32_t place = above_here + (tied_here < ties ? tied_here : ties);
      if (larger || (equal && tied_here < ties)) out[place] = i + k;
      above_here += larger, tied_here += equal;
    }
    above += all & 0xffffu, tied += all >> 16;
    if (above + (tied < ties ? tied : ties) == wanted) return;
  }
}

template <int kThreads, bool kCached>
__global__ void block_top_b_kernel(Problem p) {
  const int64_t n = blockIdx.x;
  Keys* cache = kCached ? dynamic_shared<Keys>() : nullptr;  // each thread reads what it wrote
  int32_t nans = 0;
  const auto keys_at = [&](int32_t i, bool first) {
    if (kCached && !first) return cache[i / kWidth];
    const Keys keys = make_keys(p, n, i);
    if (kCached) cache[i / kWidth] = keys;
#pragma unroll
    for (int k = 0; k < kWidth && first; ++k) nans += keys.at[k] == kNanKey;
    return keys;
  };
  const Threshold threshold = block_threshold<kThreads>(p, keys_at);
  block_choose<kThreads>(p.blocks + n * p.chosen, p, threshold, keys_at);
  if (p.nans == nullptr) return;
  nans = block_sum(nans);
  if (nans > 0 && threadIdx.x == 0) atomicAdd(p.nans, static_cast<EventCount>(nans));
}

void choose(Stream& stream, const Problem& p) {
  const int64_t B = p.block_count;
  const Work work{bytes_for<float>(p.tokens * B + (p.bias != nullptr ? B : 0)) +
                  bytes_for<int32_t>(p.tokens * p.chosen)};
  const auto by_warps = [&]<int kKeys>(std::integral_constant<int, kKeys>) {
    launch(stream, warp_top_b_kernel<kKeys>, {blocks_for(p.tokens, WarpTeam::kRowsPerBlock), kRowThreads}, work, p);
  };
  if (B <= 32) return by_warps(std::integral_constant<int, 1>());
  if (B <= 64) return by_warps(std::integral_constant<int, 2>());
  if (B <= 128) return by_warps(std::integral_constant<int, 4>());
  if (B <= 256) return by_warps(std::integral_constant<int, 8>());
  if (B <= 512) return by_warps(std::integral_constant<int, 16>());
  if (B <= 1024) return by_warps(std::integral_constant<int, 32>());
  const auto tokens = static_cast<unsigned>(p.tokens);
  const auto cache = static_cast<size_t>((B + kWidth - 1) / kWidth) * sizeof(Keys);
  if (B <= 8192) return launch(stream, block_top_b_kernel<256, true>, {tokens, 256, cache}, work, p);
  if (B <= kMostCached) {
    constexpr size_t kLeast = 49 << 10;  // beyond what needs leave: the histogram would exceed that unnoticed
    return launch(stream, block_top_b_kernel<1024, true>, {tokens, 1024, std::max(cache, kLeast)}, work, p);
  }
  launch(stream, block_top_b_kernel<1024, false>, {tokens, 1024}, work, p);
}

}  // namespace

void top_b(Stream& stream, Tensor blocks, Tensor nans, const Tensor& scores, const Tensor& bias) {
  auto* events = nans.defined() ? workspace<EventCount>(stream, 1) : nullptr;
  if (events != nullptr) clear_events(stream, events);
  const float *in = scores.data<float>(), *shift = bias.data_or_null<float>();
  choose(stream,
         {blocks.data<int32_t>(), events, in, shift, scores.rows(), static_cast<int32_t>(scores.cols()),
          static_cast<int32_t>(blocks.cols()), is_aligned(in) && is_aligned(shift) && scores.cols() % kWidth == 0});
  if (events != nullptr) add_events(stream, nans.data<double>(), events);
}

}  // namespace sffn::cuda
