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
  // All cells of a chunk of tokens, [chunk, M] acc; gate and h only where scores are taken after the activation.
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

// visit(first token, all cells of the chunk's tokens, their x), chunk after chunk. The visitor's memory must have been
// allocated before.
template <class Visit>
void CellFfn::for_each_chunk(Context& ctx, const Tensor& x, Visit&& visit) const {
  const ArenaScope scope(ctx.scratch);
  const int64_t N = x.rows(), chunk = score_chunk(N, shape_.cells, x.dtype());
  const auto allocate = [&](bool wanted, std::string_view what) {
    return wanted ? ctx.scratch.allocate({chunk, shape_.cells}, accumulate_type(x.dtype()), what) : Tensor();
  };
  const AllCells all{
      .z = allocate(true, "all z"), .gate = allocate(gate_scored(), "all gates"), .h = allocate(postact(), "all h")};
  const auto rows = [](const Tensor& t, int64_t count) { return t.defined() ? t.slice(0, count) : Tensor(); };
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t count = std::min(chunk, N - first);
    const AllCells part{.z = rows(all.z, count), .gate = rows(all.gate, count), .h = rows(all.h, count)};
    const Tensor x_part = x.slice(first, count);
    compute_all(ctx, part, x_part);
    visit(first, part, x_part);
  }
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

// Fills blocks [N, b], and scores [N, B] where wanted.
ExpertCompute::Cells CellFfn::choose(Context& ctx, const Tensor& blocks, const Tensor& scores, const SelectorInput& in,
                                     const Tensor& x) const {
  const ExpertCompute::Cells chosen = allocate_chosen(ctx, x);
  const ArenaScope scope(ctx.scratch);
  const int64_t B = shape_.blocks(), chunk = score_chunk(x.rows(), shape_.cells, x.dtype());
  Tensor chunk_scores;
  if (!scores.defined()) chunk_scores = ctx.scratch.allocate({chunk, B}, accumulate_type(x.dtype()), "block scores");
  for_each_chunk(ctx, x, [&](int64_t first, const AllCells& all, const Tensor& x_part) {
    const int64_t count = x_part.rows();
    const Tensor part = scores.defined() ? scores.slice(first, count) : chunk_scores.slice(0, count);
    const Tensor blocks_part = blocks.slice(first, count);
    ops::block_scores_forward(ctx.stream, part, scored(all), options_.aggregator);
    ops::top_b(ctx.stream, blocks_part, in.nans, part, balance_.bias());
    gather(ctx, chosen, all, first, blocks_part);
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
  pass->compute.emplace(shape_, tables_, options_.sparse.form_for(N, in.x.cols(), in.x.dtype()), recompute_);
  pass->compute->forward(ctx, y, pass->x, pass->chosen, pass->blocks, cells);
  return pass;
}

void CellFfn::product_backward(Context& ctx, Tensor dx, const Tensor& dy, const SelectorInput& in,
                               const Product& base) {
  const Pass& pass = static_cast<const Pass&>(base);
  const Tensor dkeyed = key_down_ ? ctx.scratch.allocate(pass.x.shape(), dx.dtype(), "low-rank dx") : dx;
  ExpertCompute::Cells cells;
  if (recompute_) {
    cells = allocate_chosen(ctx, pass.x);
    for_each_chunk(ctx, pass.x, [&](int64_t first, const AllCells& all, const Tensor& x_part) {
      gather(ctx, cells, all, first, pass.chosen.blocks.slice(first, x_part.rows()));
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
  const int64_t M = shape_.cells, chunk = score_chunk(dx.rows(), M, act);
  const Tensor dscores = ctx.scratch.allocate(pass.scores.shape(), acc, "dscores");
  const Tensor dcells = ctx.scratch.allocate({chunk, M}, acc, "all dh, then dz");
  const Tensor dgates = gate_scored() ? ctx.scratch.allocate({chunk, M}, acc, "all dgates") : Tensor();
  const Tensor rounded = act == acc ? Tensor() : ctx.scratch.allocate({chunk, M}, act, "rounded gradient of cells");
  ops::fill_zero(stream, dscores);
  balance_.backward_scores(ctx, dscores, pass.scores, pass.balance);

  for_each_chunk(ctx, pass.x, [&](int64_t first, const AllCells& all, const Tensor& x_part) {
    const int64_t count = x_part.rows();
    const auto through = [&](Param& table, Tensor dtable_cells) {
      if (rounded.defined()) {
        ops::copy(stream, rounded.slice(0, count), dtable_cells);
        dtable_cells = rounded.slice(0, count);
      }
      ops::matmul(stream, table.grad, dtable_cells, Transpose::kYes, x_part, Transpose::kNo, Tensor(),
                  Accumulate::kYes);
      ops::matmul(stream, dx.slice(first, count), dtable_cells, Transpose::kNo, table.value, Transpose::kNo, Tensor(),
                  Accumulate::kYes);
    };
    const Tensor dz = dcells.slice(0, count), dgate = gate_scored() ? dgates.slice(0, count) : Tensor();
    ops::block_scores_backward(stream, dz, dscores.slice(first, count), scored(all), options_.aggregator);
    if (postact()) {
      ops::activation_backward(stream, dz, dgate, dz, all.z, all.gate, shape_.activation);
      if (tables_.key_bias != nullptr) ops::column_sum(stream, tables_.key_bias->grad, dz);
    }
    through(*tables_.keys, dz);
    if (gate_scored()) through(*tables_.gate_keys, dgate);
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
