#pragma once
#include "core/runtime.h"
#include "core/tensor.h"

#include <cstdint>
#include <functional>
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

 private:
  DeviceRuntime* runtime_;
  std::unique_ptr<NativeStream> native_;
  OpCounter counter_;
};

// A point in streams of one device.
class Event {
 public:
  explicit Event(DeviceRuntime& runtime) : runtime_(&runtime), native_(runtime.make_event()) {}

  void record(Stream& stream) { runtime_->record(stream.native(), *native_); }
  void hold(Stream& stream) const { runtime_->hold(stream.native(), *native_); }  // the stream waits for this point
  void wait() const { runtime_->wait(*native_); }                                 // the host does
  double milliseconds_since(const Event& begin) const { return runtime_->milliseconds(*begin.native_, *native_); }

 private:
  DeviceRuntime* runtime_;
  std::unique_ptr<NativeEvent> native_;
};

// The same work on a stream again and again: recorded the second time, where the device can, and launched as one from
// then on. The first time runs as ever, so that what grows on demand (workspaces, plans of matrix products) has grown.
class Replay {
 public:
  void run(Stream& stream, const std::function<void()>& work) {
    if (!ran_) {
      ran_ = true;
      return work();
    }
    if (!graph_) graph_ = stream.runtime().capture(stream.native(), work);
    if (!graph_) return work();
    stream.runtime().launch(stream.native(), *graph_);
  }

 private:
  bool ran_ = false;
  std::unique_ptr<NativeGraph> graph_;
};

}  // namespace sffn
