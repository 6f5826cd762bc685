// Ranks as threads of one process, each with a GPU of its own.
#pragma once
#include "comm/nccl.h"
#include "comm/threads.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/runtime.h"

#include <functional>
#include <memory>

namespace sffn::test {

inline bool has_gpus(int count) { return static_cast<int>(visible_gpus().size()) >= count; }

using GpuBody = std::function<void(Communicator& ranks, DeviceRuntime& gpu, Communicator& threads)>;

// body on `ranks` threads; the threads' own communicator is there for what must not depend on NCCL.
inline void run_gpu_ranks(int ranks, const GpuBody& body) {
  run_threads(ranks, [&](Communicator& threads) {
    DeviceRuntime& gpu = cuda_runtime(threads.rank());
    const auto nccl = make_nccl_communicator(threads.split(0, threads.rank()), gpu);
    body(*nccl, gpu, threads);
  });
}

}  // namespace sffn::test
