#include "kernels/ref/weight_gradient.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/ops.h"

namespace sffn::cpu {

void weight_gradient(Stream& stream, Tensor dw, Tensor dbias, const Tensor& dy, const Tensor& x, Transpose tw) {
  with_float_type(dy.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::weight_gradient(dw.data<T>(), dbias.data_or_null<T>(), dy.data<T>(), x.data<T>(), tw, dy.rows(), dy.cols(),
                           x.cols());
    } else {
      const bool transposed = tw == Transpose::kYes;
      matmul(stream, dw, transposed ? dy : x, Transpose::kYes, transposed ? x : dy, Transpose::kNo, Tensor(),
             Accumulate::kYes);
      if (dbias.defined()) column_sum(stream, dbias, dy);
    }
  });
}

}  // namespace sffn::cpu
