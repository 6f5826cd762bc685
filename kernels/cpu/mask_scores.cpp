#include "kernels/ref/mask_scores.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/random_bits.h"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;
constexpr int64_t kPiece = 1024;  // elements whose random bits are held at once

void mask(float* scores, int64_t n, float value, const Dropout& d) {
  const uint32_t threshold = drop_threshold(d.probability);
  parallel_chunks(n, kGrain, [&](int64_t first, int64_t last) {
    uint32_t bits[kPiece];
    for (int64_t at = first; at < last; at += kPiece) {
      const int64_t count = std::min(kPiece, last - at);
      fill_random_bits(bits, d.draws.key, static_cast<uint64_t>(d.draws.first_index + at), count);
      float* piece = scores + at;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) piece[i] = bits[i] >> 8 < threshold ? value : piece[i];
    }
  });
}

}  // namespace

void mask_scores(Stream&, Tensor scores, double value, const Dropout& given) {
  const Dropout d = given.now();
  with_accumulate_type(scores.dtype(), [&]<class T>(T) {
    if constexpr (kIsReference<T>) {
      ref::mask_scores(scores.data<T>(), scores.numel(), value, d);
    } else {
      mask(scores.data<T>(), scores.numel(), static_cast<float>(value), d);
    }
  });
}

}  // namespace sffn::cpu
