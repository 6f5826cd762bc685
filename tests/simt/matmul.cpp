// Matrix products of the executor's device: the CPU's, in place of cuBLASLt.
#include "kernels/cuda/profile.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

#include "simt/executor.h"
#include "simt/stream.h"

#include <string>
#include <type_traits>
#include <vector>

namespace sffn::cuda {
namespace {

// Arguments are held by value: the work runs later.
template <class... P, class... Args>
void enqueue_on_cpu(Stream& stream, void (*op)(Stream&, P...), Args&&... args) {
  simt::enqueue(native(stream).stream, [&stream, op, ... held = std::remove_cvref_t<Args>(args)] {
    const simt::DeviceMemoryAccess access;
    op(stream, held...);
  });
}

}  // namespace

void matmul(Stream& stream, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate accumulate) {
  const bool transpose_a = ta == Transpose::kYes;
  const Timed timed(
      stream, MatmulShape{c.rows(), c.cols(), transpose_a ? a.rows() : a.cols(), transpose_a, tb == Transpose::kYes,
                          bias.defined(), accumulate == Accumulate::kYes, a.dtype(), c.dtype()});
  enqueue_on_cpu(stream, cpu::matmul, c, a, ta, b, tb, bias, accumulate);
}

void matmul_activation_forward(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                               const Tensor& gate, Activation f) {
  const Timed timed(
      stream, MatmulShape{x.rows(), w.rows(), x.cols(), false, true, bias.defined(), false, x.dtype(), h.dtype()});
  enqueue_on_cpu(stream, cpu::matmul_activation_forward, h, z, x, w, bias, gate, f);
}

void matmul_activation_backward(Stream& stream, Tensor dz, Tensor dgate, const Tensor& dy, const Tensor& v,
                                const Tensor& z, const Tensor& gate, Activation f) {
  const Timed timed(stream,
                    MatmulShape{dy.rows(), v.rows(), dy.cols(), false, true, false, false, dy.dtype(), dz.dtype()});
  enqueue_on_cpu(stream, cpu::matmul_activation_backward, dz, dgate, dy, v, z, gate, f);
}

void weight_gradient(Stream& stream, Tensor dw, Tensor dbias, const Tensor& dy, const Tensor& x, Transpose tw) {
  const Timed timed(stream,
                    MatmulShape{dw.rows(), dw.cols(), dy.rows(), true, false, false, true, dy.dtype(), dw.dtype()});
  enqueue_on_cpu(stream, cpu::weight_gradient, dw, dbias, dy, x, tw);
}

std::vector<std::string> describe_products(Stream&) { return {}; }

}  // namespace sffn::cuda
