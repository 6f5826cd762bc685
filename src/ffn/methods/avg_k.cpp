// Avg-K: the b blocks whose mean key agrees best with the token; no router, no weights.
//   ē_i = (1/G) Σ_{j in block i} K[j],   S = top-b(x·ēᵀ),   y = Σ_{i∈S} Σ_{j in block i} f(x·K[j] + c[j]) V[j] + c_v
// A 0/1 gate has no gradient, so none flows through ē or the choice; the extra losses of "balance" do differentiate the
// scores, through ē for the aggregators mean and l2_mean. The key bias is not part of the score.
// Liu et al., arXiv 2305.13999, section 3.3. Legend: N tokens, D width, M cells in B blocks of G, b chosen.
#include "ffn/block_scores.h"
#include "ffn/sparse_ffn.h"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn {
namespace {

constexpr Named<BlockAggregate> kAggregatorNames[] = {
    {"mean", BlockAggregate::kMean},       {"min", BlockAggregate::kMin},
    {"max", BlockAggregate::kMax},         {"mean_abs", BlockAggregate::kMeanAbs},
    {"l2_mean", BlockAggregate::kL2Mean},  {"value_weighted", BlockAggregate::kValueWeighted},
    {"first_pc", BlockAggregate::kFirstPc}};

class AvgKSelector final : public Selector {
 public:
  AvgKSelector(const FfnBuild& build, const BlockStore& tables, const BlockShape& shape, BlockAggregate aggregator,
               const BalanceOptions& balance)
      : tables_(tables),
        blocks_(shape.blocks()),
        per_token_(shape.per_token),
        aggregator_(aggregator),
        balance_(balance, build.params, build.layer, shape.blocks()) {}

  Selection select(Context& ctx, const SelectorInput& in, std::unique_ptr<Selector::Saved>& out_saved) override;
  void backward(Context& ctx, const Selector::Saved& saved, const SelectorInput& in, const Selection& chosen,
                const Tensor& dweights, Tensor dx) override;
  void after_step(Stream& stream, const Tensor& load, const Tensor& numbers) override {
    balance_.after_step(stream, load, numbers);
  }
  bool needs_whole_step() const override { return balance_.needs_whole_step(); }

 private:
  // With an extra loss only: without one nothing is kept, and scores exist for a chunk of tokens at a time.
  struct Saved final : Selector::Saved {
    Tensor means;   // ē [B, D] acc
    Tensor scores;  // [N, B] acc
    Balance::Saved balance;
  };
  void aggregate(Context& ctx, Tensor means) const;
  void aggregate_backward(Context& ctx, const Tensor& dmeans) const;
  void choose_in_chunks(Context& ctx, Tensor blocks, const SelectorInput& in) const;

  BlockStore tables_;
  int64_t blocks_, per_token_;
  BlockAggregate aggregator_;
  Balance balance_;
};

// Where blocks are spread, each rank makes the means of its own, and all of them go to every rank.
void AvgKSelector::aggregate(Context& ctx, Tensor means) const {
  const RowRange mine = tables_.share.rows(blocks_);
  const Tensor values = aggregator_ == BlockAggregate::kValueWeighted ? tables_.values->value : Tensor();
  ops::block_aggregate_forward(ctx.stream, means.slice(mine.first, mine.count), tables_.keys->value, values,
                               aggregator_);
  if (tables_.share.spread()) all_gather_expert_rows(ctx, means);
}

void AvgKSelector::aggregate_backward(Context& ctx, const Tensor& dmeans) const {
  const ArenaScope scope(ctx.scratch);
  Tensor mine = dmeans;
  if (tables_.share.spread()) {
    mine = ctx.scratch.allocate({tables_.share.rows(blocks_).count, dmeans.cols()}, dmeans.dtype(), "own dmeans");
    return_expert_rows(ctx, mine, dmeans, Tensor());
  }
  ops::block_aggregate_backward(ctx.stream, tables_.keys->grad, mine, tables_.keys->value, aggregator_);
}

void AvgKSelector::choose_in_chunks(Context& ctx, Tensor blocks, const SelectorInput& in) const {
  const ArenaScope scope(ctx.scratch);
  const int64_t N = in.x.rows(), chunk = score_chunk(N, blocks_, in.x.dtype());
  const DType acc = accumulate_type(in.x.dtype());
  const Tensor means = ctx.scratch.allocate({blocks_, in.x.cols()}, acc, "block means");
  const Tensor all_scores = ctx.scratch.allocate({chunk, blocks_}, acc, "block scores");
  aggregate(ctx, means);
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t count = std::min(chunk, N - first);
    const Tensor scores = all_scores.slice(0, count);
    block_scores(ctx, scores, in.x.slice(first, count), means);
    ops::top_b(ctx.stream, blocks.slice(first, count), in.nans, scores, balance_.bias());
  }
}

Selection AvgKSelector::select(Context& ctx, const SelectorInput& in, std::unique_ptr<Selector::Saved>& out_saved) {
  auto saved = std::make_unique<Saved>();
  const int64_t N = in.x.rows();
  const Tensor blocks = ctx.saved.allocate({N, per_token_}, DType::kI32, "chosen blocks");
  if (!balance_.options().has_loss() || !ctx.gradients) {
    choose_in_chunks(ctx, blocks, in);
  } else {
    const DType acc = accumulate_type(in.x.dtype());
    saved->means = ctx.saved.allocate({blocks_, in.x.cols()}, acc, "block means");
    saved->scores = ctx.saved.allocate({N, blocks_}, acc, "block scores");
    aggregate(ctx, saved->means);
    block_scores(ctx, saved->scores, in.x, saved->means);
    ops::top_b(ctx.stream, blocks, in.nans, saved->scores, balance_.bias());
    balance_.forward(ctx, saved->scores, Tensor(), blocks, in.time, saved->balance);
  }
  out_saved = std::move(saved);
  return {.blocks = blocks, .kept = blocks, .weights = {}};
}

void AvgKSelector::backward(Context& ctx, const Selector::Saved& base, const SelectorInput& in, const Selection&,
                            const Tensor&, Tensor dx) {
  const Saved& saved = static_cast<const Saved&>(base);
  if (!saved.scores.defined()) return;
  const ArenaScope scope(ctx.scratch);
  const Tensor dscores = ctx.scratch.allocate(saved.scores.shape(), saved.scores.dtype(), "dscores");
  ops::fill_zero(ctx.stream, dscores);
  balance_.backward_scores(ctx, dscores, saved.scores, saved.balance);

  // scores = x·ēᵀ
  const bool trained = aggregator_ == BlockAggregate::kMean || aggregator_ == BlockAggregate::kL2Mean;
  Tensor dmeans;
  if (trained) {
    dmeans = ctx.scratch.allocate(saved.means.shape(), saved.means.dtype(), "dmeans");
    ops::fill_zero(ctx.stream, dmeans);
  }
  block_scores_backward(ctx, dmeans, dx, dscores, in.x, saved.means);
  if (trained) aggregate_backward(ctx, dmeans);
}

class AvgK final : public SparseMethod {
 public:
  AvgK(const SparseOptions& sparse, BlockAggregate aggregator, const BalanceOptions& balance)
      : SparseMethod(sparse), aggregator_(aggregator), balance_(balance) {}

  FfnCost selector_cost(const ModelConfig& model) const override {
    return {.flops_per_token = static_cast<double>(2 * model.d_model * shape().blocks())};
  }
  std::unique_ptr<Selector> make_selector(const FfnBuild& build, const BlockStore& tables) const override {
    return std::make_unique<AvgKSelector>(build, tables, shape(), aggregator_, balance_);
  }

 private:
  BlockAggregate aggregator_;
  BalanceOptions balance_;
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model);
  const BlockAggregate aggregator = reader.one_of(
      "aggregator", kAggregatorNames, BlockAggregate::kMean,
      "What stands for the keys k of a block, element by element; l2_mean: mean of k/|k|, value_weighted: "
      "mean weighted by |v|, first_pc: first principal direction.");
  const BalanceOptions balance = parse_balance(reader, BalanceType::kNone, false);
  return std::make_unique<AvgK>(sparse, aggregator, balance);
}

const RegisterFfn kRegistered{
    {.name = "avg_k",
     .summary = "the blocks whose mean key scores highest; no router, no weights",
     .source = "Liu et al., arXiv 2305.13999, section 3.3",
     .tiny_config = R"({"type": "avg_k", "block_size": 4, "expansion": 2, "active_cells": 8, "activation": "gelu"})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
