#include "kernels/ref/ranks.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

int64_t rows_of_chunk(int64_t columns) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, columns)); }

// Token n of N. inverse absent: its rows are r·N + n.
template <class T>
void combine_row(T* y, const T* rows, const int32_t* inverse, const float* bias, int64_t n, int64_t N, int64_t R,
                 int64_t D, float* sum) {
  std::fill_n(sum, D, 0.0f);
  for (int64_t r = 0; r < R; ++r) {
    const int64_t place = inverse == nullptr ? r * N + n : inverse[n * R + r];
    if (place < 0) continue;
    const T* row = rows + place * D;
#pragma omp simd
    for (int64_t j = 0; j < D; ++j) sum[j] += static_cast<float>(row[j]);
  }
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) y[n * D + j] = static_cast<T>(bias == nullptr ? sum[j] : sum[j] + bias[j]);
}

void combine(Tensor y, const Tensor& rows, const int32_t* inverse, int64_t R, const Tensor& bias) {
  const int64_t N = y.rows(), D = y.cols();
  with_float_type(y.dtype(), [&]<class T>(T) {
    using Acc = std::conditional_t<kIsReference<T>, T, float>;
    const Acc* to_add = bias.defined() ? bias.data<Acc>() : nullptr;
    if constexpr (kIsReference<T>) {
      ref::combine_tokens(y.data<T>(), rows.data<T>(), inverse, to_add, N, R, D);
    } else {
      parallel_chunks(N, rows_of_chunk(D), [&](int64_t first, int64_t last) {
        std::vector<float> sum(static_cast<size_t>(D));
        for (int64_t n = first; n < last; ++n) {
          combine_row(y.data<T>(), rows.data<T>(), inverse, to_add, n, N, R, D, sum.data());
        }
      });
    }
  });
}

}  // namespace

void localise_blocks(Stream&, Tensor out, const Tensor& blocks, int64_t first, int64_t count) {
  parallel_chunks(blocks.numel(), kGrain, [&](int64_t begin, int64_t end) {
    ref::localise_blocks(out.data<int32_t>() + begin, blocks.data<int32_t>() + begin, end - begin, first, count);
  });
}

void ranks_of_blocks(Stream&, Tensor ranks, const Tensor& blocks, int64_t blocks_of_rank) {
  const int64_t R = ranks.cols(), b = blocks.cols();
  check_blocks("ranks_of_blocks", blocks, R * blocks_of_rank);
  parallel_chunks(ranks.rows(), rows_of_chunk(b), [&](int64_t first, int64_t last) {
    ref::ranks_of_blocks(ranks.data<int32_t>() + first * R, blocks.data<int32_t>() + first * b, last - first, R, b,
                         blocks_of_rank);
  });
}

void gather_tokens(Stream&, Tensor out, const Tensor& x, const Tensor& order, int64_t per_token) {
  check_indices("gather_tokens", "order", order, -1, x.rows() * per_token);
  const auto* places = order.data<int32_t>();
  const size_t row_bytes = static_cast<size_t>(x.cols()) * size_of(x.dtype());
  parallel_chunks(out.rows(), rows_of_chunk(x.cols()), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      std::byte* to = static_cast<std::byte*>(out.raw()) + static_cast<size_t>(p) * row_bytes;
      if (places[p] < 0) {
        std::memset(to, 0, row_bytes);
      } else {
        const auto row = static_cast<size_t>(places[p] / per_token);
        std::memcpy(to, static_cast<const std::byte*>(x.raw()) + row * row_bytes, row_bytes);
      }
    }
  });
}

void combine_tokens(Stream&, Tensor y, const Tensor& rows, const Tensor& inverse, const Tensor& bias) {
  check_indices("combine_tokens", "inverse", inverse, -1, rows.rows());
  combine(y, rows, inverse.data<int32_t>(), inverse.cols(), bias);
}

void sum_parts(Stream&, Tensor y, const Tensor& parts, const Tensor& bias) {
  combine(y, parts, nullptr, parts.shape()[0], bias);
}

}  // namespace sffn::cpu
