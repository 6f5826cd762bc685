#include "kernels/ref/block_dot.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"

#include <array>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk
constexpr int64_t kStrip = 64;     // columns a chunk of dv

struct Sizes {
  int64_t N, M, B, G;
  int64_t rows() const { return std::max<int64_t>(1, kGrain / M); }  // of a chunk
};

template <class T>
void forward(float* scores, const T* h, const float* v, const Sizes& s) {
  parallel_chunks(s.N, s.rows(), [&](int64_t first, int64_t last) {
    for (int64_t p = first * s.B; p < last * s.B; ++p) {
      const T* cells = h + p * s.G;
      const float* factors = v + p % s.B * s.G;
      scores[p] = lane_sum<float>(s.G, [&](int64_t j) { return static_cast<float>(cells[j]) * factors[j]; });
    }
  });
}

template <class T>
void backward_hidden(T* dh, const float* dscores, const float* v, const Sizes& s) {
  parallel_chunks(s.N, s.rows(), [&](int64_t first, int64_t last) {
    for (int64_t p = first * s.B; p < last * s.B; ++p) {
      T* cells = dh + p * s.G;
      const float* factors = v + p % s.B * s.G;
      const float dscore = dscores[p];
#pragma omp simd
      for (int64_t j = 0; j < s.G; ++j) cells[j] = static_cast<float>(cells[j]) + dscore * factors[j];
    }
  });
}

// sum[c - first] += dscores[i of c]·h[c] for the cells [first, last) of one row, block by block.
template <class T>
void add_row(float* sum, const float* dscores, const T* h, int64_t first, int64_t last, int64_t G) {
  for (int64_t c = first; c < last;) {
    const int64_t end = std::min(last, (c / G + 1) * G);
    const float dscore = dscores[c / G];
#pragma omp simd
    for (int64_t j = c; j < end; ++j) sum[j - first] += dscore * static_cast<float>(h[j]);
    c = end;
  }
}

// dv of at most kStrip cells. Rows go in blocks, so that the rounding error grows with the number of blocks and the
// length of one, not with the number of rows.
template <class T>
void backward_strip(float* dv, const float* dscores, const T* h, const Sizes& s, int64_t first, int64_t last) {
  constexpr int64_t kBlock = 64;
  std::array<float, kStrip> total{};
  for (int64_t row = 0; row < s.N; row += kBlock) {
    std::array<float, kStrip> block{};
    for (int64_t n = row; n < std::min(s.N, row + kBlock); ++n) {
      add_row(block.data(), dscores + n * s.B, h + n * s.M, first, last, s.G);
    }
    for (int64_t c = 0; c < last - first; ++c) total[static_cast<size_t>(c)] += block[static_cast<size_t>(c)];
  }
  for (int64_t c = first; c < last; ++c) dv[c] = total[static_cast<size_t>(c - first)];
}

}  // namespace

void block_dot_forward(Stream&, Tensor scores, const Tensor& h, const Tensor& v) {
  const Sizes s{h.rows(), h.cols(), scores.cols(), h.cols() / scores.cols()};
  with_float_type(h.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::block_dot_forward(scores.data<T>(), h.data<T>(), v.data<T>(), s.N, s.M, s.B);
    } else {
      forward(scores.data<float>(), h.data<T>(), v.data<float>(), s);
    }
  });
}

void block_dot_backward(Stream&, Tensor dh, Tensor dv, const Tensor& dscores, const Tensor& h, const Tensor& v) {
  const Sizes s{h.rows(), h.cols(), dscores.cols(), h.cols() / dscores.cols()};
  with_float_type(h.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::block_dot_backward(dh.data<T>(), dv.data<T>(), dscores.data<T>(), h.data<T>(), v.data<T>(), s.N, s.M, s.B);
    } else {
      const float* gradient = dscores.data<float>();
      backward_hidden(dh.data<T>(), gradient, v.data<float>(), s);
      parallel_chunks(s.M, kStrip, [&, out = dv.data<float>(), cells = h.data<T>()](int64_t first, int64_t last) {
        backward_strip(out, gradient, cells, s, first, last);
      });
    }
  });
}

}  // namespace sffn::cpu
