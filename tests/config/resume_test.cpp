#include "config/resume.h"

#include "config/config.h"
#include "support/catch.h"

#include <algorithm>

using namespace sffn;

namespace {

Json resolved(const std::vector<std::string>& overrides = {}) {
  Json json = parse_json(R"({
    "model": {"vocab_size": 64, "context": 8, "layers": 4, "d_model": 16, "heads": 4},
    "data": {"train": [{"path": "a.bin"}], "validation": {"v": "v.bin"}},
    "train": {"steps": 100, "tokens_per_step": 64, "micro_batch": 2, "seed": 9007199254740992}})",
                         "c", ExitCode::kUsage);
  for (const std::string& argument : overrides) apply_override(json, argument);
  return to_json(parse_config(json, "c"));
}

ResumeChanges changes(const std::vector<std::string>& overrides) {
  return compare_for_resume(resolved(), resolved(overrides));
}

}  // namespace

// Kills: a setting of the machine or of the logging that stops a resume.
TEST_CASE("layout, logging and step counts change silently on resume", "[config]") {
  const ResumeChanges c =
      changes({"name=other", "backend=cpu", "parallel.zero=0", "train.micro_batch=4", "train.steps=200",
               "train.recompute=block", "train.watchdog.step_seconds=3", "evaluation.every=7", "checkpoint.keep=9",
               "log.every=1", "data.validation.w=w.bin", "model.vocab_multiple=64"});
  CHECK(c.loud.empty());
  CHECK(c.refused.empty());
  CHECK(changes({}).loud.empty());
}

// Kills: an optimizer that changes without a word; a line without one of the two values.
TEST_CASE("optimizer values and data paths change on resume with a line that names both values", "[config]") {
  const ResumeChanges c = changes({"optimizer.lr=0.001", "optimizer.schedule.type=linear", "data.train.0.path=b.bin",
                                   "data.train.1.path=c.bin", "train.precision=bf16", "model.dropout=0.1"});
  CHECK(c.refused.empty());
  CHECK(c.loud == std::vector<std::string>{
                      "data.train.0.path: \"a.bin\" in the checkpoint, \"b.bin\" now",
                      "data.train.1.path: absent in the checkpoint, \"c.bin\" now",
                      "data.train.1.weight: absent in the checkpoint, 1.0 now",
                      "model.dropout: 0.0 in the checkpoint, 0.1 now",
                      "optimizer.lr: 3e-04 in the checkpoint, 0.001 now",
                      "optimizer.schedule.type: \"cosine\" in the checkpoint, \"linear\" now",
                      "train.precision: \"fp32\" in the checkpoint, \"bf16\" now",
                  });
}

// Kills: going on with another model, another order of the data, or a seed that differs beyond 2^53.
TEST_CASE("model, seed and tokens per step may not change on resume", "[config]") {
  for (const char* argument :
       {"model.layers=5", "model.d_model=32", "model.heads=2", "model.context=4", "model.vocab_size=65",
        "model.backbone=llama", "model.norm=rms", "model.norm_eps=1e-6", "model.positions=sinusoidal",
        "model.tie_embeddings=false", "model.bias.attention=false", "model.ffn.d_ff=32", "model.ffn.activation=relu",
        "model.sparse_ffn=[{\"layers\":[1],\"type\":\"x\"}]", "train.seed=9007199254740993",
        "train.tokens_per_step=128"}) {
    INFO(argument);
    const ResumeChanges c = changes({argument});
    const std::string text(argument);
    const std::string path = text.substr(0, text.find('='));
    const auto names_path = [&](const std::string& line) { return line.starts_with(path); };
    CHECK(std::any_of(c.refused.begin(), c.refused.end(), names_path));
  }
  CHECK(changes({"model.layers=5"}).refused == std::vector<std::string>{"model.layers: 4 in the checkpoint, 5 now"});
}
