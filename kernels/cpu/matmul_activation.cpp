#include "kernels/ref/matmul_activation.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/ops.h"

namespace sffn::cpu {

void matmul_activation_forward(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                               const Tensor& gate, Activation f) {
  with_float_type(x.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::matmul_activation_forward(h.data<T>(), z.data_or_null<T>(), x.data<T>(), w.data<T>(), bias.data_or_null<T>(),
                                     gate.data_or_null<T>(), x.rows(), w.rows(), x.cols(), f);
    } else {
      const Tensor product = z.defined() ? z : h;
      matmul(stream, product, x, Transpose::kNo, w, Transpose::kYes, bias, Accumulate::kNo);
      activation_forward(stream, h, product, gate, f);
    }
  });
}

void matmul_activation_backward(Stream& stream, Tensor dz, Tensor dgate, const Tensor& dy, const Tensor& v,
                                const Tensor& z, const Tensor& gate, Activation f) {
  with_float_type(dy.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::matmul_activation_backward(dz.data<T>(), dgate.data_or_null<T>(), dy.data<T>(), v.data<T>(), z.data<T>(),
                                      gate.data_or_null<T>(), dy.rows(), v.rows(), dy.cols(), f);
    } else {
      matmul(stream, dz, dy, Transpose::kNo, v, Transpose::kYes, Tensor(), Accumulate::kNo);
      activation_backward(stream, dz, dgate, dz, z, gate, f);
    }
  });
}

}  // namespace sffn::cpu
