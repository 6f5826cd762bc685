// Matrix products of the executor's device: the CPU's, in place of cuBLASLt.
#include "kernels/cuda/stream.h"
#include "kernels/ops.h"

#include "simt/executor.h"
#include "simt/stream.h"

namespace sffn::cuda {

void matmul(Stream& stream, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate accumulate) {
  simt::enqueue(native(stream).stream, [=, &stream] {
    const simt::DeviceMemoryAccess access;
    cpu::matmul(stream, c, a, ta, b, tb, bias, accumulate);
  });
}

}  // namespace sffn::cuda
