#include "model/batch_tensors.h"

#include <algorithm>
#include <limits>

namespace sffn {
namespace {

Tensor upload_ids(Context& ctx, const std::vector<int32_t>& host, std::string_view what) {
  Tensor tensor = ctx.saved.allocate({static_cast<int64_t>(host.size())}, DType::kI32, what);
  ctx.stream.copy_to_device(tensor, host.data());
  return tensor;
}

void check_range(const std::vector<int32_t>& values, int64_t low, int64_t high, std::string_view what) {
  for (size_t i = 0; i < values.size(); ++i) {
    SFFN_CHECK(values[i] >= low && values[i] < high, what, " ", i, " of the batch is ", values[i], "; expected [", low,
               ", ", high, ")");
  }
}

int64_t scored_targets(const Batch& batch) {
  return std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t id) { return id >= 0; });
}

}  // namespace

BatchLimits::BatchLimits(const ModelConfig& model)
    : vocab(model.vocab_size),
      positions(model.positions == Positions::kRope ? std::numeric_limits<int32_t>::max() : model.context) {}

void check_batch(const Batch& batch, const BatchLimits& limits) {
  const size_t tokens = static_cast<size_t>(batch.batch * batch.time);
  SFFN_CHECK(tokens > 0, "an empty batch");
  SFFN_CHECK(batch.inputs.size() == tokens && batch.targets.size() == tokens && batch.positions.size() == tokens &&
                 (batch.segment_start.empty() || batch.segment_start.size() == tokens),
             "the parts of a batch of ", batch.batch, " x ", batch.time, " tokens differ in length");
  check_range(batch.inputs, 0, limits.vocab, "token");
  check_range(batch.targets, -1, limits.vocab, "target");
  check_range(batch.positions, 0, limits.positions, "position");
  check_range(batch.segment_start, 0, batch.time, "segment start");
}

BatchTensors upload(Context& ctx, const Batch& batch, const BatchLimits& limits) {
  check_batch(batch, limits);
  BatchTensors out;
  out.batch = batch.batch;
  out.time = batch.time;
  out.scored = scored_targets(batch);
  out.inputs = upload_ids(ctx, batch.inputs, "input ids");
  out.targets = upload_ids(ctx, batch.targets, "target ids");
  out.positions = upload_ids(ctx, batch.positions, "positions");
  if (!batch.segment_start.empty()) out.segment_start = upload_ids(ctx, batch.segment_start, "segment starts");
  return out;
}

BatchUpload::BatchUpload(DeviceRuntime& runtime, const ModelConfig& model, int64_t batch, bool segments)
    : limits_(model) {
  constexpr int64_t kClock = sizeof(PassClock) / sizeof(int32_t);
  const int64_t tokens = batch * model.context, parts = segments ? 4 : 3;
  memory_ = Buffer(runtime, {parts * tokens + kClock}, DType::kI32);
  all_ = memory_.tensor({parts * tokens + kClock}, DType::kI32);
  const auto part = [&](int64_t i) { return all_.slice(i * tokens, tokens); };
  tensors_.batch = batch;
  tensors_.time = model.context;
  tensors_.inputs = part(0);
  tensors_.targets = part(1);
  tensors_.positions = part(2);
  if (segments) tensors_.segment_start = part(3);
  clock_ = all_.slice(parts * tokens, kClock);
  for (int i = 0; i < 2; ++i) slots_.push_back({HostBuffer(runtime, memory_.bytes()), Event(runtime)});
}

void BatchUpload::send(Stream& stream, const Batch& batch, const PassClock& clock) {
  check_batch(batch, limits_);
  SFFN_CHECK(batch.batch == tensors_.batch && batch.time == tensors_.time &&
                 batch.segment_start.empty() != tensors_.segment_start.defined(),
             "a batch of ", batch.batch, " x ", batch.time, " tokens; expected ", tensors_.batch, " x ", tensors_.time);
  tensors_.scored = scored_targets(batch);
  if (stream.is_meta()) return;
  Slot& slot = slots_[next_++ % slots_.size()];
  slot.copied.wait();
  std::byte* to = slot.memory.data();
  const auto put = [&](const void* from, size_t bytes) {
    to = std::copy_n(static_cast<const std::byte*>(from), bytes, to);
  };
  for (const std::vector<int32_t>* ids : {&batch.inputs, &batch.targets, &batch.positions, &batch.segment_start}) {
    put(ids->data(), ids->size() * sizeof(int32_t));
  }
  put(&clock, sizeof clock);
  stream.copy_to_device(all_, slot.memory.data());
  slot.copied.record(stream);
}

}  // namespace sffn
