// One step and one evaluation batch on the meta device.
#include "comm/groups.h"
#include "train/engine.h"

#include <algorithm>

namespace sffn {

Measurement Engine::measure(const Config& config, int rank, int ranks) {
  constexpr size_t kAddressSpace = size_t{1} << 42;
  Measurement found;
  const int spread = static_cast<int>(config.parallel.expert);
  check_expert_ranks(ranks, spread);
  const auto data = make_planned_communicator(rank, ranks, found.traffic);
  const auto expert = make_planned_communicator(rank % spread, spread, found.expert_traffic);
  const auto replicas = make_planned_communicator(rank / spread, ranks / spread, found.replica_traffic);
  const Parallel parallel{.world = data.get(), .data = data.get(), .expert = expert.get(), .replicas = replicas.get()};
  Engine engine(config, parallel, meta_runtime(), {kAddressSpace, kAddressSpace});
  const int64_t time = config.model.context;
  const BatchOf empty_batch = [&](int64_t, int64_t count) {
    Batch batch;
    batch.batch = count;
    batch.time = time;
    batch.inputs.resize(count * time);
    batch.targets = batch.positions = batch.inputs;
    if (config.data.document_mask) batch.segment_start = batch.inputs;
    return batch;
  };
  Traffic of_pass, expert_of_pass;
  engine.step(1, empty_batch, 0, [&](std::string_view phase) {
    if (phase != kGradientExchange) return;
    of_pass = found.traffic;
    expert_of_pass = found.expert_traffic;
  });
  // The first micro-batch ran alone, for all.
  const LeafRange leaves = engine.leaves_[static_cast<size_t>(rank)];
  const auto passes = static_cast<double>(leaves.last - leaves.first);
  found.traffic += (passes - 1) * of_pass;
  found.expert_traffic += (passes - 1) * expert_of_pass;
  const OpCounter& work = engine.stream_.counter();
  const double elsewhere = 1.0 - 1.0 / spread;  // of the choices, which without memory all count here
  found.flops = passes * (work.matmul_flops + work.attention_flops - elsewhere * work.block_flops);
  // So did the first piece of an exchange.
  for (const ParameterGroup& group : engine.groups_) {
    const auto more = static_cast<double>((group.exchange_rounds() - 1) * (group.replicas().size() - 1));
    Traffic& traffic = &group.replicas() == data.get() ? found.traffic : found.replica_traffic;
    traffic.all_to_all.messages += std::max(0.0, more);
    found.updated += group.optimizer().range().count;
  }
  const Traffic expert_traffic = found.expert_traffic;  // of the step alone
  engine.evaluate(empty_batch(0, config.train.micro_batch));
  found.expert_traffic = expert_traffic;
  found.arenas = {engine.saved_.high_water(), engine.scratch_.high_water()};
  found.memory = engine.memory_with(found.arenas);
  return found;
}

size_t Measurement::memory_bytes() const {
  size_t total = 0;
  for (const auto& [name, bytes] : memory) total += bytes;
  return total;
}

}  // namespace sffn
