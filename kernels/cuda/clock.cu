// start_clock:  clock[0] = now                        in nanoseconds, which repeat after 2^52 of them (52 days)
// stop_clock:   clock[1] += now - clock[0]
// One thread reads the timer that all multiprocessors share. Differences are whole numbers below 2^53: exact in double.
#include "kernels/cuda/launch.cuh"
#include "kernels/ops.h"

#include <chrono>

namespace sffn::cuda {
namespace {

constexpr uint64_t kPeriod = uint64_t{1} << 52;

__device__ __forceinline__ uint64_t nanoseconds() {
#ifdef __CUDACC__
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
#else
  const uint64_t now =
      static_cast<uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
#endif
  return now % kPeriod;
}

__global__ void start_clock_kernel(double* clock) { clock[0] = static_cast<double>(nanoseconds()); }

__global__ void stop_clock_kernel(double* clock) {
  const auto start = static_cast<uint64_t>(clock[0]);
  clock[1] += static_cast<double>((nanoseconds() + kPeriod - start) % kPeriod);
}

}  // namespace

void start_clock(Stream& stream, Tensor clock) {
  launch(stream, start_clock_kernel, {1, 1}, Work{sizeof(double)}, clock.data<double>());
}

void stop_clock(Stream& stream, Tensor clock) {
  launch(stream, stop_clock_kernel, {1, 1}, Work{3 * sizeof(double)}, clock.data<double>());
}

}  // namespace sffn::cuda
