// block_combine over blocks of one cell: an embedding bag.
//   terms_of_choices  terms[c] = {cell of choice c, h of its row}; -1 where it was dropped                   terms [P]
//   combine_cells     y[n] = Σ_i (weights[n,i]·h)·W[cell] + bias (+ y), in fp32, over i in order, rounded once
// The first goes over sorted rows, a lane each, and reads h in order. In the second a thread has a strip's columns of
// one token, and adds all its terms: no sum depends on the launch.
#pragma once
#include "kernels/cuda/combine_units.cuh"
#include "kernels/cuda/single_cells.cuh"

namespace sffn::cuda::cells {

struct alignas(8) Term {
  int32_t cell;  // -1: dropped
  float h;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    terms_of_choices_kernel(Term* terms, const T* h, BlockRows rows, int64_t pairs) {
  const int64_t first = (int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * 32, p = first + threadIdx.x % 32;
  const int32_t cell = cell_of_row(rows, pairs, first);
  if (cell >= 0) terms[rows.order[p]] = {cell, to_float(h[p])};
  if (p < rows.tokens * rows.per_token && rows.inverse[p] < 0) terms[p] = {-1, 0};  // p: a choice, here
}

inline constexpr int kTermsAtOnce = 8;

// sum += kTerms terms in order, whose rows are asked for before the first is added. A dropped one is 0·0, whatever the
// table and the weights hold. w: the columns of cell 0.
template <int kTerms, int kCount, class T>
__device__ __forceinline__ void add_terms(float (&sum)[kCount], const Term* terms, const float* weights, const T* w,
                                          int64_t D) {
  Term term[kTerms];
  Columns<kCount, T> columns[kTerms];
  SFFN_UNROLL for (int u = 0; u < kTerms; ++u) term[u] = terms[u];
  SFFN_UNROLL for (int u = 0; u < kTerms; ++u) {
    columns[u] = {};
    if (term[u].cell >= 0) columns[u] = columns_at<kCount>(w + term[u].cell * D);
    if (term[u].cell >= 0 && weights != nullptr) term[u].h *= weights[u];
  }
  SFFN_UNROLL for (int u = 0; u < kTerms; ++u) add_columns<T>(sum, term[u].h, columns[u]);
}

template <int kCount, class T>
__global__ void __launch_bounds__(kThreads, 3)
    combine_cells_kernel(Combination<T> c, const Term* terms, unsigned strips) {
  const auto [n, d] = strip_of_thread<kCount>(strips);
  if (n >= c.rows.tokens || d >= c.D) return;
  const auto b = static_cast<int>(c.rows.per_token);
  const Term* of_token = terms + n * b;
  const float* weights = c.weights != nullptr ? c.weights + n * b : nullptr;
  const auto add = [&]<int kTerms>(float(&sum)[kCount], int i, std::integral_constant<int, kTerms>) {
    add_terms<kTerms>(sum, of_token + i, weights != nullptr ? weights + i : nullptr, c.w + d, c.D);
  };
  float sum[kCount] = {};
  int i = 0;
  for (; i + kTermsAtOnce <= b; i += kTermsAtOnce) add(sum, i, std::integral_constant<int, kTermsAtOnce>());
  for (; i < b; ++i) add(sum, i, std::integral_constant<int, 1>());
  T* y = c.y + n * c.D + d;
  float before[kCount] = {}, bias[kCount] = {};
  if (c.accumulate) load_floats(before, y);
  if (c.bias != nullptr) load_floats(bias, c.bias + d);
  SFFN_UNROLL for (int k = 0; k < kCount; ++k) sum[k] += bias[k];
  SFFN_UNROLL for (int k = 0; k < kCount; ++k) sum[k] += before[k];
  store_floats(y, sum);
}

template <class T>
void combine(Stream& stream, const Combination<T>& c) {
  const int64_t P = c.rows.choices(), D = c.D;
  Term* terms = workspace<Term>(stream, P);
  launch(stream, terms_of_choices_kernel<T>, {blocks_for(P, kThreads), kThreads},
         Work{bytes_for<Term>(P) + bytes_for<T>(P) + bytes_for<int32_t>(2 * P + pairs_of(c.rows))}, terms, c.h, c.rows,
         pairs_of(c.rows));
  const double further = bytes_for<Term>(P) - bytes_for<T>(P) - bytes_for<int32_t>(P) +  // in place of h and rows
                         (c.accumulate ? bytes_for<T>(c.rows.tokens * D) : 0) +
                         (c.weights != nullptr ? bytes_for<float>(P) : 0) +
                         (c.bias != nullptr ? bytes_for<float>(D) : 0);
  const Work work = work_of<T>(c.rows, D, bytes_for<T>(D), further);
  const auto run = [&](auto kernel, int count) {
    launch(stream, kernel, shape_of_strips(c.rows.tokens, D, count), work, c, terms, strips_of(D, count));
  };
  constexpr int kCount = kPackCount<T>;
  packs_fit(D, kCount, c.y, c.w, c.bias) ? run(combine_cells_kernel<kCount, T>, kCount)
                                         : run(combine_cells_kernel<1, T>, 1);
}

}  // namespace sffn::cuda::cells
