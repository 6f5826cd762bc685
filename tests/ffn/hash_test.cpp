#include "ffn/registry.h"
#include "model/model_run.h"
#include "support/error_of.h"

#include <algorithm>
#include <set>

using namespace sffn;
using namespace sffn::test;

namespace {

Config with_entry(Config config, const std::string& entry) {
  Json json = parse_json(entry, "entry", ExitCode::kUsage);
  json["layers"] = Json::Array{int64_t{0}, int64_t{1}};
  config.model.sparse_ffn = Json(Json::Array{json});
  return config;
}

std::vector<ChoiceRecord> choices_of(const Config& config, const Batch& batch) {
  ModelRun run(config);
  Inspection found;
  run.evaluate(batch, nullptr, &found);
  return found.choices;
}

}  // namespace

// Kills: the target's id for the input's, a layer that hashes as another does, a weight other than 1.
TEST_CASE("rand_hash gives a token the blocks of its id, other ones in every layer", "[ffn][hash]") {
  const Batch batch = random_batch(3, 7, 29);
  const std::vector<ChoiceRecord> chosen = choices_of(
      with_entry(tiny_model(), R"({"type": "rand_hash", "block_size": 4, "cells": 40, "active_cells": 12})"), batch);
  REQUIRE(chosen.size() == 2);
  CHECK(chosen[0].blocks != chosen[1].blocks);
  for (size_t layer = 0; layer < 2; ++layer) {
    for (size_t n = 0; n < batch.inputs.size(); ++n) {
      const Permutation order(random_key(5, RandomSite::kHashBlocks, static_cast<int64_t>(layer), batch.inputs[n]), 10);
      std::vector<int32_t> expected;
      for (uint64_t i = 0; i < 3; ++i) expected.push_back(static_cast<int32_t>(order(i)));
      std::sort(expected.begin(), expected.end());
      const auto row = chosen[layer].blocks.begin() + static_cast<int64_t>(3 * n);
      CHECK(std::equal(expected.begin(), expected.end(), row));
    }
    for (const double weight : chosen[layer].weights) CHECK(weight == 1.0);
  }
}

// Kills: a block left out or taken twice when all are chosen.
TEST_CASE("rand_hash with every block is the dense layer", "[ffn][hash]") {
  const Batch batch = random_batch(3, 7, 29);
  ModelRun dense(tiny_model());
  ModelRun hashed(
      with_entry(tiny_model(), R"({"type": "rand_hash", "block_size": 5, "cells": 20, "active_blocks": 4})"));
  CHECK(hashed.forward_backward(batch, 0.125).nll == Approx(dense.forward_backward(batch, 0.125).nll).epsilon(1e-13));
  CHECK(relative_distance(hashed.all_gradients(), dense.all_gradients()) < 1e-13);
}

// Kills: another hash for hash_layer.
TEST_CASE("rand_hash of one block is hash_layer, bit for bit", "[ffn][hash]") {
  const Batch batch = random_batch(3, 7, 29);
  ModelRun one(with_entry(tiny_model(), R"({"type": "rand_hash", "block_size": 20, "expansion": 3})"));
  ModelRun layer(with_entry(tiny_model(), R"({"type": "hash_layer", "block_size": 20, "expansion": 3})"));
  CHECK(one.forward_backward(batch, 0.125).nll == layer.forward_backward(batch, 0.125).nll);
  CHECK(one.gradient_bytes() == layer.gradient_bytes());
}

// Kills: a hash of several blocks that says nothing; FLOPs of a router that is not there.
TEST_CASE("hash methods cost the dense product of their active cells and refuse what they have not", "[ffn][hash]") {
  const auto resolve = [](const std::string& entry) {
    return resolve_ffn(with_entry(tiny_model(), entry).model, "c.json");
  };
  const auto layers = resolve(R"({"type": "rand_hash", "block_size": 4, "cells": 40, "active_cells": 12})");
  const FfnCost cost = layers[0].options->cost(tiny_model().model);
  CHECK(cost.flops_per_token == 4 * 12 * 12);
  CHECK(cost.parameters - cost.active_parameters == (40 - 12) * (2 * 12 + 1));
  const auto message = [&](const std::string& entry) { return error_of([&] { resolve(entry); }).what; };
  CHECK(message(R"({"type": "hash_layer", "block_size": 10, "expansion": 2})") ==
        "c.json: model.sparse_ffn.0.active_cells: makes 2 active blocks; hash_layer gives one block of 10 cells to a "
        "token");
  CHECK(message(R"({"type": "rand_hash", "block_size": 4, "cells": 40, "balance": {"type": "none"}})")
            .find("c.json: model.sparse_ffn.0.balance") == 0);
}

namespace {

constexpr const char* kBalanced = R"({"type": "hash_layer", "block_size": 20, "cells": 60, "hash": "balanced"})";

// hash_blocks of the first layer after initialisation with counts of the first ids.
std::vector<int32_t> balanced_table(const std::vector<double>& counts) {
  ModelRun run(with_entry(tiny_model(), kBalanced));
  Stream stream(cpu_runtime());
  run.model().initialise(stream, 5, [&] { return counts; });
  for (const State& state : run.model().params().states()) {
    if (state.spec.name != "layers.0.ffn.hash_blocks") continue;
    CHECK(state.spec.saved);
    const int32_t* table = state.value.data<int32_t>();
    return {table, table + state.value.numel()};
  }
  FAIL("no layers.0.ffn.hash_blocks");
  return {};
}

}  // namespace

// Kills: ids dealt out in their own order, to the block with the fewest ids, or the largest first of a sorted copy.
TEST_CASE("balanced hash_layer gives the most frequent id that is left to the emptiest block", "[ffn][hash]") {
  // 9 to block 0, 8 to 1, 7 to 2; then 6 to 2 (13), 5 to 1 (13), 4 to 0 (13), 3 to 0 (16); the unseen by fewest ids.
  const std::vector<int32_t> table = balanced_table({3, 4, 5, 6, 7, 8, 9});
  REQUIRE(table.size() == 29);
  CHECK(std::vector<int32_t>(table.begin(), table.begin() + 7) == std::vector<int32_t>{0, 0, 1, 2, 2, 1, 0});
  std::vector<int64_t> ids(3);
  for (size_t id = 7; id < table.size(); ++id) ++ids[table[id]];
  // Block 0 is fullest: ids of no tokens never reach it while the others are emptier.
  CHECK(ids == std::vector<int64_t>{0, 11, 11});
  CHECK(balanced_table({2, 2, 2, 2}) == [] {
    std::vector<int32_t> expected = {0, 1, 2, 0};  // equal counts: by the lower id, to the lower block
    for (int i = 0; i < 25; ++i) expected.push_back(1 + i % 2);
    return expected;
  }());
}

// Kills: the target's id for the input's; a table that the choice does not follow; a gradient through the choice.
TEST_CASE("balanced hash_layer chooses by its table", "[ffn][hash]") {
  const Batch batch = random_batch(3, 7, 29);
  ModelRun run(with_entry(tiny_model(), kBalanced));
  Stream stream(cpu_runtime());
  run.model().initialise(stream, 5, [] { return std::vector<double>(29, 1); });
  const auto read_table = [&](const State& state) { return state.value.data<int32_t>(); };
  Inspection found;
  run.evaluate(batch, nullptr, &found);
  REQUIRE(found.choices.size() == 2);
  std::set<int32_t> seen;
  for (const State& state : run.model().params().states()) {
    if (!state.spec.name.ends_with("hash_blocks")) continue;
    const ChoiceRecord& record = found.choices[state.spec.name.starts_with("layers.1")];
    for (size_t n = 0; n < batch.inputs.size(); ++n) {
      CHECK(record.blocks[n] == read_table(state)[batch.inputs[n]]);
      CHECK(record.weights[n] == 1.0);
      seen.insert(record.blocks[n]);
    }
  }
  CHECK(seen.size() == 3);
}

// Kills: a run that goes on with every token in block 0.
TEST_CASE("balanced hash_layer without token counts is a usage error that names the key", "[ffn][hash]") {
  ModelRun run(with_entry(tiny_model(), kBalanced));
  Stream stream(cpu_runtime());
  const Caught error = error_of([&] { run.model().initialise(stream, 5); });
  CHECK(error.code == ExitCode::kUsage);
  CHECK(error.says("model.sparse_ffn.0.hash: balanced needs to know how often each token stands in the training data"));
}
