// Product-key memory: values alone, chosen and weighed by the scores of product keys (ffn/product_keys.h).
//   y = Σ_heads Σ_{i∈S_head} a_i V[i] + c_v,   a = softmax over the k chosen of a head, or f(score)
// With dense_scores all M cells of a token are weighed once, by the sum of the heads' scores:
//   y = Σ_i a_i V[i] + c_v,   a = softmax over all M, or f, of Σ_heads score_i
// as in the published runs of arXiv 2310.10837, whose heads take at least as many half keys as there are.
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
  // Of a chunk of tokens, in scratch.
  struct Weights {
    Tensor scores, a;  // [n, M] acc; the same memory for softmax
    Tensor factor;     // a in the dtype of products
  };
  Weights weigh(Context&, const Tensor& queries, int64_t first, int64_t count) const;
  void backward_chunk(Context&, Tensor dqueries, const Tensor& dy, const Tensor& queries, int64_t first) const;
  int64_t chunk(int64_t tokens, DType dtype) const { return score_chunk(tokens, cells_, dtype); }
  Dropout dropout(const Context& ctx, int64_t time) const {
    return site_dropout(ctx, dropout_probability_, RandomSite::kFfnDropout, layer_, time * d_model_);
  }

  FfnCost cost_;
  double dropout_probability_;
  int64_t layer_, d_model_, cells_;
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
      cells_(shape.cells),
      norm_(build.params, cat("layers.", layer_, ".ffn_norm"), d_model_, build.model.norm, build.model.norm_eps),
      tables_(BlockStore::add(build, shape)),
      keys_(build, keys) {}

DensePkmFfn::Weights DensePkmFfn::weigh(Context& ctx, const Tensor& queries, int64_t first, int64_t count) const {
  Stream& stream = ctx.stream;
  const DType act = queries.dtype(), acc = accumulate_type(act);
  const ProductKeys::Scores half = keys_.scores(ctx, queries, first, count, true);
  Weights w;
  w.scores = w.a = ctx.scratch.allocate({count, cells_}, acc, "scores of all cells");
  ops::product_scores_forward(stream, w.scores, half.s1, half.s2, Tensor());
  if (keys_.options().softmax) {
    ops::softmax_rows_forward(stream, w.a, Tensor(), w.scores);
  } else {
    w.a = ctx.scratch.allocate({count, cells_}, acc, "weights of all cells");
    ops::activation_forward(stream, w.a, w.scores, Tensor(), keys_.options().weight);
  }
  w.factor = w.a;
  if (act != acc) {
    w.factor = ctx.scratch.allocate({count, cells_}, act, "rounded weights");
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
  const int64_t N = x.rows(), tokens = chunk(N, x.dtype());
  for (int64_t first = 0; first < N; first += tokens) {
    const ArenaScope scope(ctx.scratch);
    const int64_t count = std::min(tokens, N - first);
    const Weights w = weigh(ctx, saved->queries, first, count);
    ops::matmul(ctx.stream, y.slice(first, count), w.factor, Transpose::kNo, tables_.values->value, Transpose::kNo,
                value_of(tables_.value_bias), Accumulate::kNo);
  }
  const Dropout dropped = dropout(ctx, in.time);
  if (dropped.probability > 0) ops::dropout(ctx.stream, y, dropped);
  out_saved = std::move(saved);
  return {sum, y};
}

void DensePkmFfn::backward_chunk(Context& ctx, Tensor dqueries, const Tensor& dy, const Tensor& queries,
                                 int64_t first) const {
  const ArenaScope scope(ctx.scratch);
  Stream& stream = ctx.stream;
  const int64_t count = dy.rows();
  const Weights w = weigh(ctx, queries, first, count);
  const DType acc = w.a.dtype();

  // y = a·V
  const Tensor da = ctx.scratch.allocate(w.a.shape(), acc, "gradients of weights");
  ops::matmul(stream, tables_.values->grad, w.factor, Transpose::kYes, dy, Transpose::kNo, Tensor(), Accumulate::kYes);
  ops::matmul(stream, da, dy, Transpose::kNo, tables_.values->value, Transpose::kYes, Tensor(), Accumulate::kNo);

  // a = f(score)
  Tensor dscores = da;
  if (keys_.options().softmax) {
    dscores = ctx.scratch.allocate(w.a.shape(), acc, "gradients of scores");
    ops::fill_zero(stream, dscores);
    ops::softmax_rows_backward(stream, dscores, w.a, da, Tensor(), 0);
  } else {
    ops::activation_backward(stream, dscores, Tensor(), da, w.scores, Tensor(), keys_.options().weight);
  }

  // score = s1[i1] + s2[i2]
  const ProductKeys::Scores dhalf{
      .s1 = ctx.scratch.allocate({1, count, keys_.options().half_keys1}, acc, "half score gradients 1"),
      .s2 = ctx.scratch.allocate({1, count, keys_.options().half_keys2}, acc, "half score gradients 2")};
  ops::product_scores_backward(stream, dhalf.s1, dhalf.s2, dscores, Tensor());
  keys_.backward_scores(ctx, dqueries, dhalf, queries, first, true);
}

void DensePkmFfn::backward(Context& ctx, const FfnLayer::Saved& base, Tensor dh) {
  const Saved& saved = static_cast<const Saved&>(base);
  const Tensor& x = saved.norm.normed;
  const ArenaScope scope(ctx.scratch);
  const Tensor dy = dropout_backward(ctx, dh, dropout(ctx, saved.time));
  if (tables_.value_bias != nullptr) ops::column_sum(ctx.stream, tables_.value_bias->grad, dy);
  const Tensor dqueries = ctx.scratch.allocate(saved.queries.shape(), saved.queries.dtype(), "dqueries in halves");
  const int64_t N = x.rows(), tokens = chunk(N, x.dtype());
  for (int64_t first = 0; first < N; first += tokens) {
    backward_chunk(ctx, dqueries, dy.slice(first, std::min(tokens, N - first)), saved.queries, first);
  }
  const Tensor dx = ctx.scratch.allocate(x.shape(), x.dtype(), "ffn dx");
  ops::fill_zero(ctx.stream, dx);
  keys_.backward_queries(ctx, dx, dqueries, x);
  norm_.backward(ctx, dh, dx, saved.norm);
}

class DensePkm final : public FfnOptions {
 public:
  DensePkm(const BlockShape& shape, const ProductKeyOptions& keys) : shape_(shape), keys_(keys) {
    shape_.per_token = shape_.cells;  // once, whatever the heads
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
      "expert_compute have no effect then.");
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
