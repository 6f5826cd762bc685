// The smallest kernel: does this binary hold code for the GPU, and does it run there?
#include "core/buffer.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/probe.h"

namespace sffn::cuda {
namespace {

constexpr int kAnswer = 0x5ff11;

__global__ void probe_kernel(int* answer) { *answer = kAnswer; }

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

void run_probe(Stream& stream) {
  const Buffer memory(stream.runtime(), sizeof(int));
  launch(stream, probe_kernel, {1, 1}, Work{sizeof(int)}, static_cast<int*>(memory.data()));
  int answer = 0;
  stream.runtime().copy_to_host(stream.native(), &answer, memory.data(), sizeof answer);
  stream.synchronize();
  SFFN_CHECK(answer == kAnswer, "the smallest kernel wrote ", answer, ", not ", kAnswer);
}

}  // namespace sffn::cuda
