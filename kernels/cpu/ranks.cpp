#include "kernels/ref/ranks.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <algorithm>
#include <type_traits>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

// y[n,:] = Σ_r parts[r,n,:] + bias for one row n, every part P = N·D elements after the last.
template <class T>
void sum_row(T* y, const T* part, int64_t P, const float* bias, int64_t R, int64_t D) {
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) {
    float sum = 0;
    for (int64_t r = 0; r < R; ++r) sum += static_cast<float>(part[r * P + j]);
    y[j] = static_cast<T>(bias == nullptr ? sum : sum + bias[j]);
  }
}

}  // namespace

void localise_blocks(Stream&, Tensor out, const Tensor& blocks, int64_t first, int64_t count) {
  parallel_chunks(blocks.numel(), kGrain, [&](int64_t begin, int64_t end) {
    ref::localise_blocks(out.data<int32_t>() + begin, blocks.data<int32_t>() + begin, end - begin, first, count);
  });
}

void sum_parts(Stream&, Tensor y, const Tensor& parts, const Tensor& bias) {
  const int64_t R = parts.shape()[0], N = y.rows(), D = y.cols();
  with_float_type(y.dtype(), [&]<class T>(T) {
    using Acc = std::conditional_t<kIsReference<T>, T, float>;
    const Acc* to_add = bias.defined() ? bias.data<Acc>() : nullptr;
    if constexpr (kIsReference<T>) {
      ref::sum_parts(y.data<T>(), parts.data<T>(), to_add, R, N, D);
    } else {
      const int64_t rows = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, D));
      parallel_chunks(N, rows, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          sum_row(y.data<T>() + n * D, parts.data<T>() + n * D, N * D, to_add, R, D);
        }
      });
    }
  });
}

}  // namespace sffn::cpu
