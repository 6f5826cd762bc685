// Finedeep: a gated FFN cut along its inner width into M sub-layers of K experts, every expert active.
//   h⁰ = residual stream;  for j = 1 … M:  x = RMSNorm_j(h^{j-1}),  e_i = (silu(x·Gate_iᵀ) ⊙ (x·Up_iᵀ))·Down_i,
//   h^j = h^{j-1} + Σ_i r_i e_i,   r_i = σ(⟨e_i, R_i⟩) | σ(⟨x, R_i⟩) | softmax_i(⟨x, R_i⟩) | 1
// A sub-layer is one dense product of C = d_ff / M cells with a weight for every block of the hidden vector u:
//   ⟨e_i, R_i⟩ = Σ_{c in block i} u_c v_c,  v_c = ⟨Down[c], R_i⟩;   Σ_i r_i e_i = (r·u)·Down
// so that nothing of N·K·D exists. Backward, with u' = r·u, s the logits of r = σ(s) on outputs:
//   du' = dy·Downᵀ;  dr_i = Σ_block du'·u;  ds_i = dr_i r_i (1 - r_i);  du = r du' + ds_i v;  dv = Σ_n ds_i u;
//   dDown = u'ᵀ·dy + dv·Rᵀ;  dR_i = Σ_{c in block i} dv_c Down[c]
// Always RMSNorm and silu without biases, whatever the backbone. Pan et al., arXiv 2502.12928.
// Where the blocks of every sub-layer are spread over R expert ranks, each multiplies the tokens of all by its own:
// weights that come of the input are made on a token's rank and travel with it, those that come of an expert's output
// are made where it is. Nothing is then kept from forward to backward of what a rank made of others' tokens. Legend: N
// tokens, D width, C cells of a sub-layer in K blocks; where they are spread, N of all ranks, C and K of one.
#include "ffn/finedeep_ffn.h"

#include "ffn/block_scores.h"
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
  struct Weights {
    Tensor s, r;  // logits and weights [N, K] acc; absent without a router
  };
  // Of one sub-layer.
  struct Sub {
    AddNorm::Saved norm;      // norm.normed is x
    Hidden hidden;            // absent under recomputation: backward multiplies x by the tables again
    Tensor projected_values;  // v [C] acc: output_sigmoid only
    Weights weights;  // of this rank's tokens and all experts; absent with output_sigmoid where blocks are spread
  };
  struct Saved final : FfnLayer::Saved {
    std::vector<Sub> subs;
    int64_t time = 0;
  };
  // The rows of sub-layer j: its experts on this rank, and its router's rows of all.
  struct Tables {
    Tensor keys, gate_keys, values, router;
  };
  Tables tables_of_sub(int64_t j, Tensor Param::*part) const;
  Tables values_of_sub(int64_t j) const { return tables_of_sub(j, &Param::value); }
  Tables gradients_of_sub(int64_t j) const { return tables_of_sub(j, &Param::grad); }
  Tensor own_router(const Tensor& router) const { return router.slice(first_own_expert_, own_experts_); }

  bool spread() const { return tables_.share.spread(); }
  bool weighs_outputs() const { return config_.router == FinedeepRouter::kOutputSigmoid; }
  Tensor allocate(Arena&, const Tensor& like, std::string_view what) const;
  Hidden allocate_hidden(Arena&, const Tensor& like) const;
  Weights allocate_weights(Arena&, const Tensor& like, int64_t experts) const;
  void project(Context&, const Hidden&, const Tensor& x, const Tables&) const;
  Tensor run_sub(Context&, Sub&, const Residual&, int64_t j, int64_t time) const;
  void forward_here(Context&, Tensor y, const Tensor& x, const Tensor& input_weights, const Sub&, const Tables&) const;
  void weigh_inputs(Context&, const Weights&, const Tensor& x, const Tables&) const;
  Weights weigh_outputs(Context&, const Sub&, const Tensor& u) const;
  void backward_sub(Context&, const Sub&, Tensor dh, int64_t j, int64_t time) const;
  void backward_here(Context&, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                     const Tensor& input_weights, const Sub&, int64_t j) const;
  void backward_inputs(Context&, Tensor dx, const Tensor& dweights, const Sub&, int64_t j) const;
  void backward_outputs(Context&, Tensor du, const Tensor& dweights, const Tensor& u, const Tensor& s, const Sub&,
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
  BlockStore tables_;
  int64_t own_cells_, own_experts_, first_own_expert_;  // of a sub-layer
  std::vector<Param*> routers_;                         // one a sub-layer, or none; of all experts, on every rank
  State* counters_;                                     // elements of the gate, and those near zero by each bound
};

Finedeep::Finedeep(const FfnBuild& build, const FinedeepConfig& config, const FfnCost& cost)
    : config_(config),
      cost_(cost),
      dropout_probability_(build.model.dropout),
      recompute_(build.recompute == Recompute::kFfn || build.share.spread()),
      layer_(build.layer),
      layers_(build.model.layers),
      d_model_(build.model.d_model),
      own_cells_(config.d_ff / config.sub_layers / build.share.ranks),
      own_experts_(config.experts / build.share.ranks),
      first_own_expert_(build.share.rank * own_experts_) {
  const std::string layer = cat("layers.", layer_), name = layer + ".ffn.";
  const auto add_norm = [&](const std::string& of) {
    norms_.emplace_back(build.params, of, d_model_, Norm::kRms, build.model.norm_eps);
  };
  if (!config.sub_layer_norm) add_norm(layer + ".ffn_norm");
  tables_ = BlockStore::add(build, config.shape());
  for (int64_t j = 0; j < config.sub_layers; ++j) {
    if (config.sub_layer_norm) add_norm(cat(name, "sub.", j, ".norm"));
    if (config.router == FinedeepRouter::kNone) continue;
    routers_.push_back(&build.params.add({.name = cat(name, "sub.", j, ".router.weight"),
                                          .shape = {config.experts, d_model_},
                                          .init = matrix_init(build.model, d_model_),
                                          .storage = Storage::kVector}));
  }
  counters_ = &build.params.add_state(
      {.name = name + "counters", .shape = {1 + kNearZero.size()}, .kind = StateSpec::Kind::kCounter});
}

Finedeep::Tables Finedeep::tables_of_sub(int64_t j, Tensor Param::*part) const {
  const auto rows = [&](const Param* table) { return (table->*part).slice(j * own_cells_, own_cells_); };
  return {.keys = rows(tables_.keys),
          .gate_keys = rows(tables_.gate_keys),
          .values = rows(tables_.values),
          .router = routers_.empty() ? Tensor() : routers_[static_cast<size_t>(j)]->*part};
}

Tensor Finedeep::allocate(Arena& arena, const Tensor& like, std::string_view what) const {
  return arena.allocate({like.rows(), own_cells_}, like.dtype(), what);
}

Finedeep::Hidden Finedeep::allocate_hidden(Arena& arena, const Tensor& like) const {
  return {.z = allocate(arena, like, "ffn z"), .gate = allocate(arena, like, "ffn gate")};
}

Finedeep::Weights Finedeep::allocate_weights(Arena& arena, const Tensor& like, int64_t experts) const {
  const DType acc = accumulate_type(like.dtype());
  return {.s = arena.allocate({like.rows(), experts}, acc, "expert logits"),
          .r = arena.allocate({like.rows(), experts}, acc, "expert weights")};
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
  const Tensor y = ctx.saved.allocate(x.shape(), x.dtype(), "ffn out");
  if (config_.weighs_inputs() || (weighs_outputs() && !spread())) {
    sub.weights = allocate_weights(ctx.saved, x, config_.experts);
  }
  if (config_.weighs_inputs()) weigh_inputs(ctx, sub.weights, x, tables);
  if (weighs_outputs()) {
    sub.projected_values = ctx.saved.allocate({own_cells_}, accumulate_type(x.dtype()), "values along the router");
    ops::value_projection_forward(ctx.stream, sub.projected_values, tables.values, own_router(tables.router));
  }
  if (!recompute_) sub.hidden = allocate_hidden(ctx.saved, x);
  use_all_blocks(ctx, tables_.share, {x, config_.weighs_inputs() ? sub.weights.r : Tensor()},
                 {{.out = y, .bias = {}, .what = "outputs of the blocks"}},
                 [&](std::span<const Tensor> results, std::span<const Tensor> here) {
                   forward_here(ctx, results[0], here[0], here[1], sub, tables);
                 });
  const Dropout dropped = dropout(ctx, j, time);
  if (dropped.probability > 0) ops::dropout(ctx.stream, y, dropped);
  return y;
}

// What this rank's experts make of the tokens that are here. input_weights: of all experts, where they come of inputs.
void Finedeep::forward_here(Context& ctx, Tensor y, const Tensor& x, const Tensor& input_weights, const Sub& sub,
                            const Tables& tables) const {
  const ArenaScope scope(ctx.scratch);
  const Hidden hidden = recompute_ ? allocate_hidden(ctx.scratch, x) : sub.hidden;
  const Tensor u = allocate(ctx.scratch, x, "ffn u");
  project(ctx, hidden, x, tables);
  if (ctx.count_choices) ops::count_near_zero(ctx.stream, counters_->value, hidden.gate, Activation::kSilu);
  ops::activation_forward(ctx.stream, u, hidden.z, hidden.gate, Activation::kSilu);
  Tensor weights;
  if (input_weights.defined()) weights = own_columns(ctx, tables_.share, input_weights);
  if (weighs_outputs()) weights = weigh_outputs(ctx, sub, u).r;
  if (weights.defined()) ops::scale_blocks(ctx.stream, u, u, weights);
  ops::matmul(ctx.stream, y, u, Transpose::kNo, tables.values, Transpose::kNo, Tensor(), Accumulate::kNo);
}

void Finedeep::weigh_inputs(Context& ctx, const Weights& weights, const Tensor& x, const Tables& tables) const {
  block_scores(ctx, weights.s, x, tables.router);
  if (config_.router == FinedeepRouter::kSoftmax) {
    ops::softmax_rows_forward(ctx.stream, weights.r, Tensor(), weights.s);
  } else {
    ops::sigmoid_forward(ctx.stream, weights.r, weights.s);
  }
}

// Of this rank's experts and the tokens that are here; in scratch where blocks are spread.
Finedeep::Weights Finedeep::weigh_outputs(Context& ctx, const Sub& sub, const Tensor& u) const {
  const Weights weights = spread() ? allocate_weights(ctx.scratch, u, own_experts_) : sub.weights;
  ops::block_dot_forward(ctx.stream, weights.s, u, sub.projected_values);
  ops::sigmoid_forward(ctx.stream, weights.r, weights.s);
  return weights;
}

void Finedeep::backward(Context& ctx, const FfnLayer::Saved& base, Tensor dh) {
  const Saved& saved = static_cast<const Saved&>(base);
  for (int64_t j = config_.sub_layers; j-- > 0;) {
    backward_sub(ctx, saved.subs[static_cast<size_t>(j)], dh, j, saved.time);
  }
}

void Finedeep::backward_sub(Context& ctx, const Sub& sub, Tensor dh, int64_t j, int64_t time) const {
  const Tensor& x = sub.norm.normed;
  const ArenaScope scope(ctx.scratch);
  const Tensor dy = dropout_backward(ctx, dh, dropout(ctx, j, time));
  const Tensor dx = ctx.scratch.allocate(x.shape(), x.dtype(), "ffn dx");
  std::vector<Returned> back{{.out = dx, .bias = {}, .what = "dx of the tokens here"}};
  Tensor weights, dweights;
  if (config_.weighs_inputs()) {
    weights = sub.weights.r;
    dweights = ctx.scratch.allocate(weights.shape(), weights.dtype(), "dweights");
    back.push_back({.out = dweights, .bias = {}, .what = "dweights of the tokens here"});
  }
  use_all_blocks(
      ctx, tables_.share, {x, dy, weights}, back, [&](std::span<const Tensor> results, std::span<const Tensor> here) {
        backward_here(ctx, results[0], dweights.defined() ? results[1] : Tensor(), here[1], here[0], here[2], sub, j);
      });
  if (dweights.defined()) backward_inputs(ctx, dx, dweights, sub, j);
  norm(j).backward(ctx, dh, dx, sub.norm);
}

// Backward of forward_here. dweights like input_weights: this rank's experts.
void Finedeep::backward_here(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                             const Tensor& input_weights, const Sub& sub, int64_t j) const {
  const Tables tables = values_of_sub(j), gradients = gradients_of_sub(j);
  Stream& stream = ctx.stream;
  const ArenaScope scope(ctx.scratch);
  const Hidden hidden = recompute_ ? allocate_hidden(ctx.scratch, x) : sub.hidden;
  if (recompute_) project(ctx, hidden, x, tables);

  // y = u'·Down
  const Tensor u = allocate(ctx.scratch, x, "ffn u, then dgate");
  const Tensor weighed = allocate(ctx.scratch, x, "ffn u', then dz");
  ops::activation_forward(stream, u, hidden.z, hidden.gate, Activation::kSilu);
  Weights weights = sub.weights;
  if (weighs_outputs() && spread()) weights = weigh_outputs(ctx, sub, u);
  if (input_weights.defined()) weights.r = own_columns(ctx, tables_.share, input_weights);
  const bool weighs = weights.r.defined();
  if (weighs) ops::scale_blocks(stream, weighed, u, weights.r);
  ops::matmul(stream, gradients.values, weighs ? weighed : u, Transpose::kYes, dy, Transpose::kNo, Tensor(),
              Accumulate::kYes);
  const Tensor du = weighed;
  ops::matmul(stream, du, dy, Transpose::kNo, tables.values, Transpose::kYes, Tensor(), Accumulate::kNo);

  // u' = r·u; from here du is the gradient of u by way of u' alone
  const auto unweigh = [&](const Tensor& dr) {
    const int64_t rows = x.rows() * own_experts_, G = own_cells_ / own_experts_;
    ops::weigh_backward(stream, du.view({rows, G}), dr, u.view({rows, G}), weights.r, Tensor());
  };
  if (dweights.defined()) fill_own_columns(ctx, tables_.share, dweights, unweigh);
  if (weighs_outputs()) {
    const Tensor dr = ctx.scratch.allocate(weights.r.shape(), weights.r.dtype(), "dweights");
    unweigh(dr);
    backward_outputs(ctx, du, dr, u, weights.s, sub, j);
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
}

// From dr to what r was made of: dx += and the router.
void Finedeep::backward_inputs(Context& ctx, Tensor dx, const Tensor& dweights, const Sub& sub, int64_t j) const {
  const ArenaScope scope(ctx.scratch);
  const Tensor& logits = sub.weights.s;
  const Tensor dlogits = ctx.scratch.allocate(logits.shape(), logits.dtype(), "dlogits");
  if (config_.router == FinedeepRouter::kSoftmax) {  // every token is a group of its own
    ops::fill_zero(ctx.stream, dlogits);
    ops::softmax_rows_backward(ctx.stream, dlogits, sub.weights.r, dweights, Tensor(), 0);
  } else {
    ops::sigmoid_backward(ctx.stream, dlogits, dweights, logits);
  }
  block_scores_backward(ctx, gradients_of_sub(j).router, dx, dlogits, sub.norm.normed, values_of_sub(j).router);
}

// The same of outputs: du += , the values and the router, whose rows of other ranks' experts get their gradients there.
void Finedeep::backward_outputs(Context& ctx, Tensor du, const Tensor& dweights, const Tensor& u, const Tensor& s,
                                const Sub& sub, int64_t j) const {
  const Tables tables = values_of_sub(j), gradients = gradients_of_sub(j);
  const ArenaScope scope(ctx.scratch);
  const Tensor dlogits = ctx.scratch.allocate(s.shape(), s.dtype(), "dlogits");
  ops::sigmoid_backward(ctx.stream, dlogits, dweights, s);
  const Tensor dv = ctx.scratch.allocate(sub.projected_values.shape(), sub.projected_values.dtype(), "dv");
  ops::block_dot_backward(ctx.stream, du, dv, dlogits, u, sub.projected_values);
  ops::value_projection_backward(ctx.stream, gradients.values, own_router(gradients.router), dv, tables.values,
                                 own_router(tables.router));
}

// Blocks 0 … M·K - 1 of every token, sub-layer after sub-layer, with weights r.
void Finedeep::record(Context& ctx, const Saved& saved) const {
  if (ctx.choices == nullptr || ctx.stream.is_meta()) return;
  SFFN_CHECK(!spread(), "weights of experts on other ranks are not recorded");
  const int64_t K = config_.experts, all = config_.sub_layers * K, N = saved.subs[0].norm.normed.rows();
  ChoiceRecord record{.layer = layer_, .per_token = all, .blocks = {}, .weights = {}};
  record.blocks.resize(static_cast<size_t>(N * all));
  record.weights.assign(static_cast<size_t>(N * all), 1.0);
  for (int64_t n = 0; n < N; ++n) {
    std::iota(record.blocks.begin() + n * all, record.blocks.begin() + (n + 1) * all, 0);
  }
  for (int64_t j = 0; j < config_.sub_layers; ++j) {
    const Tensor& weights = saved.subs[static_cast<size_t>(j)].weights.r;
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

}  // namespace

std::unique_ptr<FfnLayer> make_finedeep(const FfnBuild& build, const FinedeepConfig& config, const FfnCost& cost) {
  return std::make_unique<Finedeep>(build, config, cost);
}

}  // namespace sffn
