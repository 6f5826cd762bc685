// What watches a run without touching the loop: every hook runs on every rank, in the order given, after each step.
#pragma once
#include "core/json.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace sffn {

struct StepReport {
  int64_t step = 0, steps = 0;
  int64_t tokens = 0;  // consumed since step 0
  double loss = 0;     // mean -log p of the step's tokens, extra losses included
  double learning_rate = 0, gradient_norm = 0;
  double step_ms = 0, tokens_per_second = 0;
  double exposed_communication_ms = 0;  // of this rank, which no work of its device hides
  double model_tflops = 0;              // analytic train FLOPs (methods.md section 7) a second, all ranks
  std::optional<double> mfu;            // model FLOPs of the peak of all cards; empty where no peak is known
  int64_t memory_bytes = 0;             // this rank's planned tensors
  Json ffn = Json::object();            // per sparse layer, by number: load statistics
  Json block_load = Json::object();     // per layer that chooses blocks, by number: choices of each block
  std::string state_hash;               // empty unless asked for
};

struct EvaluationResult {
  double nll = 0;  // mean over scored tokens, nats
  double perplexity = 0;
  std::optional<double> bits_per_byte;
  int64_t tokens = 0;
  std::optional<int64_t> bytes;
};

struct EvaluationReport {
  int64_t step = 0;
  std::map<std::string, EvaluationResult> sets;
};

// How a run ended: "done", "signal" or "failed", why, and the newest step on disk (-1: none).
struct RunEnd {
  int64_t step = 0;
  std::string end, cause;
  int64_t saved_step = -1;
};

class Hook {
 public:
  virtual ~Hook() = default;
  virtual void after_step(const StepReport&) {}
  virtual void after_evaluation(const EvaluationReport&) {}
  virtual void after_run(const RunEnd&) {}
};

Json to_json(const EvaluationReport& report);  // {"step", "eval": {NAME: {nll, perplexity, bits_per_byte, tokens}}}

// A line every `every` steps and at the last: loss, rate, throughput, memory, time left.
std::unique_ptr<Hook> make_console_hook(int64_t every);
// RUN/metrics.jsonl, one object a line, appended. A file that cannot be written is warned of once; the run goes on.
std::unique_ptr<Hook> make_metrics_hook(const std::string& path, int64_t every);
// RUN/block_load.jsonl, appended: {"step", "load": {"LAYER": [choices of each block in the step]}}.
std::unique_ptr<Hook> make_block_load_hook(const std::string& path, int64_t every);
// TensorBoard event file in `folder`, a new one a run.
std::unique_ptr<Hook> make_tensorboard_hook(const std::string& folder, int64_t every);

}  // namespace sffn
