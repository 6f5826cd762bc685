#pragma once
#include "core/runtime.h"
#include "core/tensor.h"

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace sffn {

// A matrix product c [M,N] = op(a) [M,K] · op(b) [K,N] + bias (+ c), without its memory.
struct MatmulShape {
  int64_t M = 0, N = 0, K = 0;
  bool transpose_a = false, transpose_b = false, bias = false, accumulate = false;
  DType input = DType::kF32, output = DType::kF32;
  bool operator==(const MatmulShape&) const = default;
};

// Work that ops would do; filled on the meta device, where nothing runs. FLOPs count multiply and add apart.
struct OpCounter {
  double matmul_flops = 0;
  double attention_flops = 0;
  std::vector<std::pair<MatmulShape, int64_t>> matmuls;  // distinct shapes in the order they first ran, and how often

  void count(const MatmulShape& shape) {
    matmul_flops += 2.0 * static_cast<double>(shape.M) * static_cast<double>(shape.N) * static_cast<double>(shape.K);
    for (auto& [known, times] : matmuls) {
      if (known == shape) {
        ++times;
        return;
      }
    }
    matmuls.emplace_back(shape, 1);
  }
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
  void start_profile() { runtime_->start_profile(native()); }
  std::vector<KernelTime> take_profile() { return runtime_->take_profile(native()); }
  std::unique_ptr<StreamMarks> make_marks() { return runtime_->make_marks(native()); }

 private:
  DeviceRuntime* runtime_;
  std::unique_ptr<NativeStream> native_;
  OpCounter counter_;
};

// Names what runs while this lives, with its index where there are several: "block forward", 3.
class NamedRange {
 public:
  NamedRange(Stream& stream, const char* name, int64_t index = -1) : runtime_(stream.runtime()) {
    runtime_.push_range(name, index);
  }
  ~NamedRange() { runtime_.pop_range(); }
  NamedRange(const NamedRange&) = delete;

 private:
  DeviceRuntime& runtime_;
};

}  // namespace sffn
