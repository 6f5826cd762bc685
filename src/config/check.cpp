#include "config/config.h"
#include "kernels/types.h"

#include <limits>

namespace sffn {
namespace {

// `rule` opens with what is wrong and ends with what would be right.
class Rules {
 public:
  explicit Rules(const std::string& place) : place_(place) {}
  void require(bool holds, const char* path, const std::string& rule) const {
    if (!holds) throw UsageError(cat(place_, ": ", path), rule);
  }

 private:
  const std::string& place_;
};

// In double: it cannot overflow, and the limits are far from where rounding matters.
double parameter_estimate(const ModelConfig& m) {
  const double d = static_cast<double>(m.d_model), head_dim = static_cast<double>(m.head_dim);
  const double heads = static_cast<double>(m.heads), kv_heads = static_cast<double>(m.kv_heads);
  const double attention = 2 * d * head_dim * (heads + kv_heads);
  const double ffn = d * static_cast<double>(m.ffn.d_ff) * (m.ffn.gated ? 3 : 2);
  const double positions = m.positions == Positions::kLearned ? static_cast<double>(m.context) * d : 0;
  const double vocabulary = static_cast<double>(m.vocab_size) * d * (m.tie_embeddings ? 1 : 2);
  return vocabulary + positions + static_cast<double>(m.layers) * (attention + ffn);
}

// Bytes that one micro-batch may keep from forward to backward, at most: every row a block makes, in double.
double activation_bound(const Config& c) {
  const ModelConfig& m = c.model;
  const double row = 16 * static_cast<double>(m.d_model) + 4 * static_cast<double>(m.ffn.d_ff) +
                     4 * static_cast<double>(m.head_dim) * static_cast<double>(m.heads + 2 * m.kv_heads);
  const double tokens = static_cast<double>(c.train.micro_batch) * static_cast<double>(m.context);
  return 8 * tokens * static_cast<double>(m.layers) * row;
}

void check_model(const ModelConfig& m, const Rules& rules) {
  rules.require(m.heads % m.kv_heads == 0, "model.kv_heads",
                cat("is ", m.kv_heads, " with heads ", m.heads, "; kv_heads that divide heads are expected"));
  rules.require(m.positions != Positions::kRope || m.head_dim % 2 == 0, "model.head_dim",
                cat("is ", m.head_dim, " with positions \"rope\"; an even head_dim is expected"));
  rules.require(m.positions != Positions::kSinusoidal || m.d_model % 2 == 0, "model.d_model",
                cat("is ", m.d_model, " with positions \"sinusoidal\"; an even d_model is expected"));
  rules.require(!m.output_bias || !m.tie_embeddings, "model.bias.output",
                "is true with tie_embeddings true; the output layer has a bias only when untied");
  constexpr double kMostParameters = 1099511627776.0;  // 2^40
  const double parameters = parameter_estimate(m);
  rules.require(parameters <= kMostParameters, "model",
                cat("has about ", parameters, " parameters; at most 2^40 are expected"));
}

void check_schedule(const ScheduleConfig& s, const Config& c, const Rules& rules) {
  rules.require(s.warmup_steps <= c.train.steps, "optimizer.schedule.warmup_steps",
                cat("is ", s.warmup_steps, " with train.steps ", c.train.steps, "; at most train.steps are expected"));
  rules.require(s.final_lr <= c.optimizer.lr, "optimizer.schedule.final_lr",
                cat("is ", s.final_lr, " with optimizer.lr ", c.optimizer.lr, "; at most lr is expected"));
  const bool wsd = s.type == ScheduleType::kWsd;
  rules.require(!wsd || (s.decay_steps >= 1 && s.decay_steps <= c.train.steps - s.warmup_steps),
                "optimizer.schedule.decay_steps",
                cat("is ", s.decay_steps, " with ", c.train.steps, " steps, ", s.warmup_steps,
                    " of them warm-up; wsd needs 1 up to steps - warmup_steps"));
  rules.require(wsd || s.decay_steps == 0, "optimizer.schedule.decay_steps",
                cat("is ", s.decay_steps, "; only type \"wsd\" has decay_steps"));
}

void check_batch(const Config& c, const Rules& rules) {
  constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();  // rows are counted in int32
  rules.require(c.train.micro_batch <= kMostTokens / c.model.context, "train.micro_batch",
                cat("is ", c.train.micro_batch, " with context ", c.model.context,
                    "; micro_batch * context below 2^31 is expected"));
  const int64_t tokens = c.train.micro_batch * c.model.context;
  rules.require(
      c.train.tokens_per_step % tokens == 0, "train.tokens_per_step",
      cat("is ", c.train.tokens_per_step, "; a multiple of micro_batch * context = ", tokens, " is expected"));
  rules.require(c.train.tokens_per_step <= std::numeric_limits<int64_t>::max() / c.train.steps, "train.steps",
                cat("is ", c.train.steps, " with tokens_per_step ", c.train.tokens_per_step,
                    "; fewer than 2^63 tokens in all are expected"));
  constexpr double kMostBytes = 1.152921504606847e18;  // 2^60
  const double bytes = activation_bound(c);
  rules.require(bytes <= kMostBytes, "train.micro_batch",
                cat("is ", c.train.micro_batch, ", which may keep ", bytes,
                    " bytes of activations; fewer than 2^60 are expected"));
}

}  // namespace

void check_config(const Config& c, const std::string& place) {
  const Rules rules(place);
  rules.require(c.backend != "cuda" || c.model.head_dim <= kMostCudaHeadDim, "model.head_dim",
                cat("is ", c.model.head_dim, " with backend \"cuda\"; at most ", kMostCudaHeadDim,
                    ", or backend \"cpu\", is expected"));
  check_model(c.model, rules);
  check_batch(c, rules);
  check_schedule(c.optimizer.schedule, c, rules);
  rules.require(c.parallel.expert == 1 || !c.model.sparse_ffn.as_array().empty(), "parallel.expert",
                cat("is ", c.parallel.expert, " and no layer is sparse; without blocks to share 1 is expected"));
}

}  // namespace sffn
