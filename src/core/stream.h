#pragma once
#include <cstdint>
#include <memory>

#include "core/runtime.h"
#include "core/tensor.h"

namespace sffn {

// Work that ops would do; filled on the meta device, where nothing runs. FLOPs count multiply and add apart.
struct OpCounter {
  double matmul_flops = 0;
  double attention_flops = 0;
};

// An ordered queue of work on one device. Ops take it first; it decides which backend runs them.
class Stream {
 public:
  explicit Stream(DeviceRuntime& runtime) : runtime_(&runtime), native_(runtime.make_stream()) {}

  Device device() const { return runtime_->device(); }
  bool is_cuda() const { return device().kind == Device::Kind::kCuda; }
  bool is_meta() const { return device().kind == Device::Kind::kMeta; }
  DeviceRuntime& runtime() { return *runtime_; }
  NativeStream* native() { return native_.get(); }
  OpCounter& counter() { return counter_; }

  void copy_to_device(Tensor device, const void* host) {
    runtime_->copy_to_device(native(), device.raw(), host, device.bytes());
  }
  void copy_to_host(void* host, const Tensor& device) {
    runtime_->copy_to_host(native(), host, device.raw(), device.bytes());
  }
  void synchronize() { runtime_->synchronize(native()); }

 private:
  DeviceRuntime* runtime_;
  std::unique_ptr<NativeStream> native_;
  OpCounter counter_;
};

}  // namespace sffn
