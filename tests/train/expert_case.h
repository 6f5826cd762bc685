// Training steps of a tiny model whose second layer's blocks are spread over ranks.
#pragma once
#include "comm/groups.h"
#include "ffn/method_model.h"
#include "train/engine.h"

#include <algorithm>

namespace sffn::test {

inline constexpr int64_t kContext = 6, kSequences = 8;

struct Layout {
  int ranks, expert;
  int64_t zero = 1;
  Dispatch dispatch = Dispatch::kGather;

  void apply(Config& config) const {
    config.parallel.expert = expert;
    config.parallel.zero = zero;
    config.parallel.dispatch = dispatch;
  }
};
inline constexpr Dispatch kAllToAll = Dispatch::kAllToAll;

inline Config config_of(const FfnMethod& method, Precision precision) {
  Config config = model_of(method, precision);
  config.model.context = kContext;
  config.train.micro_batch = 1;
  config.train.tokens_per_step = kSequences * kContext;
  config.optimizer.clip = 0.05;  // every step is clipped, so a wrong norm shows in the weights
  config.parallel.expert_chunk = 4;
  return config;
}

inline int64_t blocks_of(const Config& config) {
  const std::vector<FfnEntry> ffn = resolve_ffn(config.model, "test");
  const BlockShape* shape = ffn[1].options->block_shape();
  return shape == nullptr ? 0 : shape->blocks();
}

// All tokens of step 3 are alike, so that one block of a hash method gets every token, and other ranks get none.
inline Batch batch_of(const Config& config, int64_t step, int64_t first, int64_t count) {
  Batch all = random_batch(kSequences, kContext, config.model.vocab_size, static_cast<uint64_t>(step));
  if (step == 3) std::fill(all.inputs.begin(), all.inputs.end(), 7);
  Batch part = make_batch(count, kContext);
  std::copy_n(all.inputs.begin() + first * kContext, count * kContext, part.inputs.begin());
  std::copy_n(all.targets.begin() + first * kContext, count * kContext, part.targets.begin());
  return part;
}

inline ArenaSizes arenas_of(const Config& config, const Communicator& world) {
  return Engine::measure(config, world.rank(), world.size()).arenas;
}

inline StepNumbers run_step(Engine& engine, int64_t step) {
  return engine.step(
      step, [&](int64_t first, int64_t count) { return batch_of(engine.config(), step, first, count); }, 1e-2,
      [](std::string_view) {});
}

}  // namespace sffn::test
