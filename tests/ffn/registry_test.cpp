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
