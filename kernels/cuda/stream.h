// What a stream of the CUDA backend owns.
#pragma once
#include "core/stream.h"

#include <cstddef>
#include <memory>
#include <vector>

struct CUstream_st;

namespace sffn::cuda {

inline constexpr int kWarpgroupCapability = 9;  // major compute capability of devices that multiply on warpgroups

class Profile;

struct CudaStream final : NativeStream {
  CudaStream(int device, Urgency, bool warpgroups);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;

  // Memory for one op, valid until the next op on this stream asks. Grows when more is asked than ever before; what was
  // given stays, because recorded work uses it again. Not while work is recorded.
  void* workspace(size_t bytes);

  CUstream_st* stream = nullptr;
  int device = 0;
  bool warpgroups = false;                     // the device and this binary's code for it multiply on them: wgmma.cuh
  int shared_bytes = 0;                        // that a block can have
  int64_t cached_bytes = int64_t{16} << 20;    // of rows that are read many times: so many should stay in L2
  int64_t product_bytes = int64_t{512} << 20;  // of products that wait for their sum: at most so many
  std::shared_ptr<void> matmul_plans;          // what matmul.cpp keeps between products
  // This stream, for whoever may outlive it and keeps a weak copy.
  const std::shared_ptr<CudaStream*> self = std::make_shared<CudaStream*>(this);
  std::unique_ptr<Profile> profile;  // while the stream is profiled

 private:
  std::vector<void*> workspaces_;  // the last is the largest
  size_t workspace_bytes_ = 0;     // of the last
};

inline CudaStream& native(Stream& stream) { return static_cast<CudaStream&>(*stream.native()); }

template <class T>
T* workspace(Stream& stream, int64_t count) {
  return static_cast<T*>(native(stream).workspace(static_cast<size_t>(count) * sizeof(T)));
}

}  // namespace sffn::cuda
