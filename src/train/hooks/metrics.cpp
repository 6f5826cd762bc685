#include "core/file.h"
#include "core/log.h"
#include "train/hooks.h"

namespace sffn {
namespace {

// Appends one record a line. A file that cannot be written is warned of once; the run goes on.
class JsonLines {
 public:
  explicit JsonLines(std::string path) : path_(std::move(path)) {
    guarded([&] { file_ = File::open(path_, File::Mode::kAppend); });
  }
  void put(const Json& record) {
    const std::string line = record.dump() + "\n";
    guarded([&] {
      if (file_.descriptor() >= 0) file_.write(line.data(), line.size());
    });
  }

 private:
  template <class F>
  void guarded(F&& f) {
    try {
      f();
    } catch (const Error& e) {
      if (!warned_) log::warn(path_, " cannot be written, the run goes on: ", e.what());
      warned_ = true;
    }
  }

  std::string path_;
  File file_;
  bool warned_ = false;
};

class MetricsHook final : public Hook {
 public:
  MetricsHook(std::string path, int64_t every) : lines_(std::move(path)), every_(every) {}

  void after_step(const StepReport& r) override {
    if (r.step % every_ != 0 && r.step != r.steps && r.state_hash.empty()) return;
    Json record;
    record["step"] = r.step;
    record["tokens"] = r.tokens;
    record["loss"] = r.loss;
    record["lr"] = r.learning_rate;
    record["grad_norm"] = r.gradient_norm;
    record["step_ms"] = r.step_ms;
    record["exposed_communication_ms"] = r.exposed_communication_ms;
    record["tokens_per_second"] = r.tokens_per_second;
    record["model_tflops"] = r.model_tflops;
    record["mfu"] = r.mfu ? Json(*r.mfu) : Json();
    record["memory_bytes"] = r.memory_bytes;
    record["ffn"] = r.ffn;
    if (!r.state_hash.empty()) record["state_hash"] = r.state_hash;
    lines_.put(record);
  }
  void after_evaluation(const EvaluationReport& r) override { lines_.put(to_json(r)); }
  void after_run(const RunEnd& r) override {
    Json record;
    record["step"] = r.step;
    record["end"] = r.end;
    record["cause"] = r.cause;
    record["saved_step"] = r.saved_step < 0 ? Json() : Json(r.saved_step);
    lines_.put(record);
  }

 private:
  JsonLines lines_;
  int64_t every_;
};

class BlockLoadHook final : public Hook {
 public:
  BlockLoadHook(std::string path, int64_t every) : lines_(std::move(path)), every_(every) {}

  void after_step(const StepReport& r) override {
    if (r.step % every_ != 0 && r.step != r.steps) return;
    Json record;
    record["step"] = r.step;
    record["load"] = r.block_load;
    lines_.put(record);
  }

 private:
  JsonLines lines_;
  int64_t every_;
};

}  // namespace

Json to_json(const EvaluationReport& report) {
  Json record;
  record["step"] = report.step;
  Json sets = Json::object();
  for (const auto& [name, r] : report.sets) {
    Json set;
    set["nll"] = r.nll;
    set["perplexity"] = r.perplexity;
    set["bits_per_byte"] = r.bits_per_byte ? Json(*r.bits_per_byte) : Json();
    set["tokens"] = r.tokens;
    sets[name] = set;
  }
  record["eval"] = sets;
  return record;
}

std::unique_ptr<Hook> make_metrics_hook(const std::string& path, int64_t every) {
  return std::make_unique<MetricsHook>(path, every);
}

std::unique_ptr<Hook> make_block_load_hook(const std::string& path, int64_t every) {
  return std::make_unique<BlockLoadHook>(path, every);
}

}  // namespace sffn
