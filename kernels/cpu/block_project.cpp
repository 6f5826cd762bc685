#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

template <class T>
void project(T* z, const T* x, const T* w, const float* bias, const BlockRows& rows, int64_t G, int64_t D) {
  std::fill(z + rows.used() * G, z + rows.choices() * G, T());
  parallel_chunks(rows.chunks() * rows.blocks, 1, [&](int64_t pair, int64_t) {
    const int64_t c = pair / rows.blocks, i = pair % rows.blocks;
    for (int64_t p = rows.first(c, i); p < rows.last(c, i); ++p) {
      const T* x_n = x + rows.token(p) * D;
      for (int64_t j = 0; j < G; ++j) {
        const T* w_j = w + (i * G + j) * D;
        const float dot =
            lane_sum<float>(D, [&](int64_t d) { return static_cast<float>(x_n[d]) * static_cast<float>(w_j[d]); });
        z[p * G + j] = T(dot + (bias != nullptr ? bias[i * G + j] : 0.0f));
      }
    }
  });
}

}  // namespace

void block_project(Stream&, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                   const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = z.cols(), D = x.cols();
  with_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::block_project(z.data<T>(), x.data<T>(), w.data<T>(), bias.data_or_null<T>(), rows, G, D);
    } else {
      project(z.data<T>(), x.data<T>(), w.data<T>(), bias.data_or_null<float>(), rows, G, D);
    }
  });
}

}  // namespace sffn::cpu
