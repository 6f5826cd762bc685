#include "kernels/ref/cells.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

int64_t rows_of_grain(int64_t row_elements) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row_elements));
}

template <class To, class From>
void copy_row(To* to, const From* from, int64_t G) {
#pragma omp simd
  for (int64_t j = 0; j < G; ++j) to[j] = static_cast<float>(from[j]);
}

template <class To, class From>
void sum_row(To* to, const From* from, const float* bias, int64_t G) {
#pragma omp simd
  for (int64_t j = 0; j < G; ++j) to[j] = static_cast<float>(from[j]) + bias[j];
}

// to += weight·from
template <class T>
void add_row(T* to, const T* from, float weight, int64_t G) {
#pragma omp simd
  for (int64_t j = 0; j < G; ++j) to[j] = static_cast<float>(to[j]) + weight * static_cast<float>(from[j]);
}

template <class To, class From>
void gather(To* out, const From* cells, const float* bias, const int32_t* blocks, int64_t N, int64_t b, int64_t G,
            int64_t M) {
  parallel_chunks(N, rows_of_grain(b * G), [&](int64_t first, int64_t last) {
    for (int64_t c = first * b; c < last * b; ++c) {
      To* to = out + c * G;
      if (blocks[c] < 0) {
        std::fill_n(to, G, To());
      } else {
        const From* from = cells + c / b * M + blocks[c] * G;
        bias != nullptr ? sum_row(to, from, bias + blocks[c] * G, G) : copy_row(to, from, G);
      }
    }
  });
}

template <class T>
void scatter(T* cells, const T* h, const float* weights, const int32_t* blocks, int64_t N, int64_t b, int64_t G,
             int64_t M) {
  parallel_chunks(N, rows_of_grain(M), [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      std::fill_n(cells + n * M, M, T());
      for (int64_t c = n * b; c < (n + 1) * b; ++c) {
        if (blocks[c] < 0) continue;
        add_row(cells + n * M + blocks[c] * G, h + c * G, weights != nullptr ? weights[c] : 1.0f, G);
      }
    }
  });
}

template <class T>
void permute(T* out, const T* rows, const int32_t* order, int64_t P, int64_t G) {
  parallel_chunks(P, rows_of_grain(G), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      if (order[p] < 0) {
        std::fill_n(out + p * G, G, T());
      } else {
        std::copy_n(rows + order[p] * G, G, out + p * G);
      }
    }
  });
}

}  // namespace

void gather_cells(Stream&, Tensor out, const Tensor& cells, const Tensor& bias, const Tensor& blocks) {
  const int64_t N = cells.rows(), M = cells.cols(), b = blocks.cols(), G = out.cols();
  check_indices("gather_cells", "blocks", blocks, -1, M / G);
  const int32_t* ids = blocks.data<int32_t>();
  with_float_type(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::gather_cells(out.data<T>(), cells.data<T>(), bias.data_or_null<T>(), ids, N, b, G, M);
    } else if (cells.dtype() == DType::kF32) {
      gather(out.data<T>(), cells.data<float>(), bias.data_or_null<float>(), ids, N, b, G, M);
    } else {
      gather(out.data<T>(), cells.data<bfloat16>(), bias.data_or_null<float>(), ids, N, b, G, M);
    }
  });
}

void scatter_cells(Stream&, Tensor cells, const Tensor& h, const Tensor& weights, const Tensor& blocks) {
  const int64_t N = cells.rows(), M = cells.cols(), b = blocks.cols(), G = h.cols();
  check_indices("scatter_cells", "blocks", blocks, -1, M / G);
  const int32_t* ids = blocks.data<int32_t>();
  with_float_type(h.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::scatter_cells(cells.data<T>(), h.data<T>(), weights.data_or_null<T>(), ids, N, b, G, M);
    } else {
      scatter(cells.data<T>(), h.data<T>(), weights.data_or_null<float>(), ids, N, b, G, M);
    }
  });
}

void permute_rows(Stream&, Tensor out, const Tensor& rows, const Tensor& order) {
  const int64_t P = rows.rows(), G = rows.cols();
  check_indices("permute_rows", "order", order, -1, P);
  with_float_type(rows.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::permute_rows(out.data<T>(), rows.data<T>(), order.data<int32_t>(), P, G);
    } else {
      permute(out.data<T>(), rows.data<T>(), order.data<int32_t>(), P, G);
    }
  });
}

}  // namespace sffn::cpu
