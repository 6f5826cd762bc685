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
  std::optional<ExpertForm> form;  // absent: by the cost table

  // The form of the block product for N tokens of width D.
  ExpertForm form_for(int64_t tokens, int64_t d, DType dtype) const {
    return form.value_or(cheaper_form(shape, tokens, d, dtype));
  }
  // Sets the form in a resolved entry.
  void resolve_form(Json& entry, int64_t tokens, int64_t d, DType dtype) const {
    entry["expert_compute"] = form_for(tokens, d, dtype) == ExpertForm::kGrouped ? "grouped" : "masked";
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
  void resolve(Json& entry, const ModelConfig& model, int64_t tokens, DType dtype) const final {
    sparse_.resolve_form(entry, tokens, model.d_model, dtype);
  }

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
