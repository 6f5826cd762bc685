#include "kernels/ref/mean_square.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"

namespace sffn::cpu {

// One number a token: one thread is enough.
void mean_square(Stream&, Tensor loss, const Tensor& x, double weight) {
  const int64_t n = x.numel();
  with_accumulate_type(x.dtype(), [&]<class T>(T) {
    T* out = loss.data<T>();
    const T* in = x.data<T>();
    if constexpr (kIsReference<T>) {
      ref::mean_square(out, in, n, weight);
    } else if (n > 0) {
      const double total = lane_sum<double>(n, [&](int64_t i) {
        const auto value = static_cast<double>(in[i]);
        return value * value;
      });
      *out += static_cast<float>(weight / static_cast<double>(n) * total);
    }
  });
}

}  // namespace sffn::cpu
