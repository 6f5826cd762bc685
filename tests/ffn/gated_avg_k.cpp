// Gated Avg-K, the worked example of CONTRIBUTING.md: Avg-K whose blocks are weighed by the sigmoid of their score.
//   ē_i = mean key of block i,   S = top-b(x·ēᵀ),   y = Σ_{i∈S} σ(x·ē_i) Σ_{j in block i} f(x·K[j] + c[j]) V[j] + c_v
// With dl_i = da_i·σ'(x·ē_i) for the chosen:  dx += dl·ē,  dē = dlᵀ·x, and each key of block i gets dē_i / G.
#include "ffn/block_scores.h"
#include "ffn/sparse_ffn.h"
#include "kernels/ops.h"

namespace sffn {
namespace {

class GatedAvgKSelector final : public Selector {
 public:
  GatedAvgKSelector(const BlockStore& tables, const BlockShape& shape) : tables_(tables), shape_(shape) {}

  Selection select(Context& ctx, const SelectorInput& in, std::unique_ptr<Selector::Saved>& out) override {
    const DType acc = accumulate_type(in.x.dtype());
    const int64_t N = in.x.rows(), D = in.x.cols(), B = shape_.blocks(), b = shape_.per_token;
    auto saved = std::make_unique<Saved>();
    saved->means = ctx.saved.allocate({B, D}, acc, "block means");
    saved->scores = ctx.saved.allocate({N, B}, acc, "block scores");
    Selection chosen;
    chosen.blocks = chosen.kept = ctx.saved.allocate({N, b}, DType::kI32, "chosen blocks");
    chosen.weights = ctx.saved.allocate({N, b}, acc, "weights");
    ops::block_aggregate_forward(ctx.stream, saved->means, tables_.keys->value, Tensor(), BlockAggregate::kMean);
    block_scores(ctx, saved->scores, in.x, saved->means);
    ops::top_b(ctx.stream, chosen.blocks, in.nans, saved->scores, Tensor());
    ops::gate_forward(ctx.stream, chosen.weights, saved->scores, chosen.kept, Gate::kSigmoid);
    out = std::move(saved);
    return chosen;
  }

  void backward(Context& ctx, const Selector::Saved& base, const SelectorInput& in, const Selection& chosen,
                const Tensor& dweights, Tensor dx) override {
    const Saved& saved = static_cast<const Saved&>(base);
    const ArenaScope scope(ctx.scratch);
    const Tensor dscores = ctx.scratch.allocate(saved.scores.shape(), saved.scores.dtype(), "dscores");
    const Tensor dmeans = ctx.scratch.allocate(saved.means.shape(), saved.means.dtype(), "dmeans");
    ops::fill_zero(ctx.stream, dscores);
    ops::fill_zero(ctx.stream, dmeans);
    ops::gate_backward(ctx.stream, dscores, dweights, chosen.weights, saved.scores, chosen.kept, Gate::kSigmoid);
    block_scores_backward(ctx, dmeans, dx, dscores, in.x, saved.means);
    ops::block_aggregate_backward(ctx.stream, tables_.keys->grad, dmeans, tables_.keys->value, BlockAggregate::kMean);
  }

 private:
  struct Saved final : Selector::Saved {
    Tensor means, scores;  // [B, D] and [N, B] acc
  };
  BlockStore tables_;
  BlockShape shape_;
};

class GatedAvgK final : public SparseMethod {
 public:
  using SparseMethod::SparseMethod;
  FfnCost selector_cost(const ModelConfig& model) const override {
    return {.flops_per_token = static_cast<double>(2 * model.d_model * shape().blocks())};
  }
  std::unique_ptr<Selector> make_selector(const FfnBuild&, const BlockStore& tables) const override {
    return std::make_unique<GatedAvgKSelector>(tables, shape());
  }
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  return std::make_unique<GatedAvgK>(parse_sparse(reader, model));
}

const RegisterFfn kRegistered{
    {.name = "gated_avg_k",
     .summary = "Avg-K with blocks weighed by the sigmoid of their score",
     .source = "the worked example of CONTRIBUTING.md",
     .tiny_config = R"({"type": "gated_avg_k", "block_size": 4, "expansion": 2, "active_cells": 8})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
