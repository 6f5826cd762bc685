#include "core/log.h"
#include "train/hooks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace sffn {
namespace {

std::string format(const char* pattern, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

std::string duration(double seconds) {
  const int64_t s = std::llround(seconds);
  if (s < 60) return cat(s, " s");
  if (s < 3600) return format("%ld:%02ld min", s / 60, s % 60);
  return format("%ld:%02ld h", s / 3600, s / 60 % 60);
}

std::string thousands(double value) {
  if (value >= 1e6) return format("%.2fM", value * 1e-6);
  return value >= 1e4 ? format("%.1fK", value * 1e-3) : format("%.0f", value);
}

// "  load 1.8x, 3% dead": of the sparse layers the most loaded block over the mean, and the largest share of blocks
// that nobody chose. Nothing without sparse layers.
std::string load_of(const Json& ffn) {
  double most = 0, dead = 0;
  bool any = false;
  for (const Json::Member& layer : ffn.as_object()) {
    const Json *load = layer.value.find("load_max_over_mean"), *share = layer.value.find("dead_blocks");
    if (load == nullptr || share == nullptr) continue;
    any = true;
    most = std::max(most, load->as_double());
    dead = std::max(dead, share->as_double());
  }
  return any ? format("  load %.1fx, %.0f%% dead", most, 100 * dead) : "";
}

class ConsoleHook final : public Hook {
 public:
  explicit ConsoleHook(int64_t every) : every_(every) {}

  void after_step(const StepReport& r) override {
    seconds_ = seconds_ == 0 ? r.step_ms * 1e-3 : 0.9 * seconds_ + 0.1 * r.step_ms * 1e-3;
    if (r.step % every_ != 0 && r.step != r.steps) return;
    log::info(
        format("step %ld/%ld  loss %.4f  lr %.3g  norm %.3f  %.0f ms  %s tok/s  %.3f TFLOP/s%s  %.0f MiB  %s left",
               r.step, r.steps, r.loss, r.learning_rate, r.gradient_norm, r.step_ms,
               thousands(r.tokens_per_second).c_str(), r.model_tflops,
               r.mfu ? format("  %.1f%% MFU", 100 * *r.mfu).c_str() : "",
               static_cast<double>(r.memory_bytes) / (1 << 20),
               duration(seconds_ * static_cast<double>(r.steps - r.step)).c_str()) +
        load_of(r.ffn));
  }

  void after_evaluation(const EvaluationReport& r) override {
    for (const auto& [name, result] : r.sets) {
      const std::string bits = result.bits_per_byte ? format("  %.4f bits/byte", *result.bits_per_byte) : "";
      log::info(format("step %ld  evaluation %s: perplexity %.4f  nll %.5f%s  (%ld tokens)", r.step, name.c_str(),
                       result.perplexity, result.nll, bits.c_str(), result.tokens));
    }
  }

 private:
  int64_t every_;
  double seconds_ = 0;  // of a step, smoothed: for the time left
};

}  // namespace

std::unique_ptr<Hook> make_console_hook(int64_t every) { return std::make_unique<ConsoleHook>(every); }

}  // namespace sffn
