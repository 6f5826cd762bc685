#include "kernels/ref/columns.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

// f(row of x, row of parts) for the W elements of every token and part, on the rank's threads.
template <class X, class Parts, class F>
void for_each_piece(X* x, Parts* parts, int64_t P, int64_t N, int64_t W, F&& f) {
  parallel_chunks(N, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, P * W)), [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      for (int64_t p = 0; p < P; ++p) f(x + (n * P + p) * W, parts + (p * N + n) * W);
    }
  });
}

}  // namespace

void split_columns(Stream&, Tensor parts, const Tensor& x) {
  const int64_t P = parts.shape()[0], N = parts.shape()[1], W = parts.cols();
  with_float_type(x.dtype(), [&]<class T>(T) {
    if constexpr (kIsReference<T>) {
      ref::split_columns(parts.data<T>(), x.data<T>(), P, N, W);
    } else {
      for_each_piece(x.data<T>(), parts.data<T>(), P, N, W,
                     [&](const T* whole, T* part) { std::copy_n(whole, W, part); });
    }
  });
}

void join_columns(Stream&, Tensor x, const Tensor& parts, Accumulate accumulate) {
  const int64_t P = parts.shape()[0], N = parts.shape()[1], W = parts.cols();
  with_float_type(x.dtype(), [&]<class T>(T) {
    if constexpr (kIsReference<T>) {
      ref::join_columns(x.data<T>(), parts.data<T>(), accumulate, P, N, W);
    } else if (accumulate == Accumulate::kNo) {
      for_each_piece(x.data<T>(), parts.data<T>(), P, N, W,
                     [&](T* whole, const T* part) { std::copy_n(part, W, whole); });
    } else {
      for_each_piece(x.data<T>(), parts.data<T>(), P, N, W, [&](T* whole, const T* part) {
#pragma omp simd
        for (int64_t j = 0; j < W; ++j) whole[j] = static_cast<float>(whole[j]) + static_cast<float>(part[j]);
      });
    }
  });
}

}  // namespace sffn::cpu
