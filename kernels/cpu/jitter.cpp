#include "kernels/ref/jitter.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/random_bits.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;
constexpr int64_t kPiece = 1024;  // elements whose random bits are held at once

template <class T>
void multiply(T* x, int64_t n, float eps, const Draws& draws) {
  parallel_chunks(n, kGrain, [&](int64_t first, int64_t last) {
    uint32_t bits[kPiece];
    for (int64_t at = first; at < last; at += kPiece) {
      const int64_t count = std::min(kPiece, last - at);
      fill_random_bits(bits, draws.key, static_cast<uint64_t>(draws.first_index + at), count);
      T* piece = x + at;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const float centred =
            multiply_add(2.0f, static_cast<float>(static_cast<int32_t>(bits[i] >> 8)) * 0x1p-24f, -1.0f);
        piece[i] = static_cast<float>(piece[i]) * multiply_add(eps, centred, 1.0f);
      }
    }
  });
}

}  // namespace

void jitter(Stream&, Tensor x, double eps, const Draws& given) {
  const Draws draws = given.now();
  with_float_type(x.dtype(), [&]<class T>(T) {
    if constexpr (kIsReference<T>) {
      ref::jitter(x.data<T>(), x.numel(), eps, draws);
    } else {
      multiply(x.data<T>(), x.numel(), static_cast<float>(eps), draws);
    }
  });
}

}  // namespace sffn::cpu
