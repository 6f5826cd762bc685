#include "kernels/ref/sum.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"

#include <algorithm>
#include <array>

namespace sffn::cpu {
namespace {

constexpr int64_t kMaxPieces = 256;
constexpr int64_t kMinPiece = 4096;

// Pieces are cut by n alone and added in order.
template <class T>
double total(const T* x, int64_t n) {
  const int64_t piece = std::max(kMinPiece, (n + kMaxPieces - 1) / kMaxPieces);
  std::array<double, kMaxPieces> partial{};
  parallel_chunks(n, piece, [&](int64_t first, int64_t last) {
    partial[first / piece] =
        lane_sum<double>(last - first, [&](int64_t i) { return static_cast<double>(x[first + i]); });
  });
  double sum = 0;
  for (double p : partial) sum += p;
  return sum;
}

template <class T>
void chunk_squares(double* partial, const T* x, int64_t n, int64_t chunk) {
  parallel_chunks((n + chunk - 1) / chunk, 1, [&](int64_t first_chunk, int64_t last_chunk) {
    for (int64_t i = first_chunk; i < last_chunk; ++i) {
      const T* piece = x + i * chunk;
      partial[i] = lane_sum<double>(std::min(chunk, n - i * chunk), [&](int64_t j) {
        const auto value = static_cast<double>(piece[j]);
        return value * value;
      });
    }
  });
}

}  // namespace

void sum(Stream&, Tensor out, const Tensor& x) {
  with_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::sum(out.data<T>(), x.data<T>(), x.numel());
    } else {
      out.data<double>()[0] = total(x.data<T>(), x.numel());
    }
  });
}

void sum_of_squares(Stream&, Tensor partial, const Tensor& x, int64_t chunk) {
  with_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::sum_of_squares(partial.data<T>(), x.data<T>(), x.numel(), chunk);
    } else {
      chunk_squares(partial.data<double>(), x.data<T>(), x.numel(), chunk);
    }
  });
}

}  // namespace sffn::cpu
