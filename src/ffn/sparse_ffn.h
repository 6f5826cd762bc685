// The sparse feed-forward layers that choose blocks and weigh them: norm, selector, block product.
#pragma once
#include "ffn/balance.h"
#include "ffn/expert_compute.h"
#include "ffn/registry.h"
#include "ffn/selector.h"
#include "nn/dropout.h"
#include "nn/norm.h"

#include <memory>
#include <optional>
#include <vector>

namespace sffn {

// The keys that every block-choosing entry has: cells or expansion, block_size, active_cells or active_blocks, d_ff,
// activation, bias, expert_compute.
struct SparseOptions {
  BlockShape shape;
  std::optional<ExpertForm> form;  // absent: by the cost table
};
struct SparseRules {
  std::optional<int64_t> block_size;  // fixed by the method: the key is unknown then
  bool may_have_bias = true;          // the σ-MoE family has none
  bool has_keys = true;               // false: a memory of values alone, without an activation
};
// Throws UsageError naming the key and the rule.
SparseOptions parse_sparse(ConfigReader&, const ModelConfig&, const SparseRules& = {});

// Counters of a layer that chooses blocks: choices of each block, choices dropped, scores that were NaN.
class BlockCounters {
 public:
  BlockCounters(ParamStore&, int64_t layer, int64_t blocks);
  Tensor all() const { return state_->value; }
  // Adds the choices of one pass, where ctx.count_choices is set.
  void count(Context&, const Tensor& blocks) const;
  Tensor dropped(const Context& ctx) const { return ctx.count_choices ? state_->value.slice(blocks_, 1) : Tensor(); }
  Tensor nans(const Context& ctx) const { return ctx.count_choices ? state_->value.slice(blocks_ + 1, 1) : Tensor(); }
  std::vector<double> load(const std::vector<double>& counts) const {
    return {counts.begin(), counts.begin() + blocks_};
  }
  // {load_max_over_mean, load_entropy (over log B), dead_blocks (share), dropped (share), and nan_scores where there
  // are any}
  Json statistics(const std::vector<double>& counts) const;

 private:
  State* state_;
  int64_t blocks_;
};

// Appends what was chosen to ctx.choices, where it is set. Weights absent: 1.
void record_choices(Context&, int64_t layer, const Selection&);

// The options of a method that chooses blocks and weighs them: all but its selector.
class SparseMethod : public FfnOptions {
 public:
  explicit SparseMethod(const SparseOptions& sparse) : sparse_(sparse) {}
  FfnCost cost(const ModelConfig&) const final;
  std::unique_ptr<FfnLayer> make(const FfnBuild&) const final;
  void resolve(Json& entry, const ModelConfig&, int64_t tokens, DType) const final;

  // What choosing and weighing add to the tables: parameters, all of them active, and FLOPs.
  virtual FfnCost selector_cost(const ModelConfig&) const = 0;
  virtual std::unique_ptr<Selector> make_selector(const FfnBuild&, const BlockStore&) const = 0;

 protected:
  const BlockShape& shape() const { return sparse_.shape; }

 private:
  SparseOptions sparse_;
};

class SparseFfn final : public FfnLayer {
 public:
  SparseFfn(const FfnBuild&, const SparseOptions&, const SparseMethod&);

  Residual forward(Context&, const FfnInput&, std::unique_ptr<FfnLayer::Saved>&) override;
  void backward(Context&, const FfnLayer::Saved&, Tensor dh) override;
  FfnCost cost() const override { return cost_; }
  Tensor counters() const override { return counters_.all(); }
  void after_step(Stream& stream, const std::vector<double>& counts) override {
    selector_->after_step(stream, counters_.load(counts));
  }
  Json statistics(const std::vector<double>& counts) const override { return counters_.statistics(counts); }
  std::vector<double> block_load(const std::vector<double>& counts) const override { return counters_.load(counts); }
  bool needs_whole_step() const override { return selector_->needs_whole_step(); }

 private:
  struct Saved final : FfnLayer::Saved {
    AddNorm::Saved norm;  // norm.normed is x
    SelectorInput input;
    Selection chosen;
    std::unique_ptr<Selector::Saved> selector;
    std::optional<ExpertCompute> compute;
    ExpertCompute::Saved product;
  };
  Dropout dropout(const Context&, int64_t time) const;

  SparseOptions options_;
  FfnCost cost_;
  double dropout_probability_;
  bool recompute_;
  int64_t layer_, d_model_;
  AddNorm norm_;
  BlockStore tables_;
  BlockCounters counters_;
  std::unique_ptr<Selector> selector_;
};

}  // namespace sffn
