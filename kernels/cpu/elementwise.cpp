#include "kernels/ref/elementwise.h"

#include "core/error.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <array>
#include <complex>
#include <cstring>
#include <type_traits>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 1 << 16;       // elements a chunk: long enough to hide the cost of handing it to a thread
constexpr int64_t kGrainBytes = 1 << 18;  // the same of untyped memory
constexpr int64_t kStrip = 64;            // columns a chunk of column_sum: whole cache lines of each row

template <class To, class From>
void convert(To* y, const From* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<To, bfloat16>) {
      y[i] = static_cast<float>(x[i]);
    } else if constexpr (std::is_same_v<From, bfloat16>) {
      y[i] = static_cast<To>(static_cast<float>(x[i]));
    } else {
      y[i] = static_cast<To>(x[i]);
    }
  }
}

template <class To, class From>
void add_range(To* y, const From* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = static_cast<float>(y[i]) + static_cast<float>(x[i]);
}

// out[c] += Σ_r x[r,c] over at most kStrip columns, rows in blocks, so that the rounding error grows with the number of
// blocks and the length of one, not with the number of rows.
template <class T>
void sum_strip(float* out, const T* x, int64_t rows, int64_t stride, int64_t cols) {
  constexpr int64_t kBlock = 64;
  std::array<float, kStrip> total{};
  for (int64_t first = 0; first < rows; first += kBlock) {
    std::array<float, kStrip> block{};
    for (int64_t r = first; r < std::min(rows, first + kBlock); ++r) {
      const T* row = x + r * stride;
#pragma omp simd
      for (int64_t c = 0; c < cols; ++c) block[c] += static_cast<float>(row[c]);
    }
    for (int64_t c = 0; c < cols; ++c) total[c] += block[c];
  }
  for (int64_t c = 0; c < cols; ++c) out[c] += total[c];
}

}  // namespace

void fill_zero(Stream&, Tensor x) {
  auto* bytes = static_cast<std::byte*>(x.raw());
  parallel_chunks(static_cast<int64_t>(x.bytes()), kGrainBytes, [&](int64_t first, int64_t last) {
    std::memset(bytes + first, 0, static_cast<size_t>(last - first));
  });
}

void copy(Stream&, Tensor y, const Tensor& x) {
  if (x.dtype() == y.dtype()) {
    auto* to = static_cast<std::byte*>(y.raw());
    const auto* from = static_cast<const std::byte*>(x.raw());
    parallel_chunks(static_cast<int64_t>(x.bytes()), kGrainBytes, [&](int64_t first, int64_t last) {
      std::memcpy(to + first, from + first, static_cast<size_t>(last - first));
    });
    return;
  }
  with_float_type(x.dtype(), [&](auto from) {
    with_float_type(y.dtype(), [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      if constexpr (std::is_same_v<From, std::complex<double>> && !std::is_same_v<To, std::complex<double>>) {
        throw RunError("copy", cat("x is c128; expected a real dtype, as y has (", name_of(y.dtype()), ")"));
      } else {
        parallel_chunks(x.numel(), kGrain, [to = y.data<To>(), from = x.data<From>()](int64_t first, int64_t last) {
          convert(to + first, from + first, last - first);
        });
      }
    });
  });
}

void add(Stream&, Tensor y, const Tensor& x) {
  with_float_type(y.dtype(), [&](auto to) {
    with_float_type(x.dtype(), [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      if constexpr (std::is_same_v<To, From> || (!kIsReference<To> && !kIsReference<From>)) {
        parallel_chunks(x.numel(), kGrain, [y = y.data<To>(), x = x.data<From>()](int64_t first, int64_t last) {
          if constexpr (kIsReference<To>) {
            ref::add(y + first, x + first, last - first);
          } else {
            add_range(y + first, x + first, last - first);
          }
        });
      } else {
        throw RunError("add", cat(name_of(x.dtype()), " cannot be added to ", name_of(y.dtype())));
      }
    });
  });
}

void column_sum(Stream&, Tensor out, const Tensor& x) {
  const int64_t rows = x.rows(), cols = x.cols();
  with_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::column_sum(out.data<T>(), x.data<T>(), rows, cols);
    } else {
      parallel_chunks(cols, kStrip, [&, out = out.data<float>(), x = x.data<T>()](int64_t first, int64_t last) {
        sum_strip(out + first, x + first, rows, cols, last - first);
      });
    }
  });
}

}  // namespace sffn::cpu
