#pragma once
#include "core/runtime.h"
#include "core/tensor.h"

#include <chrono>
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
  double block_flops = 0;  // of these, in products of chosen blocks
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

// Work beside a stream that goes on only while the host looks after it: messages of MPI.
class Background {
 public:
  virtual ~Background() = default;
  virtual void advance() = 0;  // does what can be done at once; throws RunError
};

// An ordered queue of work on one device. Ops take it first; it decides which backend runs them.
class Stream {
 public:
  explicit Stream(DeviceRuntime& runtime, Urgency urgency = Urgency::kUsual)
      : runtime_(&runtime), native_(runtime.make_stream(urgency)) {}

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
  // Each kernel that runs until the times are taken is timed; recorded work then runs as if it were not (Replay).
  void start_profile() {
    runtime_->start_profile(native());
    profiled_ = true;
  }
  std::vector<KernelTime> take_profile() {
    profiled_ = false;
    return runtime_->take_profile(native());
  }
  bool is_profiled() const { return profiled_; }

  // Advances before every op, until it is forgotten.
  void look_after(Background& work) { background_.push_back(&work); }
  void forget(Background& work) { std::erase(background_, &work); }
  void advance_background() {
    if (background_.empty()) return;
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Background*> all = background_;  // an end may remove one
    for (Background* work : all) work->advance();
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    background_milliseconds_ += spent.count();
  }
  // What that took the host since the last call of this.
  double take_background_milliseconds() { return std::exchange(background_milliseconds_, 0.0); }

 private:
  DeviceRuntime* runtime_;
  std::unique_ptr<NativeStream> native_;
  OpCounter counter_;
  bool profiled_ = false;
  std::vector<Background*> background_;
  double background_milliseconds_ = 0;
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

// Points in time between the work of a stream.
class StreamMarks {
 public:
  explicit StreamMarks(Stream& stream) : stream_(&stream) {}
  void mark() {
    marks_.emplace_back(stream_->runtime());
    marks_.back().record(*stream_);
  }
  // From each mark to the next; waits for the last.
  std::vector<double> seconds() const {
    std::vector<double> between;
    if (!marks_.empty()) marks_.back().wait();
    for (size_t i = 1; i < marks_.size(); ++i) {
      between.push_back(1e-3 * marks_[i].milliseconds_since(marks_[i - 1]));
    }
    return between;
  }

 private:
  Stream* stream_;
  std::vector<Event> marks_;
};

// The same work on a stream again and again: recorded the second time, where the device can, and launched as one from
// then on. The first time runs as ever, so that what grows on demand (workspaces, plans of matrix products) has grown.
class Replay {
 public:
  void run(Stream& stream, const std::function<void()>& work) {
    if (!ran_ || stream.is_profiled()) {
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
