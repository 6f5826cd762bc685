#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/block_routing.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;        // scores a chunk
constexpr int64_t kShortList = 1024;     // keys that are cheaper to search to the end than to thin out
constexpr int kBitsBeforeThinning = 12;  // sign, exponent and three bits of the fraction: few keys share them

// An integer in the order of the scores: -0 is +0, every NaN is above infinity.
int32_t key_of(float score) {
  const int32_t bits = std::bit_cast<int32_t>(score + 0.0f);
  const int32_t ordered = bits ^ ((bits >> 31) & 0x7fffffff);
  return score != score ? std::numeric_limits<int32_t>::max() : ordered;
}

// Returns how many of the sums are NaN.
int64_t make_keys(int32_t* keys, const float* scores, const float* bias, int64_t B) {
  int32_t nans = 0;
#pragma omp simd reduction(+ : nans)
  for (int64_t i = 0; i < B; ++i) {
    const float sum = bias ? scores[i] + bias[i] : scores[i];
    keys[i] = key_of(sum);
    nans += sum != sum;
  }
  return nans;
}

int64_t count_from(const int32_t* keys, int64_t count, int32_t least) {
  int32_t found = 0;
#pragma omp simd reduction(+ : found)
  for (int64_t i = 0; i < count; ++i) found += keys[i] >= least;
  return found;
}

// A value that exactly b of the keys reach or, where equal keys forbid that, the b-th largest key: bit by bit, from the
// top. A long list is thinned out once to the keys that share the bits found. `thinned` has room for them.
int32_t threshold_of(const int32_t* keys, int32_t* thinned, int64_t count, int64_t b) {
  uint32_t found = 0;  // in the order of unsigned numbers: keys with the sign bit turned
  int64_t above = 0;   // keys that were left out because they are larger than all that share the bits found
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t trial = found | (1u << bit);
    const int64_t reached = above + count_from(keys, count, static_cast<int32_t>(trial ^ 0x80000000u));
    if (reached >= b) found = trial;
    if (reached == b) break;
    if (bit == 32 - kBitsBeforeThinning && count > kShortList) {
      int64_t kept = 0;
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t key = static_cast<uint32_t>(keys[i]) ^ 0x80000000u;
        thinned[kept] = keys[i];
        kept += key >> bit == found >> bit;
        above += key >> bit > found >> bit;
      }
      keys = thinned;
      count = kept;
    }
  }
  return static_cast<int32_t>(found ^ 0x80000000u);
}

// The b places whose keys are the largest, ascending; of equal keys the first.
void choose(int32_t* chosen, const int32_t* keys, int32_t* thinned, int64_t B, int64_t b) {
  const int32_t threshold = threshold_of(keys, thinned, B, b);
  const bool unbounded = threshold == std::numeric_limits<int32_t>::max();
  int64_t equal = b - (unbounded ? 0 : count_from(keys, B, threshold + 1));
  for (int64_t i = 0, taken = 0; taken < b; ++i) {
    if (keys[i] < threshold || (keys[i] == threshold && equal-- <= 0)) continue;
    chosen[taken++] = static_cast<int32_t>(i);
  }
}

int64_t top_b(int32_t* blocks, const float* scores, const float* bias, int64_t N, int64_t B, int64_t b) {
  std::atomic<int64_t> nans{0};
  parallel_chunks(N, std::max<int64_t>(1, kGrain / B), [&](int64_t first, int64_t last) {
    thread_local Scratch scratch;
    auto* keys = static_cast<int32_t*>(scratch.get(static_cast<size_t>(2 * B + 1) * sizeof(int32_t)));
    int64_t found = 0;
    for (int64_t n = first; n < last; ++n) {
      found += make_keys(keys, scores + n * B, bias, B);
      choose(blocks + n * b, keys, keys + B, B, b);
    }
    nans += found;
  });
  return nans;
}

}  // namespace

void top_b(Stream&, Tensor blocks, Tensor nans, const Tensor& scores, const Tensor& bias) {
  const auto run = [&](auto kernel, auto type) {
    using T = decltype(type);
    const int64_t found = kernel(blocks.data<int32_t>(), scores.data<T>(), bias.data_or_null<T>(), scores.shape()[0],
                                 scores.cols(), blocks.cols());
    if (nans.defined()) nans.data<double>()[0] += static_cast<double>(found);
  };
  with_float_type(scores.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      run(ref::top_b<T>, type);
    } else if constexpr (std::is_same_v<T, float>) {
      run([](auto... arguments) { return top_b(arguments...); }, type);
    }
  });
}

}  // namespace sffn::cpu
