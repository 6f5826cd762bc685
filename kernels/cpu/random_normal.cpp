#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <cmath>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;

// Element `index` of the stream; when truncated, draws beyond ±2 are made again from the same index of further streams.
double draw(RandomKey key, uint64_t index, bool truncated) {
  double value = sffn::random_normal(key, index);
  for (uint64_t attempt = 1; truncated && std::abs(value) > 2; ++attempt) {
    value = sffn::random_normal({key.seed, mix64(key.stream ^ attempt)}, index);
  }
  return value;
}

}  // namespace

// Rounded to f32 before any other dtype, so that a model has the same initial values in every precision.
void random_normal(Stream&, Tensor x, RandomKey key, int64_t first_index, double std, bool truncated) {
  with_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    T* values = x.data<T>();
    parallel_chunks(x.numel(), kGrain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        values[i] = T(static_cast<float>(std * draw(key, static_cast<uint64_t>(first_index + i), truncated)));
      }
    });
  });
}

}  // namespace sffn::cpu
