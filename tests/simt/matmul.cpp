// Matrix products of the executor's device: the CPU's, in place of cuBLASLt.
#include "kernels/cuda/profile.h"
#include "kernels/ops.h"

#include "simt/executor.h"

namespace sffn::cuda {

void matmul(Stream& stream, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate accumulate) {
  const bool transpose_a = ta == Transpose::kYes;
  const Timed timed(
      stream, MatmulShape{c.rows(), c.cols(), transpose_a ? a.rows() : a.cols(), transpose_a, tb == Transpose::kYes,
                          bias.defined(), accumulate == Accumulate::kYes, a.dtype(), c.dtype()});
  const simt::DeviceMemoryAccess access;
  cpu::matmul(stream, c, a, ta, b, tb, bias, accumulate);
}

}  // namespace sffn::cuda
