#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kSlice = 64;  // columns of D of one unit of work

template <class T>
void combine(T* y, const T* h, const float* weights, const T* w, const float* bias, const BlockRows& rows,
             Accumulate accumulate, int64_t G, int64_t D) {
  const int64_t slices = (D + kSlice - 1) / kSlice;
  parallel_chunks(rows.chunks() * slices, 1, [&](int64_t unit, int64_t) {
    const int64_t c = unit / slices, d = unit % slices * kSlice, width = std::min(kSlice, D - d);
    const int64_t first = c * rows.chunk, count = std::min(rows.chunk, rows.tokens - first);
    thread_local Scratch memory;
    auto* sum = static_cast<float*>(memory.get(sizeof(float) * count * width));
    std::fill_n(sum, count * width, 0.0f);
    for (int64_t i = 0; i < rows.blocks; ++i) {
      for (int64_t p = rows.first(c, i); p < rows.last(c, i); ++p) {
        float* to = sum + (rows.token(p) - first) * width;
        const float weight = weights != nullptr ? weights[rows.order[p]] : 1.0f;
        for (int64_t j = 0; j < G; ++j) {
          const float h_pj = weight * static_cast<float>(h[p * G + j]);
          const T* w_j = w + (i * G + j) * D + d;
#pragma omp simd
          for (int64_t e = 0; e < width; ++e) to[e] += h_pj * static_cast<float>(w_j[e]);
        }
      }
    }
    for (int64_t n = 0; n < count; ++n) {
      T* to = y + (first + n) * D + d;
      for (int64_t e = 0; e < width; ++e) {
        float value = sum[n * width + e] + (bias != nullptr ? bias[d + e] : 0.0f);
        if (accumulate == Accumulate::kYes) value += static_cast<float>(to[e]);
        to[e] = T(value);
      }
    }
  });
}

}  // namespace

void block_combine(Stream&, Tensor y, const Tensor& h, const Tensor& weights, const Tensor& w, const Tensor& bias,
                   const BlockRouting& routing, Accumulate accumulate) {
  const BlockRows rows(routing);
  const int64_t G = h.cols(), D = y.cols();
  with_float_type(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::block_combine(y.data<T>(), h.data<T>(), weights.data_or_null<T>(), w.data<T>(), bias.data_or_null<T>(), rows,
                         accumulate, G, D);
    } else {
      combine(y.data<T>(), h.data<T>(), weights.data_or_null<float>(), w.data<T>(), bias.data_or_null<float>(), rows,
              accumulate, G, D);
    }
  });
}

}  // namespace sffn::cpu
