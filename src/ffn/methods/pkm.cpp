// Product-key memory: values alone, chosen and weighed by the scores of product keys (ffn/product_keys.h).
//   y = Σ_heads Σ_{i∈S_head} a_i V[i] + c_v,   a = softmax over the k chosen of a head, or f(score)
// With dense_scores all M cells of a token are weighed once, by the sum of the heads' scores s1[i1] + s2[i2]:
//   y = Σ_i a_i V[i] + c_v,   a = softmax over all M, or f, of Σ_heads score_i
// as in the published runs of arXiv 2310.10837, whose heads take at least as many half keys as there are. The softmax
// of all sums is a product, a[i1·C2 + i2] = p1[i1]·p2[i2] with p1 and p2 the softmax of either half. A block is the C2
// cells of a first half key: where blocks are spread over ranks, s1 and s2, or p1 and p2, of a token go to all of them.
// Lample et al., arXiv 1907.05242, section 3; weights without softmax: Csordás et al., arXiv 2310.10837, section 3.2.
// Legend: N tokens, D width, M cells.
#include "ffn/block_scores.h"
#include "ffn/product_keys.h"
#include "ffn/sparse_ffn.h"
#include "kernels/ops.h"
#include "nn/dropout.h"
#include "nn/norm.h"

#include <algorithm>
#include <utility>

namespace sffn {
namespace {

enum class Weight : uint8_t { kSoftmax, kRelu, kGelu };
constexpr Named<Weight> kWeightNames[] = {
    {"softmax", Weight::kSoftmax}, {"relu", Weight::kRelu}, {"gelu", Weight::kGelu}};

class Pkm final : public SparseMethod {
 public:
  Pkm(const SparseOptions& sparse, const ProductKeyOptions& keys) : SparseMethod(sparse), keys_(keys) {}

  bool weighs_blocks() const override { return true; }
  FfnCost selector_cost(const ModelConfig& model) const override { return product_key_cost(model, keys_); }
  std::unique_ptr<Selector> make_selector(const FfnBuild& build, const BlockStore&) const override {
    return std::make_unique<ProductKeySelector>(build, keys_, shape().per_token);
  }

 private:
  ProductKeyOptions keys_;
};

class DensePkmFfn final : public FfnLayer {
 public:
  DensePkmFfn(const FfnBuild&, const BlockShape&, const ProductKeyOptions&, const FfnCost&);
  Residual forward(Context&, const FfnInput&, std::unique_ptr<FfnLayer::Saved>&) override;
  void backward(Context&, const FfnLayer::Saved&, Tensor dh) override;
  FfnCost cost() const override { return cost_; }

 private:
  struct Saved final : FfnLayer::Saved {
    AddNorm::Saved norm;  // norm.normed is x
    Tensor queries;       // halves, as ProductKeys makes them
    int64_t time = 0;
  };
  // s1 and s2, or p1 and p2, of every token [N, C1] and [N, C2] acc, in scratch.
  struct Halves {
    Tensor h1, h2;
  };
  // Of a chunk of tokens and the cells of this rank, in scratch.
  struct Weights {
    Tensor own;     // columns of h1
    Tensor cells;   // scores, or p2 in the place of every cell [n, M] acc
    Tensor a;       // [n, M] acc
    Tensor factor;  // a in the dtype of products
  };
  Halves halves(Context&, const Tensor& queries) const;
  Weights weigh(Context&, const Halves&, DType) const;
  void forward_here(Context&, Tensor y, const Halves&) const;
  void backward_here(Context&, const Halves& gradient, const Tensor& dy, const Halves&) const;
  void backward_cells(Context&, Tensor dh1, Tensor dh2, const Tensor& da, const Weights&) const;
  ProductKeys::Scores scores_of(const Tensor& h1, const Tensor& h2) const {
    return {.s1 = h1.view({1, h1.rows(), h1.cols()}), .s2 = h2.view({1, h2.rows(), h2.cols()})};
  }
  int64_t chunk(int64_t tokens, DType dtype) const { return score_chunk(tokens, own_cells_, dtype); }
  bool softmax() const { return keys_.options().softmax; }
  Dropout dropout(const Context& ctx, int64_t time) const {
    return site_dropout(ctx, dropout_probability_, RandomSite::kFfnDropout, layer_, time * d_model_);
  }

  FfnCost cost_;
  double dropout_probability_;
  int64_t layer_, d_model_, own_cells_;
  AddNorm norm_;
  BlockStore tables_;
  ProductKeys keys_;
};

DensePkmFfn::DensePkmFfn(const FfnBuild& build, const BlockShape& shape, const ProductKeyOptions& keys,
                         const FfnCost& cost)
    : cost_(cost),
      dropout_probability_(build.model.dropout),
      layer_(build.layer),
      d_model_(build.model.d_model),
      own_cells_(shape.of(build.share).cells),
      norm_(build.params, cat("layers.", layer_, ".ffn_norm"), d_model_, build.model.norm, build.model.norm_eps),
      tables_(BlockStore::add(build, shape)),
      keys_(build, keys) {}

DensePkmFfn::Halves DensePkmFfn::halves(Context& ctx, const Tensor& queries) const {
  const ProductKeys::Scores scores = keys_.scores(ctx, queries, 0, queries.shape()[1], true);
  const auto half = [&](const Tensor& s) {
    const Tensor rows = s.view({s.shape()[1], s.shape()[2]});
    if (softmax()) ops::softmax_rows_forward(ctx.stream, rows, Tensor(), rows);
    return rows;
  };
  return {.h1 = half(scores.s1), .h2 = half(scores.s2)};
}

DensePkmFfn::Weights DensePkmFfn::weigh(Context& ctx, const Halves& half, DType dtype) const {
  Stream& stream = ctx.stream;
  const DType acc = half.h1.dtype();
  const Shape shape{half.h1.rows(), own_cells_};
  Weights w;
  w.own = own_columns(ctx, tables_.share, half.h1);
  w.cells = ctx.scratch.allocate(shape, acc, "scores of all cells");
  w.a = ctx.scratch.allocate(shape, acc, "weights of all cells");
  Tensor first = w.own;
  if (softmax()) {
    first = ctx.scratch.allocate(w.own.shape(), acc, "no half scores 1");
    ops::fill_zero(stream, first);
  }
  const ProductKeys::Scores scores = scores_of(first, half.h2);
  ops::product_scores_forward(stream, w.cells, scores.s1, scores.s2, Tensor());
  if (softmax()) {
    ops::scale_blocks(stream, w.a, w.cells, w.own);
  } else {
    ops::activation_forward(stream, w.a, w.cells, Tensor(), keys_.options().weight);
  }
  w.factor = w.a;
  if (dtype != acc) {
    w.factor = ctx.scratch.allocate(shape, dtype, "rounded weights");
    ops::copy(stream, w.factor, w.a);
  }
  return w;
}

Residual DensePkmFfn::forward(Context& ctx, const FfnInput& in, std::unique_ptr<FfnLayer::Saved>& out_saved) {
  auto saved = std::make_unique<Saved>();
  saved->time = in.time;
  saved->norm = norm_.forward(ctx, in.h);
  const Tensor sum = saved->norm.sum, x = saved->norm.normed;
  const Tensor y = ctx.saved.allocate(x.shape(), x.dtype(), "ffn out");
  saved->queries = keys_.queries(ctx, x);
  {
    const ArenaScope scope(ctx.scratch);
    const Halves half = halves(ctx, saved->queries);
    use_all_blocks(ctx, tables_.share, {half.h1, half.h2},
                   {{.out = y, .bias = value_of(tables_.value_bias), .what = "outputs of the blocks"}},
                   [&](std::span<const Tensor> results, std::span<const Tensor> here) {
                     forward_here(ctx, results[0], {.h1 = here[0], .h2 = here[1]});
                   });
  }
  const Dropout dropped = dropout(ctx, in.time);
  if (dropped.probability > 0) ops::dropout(ctx.stream, y, dropped);
  out_saved = std::move(saved);
  return {sum, y};
}

// Where blocks are spread, the bias is added when what all ranks made is.
void DensePkmFfn::forward_here(Context& ctx, Tensor y, const Halves& half) const {
  const int64_t N = y.rows(), tokens = chunk(N, y.dtype());
  const Tensor bias = tables_.share.spread() ? Tensor() : value_of(tables_.value_bias);
  for (int64_t first = 0; first < N; first += tokens) {
    const ArenaScope scope(ctx.scratch);
    const int64_t count = std::min(tokens, N - first);
    const Weights w = weigh(ctx, {.h1 = half.h1.slice(first, count), .h2 = half.h2.slice(first, count)}, y.dtype());
    ops::matmul(ctx.stream, y.slice(first, count), w.factor, Transpose::kNo, tables_.values->value, Transpose::kNo,
                bias, Accumulate::kNo);
  }
}

// gradient: of the halves, overwritten.
void DensePkmFfn::backward_here(Context& ctx, const Halves& gradient, const Tensor& dy, const Halves& half) const {
  Stream& stream = ctx.stream;
  const int64_t N = dy.rows(), tokens = chunk(N, dy.dtype());
  for (int64_t first = 0; first < N; first += tokens) {
    const ArenaScope scope(ctx.scratch);
    const int64_t count = std::min(tokens, N - first);
    const auto part = [&](const Tensor& rows) { return rows.slice(first, count); };
    const Weights w = weigh(ctx, {.h1 = part(half.h1), .h2 = part(half.h2)}, dy.dtype());
    const Tensor da = ctx.scratch.allocate(w.a.shape(), w.a.dtype(), "gradients of weights");

    // y = a·V
    ops::matmul(stream, tables_.values->grad, w.factor, Transpose::kYes, part(dy), Transpose::kNo, Tensor(),
                Accumulate::kYes);
    ops::matmul(stream, da, part(dy), Transpose::kNo, tables_.values->value, Transpose::kYes, Tensor(),
                Accumulate::kNo);
    fill_own_columns(ctx, tables_.share, part(gradient.h1),
                     [&](const Tensor& dh1) { backward_cells(ctx, dh1, part(gradient.h2), da, w); });
  }
}

// a = p1[i1]·p2[i2], or f(s1[i1] + s2[i2]); da is overwritten. dh1: of this rank's columns, like w.own.
void DensePkmFfn::backward_cells(Context& ctx, Tensor dh1, Tensor dh2, const Tensor& da, const Weights& w) const {
  const ArenaScope scope(ctx.scratch);
  Tensor ds1 = dh1;
  if (softmax()) {
    const Shape blocks{w.own.numel(), dh2.cols()};
    ops::weigh_backward(ctx.stream, da.view(blocks), dh1, w.cells.view(blocks), w.own, Tensor());
    ds1 = ctx.scratch.allocate(dh1.shape(), dh1.dtype(), "not wanted");
  } else {
    ops::activation_backward(ctx.stream, da, Tensor(), da, w.cells, Tensor(), keys_.options().weight);
  }
  const ProductKeys::Scores gradient = scores_of(ds1, dh2);
  ops::product_scores_backward(ctx.stream, gradient.s1, gradient.s2, da, Tensor());
}

void DensePkmFfn::backward(Context& ctx, const FfnLayer::Saved& base, Tensor dh) {
  const Saved& saved = static_cast<const Saved&>(base);
  const Tensor& x = saved.norm.normed;
  Stream& stream = ctx.stream;
  const ArenaScope scope(ctx.scratch);
  const Tensor dy = dropout_backward(ctx, dh, dropout(ctx, saved.time));
  if (tables_.value_bias != nullptr) ops::column_sum(stream, tables_.value_bias->grad, dy);
  const Halves half = halves(ctx, saved.queries);
  const auto like = [&](const Tensor& of, const char* what) {
    return ctx.scratch.allocate(of.shape(), of.dtype(), what);
  };
  Halves gradient{.h1 = like(half.h1, "half gradients 1"), .h2 = like(half.h2, "half gradients 2")};
  use_all_blocks(ctx, tables_.share, {half.h1, half.h2, dy},
                 {{.out = gradient.h1, .bias = {}, .what = "half gradients 1 of the tokens here"},
                  {.out = gradient.h2, .bias = {}, .what = "half gradients 2 of the tokens here"}},
                 [&](std::span<const Tensor> results, std::span<const Tensor> here) {
                   backward_here(ctx, {.h1 = results[0], .h2 = results[1]}, here[2], {.h1 = here[0], .h2 = here[1]});
                 });
  const auto through_softmax = [&](Tensor& dh_half, const Tensor& p) {
    const Tensor ds = like(p, "half score gradients");
    ops::fill_zero(stream, ds);
    ops::softmax_rows_backward(stream, ds, p, dh_half, Tensor(), 0);
    dh_half = ds;
  };
  if (softmax()) {
    through_softmax(gradient.h1, half.h1);
    through_softmax(gradient.h2, half.h2);
  }
  const Tensor dqueries = like(saved.queries, "dqueries in halves");
  keys_.backward_scores(ctx, dqueries, scores_of(gradient.h1, gradient.h2), saved.queries, 0, true);
  const Tensor dx = like(x, "ffn dx");
  ops::fill_zero(stream, dx);
  keys_.backward_queries(ctx, dx, dqueries, x);
  norm_.backward(ctx, dh, dx, saved.norm);
}

class DensePkm final : public FfnOptions {
 public:
  DensePkm(const BlockShape& shape, const ProductKeyOptions& keys) : shape_(shape), keys_(keys) {
    shape_.block_size = keys.half_keys2;
    shape_.per_token = keys.half_keys1;  // all, once, whatever the heads
  }
  FfnCost cost(const ModelConfig& model) const override {
    FfnCost cost = table_cost(model, shape_);
    const FfnCost keys = product_key_cost(model, keys_);
    cost.parameters += keys.parameters;
    cost.active_parameters += keys.parameters;
    cost.flops_per_token += keys.flops_per_token;
    return cost;
  }
  std::unique_ptr<FfnLayer> make(const FfnBuild& build) const override {
    return std::make_unique<DensePkmFfn>(build, shape_, keys_, cost(build.model));
  }
  const BlockShape* block_shape() const override { return &shape_; }
  TokenTrips token_trips(const ModelConfig& model, int64_t value_bytes) const override {
    const auto halves = static_cast<double>(4 * (keys_.half_keys1 + keys_.half_keys2));
    const auto y = static_cast<double>(model.d_model * value_bytes);
    const auto flops = static_cast<double>(2 * shape_.cells * model.d_model);
    return {.forward = {.bytes = {.there = halves, .back = y}, .brings = 2, .returns = 1, .flops = flops},
            .backward = {.bytes = {.there = halves + y, .back = halves}, .brings = 3, .returns = 2, .flops = 2 * flops},
            .used = shape_.per_token,
            .all = true};
  }

 private:
  BlockShape shape_;
  ProductKeyOptions keys_;
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  SparseOptions sparse = parse_sparse(reader, model, {.block_size = 1, .has_keys = false});
  ProductKeyOptions keys = parse_product_keys(reader, model, sparse.shape);
  const Weight weight =
      reader.one_of("weight", kWeightNames, Weight::kSoftmax,
                    "Weight of a cell: softmax over the chosen of its head, or a function of its score.");
  keys.softmax = weight == Weight::kSoftmax;
  keys.weight = weight == Weight::kGelu ? Activation::kGelu : Activation::kRelu;
  const bool dense = reader.optional<bool>(
      "dense_scores", false,
      "Weigh all cells by the sum of the heads' scores, as the published runs of arXiv 2310.10837 do; active_cells and "
      "expert_compute have no effect then, and parallel.expert divides the first half keys.");
  if (dense) return std::make_unique<DensePkm>(sparse.shape, keys);
  return std::make_unique<Pkm>(sparse, keys);
}

const RegisterFfn kRegistered{
    {.name = "pkm",
     .summary = "values chosen and weighed by product keys; no keys table",
     .source = "Lample et al., arXiv 1907.05242, section 3; Csordás et al., arXiv 2310.10837, section 3.2",
     .tiny_config = R"({"type": "pkm", "expansion": 2, "active_cells": 6, "heads": 2, "query_dim": 8, )"
                    R"("query_bias": true, "half_keys": [4, 16], "weight": "softmax"})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
