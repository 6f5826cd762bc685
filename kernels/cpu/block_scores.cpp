#include "kernels/ref/block_scores.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;  // cells a chunk

// Σ term(j) over a block; blocks shorter than the lanes are added in order.
template <class Term>
float block_sum(int64_t G, Term&& term) {
  if (G >= kSumLanes) return lane_sum<float>(G, term);
  float total = 0;
  for (int64_t j = 0; j < G; ++j) total += term(j);
  return total;
}

// The extreme by better(x, best), NaN when there is one, in lanes: the order does not change which value it is.
template <class Better>
float extreme(const float* block, int64_t G, Better&& better) {
  const auto pick = [&](float x, float best) { return better(x, best) || x != x ? x : best; };
  float lanes[kSumLanes];
  std::fill_n(lanes, kSumLanes, block[0]);
  int64_t j = 0;
  for (; j + kSumLanes <= G; j += kSumLanes) {
#pragma omp simd
    for (int l = 0; l < kSumLanes; ++l) lanes[l] = pick(block[j + l], lanes[l]);
  }
  float best = lanes[0];
  for (; j < G; ++j) best = pick(block[j], best);
  for (int l = 1; l < kSumLanes && G >= kSumLanes; ++l) best = pick(lanes[l], best);
  return best;
}

void forward(float* scores, const float* cells, int64_t R, int64_t G, BlockAggregate aggregate) {
  const float mean = 1.0f / static_cast<float>(G);
  parallel_chunks(R, std::max<int64_t>(1, kGrain / G), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* block = cells + r * G;
      switch (aggregate) {
        case BlockAggregate::kMin:
          scores[r] = extreme(block, G, [](float x, float best) { return x < best; });
          break;
        case BlockAggregate::kMax:
          scores[r] = extreme(block, G, [](float x, float best) { return x > best; });
          break;
        case BlockAggregate::kMeanAbs:
          scores[r] = mean * block_sum(G, [&](int64_t j) { return std::abs(block[j]); });
          break;
        default:
          scores[r] = mean * block_sum(G, [&](int64_t j) { return block[j]; });
      }
    }
  });
}

void backward(float* dcells, const float* dscores, const float* cells, int64_t R, int64_t G, BlockAggregate aggregate) {
  const float mean = 1.0f / static_cast<float>(G);
  parallel_chunks(R, std::max<int64_t>(1, kGrain / G), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float *block = cells + r * G, share = mean * dscores[r];
      float* d = dcells + r * G;
      if (aggregate == BlockAggregate::kMean) {
        std::fill_n(d, G, share);
      } else if (aggregate == BlockAggregate::kMeanAbs) {
#pragma omp simd
        for (int64_t j = 0; j < G; ++j) d[j] = block[j] > 0 ? share : block[j] < 0 ? -share : 0.0f;
      } else {
        std::fill_n(d, G, 0.0f);
        d[ref::extreme_cell(block, G, aggregate)] = dscores[r];
      }
    }
  });
}

}  // namespace

void block_scores_forward(Stream&, Tensor scores, const Tensor& cells, BlockAggregate aggregate) {
  const int64_t G = cells.cols() / scores.cols();
  with_float_type(cells.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::block_scores_forward(scores.data<T>(), cells.data<T>(), scores.numel(), G, aggregate);
    } else {
      forward(scores.data<float>(), cells.data<float>(), scores.numel(), G, aggregate);
    }
  });
}

void block_scores_backward(Stream&, Tensor dcells, const Tensor& dscores, const Tensor& cells,
                           BlockAggregate aggregate) {
  const int64_t G = cells.cols() / dscores.cols();
  with_float_type(cells.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::block_scores_backward(dcells.data<T>(), dscores.data<T>(), cells.data<T>(), dscores.numel(), G, aggregate);
    } else {
      backward(dcells.data<float>(), dscores.data<float>(), cells.data<float>(), dscores.numel(), G, aggregate);
    }
  });
}

}  // namespace sffn::cpu
