// Dense FFN: every cell for every token.
//   y = h·V + c_v,   h = f(z),  or  h = f(g) ⊙ z with a gate,   z = x·Kᵀ + c_k,   g = x·Gᵀ
// Vaswani et al., arXiv 1706.03762, section 3.3; gated: Shazeer, arXiv 2002.05202. Legend: N tokens, D width, M cells.
#include "config/names.h"
#include "ffn/registry.h"
#include "kernels/ops.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/linear.h"
#include "nn/norm.h"

#include <optional>
#include <utility>

namespace sffn {
namespace {

class DenseFfn final : public FfnLayer {
 public:
  DenseFfn(const FfnBuild& build, const FfnConfig& config, const FfnCost& cost);
  Residual forward(Context&, const FfnInput&, std::unique_ptr<FfnLayer::Saved>&) override;
  void backward(Context&, const FfnLayer::Saved&, Tensor dh) override;
  FfnCost cost() const override { return cost_; }

 private:
  struct Hidden {
    Tensor z, gate;  // [N, M]; z absent where no backward pass follows, gate without a gate table
  };
  struct Saved final : FfnLayer::Saved {
    AddNorm::Saved norm;  // norm.normed is x
    Hidden hidden;        // absent under recomputation: backward multiplies x by the tables again
    int64_t time = 0;
  };
  Tensor allocate(Arena&, const Tensor& like, std::string_view what) const;
  Hidden allocate_hidden(Context&, const Tensor& like) const;
  void project(Context&, Tensor h, const Hidden&, const Tensor& x) const;
  Dropout dropout(const Context&, int64_t time) const;

  FfnConfig config_;
  FfnCost cost_;
  double dropout_probability_;
  bool recompute_;
  int64_t layer_, d_model_;
  std::string name_;
  AddNorm norm_;
  Linear keys_;
  std::optional<Linear> gate_keys_;
  Param* values_;
  Param* value_bias_ = nullptr;
};

DenseFfn::DenseFfn(const FfnBuild& build, const FfnConfig& config, const FfnCost& cost)
    : config_(config),
      cost_(cost),
      dropout_probability_(build.model.dropout),
      recompute_(build.recompute == Recompute::kFfn),
      layer_(build.layer),
      d_model_(build.model.d_model),
      name_(cat("layers.", layer_, ".ffn.")),
      norm_(build.params, cat("layers.", layer_, ".ffn_norm"), d_model_, build.model.norm, build.model.norm_eps),
      keys_(build.params, name_ + "keys", {config.d_ff, d_model_, matrix_init(build.model, d_model_), config.bias}) {
  if (config.gated) {
    gate_keys_.emplace(build.params, name_ + "gate_keys",
                       Linear::Options{config.d_ff, d_model_, matrix_init(build.model, d_model_), false});
  }
  values_ = &build.params.add({.name = name_ + "values.weight",
                               .shape = {config.d_ff, d_model_},
                               .init = branch_output_init(build.model, config.d_ff)});
  if (config.bias) {
    value_bias_ = &build.params.add({.name = name_ + "values.bias", .shape = {d_model_}, .storage = Storage::kVector});
  }
}

Tensor DenseFfn::allocate(Arena& arena, const Tensor& like, std::string_view what) const {
  return arena.allocate({like.rows(), config_.d_ff}, like.dtype(), what);
}

// In scratch where it is made again.
DenseFfn::Hidden DenseFfn::allocate_hidden(Context& ctx, const Tensor& like) const {
  Arena& arena = recompute_ ? ctx.scratch : ctx.saved;
  Hidden hidden;
  if (ctx.gradients) hidden.z = allocate(arena, like, "ffn z");
  if (gate_keys_) hidden.gate = allocate(arena, like, "ffn gate");
  return hidden;
}

Dropout DenseFfn::dropout(const Context& ctx, int64_t time) const {
  return site_dropout(ctx, dropout_probability_, RandomSite::kFfnDropout, layer_, time * d_model_);
}

void DenseFfn::project(Context& ctx, Tensor h, const Hidden& hidden, const Tensor& x) const {
  if (gate_keys_) gate_keys_->forward(ctx, hidden.gate, x);
  keys_.forward_activated(ctx, h, hidden.z, x, hidden.gate, config_.activation);
}

Residual DenseFfn::forward(Context& ctx, const FfnInput& in, std::unique_ptr<FfnLayer::Saved>& out_saved) {
  auto saved = std::make_unique<Saved>();
  saved->time = in.time;
  saved->norm = norm_.forward(ctx, in.h);
  const Tensor sum = saved->norm.sum, x = saved->norm.normed;
  Tensor y = ctx.saved.allocate(x.shape(), x.dtype(), "ffn out");

  const ArenaScope scope(ctx.scratch);
  const Hidden hidden = allocate_hidden(ctx, x);
  if (!recompute_) saved->hidden = hidden;
  Tensor h = allocate(ctx.scratch, x, "ffn h");
  project(ctx, h, hidden, x);
  ops::matmul(ctx.stream, y, h, Transpose::kNo, values_->value, Transpose::kNo, value_of(value_bias_), Accumulate::kNo);
  const Dropout dropped = dropout(ctx, in.time);
  if (dropped.probability > 0) ops::dropout(ctx.stream, y, dropped);
  out_saved = std::move(saved);
  return {sum, y};
}

void DenseFfn::backward(Context& ctx, const FfnLayer::Saved& base, Tensor dh) {
  const Saved& saved = static_cast<const Saved&>(base);
  const Tensor& x = saved.norm.normed;
  Stream& stream = ctx.stream;
  const ArenaScope scope(ctx.scratch);
  const Hidden hidden = recompute_ ? allocate_hidden(ctx, x) : saved.hidden;
  Tensor h = allocate(ctx.scratch, x, "ffn h, then dz");
  if (recompute_) project(ctx, h, hidden, x);
  const Tensor dy = dropout_backward(ctx, dh, dropout(ctx, saved.time));

  // y = h·V + c_v. h is that of the stored z, whether z was kept or made again: a fused product may have made h of a z
  // before it was rounded.
  ops::activation_forward(stream, h, hidden.z, hidden.gate, config_.activation);
  ops::weight_gradient(stream, values_->grad, grad_of(value_bias_), dy, h, Transpose::kNo);

  // h = f(z) or f(gate) ⊙ z; h is spent, so its memory takes the gradient of z.
  Tensor dz = h;
  const Tensor dgate = gate_keys_ ? allocate(ctx.scratch, x, "ffn dgate") : Tensor();
  ops::matmul_activation_backward(stream, dz, dgate, dy, values_->value, hidden.z, hidden.gate, config_.activation);

  // z = x·Kᵀ + c_k;  gate = x·Gᵀ
  Tensor dx = ctx.scratch.allocate(x.shape(), x.dtype(), "ffn dx");
  keys_.backward(ctx, dx, dz, x);
  if (gate_keys_) gate_keys_->backward(ctx, dx, dgate, x, Accumulate::kYes);
  norm_.backward(ctx, dh, dx, saved.norm);
}

class DenseOptions final : public FfnOptions {
 public:
  explicit DenseOptions(const FfnConfig& config) : config_(config) {}

  FfnCost cost(const ModelConfig& model) const override {
    const int64_t d = model.d_model, tables = config_.gated ? 3 : 2;
    FfnCost cost;
    cost.parameters = tables * config_.d_ff * d + norm_parameters(model);
    if (config_.bias) cost.parameters += config_.d_ff + d;
    cost.active_parameters = cost.parameters;
    cost.flops_per_token = static_cast<double>(2 * tables * config_.d_ff * d);
    return cost;
  }
  std::unique_ptr<FfnLayer> make(const FfnBuild& build) const override {
    return std::make_unique<DenseFfn>(build, config_, cost(build.model));
  }

 private:
  FfnConfig config_;
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  FfnConfig config = model.ffn;
  config.d_ff =
      reader.derived<int64_t>("d_ff", "model.ffn.d_ff", "Cells of the layer.", kAtLeastOne).value_or(model.ffn.d_ff);
  const ActivationChoice inherited{model.ffn.activation, model.ffn.gated};
  const ActivationChoice choice =
      reader.one_of("activation", kActivationNames, inherited, "f of h = f(x·Kᵀ).", "model.ffn.activation");
  config.activation = choice.activation;
  config.gated = choice.gated;
  config.bias = reader.derived<bool>("bias", "model.ffn.bias", "Biases of keys and values.").value_or(model.ffn.bias);
  reader.resolve("d_ff", config.d_ff);
  reader.resolve("bias", config.bias);
  return std::make_unique<DenseOptions>(config);
}

const RegisterFfn kRegistered{{.name = "dense",
                               .summary = "every cell for every token",
                               .source = "Vaswani et al., arXiv 1706.03762, section 3.3; gated: arXiv 2002.05202",
                               .tiny_config = R"({"type": "dense", "d_ff": 40, "activation": "gelu"})",
                               .parse = parse}};

}  // namespace
}  // namespace sffn
