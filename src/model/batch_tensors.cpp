#include "model/batch_tensors.h"

#include <algorithm>

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

}  // namespace

BatchTensors upload(Context& ctx, const Batch& batch, int64_t vocab, int64_t max_positions) {
  const size_t tokens = static_cast<size_t>(batch.batch * batch.time);
  SFFN_CHECK(tokens > 0, "an empty batch");
  SFFN_CHECK(batch.inputs.size() == tokens && batch.targets.size() == tokens && batch.positions.size() == tokens &&
                 (batch.segment_start.empty() || batch.segment_start.size() == tokens),
             "the parts of a batch of ", batch.batch, " x ", batch.time, " tokens differ in length");
  check_range(batch.inputs, 0, vocab, "token");
  check_range(batch.targets, -1, vocab, "target");
  check_range(batch.positions, 0, max_positions, "position");
  check_range(batch.segment_start, 0, batch.time, "segment start");
  BatchTensors out;
  out.batch = batch.batch;
  out.time = batch.time;
  out.scored = std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t id) { return id >= 0; });
  out.inputs = upload_ids(ctx, batch.inputs, "input ids");
  out.targets = upload_ids(ctx, batch.targets, "target ids");
  out.positions = upload_ids(ctx, batch.positions, "positions");
  if (!batch.segment_start.empty()) out.segment_start = upload_ids(ctx, batch.segment_start, "segment starts");
  return out;
}

}  // namespace sffn
