#include "kernels/ref/embedding.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;     // elements a chunk of the forward pass
constexpr int64_t kColumnTile = 128;  // columns a chunk of the backward pass: whole cache lines, no two threads on one

template <class T>
void forward(T* out, const T* tokens, const int32_t* ids, const T* positions_table, const int32_t* positions, int64_t N,
             int64_t D) {
  parallel_chunks(N, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, D)), [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      T* to = out + n * D;
      const T* token = tokens + ids[n] * D;
      if (!positions_table) {
        std::copy_n(token, D, to);
        continue;
      }
      const T* position = positions_table + positions[n] * D;
#pragma omp simd
      for (int64_t d = 0; d < D; ++d) to[d] = static_cast<float>(token[d]) + static_cast<float>(position[d]);
    }
  });
}

// A chunk owns columns and walks the tokens in order, so equal ids add up in order whatever the threads.
template <class T>
void backward(float* table, const T* dout, const int32_t* rows, int64_t N, int64_t D) {
  parallel_chunks(D, kColumnTile, [&](int64_t first, int64_t last) {
    for (int64_t n = 0; n < N; ++n) {
      float* to = table + rows[n] * D;
      const T* from = dout + n * D;
#pragma omp simd
      for (int64_t d = first; d < last; ++d) to[d] += static_cast<float>(from[d]);
    }
  });
}

}  // namespace

void embedding_forward(Stream&, Tensor out, const Tensor& tokens, const Tensor& ids, const Tensor& positions_table,
                       const Tensor& positions) {
  check_indices("embedding_forward", "ids", ids, 0, tokens.shape()[0]);
  const int32_t* places = nullptr;
  if (positions_table.defined()) {
    check_indices("embedding_forward", "positions", positions, 0, positions_table.shape()[0]);
    places = positions.data<int32_t>();
  }
  with_float_type(out.dtype(), [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto kernel) {
      kernel(out.data<T>(), tokens.data<T>(), ids.data<int32_t>(), positions_table.data_or_null<T>(), places,
             out.shape()[0], out.cols());
    };
    if constexpr (kIsReference<T>) {
      run(ref::embedding_forward<T>);
    } else {
      run(forward<T>);
    }
  });
}

void embedding_backward(Stream&, Tensor dtokens, Tensor dpositions, const Tensor& dout, const Tensor& ids,
                        const Tensor& positions) {
  check_indices("embedding_backward", "ids", ids, 0, dtokens.shape()[0]);
  const int32_t* places = nullptr;
  if (dpositions.defined()) {
    check_indices("embedding_backward", "positions", positions, 0, dpositions.shape()[0]);
    places = positions.data<int32_t>();
  }
  const int64_t N = dout.shape()[0], D = dout.cols();
  with_float_type(dout.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::embedding_backward(dtokens.data<T>(), dpositions.data_or_null<T>(), dout.data<T>(), ids.data<int32_t>(),
                              places, N, D);
    } else {
      backward(dtokens.data<float>(), dout.data<T>(), ids.data<int32_t>(), N, D);
      if (places) backward(dpositions.data<float>(), dout.data<T>(), places, N, D);
    }
  });
}

}  // namespace sffn::cpu
