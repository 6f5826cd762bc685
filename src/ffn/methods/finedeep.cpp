// Finedeep: a gated FFN cut along its inner width into M sub-layers of K experts, every expert active.
//   h⁰ = residual stream;  for j = 1 … M:  x = RMSNorm_j(h^{j-1}),  e_i = (silu(x·Gate_iᵀ) ⊙ (x·Up_iᵀ))·Down_i,
//   h^j = h^{j-1} + Σ_i r_i e_i,   r_i = σ(⟨e_i, R_i⟩) | σ(⟨x, R_i⟩) | softmax_i(⟨x, R_i⟩) | 1
// A sub-layer is one dense product of C = d_ff / M cells with a weight for every block of the hidden vector u:
//   ⟨e_i, R_i⟩ = Σ_{c in block i} u_c v_c,  v_c = ⟨Down[c], R_i⟩;   Σ_i r_i e_i = (r·u)·Down
// so that nothing of N·K·D exists. Backward, with u' = r·u, s the logits of r = σ(s) on outputs:
//   du' = dy·Downᵀ;  dr_i = Σ_block du'·u;  ds_i = dr_i r_i (1 - r_i);  du = r du' + ds_i v;  dv = Σ_n ds_i u;
//   dDown = u'ᵀ·dy + dv·Rᵀ;  dR_i = Σ_{c in block i} dv_c Down[c]
// Always RMSNorm and silu without biases, whatever the backbone. Pan et al., arXiv 2502.12928.
// Legend: N tokens, D width, C cells of a sub-layer in K blocks.
#include "ffn/block_scores.h"
#include "ffn/registry.h"
#include "kernels/ops.h"
#include "nn/dropout.h"
#include "nn/host_values.h"
#include "nn/init.h"
#include "nn/norm.h"

#include <array>
#include <numeric>
#include <utility>

namespace sffn {
namespace {

enum class Router : uint8_t { kOutputSigmoid, kInputSigmoid, kSoftmax, kNone };
constexpr Named<Router> kRouterNames[] = {{"output_sigmoid", Router::kOutputSigmoid},
                                          {"input_sigmoid", Router::kInputSigmoid},
                                          {"softmax", Router::kSoftmax},
                                          {"none", Router::kNone}};

struct FinedeepConfig {
  int64_t d_ff = 0, sub_layers = 1, experts = 1;  // M sub-layers of K experts
  Router router = Router::kOutputSigmoid;
  bool sub_layer_norm = true;

  int64_t cells() const { return d_ff / sub_layers; }  // C
};

class Finedeep final : public FfnLayer {
 public:
  Finedeep(const FfnBuild& build, const FinedeepConfig& config, const FfnCost& cost);
  Residual forward(Context&, const FfnInput&, std::unique_ptr<FfnLayer::Saved>&) override;
  void backward(Context&, const FfnLayer::Saved&, Tensor dh) override;
  FfnCost cost() const override { return cost_; }
  Tensor counters() const override { return counters_->value; }
  Json statistics(const std::vector<double>& counts) const override;

 private:
  struct Hidden {
    Tensor z, gate;  // [N, C]
  };
  // Of one sub-layer.
  struct Sub {
    AddNorm::Saved norm;      // norm.normed is x
    Hidden hidden;            // absent under recomputation: backward multiplies x by the tables again
    Tensor projected_values;  // v [C] acc: output_sigmoid only
    Tensor logits, weights;   // s and r [N, K] acc; absent without a router
  };
  struct Saved final : FfnLayer::Saved {
    std::vector<Sub> subs;
    int64_t time = 0;
  };
  // The rows of sub-layer j.
  struct Tables {
    Tensor keys, gate_keys, values, router;
  };
  Tables values_of_sub(int64_t j) const;
  Tables gradients_of_sub(int64_t j) const;

  Tensor allocate(Arena&, const Tensor& like, std::string_view what) const;
  Hidden allocate_hidden(Arena&, const Tensor& like) const;
  void project(Context&, const Hidden&, const Tensor& x, const Tables&) const;
  Tensor run_sub(Context&, Sub&, const Residual&, int64_t j, int64_t time) const;
  void weigh(Context&, Sub&, const Tensor& u, const Tables&) const;
  void backward_sub(Context&, const Sub&, Tensor dh, int64_t j, int64_t time) const;
  void backward_weights(Context&, const Sub&, Tensor du, Tensor dx, const Tensor& dweights, const Tensor& u,
                        int64_t j) const;
  void record(Context&, const Saved&) const;
  Dropout dropout(const Context&, int64_t j, int64_t time) const;
  const AddNorm& norm(int64_t j) const { return norms_[norms_.size() > 1 ? static_cast<size_t>(j) : 0]; }

  FinedeepConfig config_;
  FfnCost cost_;
  double dropout_probability_;
  bool recompute_;
  int64_t layer_, layers_, d_model_;
  std::vector<AddNorm> norms_;  // one a sub-layer, or one for all
  Param *keys_, *gate_keys_, *values_;
  std::vector<Param*> routers_;  // one a sub-layer, or none
  State* counters_;              // elements of the gate, and those near zero by each bound
};

Finedeep::Finedeep(const FfnBuild& build, const FinedeepConfig& config, const FfnCost& cost)
    : config_(config),
      cost_(cost),
      dropout_probability_(build.model.dropout),
      recompute_(build.recompute == Recompute::kFfn),
      layer_(build.layer),
      layers_(build.model.layers),
      d_model_(build.model.d_model) {
  const std::string layer = cat("layers.", layer_), name = layer + ".ffn.";
  const Init in = matrix_init(build.model, d_model_);
  const Shape table{config.d_ff, d_model_};
  const auto add_norm = [&](const std::string& of) {
    norms_.emplace_back(build.params, of, d_model_, Norm::kRms, build.model.norm_eps);
  };
  if (!config.sub_layer_norm) add_norm(layer + ".ffn_norm");
  keys_ = &build.params.add({.name = name + "keys.weight", .shape = table, .init = in});
  gate_keys_ = &build.params.add({.name = name + "gate_keys.weight", .shape = table, .init = in});
  values_ = &build.params.add(
      {.name = name + "values.weight", .shape = table, .init = branch_output_init(build.model, config.d_ff)});
  for (int64_t j = 0; j < config.sub_layers; ++j) {
    if (config.sub_layer_norm) add_norm(cat(name, "sub.", j, ".norm"));
    if (config.router == Router::kNone) continue;
    routers_.push_back(&build.params.add({.name = cat(name, "sub.", j, ".router.weight"),
                                          .shape = {config.experts, d_model_},
                                          .init = in,
                                          .storage = Storage::kVector}));
  }
  counters_ = &build.params.add_state(
      {.name = name + "counters", .shape = {1 + kNearZero.size()}, .kind = StateSpec::Kind::kCounter});
}

Finedeep::Tables Finedeep::values_of_sub(int64_t j) const {
  const int64_t C = config_.cells();
  return {.keys = keys_->value.slice(j * C, C),
          .gate_keys = gate_keys_->value.slice(j * C, C),
          .values = values_->value.slice(j * C, C),
          .router = routers_.empty() ? Tensor() : routers_[static_cast<size_t>(j)]->value};
}

Finedeep::Tables Finedeep::gradients_of_sub(int64_t j) const {
  const int64_t C = config_.cells();
  return {.keys = keys_->grad.slice(j * C, C),
          .gate_keys = gate_keys_->grad.slice(j * C, C),
          .values = values_->grad.slice(j * C, C),
          .router = routers_.empty() ? Tensor() : routers_[static_cast<size_t>(j)]->grad};
}

Tensor Finedeep::allocate(Arena& arena, const Tensor& like, std::string_view what) const {
  return arena.allocate({like.rows(), config_.cells()}, like.dtype(), what);
}

Finedeep::Hidden Finedeep::allocate_hidden(Arena& arena, const Tensor& like) const {
  return {.z = allocate(arena, like, "ffn z"), .gate = allocate(arena, like, "ffn gate")};
}

// Every sub-layer drops by numbers of its own: those of a layer that does not exist, past the last.
Dropout Finedeep::dropout(const Context& ctx, int64_t j, int64_t time) const {
  return site_dropout(ctx, dropout_probability_, RandomSite::kFfnDropout, layer_ + j * layers_, time * d_model_);
}

void Finedeep::project(Context& ctx, const Hidden& hidden, const Tensor& x, const Tables& tables) const {
  const auto multiply = [&](const Tensor& z, const Tensor& keys) {
    ops::matmul(ctx.stream, z, x, Transpose::kNo, keys, Transpose::kYes, Tensor(), Accumulate::kNo);
  };
  multiply(hidden.z, tables.keys);
  multiply(hidden.gate, tables.gate_keys);
}

Residual Finedeep::forward(Context& ctx, const FfnInput& in, std::unique_ptr<FfnLayer::Saved>& out_saved) {
  auto saved = std::make_unique<Saved>();
  saved->time = in.time;
  saved->subs.resize(static_cast<size_t>(config_.sub_layers));
  Residual h = in.h;
  for (int64_t j = 0; j < config_.sub_layers; ++j) {
    Sub& sub = saved->subs[static_cast<size_t>(j)];
    const Tensor y = run_sub(ctx, sub, h, j, in.time);
    h = {.sum = sub.norm.sum, .pending = y};
  }
  record(ctx, *saved);
  out_saved = std::move(saved);
  return h;
}

// The branch of sub-layer j [N, D].
Tensor Finedeep::run_sub(Context& ctx, Sub& sub, const Residual& h, int64_t j, int64_t time) const {
  const Tables tables = values_of_sub(j);
  sub.norm = norm(j).forward(ctx, h);
  const Tensor x = sub.norm.normed;
  Tensor y = ctx.saved.allocate(x.shape(), x.dtype(), "ffn out");
  if (config_.router != Router::kNone) {
    const DType acc = accumulate_type(x.dtype());
    sub.logits = ctx.saved.allocate({x.rows(), config_.experts}, acc, "expert logits");
    sub.weights = ctx.saved.allocate({x.rows(), config_.experts}, acc, "expert weights");
    if (config_.router == Router::kOutputSigmoid) {
      sub.projected_values = ctx.saved.allocate({config_.cells()}, acc, "values along the router");
    }
  }
  if (!recompute_) sub.hidden = allocate_hidden(ctx.saved, x);

  const ArenaScope scope(ctx.scratch);
  const Hidden hidden = recompute_ ? allocate_hidden(ctx.scratch, x) : sub.hidden;
  Tensor u = allocate(ctx.scratch, x, "ffn u");
  project(ctx, hidden, x, tables);
  if (ctx.count_choices) ops::count_near_zero(ctx.stream, counters_->value, hidden.gate, Activation::kSilu);
  ops::activation_forward(ctx.stream, u, hidden.z, hidden.gate, Activation::kSilu);
  if (sub.weights.defined()) {
    weigh(ctx, sub, u, tables);
    ops::scale_blocks(ctx.stream, u, u, sub.weights);
  }
  ops::matmul(ctx.stream, y, u, Transpose::kNo, tables.values, Transpose::kNo, Tensor(), Accumulate::kNo);
  const Dropout dropped = dropout(ctx, j, time);
  if (dropped.probability > 0) ops::dropout(ctx.stream, y, dropped);
  return y;
}

// s and r from u or x.
void Finedeep::weigh(Context& ctx, Sub& sub, const Tensor& u, const Tables& tables) const {
  if (config_.router == Router::kOutputSigmoid) {
    ops::value_projection_forward(ctx.stream, sub.projected_values, tables.values, tables.router);
    ops::block_dot_forward(ctx.stream, sub.logits, u, sub.projected_values);
  } else {
    block_scores(ctx, sub.logits, sub.norm.normed, tables.router);
  }
  if (config_.router == Router::kSoftmax) {
    ops::softmax_rows_forward(ctx.stream, sub.weights, Tensor(), sub.logits);
  } else {
    ops::sigmoid_forward(ctx.stream, sub.weights, sub.logits);
  }
}

void Finedeep::backward(Context& ctx, const FfnLayer::Saved& base, Tensor dh) {
  const Saved& saved = static_cast<const Saved&>(base);
  for (int64_t j = config_.sub_layers; j-- > 0;) {
    backward_sub(ctx, saved.subs[static_cast<size_t>(j)], dh, j, saved.time);
  }
}

void Finedeep::backward_sub(Context& ctx, const Sub& sub, Tensor dh, int64_t j, int64_t time) const {
  const Tables tables = values_of_sub(j), gradients = gradients_of_sub(j);
  const Tensor& x = sub.norm.normed;
  Stream& stream = ctx.stream;
  const ArenaScope scope(ctx.scratch);
  const Hidden hidden = recompute_ ? allocate_hidden(ctx.scratch, x) : sub.hidden;
  if (recompute_) project(ctx, hidden, x, tables);
  const Tensor dy = dropout_backward(ctx, dh, dropout(ctx, j, time));
  const Tensor dx = ctx.scratch.allocate(x.shape(), x.dtype(), "ffn dx");

  // y = u'·Down
  const Tensor u = allocate(ctx.scratch, x, "ffn u, then dgate");
  const Tensor weighed = allocate(ctx.scratch, x, "ffn u', then dz");
  ops::activation_forward(stream, u, hidden.z, hidden.gate, Activation::kSilu);
  if (sub.weights.defined()) ops::scale_blocks(stream, weighed, u, sub.weights);
  ops::matmul(stream, gradients.values, sub.weights.defined() ? weighed : u, Transpose::kYes, dy, Transpose::kNo,
              Tensor(), Accumulate::kYes);
  const Tensor du = weighed;
  ops::matmul(stream, du, dy, Transpose::kNo, tables.values, Transpose::kYes, Tensor(), Accumulate::kNo);

  // u' = r·u; from here du is the gradient of u by way of u' alone
  Tensor dweights;
  if (sub.weights.defined()) {
    const int64_t rows = x.rows() * config_.experts, G = config_.cells() / config_.experts;
    dweights = ctx.scratch.allocate(sub.weights.shape(), sub.weights.dtype(), "dweights");
    ops::weigh_backward(stream, du.view({rows, G}), dweights, u.view({rows, G}), sub.weights, Tensor());
    if (config_.router == Router::kOutputSigmoid) backward_weights(ctx, sub, du, Tensor(), dweights, u, j);
  }

  // u = silu(gate) ⊙ z;  z = x·Upᵀ, gate = x·Gateᵀ
  const Tensor dz = du, dgate = u;
  ops::activation_backward(stream, dz, dgate, du, hidden.z, hidden.gate, Activation::kSilu);
  const auto multiply_back = [&](const Tensor& gradient, const Tensor& dkeys, const Tensor& keys, Accumulate to_dx) {
    ops::matmul(stream, dx, gradient, Transpose::kNo, keys, Transpose::kNo, Tensor(), to_dx);
    ops::matmul(stream, dkeys, gradient, Transpose::kYes, x, Transpose::kNo, Tensor(), Accumulate::kYes);
  };
  multiply_back(dz, gradients.keys, tables.keys, Accumulate::kNo);
  multiply_back(dgate, gradients.gate_keys, tables.gate_keys, Accumulate::kYes);
  if (sub.weights.defined() && config_.router != Router::kOutputSigmoid) {
    backward_weights(ctx, sub, Tensor(), dx, dweights, Tensor(), j);
  }
  norm(j).backward(ctx, dh, dx, sub.norm);
}

// From dr to what r was made of: du += and the values (output_sigmoid), or dx += (the others); and the router.
void Finedeep::backward_weights(Context& ctx, const Sub& sub, Tensor du, Tensor dx, const Tensor& dweights,
                                const Tensor& u, int64_t j) const {
  const Tables tables = values_of_sub(j), gradients = gradients_of_sub(j);
  const ArenaScope scope(ctx.scratch);
  const Tensor dlogits = ctx.scratch.allocate(sub.logits.shape(), sub.logits.dtype(), "dlogits");
  if (config_.router == Router::kSoftmax) {  // every token is a group of its own
    ops::fill_zero(ctx.stream, dlogits);
    ops::softmax_rows_backward(ctx.stream, dlogits, sub.weights, dweights, Tensor(), 0);
  } else {
    ops::sigmoid_backward(ctx.stream, dlogits, dweights, sub.logits);
  }
  if (config_.router != Router::kOutputSigmoid) {
    block_scores_backward(ctx, gradients.router, dx, dlogits, sub.norm.normed, tables.router);
    return;
  }
  const Tensor dv = ctx.scratch.allocate(sub.projected_values.shape(), sub.projected_values.dtype(), "dv");
  ops::block_dot_backward(ctx.stream, du, dv, dlogits, u, sub.projected_values);
  ops::value_projection_backward(ctx.stream, gradients.values, gradients.router, dv, tables.values, tables.router);
}

// Blocks 0 … M·K - 1 of every token, sub-layer after sub-layer, with weights r.
void Finedeep::record(Context& ctx, const Saved& saved) const {
  if (ctx.choices == nullptr || ctx.stream.is_meta()) return;
  const int64_t K = config_.experts, all = config_.sub_layers * K, N = saved.subs[0].norm.normed.rows();
  ChoiceRecord record{.layer = layer_, .per_token = all, .blocks = {}, .weights = {}};
  record.blocks.resize(static_cast<size_t>(N * all));
  record.weights.assign(static_cast<size_t>(N * all), 1.0);
  for (int64_t n = 0; n < N; ++n) {
    std::iota(record.blocks.begin() + n * all, record.blocks.begin() + (n + 1) * all, 0);
  }
  for (int64_t j = 0; j < config_.sub_layers; ++j) {
    const Tensor& weights = saved.subs[static_cast<size_t>(j)].weights;
    if (!weights.defined()) continue;
    const std::vector<double> r = read_values(ctx.stream, weights);
    for (int64_t n = 0; n < N; ++n) {
      std::copy_n(r.begin() + n * K, K, record.weights.begin() + n * all + j * K);
    }
  }
  ctx.choices->push_back(std::move(record));
}

// The shares of gate activations |silu(x·Gateᵀ)| below each bound.
Json Finedeep::statistics(const std::vector<double>& counts) const {
  constexpr std::array kNames = {"near_zero_0.001", "near_zero_0.01", "near_zero_0.1"};
  static_assert(kNames.size() == kNearZero.size());
  Json json = Json::object();
  for (size_t t = 0; t < kNames.size(); ++t) json[kNames[t]] = counts[0] > 0 ? counts[1 + t] / counts[0] : 0.0;
  return json;
}

class FinedeepOptions final : public FfnOptions {
 public:
  explicit FinedeepOptions(const FinedeepConfig& config) : config_(config) {}

  FfnCost cost(const ModelConfig& model) const override {
    const int64_t d = model.d_model, tables = 3 * d * config_.d_ff;
    const int64_t routers = config_.router == Router::kNone ? 0 : config_.sub_layers * config_.experts * d;
    FfnCost cost;
    cost.parameters = tables + routers + (config_.sub_layer_norm ? config_.sub_layers : 1) * d;
    cost.active_parameters = cost.parameters;
    cost.flops_per_token = static_cast<double>(2 * tables + 4 * routers);
    return cost;
  }
  std::unique_ptr<FfnLayer> make(const FfnBuild& build) const override {
    return std::make_unique<Finedeep>(build, config_, cost(build.model));
  }

 private:
  FinedeepConfig config_;
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  FinedeepConfig config;
  config.d_ff = reader.derived<int64_t>("d_ff", "model.ffn.d_ff", "Cells of all experts together.", kAtLeastOne)
                    .value_or(model.ffn.d_ff);
  reader.resolve("d_ff", config.d_ff);
  config.sub_layers =
      reader.required<int64_t>("sub_layers", "Sub-layers, M, each with a residual addition.", kAtLeastOne);
  config.experts = reader.required<int64_t>("experts", "Experts of a sub-layer, K.", kAtLeastOne);
  config.router = reader.one_of(
      "router", kRouterNames, Router::kOutputSigmoid,
      "Weight of an expert: sigmoid of its output along a vector, sigmoid or softmax over the sub-layer's "
      "experts of its input along one, or 1.");
  config.sub_layer_norm = reader.optional<bool>("sub_layer_norm", true,
                                                "A norm for every sub-layer; false: the layer's one norm before each.");
  if (reader.collecting()) return std::make_unique<FinedeepOptions>(config);
  if (config.d_ff % config.sub_layers != 0 || config.cells() % config.experts != 0) {
    reader.fail("experts", cat("is ", config.experts, " in each of ", config.sub_layers, " sub_layers; d_ff, ",
                               config.d_ff, ", must be a multiple of sub_layers times experts"));
  }
  return std::make_unique<FinedeepOptions>(config);
}

const RegisterFfn kRegistered{{.name = "finedeep",
                               .summary = "sub-layers of gated experts, all active, weighed by their own outputs",
                               .source = "Pan et al., arXiv 2502.12928",
                               .tiny_config = R"({"type": "finedeep", "sub_layers": 2, "experts": 4})",
                               .parse = parse}};

}  // namespace
}  // namespace sffn
