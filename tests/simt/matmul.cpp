// Matrix products of the executor's device: the CPU's, in place of cuBLASLt.
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

#include "simt/executor.h"

namespace sffn::cuda {

void matmul(Stream& stream, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate accumulate) {
  const simt::DeviceMemoryAccess access;
  cpu::matmul(stream, c, a, ta, b, tb, bias, accumulate);
}

void matmul_activation_forward(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                               const Tensor& gate, Activation f) {
  const simt::DeviceMemoryAccess access;
  cpu::matmul_activation_forward(stream, h, z, x, w, bias, gate, f);
}

void matmul_activation_backward(Stream& stream, Tensor dz, Tensor dgate, const Tensor& dy, const Tensor& v,
                                const Tensor& z, const Tensor& gate, Activation f) {
  const simt::DeviceMemoryAccess access;
  cpu::matmul_activation_backward(stream, dz, dgate, dy, v, z, gate, f);
}

void weight_gradient(Stream& stream, Tensor dw, Tensor dbias, const Tensor& dy, const Tensor& x, Transpose tw) {
  const simt::DeviceMemoryAccess access;
  cpu::weight_gradient(stream, dw, dbias, dy, x, tw);
}

std::vector<std::string> describe_products(Stream&) { return {}; }

}  // namespace sffn::cuda
