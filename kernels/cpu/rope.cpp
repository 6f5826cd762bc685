#include "kernels/ref/rope.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

// theta^(-2i/d_h), i < d_h/2
std::vector<double> frequencies(int64_t head_dim, double theta) {
  std::vector<double> table(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }
  return table;
}

template <class T>
void rotate(T* qkv, const int32_t* positions, const AttentionShape& s, double theta, int direction) {
  const int64_t half = s.head_dim / 2, width = s.qkv_width();
  const std::vector<double> frequency = frequencies(s.head_dim, theta);
  parallel_chunks(s.tokens(), std::max<int64_t>(1, kGrain / width), [&](int64_t first, int64_t last) {
    std::vector<float> cosine(frequency.size()), sine(frequency.size());
    for (int64_t n = first; n < last; ++n) {
      const double position = direction * positions[n];
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) sin_cos_f32(position * frequency.data()[i], sine.data()[i], cosine.data()[i]);
      for (int64_t head = 0; head < s.heads + s.kv_heads; ++head) {
        T* low = qkv + n * width + head * s.head_dim;
        T* high = low + half;
        const float *c = cosine.data(), *r = sine.data();
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const auto a = static_cast<float>(low[i]), b = static_cast<float>(high[i]);
          low[i] = a * c[i] - b * r[i];
          high[i] = b * c[i] + a * r[i];
        }
      }
    }
  });
}

void rope(Tensor x, const Tensor& positions, const AttentionShape& shape, double theta, int direction) {
  with_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::rope(x.data<T>(), positions.data<int32_t>(), shape, theta, direction);
    } else {
      rotate(x.data<T>(), positions.data<int32_t>(), shape, theta, direction);
    }
  });
}

}  // namespace

void rope_forward(Stream&, Tensor qkv, const Tensor& positions, const AttentionShape& shape, double theta) {
  rope(qkv, positions, shape, theta, 1);
}

void rope_backward(Stream&, Tensor dqkv, const Tensor& positions, const AttentionShape& shape, double theta) {
  rope(dqkv, positions, shape, theta, -1);
}

}  // namespace sffn::cpu
