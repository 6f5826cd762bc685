#include "config/parse.h"

#include "config/names.h"
#include "core/file.h"

#include <tuple>

namespace sffn {
namespace {

constexpr Named<std::string_view> kBackends[] = {{"auto", "auto"}, {"cpu", "cpu"}, {"cuda", "cuda"}};
constexpr Named<std::string_view> kOptimizers[] = {{"adamw", "adamw"}};

DataConfig read_data(ConfigReader reader) {
  DataConfig data;
  for (ConfigReader corpus : reader.children("train", "Corpora to train on, mixed by weight.")) {
    CorpusConfig& c = data.train.emplace_back();
    c.path = corpus.required<std::string>("path", "Token shards: a file or a glob.");
    c.weight = corpus.optional("weight", c.weight,
                               "Share of the sequences drawn from this corpus, relative to the "
                               "other weights.",
                               kPositive);
    corpus.finish();
  }
  data.validation = reader.strings_by_name("validation", "Held-out sets: a name and its file or glob.");
  data.document_mask =
      reader.optional("document_mask", data.document_mask, "Attention and positions restart at every document.");
  reader.finish();
  return data;
}

ScheduleConfig read_schedule(ConfigReader reader) {
  ScheduleConfig s;
  s.type = reader.one_of("type", kScheduleNames, s.type, "Course of the learning rate after the warm-up.");
  s.warmup_steps = reader.optional("warmup_steps", s.warmup_steps, "Steps of linear increase to lr.", kNotNegative);
  s.decay_steps =
      reader.optional("decay_steps", s.decay_steps,
                      "wsd only, required there: the last steps, in which the rate falls to final_lr.", kNotNegative);
  s.final_lr =
      reader.optional("final_lr", s.final_lr, "Learning rate at the last step (linear, cosine, wsd).", kNotNegative);
  reader.finish();
  return s;
}

OptimizerConfig read_optimizer(ConfigReader reader) {
  OptimizerConfig o;
  o.type = reader.one_of("type", kOptimizers, std::string_view("adamw"), "Optimizer.");
  o.lr = reader.optional("lr", o.lr, "Highest learning rate.", kPositive);
  std::tie(o.beta1, o.beta2) =
      reader.two_numbers("betas", {o.beta1, o.beta2}, "Decay of the two moments.", kProbability);
  o.eps = reader.optional("eps", o.eps, "Added to the root of the second moment.", kPositive);
  o.weight_decay = reader.optional("weight_decay", o.weight_decay,
                                   "Decoupled; acts on tensors of rank >= 2, embeddings included.", kNotNegative);
  o.clip = reader.optional("clip", o.clip, "Largest global norm of the gradient; 0 is no clipping.", kNotNegative);
  o.schedule = read_schedule(reader.child("schedule"));
  reader.finish();
  return o;
}

WatchdogConfig read_watchdog(ConfigReader reader) {
  static constexpr Range kSeconds{.low = 1, .high = 1e9};
  WatchdogConfig w;
  w.start_seconds =
      reader.optional("start_seconds", w.start_seconds,
                      "Seconds without progress that end the job before the first step is done.", kSeconds);
  w.step_seconds = reader.optional("step_seconds", w.step_seconds, "The same from then on.", kSeconds);
  reader.finish();
  return w;
}

TrainConfig read_train(ConfigReader reader, int64_t context) {
  TrainConfig t;
  t.steps = reader.optional("steps", t.steps, "Optimizer steps of the whole run.", kAtLeastOne);
  t.micro_batch =
      reader.optional("micro_batch", t.micro_batch, "Sequences that one rank computes at once.", kTokenCount);
  const auto tokens = reader.derived<int64_t>("tokens_per_step", "micro_batch * context",
                                              "Tokens of one step over all ranks and micro-batches.", kAtLeastOne);
  // micro_batch and context are below 2^31 and 2^24.
  t.tokens_per_step = tokens.value_or(t.micro_batch * context);
  t.precision = reader.one_of("precision", kPrecisionNames, t.precision,
                              "Of activations and matrices; master weights, "
                              "moments and gradients are fp32.");
  t.seed = static_cast<uint64_t>(reader.optional("seed", static_cast<int64_t>(t.seed),
                                                 "Of the initial weights, the data order and dropout.", kNotNegative));
  t.recompute = reader.one_of("recompute", kRecomputeNames, t.recompute,
                              "What the backward pass computes again instead of keeping it.");
  t.deterministic = reader.optional("deterministic", t.deterministic,
                                    "Micro-batch gradients are summed in a fixed tree: the number of ranks changes no "
                                    "bit. false: in one buffer.");
  t.watchdog = read_watchdog(reader.child("watchdog"));
  reader.finish();
  return t;
}

ParallelConfig read_parallel(ConfigReader reader) {
  ParallelConfig p;
  p.expert =
      reader.optional("expert", p.expert,
                      "Ranks that share the blocks of every sparse layer, or of each of its sub-layers.", kAtLeastOne);
  p.expert_chunk = reader.optional("expert_chunk", p.expert_chunk,
                                   "Tokens of a rank that go to the blocks of other ranks at a time: what scratch is "
                                   "made for.",
                                   kAtLeastOne);
  p.dispatch =
      reader.one_of("dispatch", kDispatchNames, p.dispatch,
                    "How tokens reach blocks on other ranks: gather: all tokens to all ranks; all_to_all: a "
                    "token once to each rank of its blocks; auto: what sends less, on a GPU gather. Layers whose "
                    "tokens use all blocks gather.");
  p.zero =
      reader.optional("zero", p.zero, "1: each rank keeps its share of the optimizer's state; 0: all of it.", kSwitch);
  reader.finish();
  return p;
}

EvaluationConfig read_evaluation(ConfigReader reader) {
  EvaluationConfig e;
  e.every = reader.optional("every", e.every, "Steps between evaluations; 0: at the end only.", kNotNegative);
  e.tokens = reader.optional("tokens", e.tokens, "Tokens of each set; 0: all.", kNotNegative);
  reader.finish();
  return e;
}

CheckpointConfig read_checkpoint(ConfigReader reader) {
  CheckpointConfig c;
  c.every = reader.optional("every", c.every, "Steps between checkpoints; 0: at step 0, the end and on a signal only.",
                            kNotNegative);
  c.keep = reader.optional("keep", c.keep, "Newest checkpoints that stay.", kAtLeastOne);
  c.keep_every = reader.optional("keep_every", c.keep_every, "Steps that are multiples of this stay for good; 0: none.",
                                 kNotNegative);
  c.max_failures =
      reader.optional("max_failures", c.max_failures, "Failed saves in a row that end the run.", kAtLeastOne);
  reader.finish();
  return c;
}

LogConfig read_log(ConfigReader reader) {
  LogConfig l;
  l.every = reader.optional("every", l.every, "Steps between lines of the console and of metrics.jsonl.", kAtLeastOne);
  l.tensorboard = reader.optional("tensorboard", l.tensorboard, "Write TensorBoard events.");
  l.block_load = reader.optional("block_load", l.block_load,
                                 "Write the choices of every block at each logged step into block_load.jsonl.");
  l.state_hash =
      reader.optional("state_hash", l.state_hash, "Put a hash of parameters, moments and counters into metrics.jsonl.");
  reader.finish();
  return l;
}

}  // namespace

Config read_config(ConfigReader& reader) {
  Config c;
  c.name = reader.optional("name", c.name, "Name of the run: that of the file unless given.");
  if (!is_plain_file_name(c.name)) {
    reader.fail("name", cat("is \"", printable(c.name), "\"; a name that can be a folder's is expected"));
  }
  c.backend = reader.one_of("backend", kBackends, std::string_view("auto"),
                            "auto: cuda where it is built and a GPU is visible, else cpu.");
  c.model = read_model(reader.required_child("model"));
  c.data = read_data(reader.child("data"));
  c.optimizer = read_optimizer(reader.child("optimizer"));
  c.train = read_train(reader.child("train"), c.model.context);
  c.parallel = read_parallel(reader.child("parallel"));
  c.evaluation = read_evaluation(reader.child("evaluation"));
  c.checkpoint = read_checkpoint(reader.child("checkpoint"));
  c.log = read_log(reader.child("log"));
  reader.finish();
  return c;
}

Config parse_config(const Json& json, const std::string& place) {
  ConfigReader reader(json, place);
  const Config config = read_config(reader);
  check_config(config, place);
  return config;
}

}  // namespace sffn
