#include "kernels/ref/block_aggregate.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace sffn::cpu {
namespace {

constexpr int64_t kStrip = 128;    // columns of a block that are reduced together: whole cache lines of every row
constexpr int64_t kGrain = 16384;  // elements a chunk

// weights[j] = ‖rows[j]‖, or 1/‖rows[j]‖ (0 for a zero row); squares in double, so that no norm over- or underflows.
template <class T>
void row_norms(float* weights, const T* rows, int64_t R, int64_t D, bool inverse) {
  parallel_chunks(R, std::max<int64_t>(1, kGrain / D), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const T* row = rows + r * D;
      const double norm = std::sqrt(lane_sum<double>(D, [&](int64_t d) {
        const auto x = static_cast<double>(static_cast<float>(row[d]));
        return x * x;
      }));
      weights[r] = static_cast<float>(!inverse ? norm : norm == 0 ? 0 : 1 / norm);
    }
  });
}

// body(i, first, count): the strip of `count` columns from `first` of block i, for every strip of every block.
template <class Body>
void for_each_strip(int64_t B, int64_t G, int64_t D, Body&& body) {
  const int64_t strips = (D + kStrip - 1) / kStrip;
  parallel_chunks(B * strips, std::max<int64_t>(1, kGrain / (G * kStrip)), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % strips * kStrip;
      body(unit / strips, first, std::min(kStrip, D - first));
    }
  });
}

// total = step(total, x) over the rows of a strip, from the first row on.
template <class T, class Step>
void reduce_rows(float* total, const T* rows, int64_t G, int64_t D, int64_t count, Step&& step) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) total[c] = static_cast<float>(rows[c]);
  for (int64_t j = 1; j < G; ++j) {
    const T* row = rows + j * D;
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) total[c] = step(total[c], static_cast<float>(row[c]));
  }
}

template <class T>
void minimum_or_maximum(float* out, const T* keys, int64_t B, int64_t G, int64_t D, bool minimum) {
  for_each_strip(B, G, D, [&](int64_t i, int64_t first, int64_t count) {
    const T* rows = keys + i * G * D + first;
    float* to = out + i * D + first;
    if (minimum) {
      reduce_rows(to, rows, G, D, count, [](float m, float x) { return x < m || x != x ? x : m; });
    } else {
      reduce_rows(to, rows, G, D, count, [](float m, float x) { return x > m || x != x ? x : m; });
    }
  });
}

// out[i] = scale(i)·Σ_j weights[j]·f(keys[j]), with f = |·| where `absolute`; weights null: 1.
template <class T, class Scale>
void weighted_sum(float* out, const T* keys, const float* weights, int64_t B, int64_t G, int64_t D, bool absolute,
                  Scale&& scale) {
  for_each_strip(B, G, D, [&](int64_t i, int64_t first, int64_t count) {
    std::array<float, kStrip> total{};
    for (int64_t j = i * G; j < (i + 1) * G; ++j) {
      const T* row = keys + j * D + first;
      const float weight = weights ? weights[j] : 1.0f;
      if (absolute) {
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) total[c] += std::abs(static_cast<float>(row[c]));
      } else {
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) total[c] += weight * static_cast<float>(row[c]);
      }
    }
    const float by = scale(i);
    float* to = out + i * D + first;
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) to[c] = total[c] * by;
  });
}

template <class T>
void value_weighted(float* out, const T* keys, const T* values, float* weights, int64_t B, int64_t G, int64_t D) {
  row_norms(weights, values, B * G, D, false);
  parallel_chunks(B, std::max<int64_t>(1, kGrain / G), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      float* w = weights + i * G;
      const double total = lane_sum<double>(G, [&](int64_t j) { return static_cast<double>(w[j]); });
      for (int64_t j = 0; j < G; ++j)
        w[j] = static_cast<float>(total == 0 ? 1.0 / static_cast<double>(G) : w[j] / total);
    }
  });
  weighted_sum(out, keys, weights, B, G, D, false, [](int64_t) { return 1.0f; });
}

template <class T>
void principal_components(float* out, const T* keys, int64_t B, int64_t G, int64_t D) {
  parallel_chunks(B, 1, [&](int64_t first, int64_t last) {
    std::vector<double> block(static_cast<size_t>(G * D)), component(static_cast<size_t>(D));
    for (int64_t i = first; i < last; ++i) {
      for (int64_t e = 0; e < G * D; ++e) block[e] = static_cast<float>(keys[i * G * D + e]);
      ref::first_pc(component.data(), block.data(), G, D);
      for (int64_t d = 0; d < D; ++d) out[i * D + d] = static_cast<float>(component[d]);
    }
  });
}

template <class T>
void forward(float* out, const T* keys, const T* values, int64_t B, int64_t G, int64_t D, BlockAggregate aggregate) {
  thread_local Scratch scratch;
  const auto row_weights = [&] { return static_cast<float*>(scratch.get(static_cast<size_t>(B * G) * sizeof(float))); };
  const auto mean = [G](int64_t) { return 1.0f / static_cast<float>(G); };
  switch (aggregate) {
    case BlockAggregate::kMean:
      return weighted_sum(out, keys, nullptr, B, G, D, false, mean);
    case BlockAggregate::kMeanAbs:
      return weighted_sum(out, keys, nullptr, B, G, D, true, mean);
    case BlockAggregate::kMin:
    case BlockAggregate::kMax:
      return minimum_or_maximum(out, keys, B, G, D, aggregate == BlockAggregate::kMin);
    case BlockAggregate::kL2Mean: {
      float* weights = row_weights();
      row_norms(weights, keys, B * G, D, true);
      return weighted_sum(out, keys, weights, B, G, D, false, mean);
    }
    case BlockAggregate::kValueWeighted:
      return value_weighted(out, keys, values, row_weights(), B, G, D);
    case BlockAggregate::kFirstPc:
      return principal_components(out, keys, B, G, D);
  }
}

// mean: dk += dy/G.  l2_mean: dk += (dy - k̂⟨k̂, dy⟩)/(‖k‖G).
template <class T>
void backward(float* dkeys, const float* dout, const T* keys, int64_t B, int64_t G, int64_t D, bool l2) {
  const float mean = 1.0f / static_cast<float>(G);
  parallel_chunks(B * G, std::max<int64_t>(1, kGrain / D), [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      const float* dy = dout + j / G * D;
      const T* key = keys + j * D;
      float *dkey = dkeys + j * D, along = 0, inverse = 1;
      if (l2) {
        row_norms(&inverse, key, 1, D, true);
        const double inner = lane_sum<double>(
            D, [&](int64_t d) { return static_cast<double>(static_cast<float>(key[d])) * static_cast<double>(dy[d]); });
        along = static_cast<float>(inner * inverse * inverse);
      }
      const float scale = mean * inverse;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) dkey[d] += scale * (dy[d] - along * static_cast<float>(key[d]));
    }
  });
}

}  // namespace

void block_aggregate_forward(Stream&, Tensor out, const Tensor& keys, const Tensor& values, BlockAggregate aggregate) {
  const int64_t B = out.shape()[0], G = keys.shape()[0] / B, D = keys.cols();
  if (out.numel() == 0) return;
  with_float_type(keys.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto kernel) {
      kernel(out.data<AccumulateOf<T>>(), keys.data<T>(), values.data_or_null<T>(), B, G, D, aggregate);
    };
    if constexpr (kIsReference<T>) {
      run(ref::block_aggregate_forward<T>);
    } else {
      run(forward<T>);
    }
  });
}

void block_aggregate_backward(Stream&, Tensor dkeys, const Tensor& dout, const Tensor& keys, BlockAggregate aggregate) {
  const int64_t B = dout.shape()[0], G = keys.shape()[0] / B, D = keys.cols();
  const bool l2 = aggregate == BlockAggregate::kL2Mean;
  if (dout.numel() == 0 || (!l2 && aggregate != BlockAggregate::kMean)) return;
  with_float_type(keys.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::block_aggregate_backward(dkeys.data<T>(), dout.data<T>(), keys.data<T>(), B, G, D, aggregate);
    } else {
      backward(dkeys.data<float>(), dout.data<float>(), keys.data<T>(), B, G, D, l2);
    }
  });
}

}  // namespace sffn::cpu
