#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>
#include <array>

namespace sffn::cpu {
namespace {

constexpr int64_t kStrip = 64;  // cells summed at once

// sum[j] += Σ of dz[p,j] over rows [first, last) and `cells` columns: rows in groups, so that the rounding error grows
// with the number of groups and the length of one, not with the number of rows.
template <class T>
void add_rows(std::array<float, kStrip>& sum, const T* dz, int64_t first, int64_t last, int64_t G, int64_t cells) {
  constexpr int64_t kGroup = 64;
  for (int64_t group = first; group < last; group += kGroup) {
    std::array<float, kStrip> part{};
    for (int64_t p = group; p < std::min(last, group + kGroup); ++p) {
#pragma omp simd
      for (int64_t j = 0; j < cells; ++j) part[j] += static_cast<float>(dz[p * G + j]);
    }
    for (int64_t j = 0; j < cells; ++j) sum[j] += part[j];
  }
}

template <class T>
void bias_gradient(float* dbias, const T* dz, const BlockRows& rows, int64_t G) {
  const int64_t grain = std::max<int64_t>(1, 32 / G);  // blocks a chunk: a unit writes whole cache lines
  parallel_chunks(rows.blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < G; j += kStrip) {
        const int64_t cells = std::min(kStrip, G - j);
        std::array<float, kStrip> sum{};
        for (int64_t c = 0; c < rows.chunks(); ++c) add_rows(sum, dz + j, rows.first(c, i), rows.last(c, i), G, cells);
        for (int64_t e = 0; e < cells; ++e) dbias[i * G + j + e] += sum[e];
      }
    }
  });
}

}  // namespace

void block_bias_gradient(Stream&, Tensor dbias, const Tensor& dz, const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = dz.cols();
  with_float_type(dz.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::block_bias_gradient(dbias.data<T>(), dz.data<T>(), rows, G);
    } else {
      bias_gradient(dbias.data<float>(), dz.data<T>(), rows, G);
    }
  });
}

}  // namespace sffn::cpu
