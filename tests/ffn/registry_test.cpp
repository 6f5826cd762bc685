#include "ffn/registry.h"

#include "config/reader.h"
#include "support/catch.h"

#include <algorithm>

using namespace sffn;

namespace {

ModelConfig model_with(const std::string& sparse_ffn) {
  ModelConfig model;
  model.vocab_size = 64;
  model.context = 8;
  model.layers = 6;
  model.d_model = 16;
  model.heads = model.kv_heads = 2;
  model.head_dim = 8;
  model.ffn.d_ff = 32;
  model.sparse_ffn = parse_json(sparse_ffn, "test", ExitCode::kUsage);
  return model;
}

std::string error_of(const std::string& sparse_ffn) {
  try {
    resolve_ffn(model_with(sparse_ffn), "c.json");
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

// Kills: a method's file that the linker drops, a method without source or summary.
TEST_CASE("every method names itself, its source and a tiny configuration that it accepts", "[ffn]") {
  const std::vector<const FfnMethod*> methods = ffn_methods();
  REQUIRE(find_ffn_method("dense") != nullptr);
  CHECK(std::is_sorted(methods.begin(), methods.end(), [](auto a, auto b) { return a->name < b->name; }));
  for (const FfnMethod* method : methods) {
    INFO(method->name);
    CHECK(!method->summary.empty());
    CHECK(!method->source.empty());
    Json entry = parse_json(method->tiny_config, "tiny", ExitCode::kUsage);
    CHECK(entry["type"].as_string() == method->name);
    entry["layers"] = "all";
    const std::vector<FfnEntry> layers = resolve_ffn(model_with(Json(Json::Array{entry}).dump()), "c.json");
    REQUIRE(layers.size() == 6);
    for (const FfnEntry& layer : layers) CHECK(layer.type == method->name);
  }
}

// Kills: a block size that is read and ignored, and one that is refused although it is the method's own.
TEST_CASE("a method of single cells takes a block size of 1 and no other", "[ffn]") {
  const auto entry = [](const char* size) {
    return cat(R"([{"layers": [2], "type": "lorkm", "expansion": 2, "active_cells": 8, "block_size": )", size, "}]");
  };
  CHECK(error_of(entry("1")).empty());
  CHECK(
      contains(error_of(entry("4")), "model.sparse_ffn.0.block_size: is 4; this method chooses cells in blocks of 1"));
}

// Kills: block sizes that leave cells over, more active blocks than there are, memories smaller than the dense layer,
// options of another method, two entries for one layer: each is refused with its place and rule.
TEST_CASE("impossible entries are refused with the path and the rule", "[ffn]") {
  const auto check = [](const std::string& keys, const std::string& place, const std::string& rule) {
    const std::string error = error_of(cat(R"([{"layers": [2], "type": "avg_k", )", keys, "}]"));
    INFO(error);
    CHECK(contains(error, cat("c.json: model.sparse_ffn.0.", place, ": ")));
    CHECK(contains(error, rule));
  };
  check(R"("expansion": 2, "block_size": 5)", "block_size", "does not divide the 64 cells");
  check(R"("expansion": 2, "block_size": 16, "active_cells": 24)", "active_cells", "no multiple of the block size 16");
  check(R"("expansion": 2, "block_size": 8, "active_blocks": 9)", "active_blocks", "asks for 9 blocks of 8");
  check(R"("expansion": 0.5, "block_size": 8)", "expansion", ">= 1");
  check(R"("cells": 16, "block_size": 8)", "cells", "expansion below 1");
  check(R"("expansion": 2, "cells": 64, "block_size": 8)", "cells", "both given");
  check(R"("block_size": 8)", "expansion", "is missing");
  check(R"("expansion": 2, "block_size": 8, "capacity_factor": 1.5)", "capacity_factor", "is not a known key");
  check(R"("expansion": 2, "block_size": 8, "balance": {"type": "cv2"})", "balance.type", "weighs its blocks");
  const std::string twice = error_of(
      R"([{"layers": [2], "type": "avg_k", "expansion": 2, "block_size": 8},
          {"layers": "all", "type": "avg_k", "expansion": 2, "block_size": 8}])");
  CHECK(contains(twice, "model.sparse_ffn"));
}

// Kills: an entry applied to the layer beside its own, defaults that do not come from model.ffn.
TEST_CASE("an entry takes its layers and inherits what it does not say", "[ffn]") {
  ModelConfig model = model_with(R"([{"layers": {"every": 3}, "type": "dense", "d_ff": 48}])");
  model.ffn.gated = true;
  const std::vector<FfnEntry> layers = resolve_ffn(model, "c.json");
  REQUIRE(layers.size() == 6);
  for (size_t i = 0; i < 6; ++i) {
    const int64_t d = 16, cells = i % 3 == 2 ? 48 : 32;
    const FfnCost cost = layers[i].options->cost(model);
    CHECK(cost.parameters == 3 * d * cells + cells + d + 2 * d);
    CHECK(cost.active_parameters == cost.parameters);
    CHECK(cost.flops_per_token == 6 * d * cells);
  }
}

// Kills: a misspelt method or key that trains the dense model in silence.
TEST_CASE("unknown methods and keys are errors that name the path and what is known", "[ffn]") {
  const std::string method = error_of(R"([{"layers": [1], "type": "dens"}])");
  CHECK(contains(method, "c.json: model.sparse_ffn.0.type"));
  CHECK(contains(method, "dens"));
  CHECK(contains(method, "did you mean dense"));
  const std::string key = error_of(R"([{"layers": [1], "type": "dense", "d_fff": 3}])");
  CHECK(contains(key, "c.json: model.sparse_ffn.0.d_fff"));
  CHECK(contains(error_of(R"([{"layers": [1], "type": "dense", "d_ff": 0}])"), "model.sparse_ffn.0.d_ff"));
  CHECK(contains(error_of(R"([{"layers": [6], "type": "dense"}])"), "model.sparse_ffn.0.layers"));
  CHECK(contains(error_of(R"([{"layers": [1], "type": "dense"}, {"layers": "all", "type": "dense"}])"),
                 "model.sparse_ffn.1.layers"));
}
