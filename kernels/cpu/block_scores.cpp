#include "kernels/ref/block_scores.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

// The minimum or maximum, NaN when one is NaN. Which of two numbers comes first makes no difference.
template <bool kMinimum>
float pick(float x, float best) {
  return (kMinimum ? x < best : x > best) | (x != x) ? x : best;
}

template <bool kMinimum, int kWidth>
void fold_picks(float* lanes) {
#pragma omp simd
  for (int l = 0; l < kWidth; ++l) lanes[l] = pick<kMinimum>(lanes[l + kWidth], lanes[l]);
  if constexpr (kWidth > 1) fold_picks<kMinimum, kWidth / 2>(lanes);
}

template <bool kMinimum>
float extreme(const float* block, int64_t G) {
  float best = block[0];
  int64_t j = 0;
  if (G >= kSumLanes) {
    float lanes[kSumLanes];
    std::copy_n(block, kSumLanes, lanes);
    for (j = kSumLanes; j + kSumLanes <= G; j += kSumLanes) {
#pragma omp simd
      for (int l = 0; l < kSumLanes; ++l) lanes[l] = pick<kMinimum>(block[j + l], lanes[l]);
    }
    fold_picks<kMinimum, kSumLanes / 2>(lanes);
    best = lanes[0];
  }
  bool nan = best != best;  // apart from the choice, which then has no branch to mispredict
  for (; j < G; ++j) {
    best = (kMinimum ? block[j] < best : block[j] > best) ? block[j] : best;
    nan |= block[j] != block[j];
  }
  return nan ? std::numeric_limits<float>::quiet_NaN() : best;
}

// Blocks of one cell: y[r] = x[r] or |x[r]|.
void copy_cells(float* y, const float* x, int64_t R, bool absolute) {
  parallel_chunks(R, kGrain, [&](int64_t first, int64_t last) {
#pragma omp simd
    for (int64_t r = first; r < last; ++r) y[r] = absolute ? std::abs(x[r]) : x[r];
  });
}

// scores[r] = score(block r)
template <class Score>
void for_each_block(float* scores, const float* cells, int64_t R, int64_t G, Score&& score) {
  parallel_chunks(R, std::max<int64_t>(1, kGrain / G), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) scores[r] = score(cells + r * G);
  });
}

void forward(float* scores, const float* cells, int64_t R, int64_t G, BlockAggregate aggregate) {
  if (G == 1) return copy_cells(scores, cells, R, aggregate == BlockAggregate::kMeanAbs);
  const float mean = 1.0f / static_cast<float>(G);
  switch (aggregate) {
    case BlockAggregate::kMin:
      return for_each_block(scores, cells, R, G, [G](const float* block) { return extreme<true>(block, G); });
    case BlockAggregate::kMax:
      return for_each_block(scores, cells, R, G, [G](const float* block) { return extreme<false>(block, G); });
    case BlockAggregate::kMeanAbs:
      return for_each_block(scores, cells, R, G, [G, mean](const float* block) {
        return mean * block_sum(G, [block](int64_t j) { return std::abs(block[j]); });
      });
    default:
      return for_each_block(scores, cells, R, G, [G, mean](const float* block) {
        return mean * block_sum(G, [block](int64_t j) { return block[j]; });
      });
  }
}

// The first cell that is the extreme, or the first NaN.
int64_t place_of(const float* block, int64_t G, bool minimum) {
  const float best = minimum ? extreme<true>(block, G) : extreme<false>(block, G);
  int64_t j = 0;
  while (best == best ? block[j] != best : block[j] == block[j]) ++j;
  return j;
}

void backward(float* dcells, const float* dscores, const float* cells, int64_t R, int64_t G, BlockAggregate aggregate) {
  if (G == 1 && aggregate != BlockAggregate::kMeanAbs) return copy_cells(dcells, dscores, R, false);
  const float mean = 1.0f / static_cast<float>(G);
  parallel_chunks(R, std::max<int64_t>(1, kGrain / G), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float *block = cells + r * G, share = mean * dscores[r];
      float* d = dcells + r * G;
      if (aggregate == BlockAggregate::kMean) {
        for (int64_t j = 0; j < G; ++j) d[j] = share;
      } else if (aggregate == BlockAggregate::kMeanAbs) {
#pragma omp simd
        for (int64_t j = 0; j < G; ++j) d[j] = block[j] > 0 ? share : block[j] < 0 ? -share : 0.0f;
      } else {
        for (int64_t j = 0; j < G; ++j) d[j] = 0;
        d[place_of(block, G, aggregate == BlockAggregate::kMin)] = dscores[r];
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
