// Keys and values that no run can have: each is a usage error that names the path and the rule.
#include "config/config.h"
#include "support/catch.h"

using namespace sffn;

namespace {

// A configuration with every list filled, so that overrides have something to spoil.
Json base() {
  return parse_json(R"({
    "model": {"backbone": "gpt", "vocab_size": 64, "context": 8, "layers": 6, "d_model": 16, "heads": 4,
              "ffn": {"d_ff": 32}},
    "data": {"train": [{"path": "a.bin", "weight": 1}, {"path": "b.bin"}], "validation": {"held_out": "v.bin"}},
    "train": {"steps": 100, "tokens_per_step": 64, "micro_batch": 2}})",
                    "base", ExitCode::kUsage);
}

// The error after these overrides, separated by spaces; empty when they are accepted.
std::string error_with(const std::string& overrides) {
  Json json = base();
  try {
    for (size_t begin = 0; begin < overrides.size();) {
      const size_t end = std::min(overrides.find(' ', begin), overrides.size());
      apply_override(json, overrides.substr(begin, end - begin));
      begin = end + 1;
    }
    parse_config(json, "c.json");
  } catch (const UsageError& error) {
    CHECK(error.code() == ExitCode::kUsage);
    return error.what();
  }
  return "";
}

struct Case {
  std::string overrides, place, rule;
};

void check_cases(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const std::string error = error_with(c.overrides);
    INFO(c.overrides);
    INFO(error);
    CHECK(error.starts_with(c.place));
    CHECK(error.find(c.rule) != std::string::npos);
    CHECK(error.find('\n') == std::string::npos);
  }
}

}  // namespace

// Kills: a base of the table that fails by itself.
TEST_CASE("the configuration that the tables spoil is valid", "[config]") { CHECK(error_with("").empty()); }

// Kills: an object whose finish() is not called; a nearest match taken from another object.
TEST_CASE("an unknown key is refused with the nearest one of its object", "[config]") {
  check_cases({
      {"modle=1", "c.json: modle: ", "the nearest is \"model\""},
      {"trian.steps=1", "c.json: trian: ", "the nearest is \"train\""},
      {"Name=x", "c.json: Name: ", "the nearest is \"name\""},
      {"model.layer=6", "c.json: model.layer: ", "the nearest is \"layers\""},
      {"model.n_heads=4", "c.json: model.n_heads: ", "the nearest is \"heads\""},
      {"model.dmodel=4", "c.json: model.dmodel: ", "the nearest is \"d_model\""},
      {"model.ffn.dff=4", "c.json: model.ffn.dff: ", "the nearest is \"d_ff\""},
      {"model.ffn.activaton=relu", "c.json: model.ffn.activaton: ", "the nearest is \"activation\""},
      {"model.bias.attn=true", "c.json: model.bias.attn: ", "known here are attention, ffn, output"},
      {"data.trian=[]", "c.json: data.trian: ", "the nearest is \"train\""},
      {"data.train.1.wieght=1", "c.json: data.train.1.wieght: ", "the nearest is \"weight\""},
      {"optimizer.learning_rate=1", "c.json: optimizer.learning_rate: ", "known here are type, lr, betas"},
      {"optimizer.beta=[0.9,0.9]", "c.json: optimizer.beta: ", "the nearest is \"betas\""},
      {"optimizer.schedule.warmup=1", "c.json: optimizer.schedule.warmup: ", "is not a known key"},
      {"optimizer.schedule.warmup_step=1", "c.json: optimizer.schedule.warmup_step: ", "\"warmup_steps\""},
      {"train.microbatch=1", "c.json: train.microbatch: ", "the nearest is \"micro_batch\""},
      {"train.watchdog.seconds=1", "c.json: train.watchdog.seconds: ", "start_seconds, step_seconds"},
      {"parallel.experts=1", "c.json: parallel.experts: ", "the nearest is \"expert\""},
      {"evaluation.token=1", "c.json: evaluation.token: ", "the nearest is \"tokens\""},
      {"checkpoint.keep_evry=1", "c.json: checkpoint.keep_evry: ", "the nearest is \"keep_every\""},
      {"log.tensorbord=true", "c.json: log.tensorbord: ", "the nearest is \"tensorboard\""},
      {"zzzzzzzzzzzz=1", "c.json: zzzzzzzzzzzz: ", "is not a known key; known here are name, backend, model"},
  });
}

// Kills: an implicit conversion (a string of digits, 1.5 rounded, true as 1, null as absent).
TEST_CASE("a value of the wrong type is refused", "[config]") {
  check_cases({
      {"name=3", "c.json: name: ", "is 3; a string is expected"},
      {"backend=true", "c.json: backend: ", "is true; one of"},
      {"model=3", "c.json: model: ", "is 3; an object is expected"},
      {"model=[]", "c.json: model: ", "is an array; an object is expected"},
      {"model.ffn=dense", "c.json: model.ffn: ", "is \"dense\"; an object is expected"},
      {"model.bias=true", "c.json: model.bias: ", "is true; an object is expected"},
      {"model.layers=1.5", "c.json: model.layers: ", "is 1.5; an integer in [1, 65536] is expected"},
      {"model.layers=6.0", "c.json: model.layers: ", "is 6.0; an integer"},
      {"model.layers=1e1", "c.json: model.layers: ", "an integer"},
      {"model.layers=\"6\"", "c.json: model.layers: ", "is \"6\"; an integer"},
      {"model.layers=true", "c.json: model.layers: ", "is true; an integer"},
      {"model.layers=null", "c.json: model.layers: ", "is null; an integer"},
      {"model.layers=[6]", "c.json: model.layers: ", "is an array; an integer"},
      {"model.layers=18446744073709551616", "c.json: model.layers: ", "an integer"},
      {"model.heads={}", "c.json: model.heads: ", "is an object; an integer"},
      {"model.vocab_size=from_dat", "c.json: model.vocab_size: ", "or \"from_data\" is expected"},
      {"model.vocab_size=1.5", "c.json: model.vocab_size: ", "an integer in"},
      {"model.tie_embeddings=1", "c.json: model.tie_embeddings: ", "is 1; a boolean (true or false)"},
      {"model.dropout=\"0.1\"", "c.json: model.dropout: ", "a number in [0, 1)"},
      {"model.norm_eps=NaN", "c.json: model.norm_eps: ", "is \"NaN\"; a number > 0"},
      {"model.sparse_ffn={}", "c.json: model.sparse_ffn: ", "is an object; a list of objects"},
      {"model.sparse_ffn=[5]", "c.json: model.sparse_ffn.0: ", "is 5; an object is expected"},
      {"data.train=a.bin", "c.json: data.train: ", "is \"a.bin\"; a list of objects"},
      {"data.train.0=a.bin", "c.json: data.train.0: ", "is \"a.bin\"; an object"},
      {"data.train.0.path=7", "c.json: data.train.0.path: ", "is 7; a string"},
      {"data.train.0.weight=heavy", "c.json: data.train.0.weight: ", "a number > 0"},
      {"data.validation=v.bin", "c.json: data.validation: ", "an object of strings"},
      {"data.validation.held_out=[\"v.bin\"]", "c.json: data.validation.held_out: ", "is an array; a string"},
      {"data.document_mask=0", "c.json: data.document_mask: ", "a boolean"},
      {"optimizer.lr=fast", "c.json: optimizer.lr: ", "is \"fast\"; a number > 0"},
      {"optimizer.lr=false", "c.json: optimizer.lr: ", "is false; a number"},
      {"optimizer.betas=0.9", "c.json: optimizer.betas: ", "is 0.9; a list of 2 numbers"},
      {"optimizer.betas=[0.9]", "c.json: optimizer.betas: ", "is a list of 1; a list of 2 numbers"},
      {"optimizer.betas=[0.9,0.9,0.9]", "c.json: optimizer.betas: ", "is a list of 3"},
      {"optimizer.betas=[0.9,\"0.9\"]", "c.json: optimizer.betas.1: ", "a number in [0, 1)"},
      {"optimizer.schedule=cosine", "c.json: optimizer.schedule: ", "an object is expected"},
      {"train.steps=1_000", "c.json: train.steps: ", "is \"1_000\"; an integer >= 1"},
      {"train.seed=random", "c.json: train.seed: ", "an integer >= 0"},
      {"train.seed=9223372036854775808", "c.json: train.seed: ", "an integer >= 0"},
      {"train.deterministic=yes", "c.json: train.deterministic: ", "is \"yes\"; a boolean"},
      {"train.watchdog=60", "c.json: train.watchdog: ", "an object"},
      {"log=null", "c.json: log: ", "is null; an object"},
  });
}

// Kills: an accepted word that no code implements.
TEST_CASE("a word that is not listed is refused with those that are", "[config]") {
  check_cases({
      {"backend=gpu", "c.json: backend: ", "one of \"auto\", \"cpu\", \"cuda\""},
      {"backend=CPU", "c.json: backend: ", "one of"},
      {"model.backbone=transformer_xl", "c.json: model.backbone: ", "one of \"gpt\", \"llama\""},
      {"model.backbone=gtp", "c.json: model.backbone: ", "the nearest is \"gpt\""},
      {"model.norm=layer_norm", "c.json: model.norm: ", "the nearest is \"layernorm\""},
      {"model.positions=rotary", "c.json: model.positions: ", "\"learned\", \"sinusoidal\", \"rope\""},
      {"model.init=xavier", "c.json: model.init: ", "\"gpt\", \"xl\""},
      {"model.ffn.type=avg_k", "c.json: model.ffn.type: ", "one of \"dense\""},
      {"model.ffn.activation=swigl", "c.json: model.ffn.activation: ", "the nearest is \"swiglu\""},
      {"optimizer.type=adam", "c.json: optimizer.type: ", "the nearest is \"adamw\""},
      {"optimizer.schedule.type=cosin", "c.json: optimizer.schedule.type: ", "the nearest is \"cosine\""},
      {"train.precision=fp16", "c.json: train.precision: ", "one of \"fp32\", \"bf16\""},
      {"train.precision=fp64", "c.json: train.precision: ", "one of \"fp32\", \"bf16\""},
      {"train.recompute=all", "c.json: train.recompute: ", "\"none\", \"ffn\", \"block\""},
  });
}

// Kills: a missing, inverted or inclusive bound.
TEST_CASE("a number outside its range is refused", "[config]") {
  check_cases({
      {"model.context=0", "c.json: model.context: ", "is 0; an integer in [1, "},
      {"model.context=-8", "c.json: model.context: ", "is -8; an integer in [1, "},
      {"model.context=16777217", "c.json: model.context: ", "16777216"},
      {"model.layers=0", "c.json: model.layers: ", "[1, 65536]"},
      {"model.layers=65537", "c.json: model.layers: ", "[1, 65536]"},
      {"model.d_model=0", "c.json: model.d_model: ", "is 0"},
      {"model.d_model=-16", "c.json: model.d_model: ", "is -16"},
      {"model.d_model=9223372036854775807", "c.json: model.d_model: ", "16777216"},
      {"model.heads=0", "c.json: model.heads: ", "is 0"},
      {"model.heads=-4", "c.json: model.heads: ", "is -4"},
      {"model.kv_heads=0", "c.json: model.kv_heads: ", "is 0"},
      {"model.head_dim=0", "c.json: model.head_dim: ", "is 0"},
      {"model.vocab_size=0", "c.json: model.vocab_size: ", "is 0"},
      {"model.vocab_size=-1", "c.json: model.vocab_size: ", "is -1"},
      {"model.vocab_size=2147483648", "c.json: model.vocab_size: ", "2147483647"},
      {"model.vocab_multiple=0", "c.json: model.vocab_multiple: ", "is 0"},
      {"model.norm_eps=0", "c.json: model.norm_eps: ", "> 0"},
      {"model.rope_theta=0", "c.json: model.rope_theta: ", "> 0"},
      {"model.rope_theta=-1", "c.json: model.rope_theta: ", "> 0"},
      {"model.dropout=1", "c.json: model.dropout: ", "[0, 1)"},
      {"model.dropout=-0.1", "c.json: model.dropout: ", "[0, 1)"},
      {"model.ffn.d_ff=0", "c.json: model.ffn.d_ff: ", "is 0"},
      {"model.ffn.d_ff=-1", "c.json: model.ffn.d_ff: ", "is -1"},
      {"data.train.0.weight=0", "c.json: data.train.0.weight: ", "> 0"},
      {"data.train.1.weight=-1", "c.json: data.train.1.weight: ", "> 0"},
      {"data.train.0.path=", "c.json: data.train.0.path: ", "is empty"},
      {"data.validation.held_out=", "c.json: data.validation.held_out: ", "is empty"},
      {"data.validation.a/b=v.bin", "c.json: data.validation.a/b: ", "letters, digits"},
      {"data.validation={\"\":\"v.bin\"}", "c.json: data.validation.: ", "letters, digits"},
      {"name=a/b", "c.json: name: ", "a name that can be a folder's"},
      {"name=..", "c.json: name: ", "a name that can be a folder's"},
      {"name=", "c.json: name: ", "is empty"},
      {"optimizer.lr=0", "c.json: optimizer.lr: ", "> 0"},
      {"optimizer.lr=-1e-3", "c.json: optimizer.lr: ", "> 0"},
      {"optimizer.betas=[1,0.9]", "c.json: optimizer.betas.0: ", "[0, 1)"},
      {"optimizer.betas=[0.9,1.0]", "c.json: optimizer.betas.1: ", "[0, 1)"},
      {"optimizer.betas=[-0.1,0.9]", "c.json: optimizer.betas.0: ", "[0, 1)"},
      {"optimizer.eps=0", "c.json: optimizer.eps: ", "> 0"},
      {"optimizer.weight_decay=-1", "c.json: optimizer.weight_decay: ", ">= 0"},
      {"optimizer.clip=-1", "c.json: optimizer.clip: ", ">= 0"},
      {"optimizer.schedule.warmup_steps=-1", "c.json: optimizer.schedule.warmup_steps: ", ">= 0"},
      {"optimizer.schedule.final_lr=-1", "c.json: optimizer.schedule.final_lr: ", ">= 0"},
      {"train.steps=0", "c.json: train.steps: ", ">= 1"},
      {"train.steps=-5", "c.json: train.steps: ", ">= 1"},
      {"train.tokens_per_step=0", "c.json: train.tokens_per_step: ", ">= 1"},
      {"train.micro_batch=0", "c.json: train.micro_batch: ", "[1, 2147483647]"},
      {"train.seed=-1", "c.json: train.seed: ", ">= 0"},
      {"train.watchdog.step_seconds=0", "c.json: train.watchdog.step_seconds: ", "[1, 1000000000]"},
      {"parallel.expert=0", "c.json: parallel.expert: ", ">= 1"},
      {"parallel.zero=2", "c.json: parallel.zero: ", "[0, 1]"},
      {"evaluation.every=-1", "c.json: evaluation.every: ", ">= 0"},
      {"evaluation.tokens=-1", "c.json: evaluation.tokens: ", ">= 0"},
      {"checkpoint.every=-1", "c.json: checkpoint.every: ", ">= 0"},
      {"checkpoint.keep=0", "c.json: checkpoint.keep: ", ">= 1"},
      {"checkpoint.keep_every=-1", "c.json: checkpoint.keep_every: ", ">= 0"},
      {"checkpoint.max_failures=0", "c.json: checkpoint.max_failures: ", ">= 1"},
      {"log.every=0", "c.json: log.every: ", ">= 1"},
  });
}

// Kills: a rule over several keys that is not checked, or checked on one of them only.
TEST_CASE("keys that do not go together are refused", "[config]") {
  check_cases({
      {"model.heads=3", "c.json: model.heads: ", "heads that divide d_model"},
      {"model.heads=32", "c.json: model.heads: ", "heads that divide d_model"},
      {"model.kv_heads=3", "c.json: model.kv_heads: ", "kv_heads that divide heads"},
      {"model.kv_heads=8", "c.json: model.kv_heads: ", "kv_heads that divide heads"},
      {"model.positions=rope model.head_dim=3", "c.json: model.head_dim: ", "an even head_dim"},
      {"model.positions=sinusoidal model.d_model=15 model.head_dim=4", "c.json: model.d_model: ", "an even d_model"},
      {"model.bias.output=true", "c.json: model.bias.output: ", "only when untied"},
      {"model.bias.ffn=true model.ffn.bias=false", "c.json: model.ffn.bias: ", "both equal"},
      {"train.tokens_per_step=65", "c.json: train.tokens_per_step: ", "a multiple of micro_batch * context = 16"},
      {"train.tokens_per_step=8", "c.json: train.tokens_per_step: ", "a multiple of micro_batch * context = 16"},
      {"train.micro_batch=268435456", "c.json: train.micro_batch: ", "below 2^31"},
      {"train.steps=9223372036854775807", "c.json: train.steps: ", "fewer than 2^63 tokens"},
      {"optimizer.schedule.warmup_steps=101", "c.json: optimizer.schedule.warmup_steps: ", "at most train.steps"},
      {"optimizer.schedule.final_lr=1", "c.json: optimizer.schedule.final_lr: ", "at most lr"},
      {"optimizer.schedule.type=wsd", "c.json: optimizer.schedule.decay_steps: ", "wsd needs 1 up to"},
      {"optimizer.schedule.type=wsd optimizer.schedule.decay_steps=101",
       "c.json: optimizer.schedule.decay_steps: ", "wsd needs 1 up to"},
      {"optimizer.schedule.type=wsd optimizer.schedule.warmup_steps=60 optimizer.schedule.decay_steps=41",
       "c.json: optimizer.schedule.decay_steps: ", "wsd needs 1 up to"},
      {"optimizer.schedule.decay_steps=10", "c.json: optimizer.schedule.decay_steps: ", "only type \"wsd\""},
      {"parallel.expert=2", "c.json: parallel.expert: ", "no layer is sparse"},
      {"model.d_model=16777216 model.ffn.d_ff=16777216", "c.json: model: ", "at most 2^40"},
      {"model.layers=65536 model.d_model=65536", "c.json: model: ", "at most 2^40"},
      {"model.vocab_size=2147483647 model.d_model=1024", "c.json: model: ", "at most 2^40"},
      {"model.head_dim=16777216 model.heads=16777216", "c.json: model: ", "at most 2^40"},
      {"model.context=16777216 model.d_model=131072 model.ffn.d_ff=1", "c.json: model: ", "at most 2^40"},
      {"model.layers=65536 model.ffn.d_ff=1024 model.context=16777216 train.micro_batch=127 "
       "train.tokens_per_step=2130706432",
       "c.json: train.micro_batch: ", "fewer than 2^60"},
      {"model.sparse_ffn=[{\"type\":\"avg_k\"}]", "c.json: model.sparse_ffn.0.layers: ", "is missing"},
      {"model.sparse_ffn=[{\"layers\":\"all\"}]", "c.json: model.sparse_ffn.0.type: ", "is missing"},
  });
}

// Kills: reporting a misspelt required key as if nothing were there.
TEST_CASE("a required key that is missing is named with the unread key that may be meant", "[config]") {
  const auto error_of = [](std::string_view text) {
    try {
      parse_config(parse_json(text, "c.json", ExitCode::kUsage), "c.json");
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(error_of("{}") == "c.json: model: is missing; an object is required here");
  CHECK(error_of(R"({"model": {"context": 8, "layer": 2, "d_model": 16, "heads": 4}})")
            .starts_with("c.json: model.layers: is missing; an integer in [1, 65536] is required here (is \"layer\""));
  CHECK(error_of(R"({"model": {"context": 8, "layers": 2, "d_model": 16}})")
            .starts_with("c.json: model.heads: is missi"));
}

// Kills: an override that creates the wrong container, drops a value, or writes past a list.
TEST_CASE("an override that is malformed is refused by its argument", "[config]") {
  check_cases({
      {"train.steps", "--set train.steps: ", "path.to.key=value is expected"},
      {"=5", "--set =5: ", "path.to.key=value is expected"},
      {".steps=5", "--set .steps=5: ", "an empty part"},
      {"train..steps=5", "--set train..steps=5: ", "an empty part"},
      {"train.=5", "--set train.=5: ", "an empty part"},
      {"train.steps.more=5", "--set train.steps.more=5: ", "would lie in 100 (integer)"},
      {"data.train.3.path=x", "--set data.train.3.path=x: ", "an index in [0, 2]"},
      {"data.train.-1.path=x", "--set data.train.-1.path=x: ", "an index in [0, 2]"},
      {"data.train.first.path=x", "--set data.train.first.path=x: ", "an index in [0, 2]"},
      {"data.train.99999999999999999999.path=x", "--set data.train.9999", "an index in [0, 2]"},
      {"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q=1", "--set a.b.c", "at most 16"},
  });
}

// Kills: a value cut at its second '=', text parsed as a number, a list item replaced where one was to be appended.
TEST_CASE("overrides write values of every type at any path", "[config]") {
  Json json = base();
  for (const char* argument :
       {"train.steps=7", "optimizer.schedule.type=constant", "data.train.1.weight=0.5", "data.train.2.path=c.bin",
        "data.validation.more=x=y", "log={\"every\":3}", "name=\"quoted\"", "model.tie_embeddings=false"}) {
    apply_override(json, argument);
  }
  const Config c = parse_config(json, "c.json");
  CHECK(c.train.steps == 7);
  CHECK(c.optimizer.schedule.type == ScheduleType::kConstant);
  REQUIRE(c.data.train.size() == 3);
  CHECK(c.data.train[1].weight == 0.5);
  CHECK(c.data.train[2].path == "c.bin");
  CHECK(c.data.validation.at("more") == "x=y");
  CHECK(c.log.every == 3);
  CHECK(c.name == "quoted");
  CHECK(!c.model.tie_embeddings);
  Json empty;
  apply_override(empty, "data.train.0.path=a.bin");
  CHECK(empty.dump() == R"({"data":{"train":[{"path":"a.bin"}]}})");
}
