// The sparse feed-forward layers that choose blocks and weigh them: a selector and the block product.
#pragma once
#include "ffn/balance.h"
#include "ffn/choosing_ffn.h"
#include "ffn/expert_compute.h"

#include <memory>
#include <optional>
#include <vector>

namespace sffn {

// The keys that every block-choosing entry has: cells or expansion, block_size, active_cells or active_blocks, d_ff,
// activation, bias, expert_compute.
struct SparseOptions {
  BlockShape shape;
  std::optional<ExpertForm> form;  // absent: by the tables of costs
  bool on_gpu = false;             // for which the meta device plans

  ExpertPlan plan_on(const Stream& stream, DType dtype) const {
    return plan_experts(shape, form, stream.is_meta() ? on_gpu : stream.is_cuda(), dtype);
  }
  // Sets the form in a resolved entry.
  void resolve_form(Json& entry, DType dtype) const {
    const ExpertPlan plan = plan_experts(shape, form, on_gpu, dtype);
    entry["expert_compute"] = plan.form == ExpertForm::kGrouped ? "grouped" : "masked";
  }
};
struct SparseRules {
  std::optional<int64_t> block_size;  // fixed by the method: another one is refused
  bool may_have_bias = true;          // the σ-MoE family has none
  bool has_keys = true;               // false: a memory of values alone, without an activation
};
// Throws UsageError naming the key and the rule.
SparseOptions parse_sparse(ConfigReader&, const ModelConfig&, const SparseRules& = {});

// The options of a method that chooses blocks and weighs them: all but its selector.
class SparseMethod : public FfnOptions {
 public:
  explicit SparseMethod(const SparseOptions& sparse) : sparse_(sparse) {}
  FfnCost cost(const ModelConfig&) const final;
  std::unique_ptr<FfnLayer> make(const FfnBuild&) const final;
  const BlockShape* block_shape() const final { return &sparse_.shape; }
  void resolve(Json& entry, DType dtype) const final { sparse_.resolve_form(entry, dtype); }

  // What choosing and weighing add to the tables: parameters, all of them active, and FLOPs.
  virtual FfnCost selector_cost(const ModelConfig&) const = 0;
  virtual std::unique_ptr<Selector> make_selector(const FfnBuild&, const BlockStore&) const = 0;

 protected:
  const BlockShape& shape() const { return sparse_.shape; }

 private:
  SparseOptions sparse_;
};

class SparseFfn final : public ChoosingFfn {
 public:
  SparseFfn(const FfnBuild&, const SparseOptions&, const SparseMethod&);
  bool needs_whole_step() const override { return selector_->needs_whole_step(); }
  void initialise_state(Stream& stream, const TokenCounts& token_counts) override {
    selector_->initialise_state(stream, token_counts);
  }

 private:
  struct Pass final : Product {
    std::unique_ptr<Selector::Saved> selector;
    std::optional<ExpertCompute> compute;
    ExpertCompute::Saved blocks;
  };
  std::unique_ptr<Product> product(Context&, Tensor y, const SelectorInput& in) override;
  void product_backward(Context&, Tensor dx, const Tensor& dy, const SelectorInput& in, const Product&) override;
  void balance_load(Stream& stream, const Tensor& load, const Tensor& numbers) override {
    selector_->after_step(stream, load, numbers);
  }

  SparseOptions options_;
  bool recompute_;
  BlockStore tables_;
  std::unique_ptr<Selector> selector_;
};

}  // namespace sffn
