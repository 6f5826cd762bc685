// What every layer that chooses blocks of cells has around its product: the norm before it, dropout after it, and
// counters of its choices.
#pragma once
#include "ffn/registry.h"
#include "ffn/selector.h"
#include "nn/dropout.h"
#include "nn/norm.h"

#include <memory>
#include <vector>

namespace sffn {

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
  Tensor load(const Tensor& counts) const { return counts.slice(0, blocks_); }
  // {load_max_over_mean, load_entropy (over log B), dead_blocks (share), dropped (share), and nan_scores where there
  // are any}
  Json statistics(const std::vector<double>& counts) const;

 private:
  State* state_;
  int64_t blocks_;
};

// Appends what was chosen to ctx.choices, where it is set. Weights absent: 1.
void record_choices(Context&, int64_t layer, const Selection&);

class ChoosingFfn : public FfnLayer {
 public:
  Residual forward(Context&, const FfnInput&, std::unique_ptr<FfnLayer::Saved>&) final;
  void backward(Context&, const FfnLayer::Saved&, Tensor dh) final;
  FfnCost cost() const final { return cost_; }
  Tensor counters() const final { return counters_.all(); }
  void after_step(Stream& stream, const Tensor& counts, const Tensor& numbers) final {
    balance_load(stream, counters_.load(counts), numbers);
  }
  Json statistics(const std::vector<double>& counts) const final { return counters_.statistics(counts); }
  std::vector<double> block_load(const std::vector<double>& counts) const final { return counters_.load(counts); }

 protected:
  // Registers the norm and the counters.
  ChoosingFfn(const FfnBuild&, const FfnCost&, int64_t blocks);

  // What a pass leaves for its backward pass.
  struct Product {
    virtual ~Product() = default;
    Selection chosen;
  };
  // y [N, D], overwritten, for in.x [N, D]. What backward needs is allocated in ctx.saved.
  virtual std::unique_ptr<Product> product(Context&, Tensor y, const SelectorInput& in) = 0;
  // dx [N, D], overwritten. Gradients of parameters accumulate. Called inside a scope of ctx.scratch.
  virtual void product_backward(Context&, Tensor dx, const Tensor& dy, const SelectorInput& in, const Product&) = 0;
  // As after_step, with the choices of each block [B] f64.
  virtual void balance_load(Stream&, const Tensor& load, const Tensor& numbers) = 0;

 private:
  struct Saved final : FfnLayer::Saved {
    AddNorm::Saved norm;  // norm.normed is x
    SelectorInput input;
    std::unique_ptr<Product> product;
  };
  Dropout dropout(const Context&, int64_t time) const;

  FfnCost cost_;
  double dropout_probability_;
  int64_t layer_, d_model_;
  AddNorm norm_;
  BlockCounters counters_;
};

}  // namespace sffn
