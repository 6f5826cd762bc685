#include "model/memory_plan.h"

#include "comm/communicator.h"
#include "model/transformer.h"

#include <memory>
#include <utility>

namespace sffn {
namespace {

constexpr size_t kAddressSpace = size_t{1} << 40;  // reserved, never touched

Batch any_batch(int64_t batch, int64_t time, bool document_mask) {
  const std::vector<int32_t> zeros(static_cast<size_t>(batch * time), 0);
  Batch out{.batch = batch, .time = time, .inputs = zeros, .targets = zeros, .positions = zeros, .segment_start = {}};
  if (document_mask) out.segment_start = zeros;
  return out;
}

template <class Pass>
PassPlan measure(Pass&& pass) {
  Stream stream(meta_runtime());
  Arena saved(meta_runtime(), "saved", kAddressSpace), scratch(meta_runtime(), "scratch", kAddressSpace);
  const std::unique_ptr<Communicator> alone = make_self_communicator();
  const Parallel parallel{alone.get(), alone.get(), alone.get()};
  Context ctx{.stream = stream, .saved = saved, .scratch = scratch, .parallel = parallel};
  ctx.count_choices = true;
  pass(ctx);
  return {.saved = saved.high_water(), .scratch = scratch.high_water(), .work = stream.counter()};
}

}  // namespace

MemoryPlan measure_memory(Config config, int64_t batch, int64_t time, const DeviceRuntime& runtime) {
  config.model.on_gpu = runtime.device().kind == Device::Kind::kCuda;
  Transformer model(config);
  model.allocate(meta_runtime());
  ParamStore& params = model.params();
  const DType gradient_type = accumulate_type(params.dtype());
  const Buffer gradients(meta_runtime(), {params.flat_size()}, gradient_type);
  params.use_gradients(gradients.tensor({params.flat_size()}, gradient_type));
  const Batch tokens = any_batch(batch, time, config.data.document_mask);
  MemoryPlan plan;
  plan.parameters = params.bytes();
  plan.gradients = gradients.bytes();
  plan.constants = model.constant_bytes();
  plan.train = measure([&](Context& ctx) { model.forward_backward(ctx, tokens, 1.0); });
  plan.evaluate = measure([&](Context& ctx) { model.evaluate(ctx, tokens); });
  return plan;
}

}  // namespace sffn
