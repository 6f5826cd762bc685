// Choosing and weighing blocks by a trained router, in fp32 whatever the precision: l = x·Wᵀ, W [B, D].
// One token goes through: jitter on x, logits, noise on logits, the choice by a score (expert dropout zeroes it, a
// balance bias is added), capacity, weights of what is kept from the logits. A method is a set of RouterOptions.
// Jitter, noise, expert dropout and balanced assignments act in training only.
// Gradient: through the weights, and through the extra losses, which look at softmax(l); none through the choice.
// Legend: N tokens, D width, B blocks, b chosen.
#pragma once
#include "ffn/balance.h"
#include "ffn/sparse_ffn.h"
#include "kernels/routing.h"

#include <memory>
#include <optional>

namespace sffn {

// What a choice compares when more than an order enters: what a bias is added to and expert dropout zeroes (-∞ for a
// logit). An order alone is taken on logits, where nothing saturates.
enum class RouterScore : uint8_t { kLogit, kSigmoid, kSoftmax };
// The choice in training: by each token alone, or balanced over the tokens of a group.
enum class Assignment : uint8_t { kTopB, kSinkhorn, kAuction };

struct RouterOptions {
  Gate gate = Gate::kSoftmax;
  RouterScore score = RouterScore::kLogit;
  bool noise = false;  // l + N(0,1)·softplus(x·W_nᵀ), W_n = router_noise [B, D]
  Assignment assignment = Assignment::kTopB;
  Sinkhorn sinkhorn = Sinkhorn::kTextbook;
  int64_t sinkhorn_iterations = 3;
  double jitter = 0;          // ε: the router sees x ⊙ U(1 - ε, 1 + ε)
  double expert_dropout = 0;  // δ: a block's score is zeroed for a token; chosen all the same, it weighs 0
  std::optional<double> capacity_factor = {};  // absent: dropless
  BalanceOptions balance = {};
};

class RouterSelector final : public Selector {
 public:
  // Registers layers.LAYER.ffn.router.weight and, with noise, router_noise.weight.
  RouterSelector(const FfnBuild&, const BlockShape&, const RouterOptions&);

  Selection select(Context&, const SelectorInput&, std::unique_ptr<Selector::Saved>&) override;
  void backward(Context&, const Selector::Saved&, const SelectorInput&, const Selection&, const Tensor& dweights,
                Tensor dx) override;
  void after_step(Stream& stream, const Tensor& load, const Tensor& numbers) override {
    balance_.after_step(stream, load, numbers);
  }
  bool needs_whole_step() const override;

 private:
  struct Saved final : Selector::Saved {
    Tensor logits;  // [N, B] acc, before noise
    Tensor spread;  // [N, B] acc: x·W_nᵀ, where noise is drawn
    Balance::Saved balance;
  };
  Tensor router_input(Context&, const SelectorInput&) const;
  void backward_input(Context&, const Tensor& dlogits, const Tensor& dspread, const SelectorInput&, Tensor dx) const;
  Tensor gate_logits(Context&, const Saved&, int64_t time) const;
  void choose(Context&, Tensor blocks, const Tensor& logits, const SelectorInput&) const;
  Tensor choice_scores(Context&, const Tensor& logits, int64_t time) const;
  Tensor balanced_scores(Context&, const Tensor& logits, int64_t time) const;
  void assign(Context&, Tensor blocks, const Tensor& logits, int64_t time) const;
  Tensor keep(Context&, const Tensor& blocks, const SelectorInput&) const;
  void limit_capacity(Context&, Tensor kept, const SelectorInput&) const;

  Dropout expert_dropout(const Context&, int64_t time) const;
  Draws noise_draws(const Context&, int64_t time) const;
  bool jitters(const Context& ctx) const { return ctx.training && options_.jitter > 0; }
  void jitter(Context&, Tensor x, int64_t time) const;
  bool over_ranks(const Context&) const;

  RouterOptions options_;
  int64_t layer_, blocks_, per_token_;
  Param* router_;
  Param* noise_ = nullptr;
  Balance balance_;
};

// The options of a method whose selector is a RouterSelector.
class RouterMethod final : public SparseMethod {
 public:
  RouterMethod(const SparseOptions& sparse, const RouterOptions& router) : SparseMethod(sparse), router_(router) {}
  FfnCost selector_cost(const ModelConfig&) const override;
  bool weighs_blocks() const override { return true; }
  std::unique_ptr<Selector> make_selector(const FfnBuild&, const BlockStore&) const override;

 private:
  RouterOptions router_;
};

// The key "expert_dropout" of an entry.
double parse_expert_dropout(ConfigReader&);

}  // namespace sffn
