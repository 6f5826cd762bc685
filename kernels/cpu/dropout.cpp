#include "kernels/ref/dropout.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/random_bits.h"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;
constexpr int64_t kPiece = 1024;  // elements whose random bits are held at once

template <class T>
void drop(T* x, int64_t n, const Dropout& d) {
  const uint32_t threshold = drop_threshold(d.probability);
  const auto scale = static_cast<float>(1 / (1 - d.probability));
  parallel_chunks(n, kGrain, [&](int64_t first, int64_t last) {
    uint32_t bits[kPiece];
    for (int64_t at = first; at < last; at += kPiece) {
      const int64_t count = std::min(kPiece, last - at);
      fill_random_bits(bits, d.draws.key, static_cast<uint64_t>(d.draws.first_index + at), count);
      T* piece = x + at;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        piece[i] = bits[i] >> 8 < threshold ? 0.0f : static_cast<float>(piece[i]) * scale;
      }
    }
  });
}

}  // namespace

void dropout(Stream&, Tensor x, const Dropout& given) {
  const Dropout d = given.now();
  with_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::dropout(x.data<T>(), x.numel(), d);
    } else {
      drop(x.data<T>(), x.numel(), d);
    }
  });
}

}  // namespace sffn::cpu
