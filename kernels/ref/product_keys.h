// Scores of product keys, the definitions. Legend: kernels/op_list.inc.
#pragma once
#include "kernels/ref/block_routing.h"

#include <cstdint>
#include <vector>

namespace sffn::ref {

struct ProductKeySizes {
  int64_t H, N, C1, C2, k;
};

// cells[n, h·k + i]: the k largest of all C1·C2 sums. Returns how many sums are NaN.
template <class T>
int64_t product_top_k(int32_t* cells, const T* s1, const T* s2, const ProductKeySizes& s) {
  int64_t nans = 0;
  std::vector<T> sums(s.C1 * s.C2);
  for (int64_t h = 0; h < s.H; ++h) {
    for (int64_t n = 0; n < s.N; ++n) {
      for (int64_t cell = 0; cell < s.C1 * s.C2; ++cell) {
        sums[cell] = s1[(h * s.N + n) * s.C1 + cell / s.C2] + s2[(h * s.N + n) * s.C2 + cell % s.C2];
      }
      nans += top_b<T>(cells + (n * s.H + h) * s.k, sums.data(), nullptr, 1, s.C1 * s.C2, s.k);
    }
  }
  return nans;
}

// f(place of (n, h, i) in [N,H·k], places of its half scores in [H,N,C1] and [H,N,C2]); cells null: all in order
template <class F>
void for_each_product(const int32_t* cells, const ProductKeySizes& s, F&& f) {
  for (int64_t h = 0; h < s.H; ++h) {
    for (int64_t n = 0; n < s.N; ++n) {
      for (int64_t i = 0; i < s.k; ++i) {
        const int64_t place = (n * s.H + h) * s.k + i, cell = cells != nullptr ? cells[place] : i;
        f(place, (h * s.N + n) * s.C1 + cell / s.C2, (h * s.N + n) * s.C2 + cell % s.C2);
      }
    }
  }
}

// scores[n, h·k + i] = s1[h, n, cell / C2] + s2[h, n, cell % C2]
template <class T>
void product_scores_forward(T* scores, const T* s1, const T* s2, const int32_t* cells, const ProductKeySizes& s) {
  for_each_product(cells, s, [&](int64_t place, int64_t i1, int64_t i2) { scores[place] = s1[i1] + s2[i2]; });
}

// scores = s1 + s2, so ds1 = ds2 = Σ dscores
template <class T>
void product_scores_backward(T* ds1, T* ds2, const T* dscores, const int32_t* cells, const ProductKeySizes& s) {
  std::fill_n(ds1, s.H * s.N * s.C1, T{});
  std::fill_n(ds2, s.H * s.N * s.C2, T{});
  for_each_product(cells, s, [&](int64_t place, int64_t i1, int64_t i2) {
    ds1[i1] += dscores[place];
    ds2[i2] += dscores[place];
  });
}

}  // namespace sffn::ref
