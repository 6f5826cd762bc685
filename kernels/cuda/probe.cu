// The smallest kernel: does this binary hold code for the GPU, does it run there, and for which architecture is it?
#include "core/buffer.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/probe.h"
#include "kernels/cuda/wgmma.cuh"

namespace sffn::cuda {
namespace {

constexpr int kAnswer = 0x5ff10;

__global__ void probe_kernel(int* answer) { *answer = kAnswer + SFFN_WGMMA; }

}  // namespace

bool has_kernels() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    (void)cudaGetLastError();  // or the next check reports it
    return false;
  }
  check(error, "the probe");
  return true;
}

bool run_probe(Stream& stream) {
  const Buffer memory(stream.runtime(), sizeof(int));
  launch(stream, probe_kernel, {1, 1}, Work{sizeof(int)}, static_cast<int*>(memory.data()));
  int answer = 0;
  stream.runtime().copy_to_host(stream.native(), &answer, memory.data(), sizeof answer);
  stream.synchronize();
  SFFN_CHECK(answer == kAnswer || answer == kAnswer + 1, "the smallest kernel wrote ", answer, ", not ", kAnswer);
  return answer == kAnswer + 1;
}

}  // namespace sffn::cuda
