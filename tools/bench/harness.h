// How ops are timed, on either backend: by the marks of the stream, medians after warm-ups, on normal random data, over
// sets of tensors that take turns and together exceed the cache of the device, so that no call finds the last one's
// data there. (The CPU tells no cache size: one set, as small ops of a model do find their data there.)
#pragma once
#include "core/buffer.h"
#include "core/json.h"
#include "core/stream.h"
#include "train/device_peaks.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>

namespace sffn {

// Tensors with their memory.
class Workspace {
 public:
  Workspace(Stream& stream, uint64_t seed) : stream_(stream), seed_(seed) {}

  Tensor normal(DType dtype, const Shape& shape);
  Tensor zero(DType dtype, const Shape& shape);
  Tensor indices(const std::vector<int32_t>& values);
  Stream& stream() { return stream_; }
  size_t bytes() const { return bytes_; }

 private:
  Stream& stream_;
  uint64_t seed_;  // other sets hold other numbers
  std::deque<Buffer> buffers_;
  size_t bytes_ = 0;
};

// One call of an op on tensors of a workspace, which it makes.
using Call = std::function<void()>;
using MakeCall = std::function<Call(Workspace&)>;

struct Effort {
  int64_t warm_ups = 1, repeats = 5;
  double seconds = 0.25;  // repeats go on for about so long
};
// 10 warm-ups and 20 repeats on a GPU, whose launches cost nothing to repeat; 1 and 5 on a CPU.
Effort effort_for(Device device);

struct BenchRow {
  std::string name, shape;  // what other programs' rows are joined by
  double seconds = 0;
  double bytes = 0, flops = 0;  // that must move and be multiplied at least; 0: not what limits it
  bool tensor_cores = false;
  std::optional<double> predicted_seconds = {};  // else what the sustained rates of the device allow
  std::optional<double> error = {};              // ‖a - b‖ / ‖b‖ against f64
  std::optional<size_t> memory_bytes = {};
};

class Harness {
 public:
  Harness(DeviceRuntime& runtime, const Effort& effort);

  Stream& stream() { return stream_; }
  const DevicePeaks* peaks() const { return peaks_; }  // nullptr: an unknown device
  double median_seconds(const MakeCall& make);

  // {"name", "shape", "ms", "gb_per_s", "tflops", "roofline_ms", "of_roofline", "predicted_ms", "of_predicted",
  // "error", "memory_bytes"}; null where the device's peaks are unknown or the row has no such number. A share is the
  // time the device could do it in over the time it took. On a device with kernels also "kernels", those of the last
  // call that was timed (profile.h).
  Json to_json(const BenchRow& row) const;

 private:
  size_t sets_for(size_t bytes) const;

  DeviceRuntime& runtime_;
  Effort effort_;
  Stream stream_;
  const DevicePeaks* peaks_;
  Json kernels_;  // of the last call; null without any
};

// Lines of such rows, one a row. A share above 1 is a fault of the measurement, and is marked.
std::string format_rows(const Json& rows);

}  // namespace sffn
