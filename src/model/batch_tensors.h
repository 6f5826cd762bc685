#pragma once
#include "config/config.h"
#include "core/buffer.h"
#include "data/batch_source.h"
#include "nn/context.h"

#include <vector>

namespace sffn {

// A batch on the device. N = B·T rows, sequence after sequence; all [N] i32.
struct BatchTensors {
  int64_t batch = 0, time = 0;
  int64_t scored = 0;  // targets that are not -1
  Tensor inputs, targets, positions;
  Tensor segment_start;  // absent without document masks
  int64_t tokens() const { return batch * time; }
};

// What a batch's ids must lie in.
struct BatchLimits {
  int64_t vocab = 0, positions = 0;
  explicit BatchLimits(const ModelConfig&);
};
// Throws RunError where the parts of a batch differ in size or an id lies beyond the limits.
void check_batch(const Batch&, const BatchLimits&);

// Checks the batch; the tensors are allocated in ctx.saved.
BatchTensors upload(Context&, const Batch&, const BatchLimits&);

// Micro-batches of one size, one after another, in the same memory of the device, with a clock: what a pass that is
// launched again reads. The host may fill the next one while the device works.
class BatchUpload {
 public:
  BatchUpload(DeviceRuntime&, const ModelConfig&, int64_t batch, bool segments);
  void send(Stream&, const Batch&, const PassClock&);
  const BatchTensors& tensors() const { return tensors_; }
  const PassClock* clock() const { return static_cast<const PassClock*>(clock_.raw()); }
  size_t bytes() const { return memory_.bytes(); }

 private:
  struct Slot {  // the host's side
    HostBuffer memory;
    Event copied;
  };
  BatchLimits limits_;
  Buffer memory_;
  Tensor all_, clock_;  // [all ids, then the clock] i32
  BatchTensors tensors_;
  std::vector<Slot> slots_;
  size_t next_ = 0;
};

}  // namespace sffn
