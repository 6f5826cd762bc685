// Training steps of a tiny model whose second layer's blocks are spread over ranks.
#pragma once
#include "comm/groups.h"
#include "ffn/method_model.h"
#include "train/engine.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

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

// What expert ranks share: of layers in sub-layers the blocks of one.
inline int64_t blocks_of(const Config& config) {
  const std::vector<FfnEntry> ffn = resolve_ffn(config.model, "test");
  const BlockShape* shape = ffn[1].options->block_shape();
  return shape == nullptr ? 0 : shape->shared_blocks();
}

// Every method that has blocks, and entries of another kind than the tiny ones of methods whose blocks are all used.
inline std::vector<FfnMethod> spread_methods() {
  std::vector<FfnMethod> methods;
  for (const FfnMethod* method : ffn_methods()) {
    if (blocks_of(config_of(*method, Precision::kFp32)) > 0) methods.push_back(*method);
  }
  for (const auto& [type, name, keys] :
       {std::tuple{"finedeep", "softmax", R"("sub_layers": 2, "experts": 8, "router": "softmax")"},
        {"finedeep", "input", R"("sub_layers": 4, "experts": 4, "router": "input_sigmoid", "sub_layer_norm": false)"},
        {"finedeep", "output", R"("sub_layers": 2, "experts": 8)"},
        {"finedeep", "none", R"("sub_layers": 1, "experts": 8, "router": "none")"},
        {"pkm", "dense softmax", R"("dense_scores": true, "half_keys": [4, 16], "heads": 2, "query_dim": 8)"},
        {"pkm", "dense relu", R"("dense_scores": true, "half_keys": [16, 4], "heads": 2, "weight": "relu")"}}) {
    methods.push_back(*find_ffn_method(type));
    methods.back().name = cat(type, ", ", name);
    methods.back().tiny_config = cat(R"({"type": ")", type, R"(", )", keys,
                                     std::string(type) == "pkm" ? R"(, "expansion": 2, "active_cells": 4})" : "}");
  }
  return methods;
}
inline FfnMethod spread_method(std::string_view name) {
  const std::vector<FfnMethod> methods = spread_methods();
  const auto found = std::find_if(methods.begin(), methods.end(), [&](const FfnMethod& m) { return m.name == name; });
  SFFN_CHECK(found != methods.end(), name, ": no such method");
  return *found;
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
