// scores[n,i] = mean | min | max | mean of |·| of the G cells of block i.
#pragma once
#include "kernels/ref/block_aggregate.h"
#include "kernels/ref/scalar.h"
#include "kernels/routing.h"

#include <cstdint>

namespace sffn::ref {

// The cell, of G, whose value is the minimum or maximum.
template <class T>
int64_t extreme_cell(const T* cells, int64_t G, BlockAggregate aggregate) {
  int64_t best = 0;
  for (int64_t j = 1; j < G; ++j) {
    if (replaces(cells[j], cells[best], aggregate)) best = j;
  }
  return best;
}

// scores [R], cells [R,G]: R = N·B.
template <class T>
void block_scores_forward(T* scores, const T* cells, int64_t R, int64_t G, BlockAggregate aggregate) {
  for (int64_t r = 0; r < R; ++r) {
    const T* block = cells + r * G;
    if (aggregate == BlockAggregate::kMin || aggregate == BlockAggregate::kMax) {
      scores[r] = block[extreme_cell(block, G, aggregate)];
      continue;
    }
    scores[r] = T(0);
    for (int64_t j = 0; j < G; ++j) {
      scores[r] += aggregate == BlockAggregate::kMean ? block[j] : absolute(block[j]);
    }
    scores[r] /= constant<T>(G);
  }
}

template <class T>
void block_scores_backward(T* dcells, const T* dscores, const T* cells, int64_t R, int64_t G,
                           BlockAggregate aggregate) {
  for (int64_t r = 0; r < R; ++r) {
    const T *block = cells + r * G, share = dscores[r] / constant<T>(G);
    T* d = dcells + r * G;
    for (int64_t j = 0; j < G; ++j) {
      switch (aggregate) {
        case BlockAggregate::kMean:
          d[j] = share;  // score += cell / G
          break;
        case BlockAggregate::kMeanAbs:
          d[j] = constant<T>((real(block[j]) > 0) - (real(block[j]) < 0)) * share;  // score += |cell| / G
          break;
        default:
          d[j] = T(0);
      }
    }
    if (aggregate == BlockAggregate::kMin || aggregate == BlockAggregate::kMax) {
      d[extreme_cell(block, G, aggregate)] = dscores[r];  // score = cell
    }
  }
}

}  // namespace sffn::ref
