#include "ffn/cell_ffn.h"

#include "ffn/block_scores.h"
#include "kernels/ops.h"
#include "nn/init.h"
#include "nn/linear.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace sffn {
namespace {

class CellFfn final : public ChoosingFfn {
 public:
  CellFfn(const FfnBuild&, const CellOptions&, const FfnCost&);
  bool needs_whole_step() const override { return balance_.needs_whole_step(); }

 private:
  struct Pass final : Product {
    Tensor x;  // [N, W]: what keys are multiplied with; the layer's input, or x·Dᵀ
    std::optional<ExpertCompute> compute;
    ExpertCompute::Saved blocks;
    Tensor scores;  // [N, B] acc, with an extra loss only
    Balance::Saved balance;
  };
  // All cells of a chunk of tokens, [chunk, M] acc; where blocks are spread over R ranks, this rank's cells for the
  // chunks of all of them, [R·chunk, M/R]. gate and h only where scores are taken after the activation.
  struct AllCells {
    Tensor z, gate, h;
  };
  std::unique_ptr<Product> product(Context&, Tensor y, const SelectorInput& in) override;
  void product_backward(Context&, Tensor dx, const Tensor& dy, const SelectorInput& in, const Product&) override;
  void balance_load(Stream& stream, const Tensor& load, const Tensor& numbers) override {
    balance_.after_step(stream, load, numbers);
  }

  bool postact() const { return options_.select_on == SelectOn::kPostact; }
  bool gate_scored() const { return postact() && shape_.gated; }
  const Tensor& scored(const AllCells& all) const { return postact() ? all.h : all.z; }
  void compute_all(Context&, const AllCells&, const Tensor& x) const;
  template <class Visit>
  void for_each_chunk(Context&, const Tensor& x, Visit&& visit) const;
  ExpertCompute::Cells allocate_chosen(Context&, const Tensor& x) const;
  bool spread() const { return tables_.share.spread(); }
  int64_t own_cells() const { return shape_.cells / tables_.share.ranks; }
  void score(Context&, Tensor scores, const AllCells&) const;
  void score_backward(Context&, Tensor dcells, const Tensor& dscores, const AllCells&) const;
  void gather(Context&, const ExpertCompute::Cells&, const AllCells&, int64_t first, const Tensor& blocks) const;
  ExpertCompute::Cells choose(Context&, const Tensor& blocks, const Tensor& scores, const SelectorInput& in,
                              const Tensor& x) const;
  void balance_backward(Context&, Tensor dx, const Pass&) const;

  CellOptions options_;
  BlockShape shape_;
  bool recompute_;
  BlockStore tables_;
  std::optional<Linear> key_down_;
  Balance balance_;
};

CellFfn::CellFfn(const FfnBuild& build, const CellOptions& options, const FfnCost& cost)
    : ChoosingFfn(build, cost, options.sparse.shape.blocks()),
      options_(options),
      shape_(options.sparse.shape),
      recompute_(build.recompute == Recompute::kFfn),
      tables_(BlockStore::add(build, shape_)),
      balance_(options.balance, build.params, build.layer, shape_.blocks()) {
  const int64_t d = build.model.d_model;
  if (shape_.key_rank > 0) {
    SFFN_CHECK(!shape_.gated, "low-rank keys beside a gate table");
    key_down_.emplace(build.params, cat("layers.", build.layer, ".ffn.key_down"),
                      Linear::Options{shape_.key_rank, d, matrix_init(build.model, d), false});
  }
}

// z = P, with the key bias only where h needs it: the bias is no part of a score before the activation.
void CellFfn::compute_all(Context& ctx, const AllCells& all, const Tensor& x) const {
  const auto multiply = [&](const Tensor& cells, const Param& table) {
    ops::matmul(ctx.stream, cells, x, Transpose::kNo, table.value, Transpose::kYes, Tensor(), Accumulate::kNo);
  };
  if (!postact()) return multiply(all.z, *tables_.keys);
  if (shape_.gated) multiply(all.gate, *tables_.gate_keys);
  ops::matmul_activation_forward(ctx.stream, all.h, all.z, x, tables_.keys->value, value_of(tables_.key_bias), all.gate,
                                 shape_.activation);
}

// visit(first token, tokens, all cells of the chunk, the x they were made from), chunk after chunk, inside a scope of
// scratch.
template <class Visit>
void CellFfn::for_each_chunk(Context& ctx, const Tensor& x, Visit&& visit) const {
  const ArenaScope scope(ctx.scratch);
  const int64_t N = x.rows(), chunk = score_chunk(N, shape_.cells, x.dtype()), ranks = tables_.share.ranks;
  const auto allocate = [&](bool wanted, std::string_view what) {
    return wanted ? ctx.scratch.allocate({ranks * chunk, own_cells()}, accumulate_type(x.dtype()), what) : Tensor();
  };
  const AllCells all{
      .z = allocate(true, "all z"), .gate = allocate(gate_scored(), "all gates"), .h = allocate(postact(), "all h")};
  const auto rows = [](const Tensor& t, int64_t count) { return t.defined() ? t.slice(0, count) : Tensor(); };
  for (int64_t first = 0; first < N; first += chunk) {
    const ArenaScope of_chunk(ctx.scratch);
    const int64_t count = std::min(chunk, N - first), tokens = ranks * count;
    const AllCells part{.z = rows(all.z, tokens), .gate = rows(all.gate, tokens), .h = rows(all.h, tokens)};
    const Tensor mine = x.slice(first, count), x_part = spread() ? gather_expert_rows(ctx, mine) : mine;
    compute_all(ctx, part, x_part);
    visit(first, count, part, x_part);
  }
}

// scores [n, B] of this rank's tokens; where blocks are spread, columns come from the ranks that hold them.
void CellFfn::score(Context& ctx, Tensor scores, const AllCells& all) const {
  if (!spread()) return ops::block_scores_forward(ctx.stream, scores, scored(all), options_.aggregator);
  const ArenaScope scope(ctx.scratch);
  const int64_t R = tables_.share.ranks, n = scores.rows(), C = scores.cols() / R;
  const Tensor own = ctx.scratch.allocate({R, n, C}, scores.dtype(), "scores of own blocks");
  const Tensor parts = ctx.scratch.allocate({R, n, C}, scores.dtype(), "scores by rank");
  ops::block_scores_forward(ctx.stream, own.view({R * n, C}), scored(all), options_.aggregator);
  exchange_expert_parts(ctx, parts, own);
  ops::join_columns(ctx.stream, scores, parts, Accumulate::kNo);
}

void CellFfn::score_backward(Context& ctx, Tensor dcells, const Tensor& dscores, const AllCells& all) const {
  if (!spread()) return ops::block_scores_backward(ctx.stream, dcells, dscores, scored(all), options_.aggregator);
  const ArenaScope scope(ctx.scratch);
  const int64_t R = tables_.share.ranks, n = dscores.rows(), C = dscores.cols() / R;
  const Tensor own = ctx.scratch.allocate({R, n, C}, dscores.dtype(), "dscores of own blocks");
  const Tensor parts = ctx.scratch.allocate({R, n, C}, dscores.dtype(), "dscores by rank");
  ops::split_columns(ctx.stream, parts, dscores);
  exchange_expert_parts(ctx, own, parts);
  ops::block_scores_backward(ctx.stream, dcells, own.view({R * n, C}), scored(all), options_.aggregator);
}

// Of the chosen, in scratch. A gate that no score needs is made for the chosen alone, by the block product.
ExpertCompute::Cells CellFfn::allocate_chosen(Context& ctx, const Tensor& x) const {
  const Shape shape{x.rows() * shape_.per_token, shape_.block_size};
  ExpertCompute::Cells chosen;
  chosen.z = ctx.scratch.allocate(shape, x.dtype(), "chosen z");
  if (gate_scored()) chosen.gate = ctx.scratch.allocate(shape, x.dtype(), "chosen gates");
  return chosen;
}

void CellFfn::gather(Context& ctx, const ExpertCompute::Cells& chosen, const AllCells& all, int64_t first,
                     const Tensor& blocks) const {
  const int64_t row = first * shape_.per_token, rows = blocks.numel();
  const Tensor missing_bias = postact() ? Tensor() : value_of(tables_.key_bias);
  ops::gather_cells(ctx.stream, chosen.z.slice(row, rows), all.z, missing_bias, blocks);
  if (gate_scored()) ops::gather_cells(ctx.stream, chosen.gate.slice(row, rows), all.gate, Tensor(), blocks);
}

// Fills blocks [N, b], and scores [N, B] where wanted. The cells of the chosen, where their blocks are on this rank.
ExpertCompute::Cells CellFfn::choose(Context& ctx, const Tensor& blocks, const Tensor& scores, const SelectorInput& in,
                                     const Tensor& x) const {
  const ExpertCompute::Cells chosen = spread() ? ExpertCompute::Cells{} : allocate_chosen(ctx, x);
  const ArenaScope scope(ctx.scratch);
  const int64_t B = shape_.blocks(), chunk = score_chunk(x.rows(), shape_.cells, x.dtype());
  Tensor chunk_scores;
  if (!scores.defined()) chunk_scores = ctx.scratch.allocate({chunk, B}, accumulate_type(x.dtype()), "block scores");
  for_each_chunk(ctx, x, [&](int64_t first, int64_t count, const AllCells& all, const Tensor&) {
    const Tensor part = scores.defined() ? scores.slice(first, count) : chunk_scores.slice(0, count);
    const Tensor blocks_part = blocks.slice(first, count);
    score(ctx, part, all);
    ops::top_b(ctx.stream, blocks_part, in.nans, part, balance_.bias());
    if (!spread()) gather(ctx, chosen, all, first, blocks_part);
  });
  return chosen;
}

std::unique_ptr<ChoosingFfn::Product> CellFfn::product(Context& ctx, Tensor y, const SelectorInput& in) {
  auto pass = std::make_unique<Pass>();
  const int64_t N = in.x.rows();
  pass->x = in.x;
  if (key_down_) {
    pass->x = ctx.saved.allocate({N, shape_.key_rank}, in.x.dtype(), "low-rank x");
    key_down_->forward(ctx, pass->x, in.x);
  }
  const bool has_loss = balance_.options().has_loss() && ctx.gradients;
  const Tensor blocks = ctx.saved.allocate({N, shape_.per_token}, DType::kI32, "chosen blocks");
  if (has_loss) pass->scores = ctx.saved.allocate({N, shape_.blocks()}, accumulate_type(in.x.dtype()), "block scores");
  pass->chosen = {.blocks = blocks, .kept = blocks, .weights = {}};

  const ArenaScope scope(ctx.scratch);
  const ExpertCompute::Cells cells = choose(ctx, blocks, pass->scores, in, pass->x);
  if (has_loss) balance_.forward(ctx, pass->scores, Tensor(), blocks, in.time, pass->balance);
  pass->compute.emplace(shape_, tables_, options_.sparse.plan_on(ctx.stream, in.x.dtype()), recompute_);
  pass->compute->forward(ctx, y, pass->x, pass->chosen, pass->blocks, cells);
  return pass;
}

void CellFfn::product_backward(Context& ctx, Tensor dx, const Tensor& dy, const SelectorInput& in,
                               const Product& base) {
  const Pass& pass = static_cast<const Pass&>(base);
  const Tensor dkeyed = key_down_ ? ctx.scratch.allocate(pass.x.shape(), dx.dtype(), "low-rank dx") : dx;
  ExpertCompute::Cells cells;
  if (recompute_ && !spread()) {
    cells = allocate_chosen(ctx, pass.x);
    for_each_chunk(ctx, pass.x, [&](int64_t first, int64_t count, const AllCells& all, const Tensor&) {
      gather(ctx, cells, all, first, pass.chosen.blocks.slice(first, count));
    });
  }
  pass.compute->backward(ctx, dkeyed, Tensor(), dy, pass.x, pass.chosen, pass.blocks, cells);
  if (pass.scores.defined()) balance_backward(ctx, dkeyed, pass);
  if (key_down_) key_down_->backward(ctx, dx, dkeyed, in.x);
}

// Through s, its aggregate and every cell of it. As elsewhere gradients of cells are rounded to the activations' type.
void CellFfn::balance_backward(Context& ctx, Tensor dx, const Pass& pass) const {
  const ArenaScope scope(ctx.scratch);
  Stream& stream = ctx.stream;
  const DType act = dx.dtype(), acc = pass.scores.dtype();
  const int64_t chunk = score_chunk(dx.rows(), shape_.cells, act), ranks = tables_.share.ranks;
  const Shape of_chunk{ranks * chunk, own_cells()};
  const Tensor dscores = ctx.scratch.allocate(pass.scores.shape(), acc, "dscores");
  const Tensor dcells = ctx.scratch.allocate(of_chunk, acc, "all dh, then dz");
  const Tensor dgates = gate_scored() ? ctx.scratch.allocate(of_chunk, acc, "all dgates") : Tensor();
  const Tensor rounded = act == acc ? Tensor() : ctx.scratch.allocate(of_chunk, act, "rounded gradient of cells");
  ops::fill_zero(stream, dscores);
  balance_.backward_scores(ctx, dscores, pass.scores, pass.balance);

  for_each_chunk(ctx, pass.x, [&](int64_t first, int64_t count, const AllCells& all, const Tensor& x_part) {
    const int64_t tokens = ranks * count;
    Tensor dx_part = dx.slice(first, count);
    if (spread()) {
      dx_part = ctx.scratch.allocate(x_part.shape(), act, "dx by way of scores");
      ops::fill_zero(stream, dx_part);
    }
    const auto through = [&](Param& table, Tensor dtable_cells) {
      if (rounded.defined()) {
        ops::copy(stream, rounded.slice(0, tokens), dtable_cells);
        dtable_cells = rounded.slice(0, tokens);
      }
      ops::matmul(stream, table.grad, dtable_cells, Transpose::kYes, x_part, Transpose::kNo, Tensor(),
                  Accumulate::kYes);
      ops::matmul(stream, dx_part, dtable_cells, Transpose::kNo, table.value, Transpose::kNo, Tensor(),
                  Accumulate::kYes);
    };
    const Tensor dz = dcells.slice(0, tokens), dgate = gate_scored() ? dgates.slice(0, tokens) : Tensor();
    score_backward(ctx, dz, dscores.slice(first, count), all);
    if (postact()) {
      ops::activation_backward(stream, dz, dgate, dz, all.z, all.gate, shape_.activation);
      if (tables_.key_bias != nullptr) ops::column_sum(stream, tables_.key_bias->grad, dz);
    }
    through(*tables_.keys, dz);
    if (gate_scored()) through(*tables_.gate_keys, dgate);
    if (!spread()) return;
    const Tensor returned = ctx.scratch.allocate({count, dx.cols()}, act, "own dx by way of scores");
    return_expert_rows(ctx, returned, dx_part, Tensor());
    ops::add(stream, dx.slice(first, count), returned);
  });
}

}  // namespace

FfnCost CellMethod::cost(const ModelConfig& model) const {
  const BlockShape& shape = options_.sparse.shape;
  const int64_t d = model.d_model, unchosen = shape.cells - shape.active_cells();
  FfnCost cost = table_cost(model, shape);
  // Beside the chosen keys all others are multiplied, and all gate keys where scores need them.
  const bool gate_scored = shape.gated && options_.select_on == SelectOn::kPostact;
  cost.flops_per_token += static_cast<double>(2 * unchosen * (shape.key_width(d) + (gate_scored ? d : 0)));
  cost.parameters += shape.key_rank * d;
  cost.active_parameters += shape.key_rank * d;
  cost.flops_per_token += static_cast<double>(2 * shape.key_rank * d);
  return cost;
}

std::unique_ptr<FfnLayer> CellMethod::make(const FfnBuild& build) const {
  return std::make_unique<CellFfn>(build, options_, cost(build.model));
}

}  // namespace sffn
