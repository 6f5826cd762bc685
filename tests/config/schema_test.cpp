#include "config/schema.h"

#include "config/config.h"
#include "support/catch.h"

#include <algorithm>

using namespace sffn;

namespace {

// Paths of all values of a resolved configuration; empty objects and lists count as values.
void paths_of(const Json& json, const std::string& path, std::vector<std::string>& paths) {
  if (!json.is_object() || json.as_object().empty()) {
    paths.push_back(path);
    return;
  }
  for (const Json::Member& member : json.as_object()) {
    paths_of(member.value, path.empty() ? member.key : path + "." + member.key, paths);
  }
}

}  // namespace

// Kills: a key that is read but not written to the resolved configuration, or written but unknown to the reader.
TEST_CASE("the reference documents each resolved key once and no others", "[config]") {
  const Json json =
      parse_json(R"({"model": {"context": 8, "layers": 2, "d_model": 16, "heads": 4}})", "c", ExitCode::kUsage);
  std::vector<std::string> resolved, documented;
  paths_of(to_json(parse_config(json, "c")), "", resolved);
  for (const SchemaEntry& entry : config_schema()) {
    CHECK(!entry.meaning.empty());
    if (entry.path.find(".N.") == std::string::npos) documented.push_back(entry.path);
  }
  std::sort(resolved.begin(), resolved.end());
  std::sort(documented.begin(), documented.end());
  CHECK(documented == resolved);
}

// Kills: a documented default that is not the one used.
TEST_CASE("documented defaults are those of a file that gives only what is required", "[config]") {
  const Json json =
      parse_json(R"({"model": {"context": 8, "layers": 2, "d_model": 16, "heads": 4}})", "c", ExitCode::kUsage);
  const Json resolved = to_json(parse_config(json, "c"));
  for (const SchemaEntry& entry : config_schema()) {
    if (entry.required || !entry.rule.empty() || entry.path.find(".N.") != std::string::npos) continue;
    const Json* value = &resolved;
    for (size_t begin = 0; begin < entry.path.size();) {
      const size_t end = std::min(entry.path.find('.', begin), entry.path.size());
      value = value->find(entry.path.substr(begin, end - begin));
      REQUIRE(value != nullptr);
      begin = end + 1;
    }
    INFO(entry.path);
    CHECK(*value == entry.fallback);
  }
}

// Kills: a preset that sets other fields than methods.md names, or a field that the preset overrides.
TEST_CASE("a backbone is a preset of independent fields", "[config]") {
  const auto model = [](std::string_view extra) {
    return parse_config(
               parse_json(cat(R"({"model": {"context": 8, "layers": 2, "d_model": 16, "heads": 4)", extra, "}}"), "c",
                          ExitCode::kUsage),
               "c")
        .model;
  };
  const ModelConfig gpt = model(""), llama = model(R"(, "backbone": "llama")");
  CHECK((gpt.norm == Norm::kLayer && gpt.positions == Positions::kLearned && gpt.tie_embeddings));
  CHECK((gpt.attention_bias && gpt.ffn.bias && !gpt.output_bias && !gpt.ffn.gated));
  CHECK((gpt.ffn.activation == Activation::kGelu && gpt.ffn.d_ff == 64 && gpt.head_dim == 4 && gpt.kv_heads == 4));
  CHECK((llama.norm == Norm::kRms && llama.positions == Positions::kRope && !llama.tie_embeddings));
  CHECK((!llama.attention_bias && !llama.ffn.bias && !llama.output_bias));
  CHECK((llama.ffn.activation == Activation::kSilu && llama.ffn.gated && llama.rope_theta == 10000));
  const ModelConfig mixed = model(R"(, "backbone": "llama", "norm": "layernorm", "tie_embeddings": true, "kv_heads": 2,
    "head_dim": 6, "bias": {"attention": true}, "ffn": {"activation": "geglu", "bias": true})");
  CHECK((mixed.norm == Norm::kLayer && mixed.positions == Positions::kRope && mixed.tie_embeddings));
  CHECK((mixed.attention_bias && mixed.ffn.bias && mixed.kv_heads == 2 && mixed.head_dim == 6));
  CHECK((mixed.ffn.activation == Activation::kGelu && mixed.ffn.gated));
}

// Kills: a swap of neighbours that costs two; a suggestion that has nothing in common with the word.
TEST_CASE("the nearest word is the one with the fewest edits, or none", "[config]") {
  const std::vector<std::string> words = {"layers", "heads", "d_model", "d_ff"};
  CHECK(nearest_word("layesr", words) == "layers");
  CHECK(nearest_word("head", words) == "heads");
  CHECK(nearest_word("dmodel", words) == "d_model");
  CHECK(nearest_word("ffd", {"dff", "ffx"}) == "ffx");
  CHECK(nearest_word("abdc", {"axyc", "abcd"}) == "abcd");
  CHECK(nearest_word("temperature", words).empty());
  CHECK(nearest_word("", words).empty());
  CHECK(nearest_word(std::string(100000, 'x'), words).empty());
}
