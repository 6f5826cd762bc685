#include "ffn/product_keys.h"

#include "ffn/block_scores.h"
#include "kernels/ops.h"
#include "nn/init.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

namespace sffn {
namespace {

constexpr Named<bool> kQueryNames[] = {{"linear", true}, {"none", false}};

// "half_keys", or the square root of the cells.
void read_half_keys(ConfigReader& reader, ProductKeyOptions& options, int64_t cells) {
  const auto given = reader.two_integers("half_keys", "√cells each", "Half keys [C1, C2]; C1·C2 cells.", kAtLeastOne);
  if (reader.collecting()) return;
  if (given) {
    std::tie(options.half_keys1, options.half_keys2) = *given;
    if (cells % given->first != 0 || cells / given->first != given->second) {
      reader.fail("half_keys", cat("is [", given->first, ", ", given->second, "]; a product of ", cells,
                                   ", the cells, is expected"));
    }
  } else {
    const auto root = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(cells))));
    if (root * root != cells) {
      reader.fail("half_keys", cat("is missing, and ", cells, " cells are no square; [C1, C2] with C1·C2 = ", cells,
                                   " is expected"));
    }
    options.half_keys1 = options.half_keys2 = root;
  }
  reader.resolve("half_keys", Json::Array{options.half_keys1, options.half_keys2});
}

void read_query(ConfigReader& reader, ProductKeyOptions& options, int64_t d) {
  options.query = reader.one_of("query", kQueryNames, true,
                                "Query of the heads: x·Wqᵀ, or x itself for each, cut into two halves.");
  options.query_bias = reader.optional<bool>("query_bias", false, "Bias of the query.");
  const auto given = reader.derived<int64_t>("query_dim", "d_model / 2, made even; d_model with query none",
                                             "Width of the query of one head, q; even.", kAtLeastOne);
  if (reader.collecting()) return;
  options.query_dim = given.value_or(options.query ? std::max<int64_t>(2, d / 4 * 2) : d);
  if (!options.query && options.query_bias) reader.fail("query_bias", "is true; with query none there is no bias");
  if (!options.query && options.query_dim != d) {
    reader.fail("query_dim", cat("is ", options.query_dim, "; with query none it is d_model, ", d));
  }
  if (options.query_dim % 2 != 0) {
    reader.fail("query_dim", cat("is ", options.query_dim, "; an even number is expected, for two halves"));
  }
  reader.resolve("query_dim", options.query_dim);
}

// `t` in the dtype of the products: itself, or a copy in scratch.
Tensor as_factor(Context& ctx, const Tensor& t, DType act) {
  if (t.dtype() == act) return t;
  const Tensor copy = ctx.scratch.allocate(t.shape(), act, "half score gradients");
  ops::copy(ctx.stream, copy, t);
  return copy;
}

// Matrix `i` of a tensor of rank 3.
Tensor matrix(const Tensor& t, int64_t i) { return t.slice(i, 1).view({t.shape()[1], t.shape()[2]}); }

}  // namespace

ProductKeyOptions parse_product_keys(ConfigReader& reader, const ModelConfig& model, BlockShape& shape) {
  ProductKeyOptions options;
  options.heads = reader.optional<int64_t>("heads", 1, "Heads; each chooses active_cells cells.", kAtLeastOne);
  read_query(reader, options, model.d_model);
  read_half_keys(reader, options, shape.cells);
  shape.per_token *= options.heads;
  return options;
}

FfnCost product_key_cost(const ModelConfig& model, const ProductKeyOptions& options) {
  const int64_t d = model.d_model, q = options.query_dim, halves = options.half_keys1 + options.half_keys2;
  FfnCost cost;
  cost.parameters = options.heads * halves * (q / 2);
  int64_t flops = options.heads * (halves * q + options.half_keys1 * options.half_keys2);
  if (options.query) {
    cost.parameters += options.heads * q * (d + (options.query_bias ? 1 : 0));
    flops += options.heads * 2 * d * q;
  }
  cost.active_parameters = cost.parameters;
  cost.flops_per_token = static_cast<double>(flops);
  return cost;
}

ProductKeys::ProductKeys(const FfnBuild& build, const ProductKeyOptions& options) : options_(options) {
  const int64_t H = options.heads, q = options.query_dim, d = build.model.d_model;
  const std::string name = cat("layers.", build.layer, ".ffn.");
  if (options.query) {
    query_.emplace(build.params, name + "query",
                   Linear::Options{H * q, d, matrix_init(build.model, d), options.query_bias});
  }
  const auto add = [&](const char* half, int64_t count) {
    return &build.params.add(
        {.name = name + half, .shape = {H, count, q / 2}, .init = matrix_init(build.model, q / 2)});
  };
  half_keys_[0] = add("half_keys.0", options.half_keys1);
  half_keys_[1] = add("half_keys.1", options.half_keys2);
}

int64_t ProductKeys::chunk(int64_t tokens, DType dtype) const {
  return score_chunk(tokens, options_.heads * (options_.half_keys1 + options_.half_keys2), dtype);
}

Tensor ProductKeys::queries(Context& ctx, const Tensor& x) const {
  const int64_t N = x.rows(), H = query_heads(), q = options_.query_dim;
  const Tensor halves = ctx.saved.allocate({2 * H, N, q / 2}, x.dtype(), "product key queries");
  const ArenaScope scope(ctx.scratch);
  Tensor whole = x;
  if (query_) {
    whole = ctx.scratch.allocate({N, H * q}, x.dtype(), "queries of all heads");
    query_->forward(ctx, whole, x);
  }
  ops::split_columns(ctx.stream, halves, whole);
  return halves;
}

Tensor ProductKeys::query_rows(const Tensor& queries, int64_t head, int64_t half, int64_t first, int64_t count) const {
  return matrix(queries, 2 * (query_ ? head : 0) + half).slice(first, count);
}

ProductKeys::Scores ProductKeys::scores(Context& ctx, const Tensor& queries, int64_t first, int64_t count,
                                        bool summed) const {
  const int64_t H = options_.heads, rows = summed ? 1 : H;
  const DType acc = accumulate_type(queries.dtype());
  const Scores scores{.s1 = ctx.scratch.allocate({rows, count, options_.half_keys1}, acc, "half scores 1"),
                      .s2 = ctx.scratch.allocate({rows, count, options_.half_keys2}, acc, "half scores 2")};
  for (int64_t h = 0; h < H; ++h) {
    const Accumulate accumulate = summed && h > 0 ? Accumulate::kYes : Accumulate::kNo;
    for (const int64_t half : {0, 1}) {
      ops::matmul(ctx.stream, matrix(half == 0 ? scores.s1 : scores.s2, summed ? 0 : h),
                  query_rows(queries, h, half, first, count), Transpose::kNo, matrix(half_keys_[half]->value, h),
                  Transpose::kYes, Tensor(), accumulate);
    }
  }
  return scores;
}

void ProductKeys::backward_scores(Context& ctx, Tensor dqueries, const Scores& dscores, const Tensor& queries,
                                  int64_t first, bool summed) const {
  const ArenaScope scope(ctx.scratch);
  const int64_t count = dscores.s1.shape()[1];
  for (const int64_t half : {0, 1}) {
    const Tensor ds = as_factor(ctx, half == 0 ? dscores.s1 : dscores.s2, queries.dtype());
    for (int64_t h = 0; h < options_.heads; ++h) {
      // s = q·Cᵀ; without a query all heads share q
      const Tensor ds_h = matrix(ds, summed ? 0 : h);
      const Accumulate accumulate = !query_ && h > 0 ? Accumulate::kYes : Accumulate::kNo;
      ops::matmul(ctx.stream, query_rows(dqueries, h, half, first, count), ds_h, Transpose::kNo,
                  matrix(half_keys_[half]->value, h), Transpose::kNo, Tensor(), accumulate);
      ops::matmul(ctx.stream, matrix(half_keys_[half]->grad, h), ds_h, Transpose::kYes,
                  query_rows(queries, h, half, first, count), Transpose::kNo, Tensor(), Accumulate::kYes);
    }
  }
}

void ProductKeys::backward_queries(Context& ctx, Tensor dx, const Tensor& dqueries, const Tensor& x) const {
  if (!query_) {
    ops::join_columns(ctx.stream, dx, dqueries, Accumulate::kYes);
    return;
  }
  const ArenaScope scope(ctx.scratch);
  const Tensor dwhole = ctx.scratch.allocate({x.rows(), options_.heads * options_.query_dim}, x.dtype(), "dqueries");
  ops::join_columns(ctx.stream, dwhole, dqueries, Accumulate::kNo);
  query_->backward(ctx, dx, dwhole, x, Accumulate::kYes);
}

Selection ProductKeySelector::select(Context& ctx, const SelectorInput& in,
                                     std::unique_ptr<Selector::Saved>& out_saved) {
  auto saved = std::make_unique<Saved>();
  const int64_t N = in.x.rows(), H = keys_.options().heads, chunk = keys_.chunk(N, in.x.dtype());
  const DType acc = accumulate_type(in.x.dtype());
  const Tensor cells = ctx.saved.allocate({N, per_token_}, DType::kI32, "chosen cells");
  const Tensor weights = ctx.saved.allocate({N, per_token_}, acc, "weights of cells");
  const bool softmax = keys_.options().softmax;
  Tensor scores = weights;  // the softmax is made in place
  if (!softmax) scores = saved->scores = ctx.saved.allocate({N, per_token_}, acc, "scores of chosen cells");
  saved->queries = keys_.queries(ctx, in.x);
  for (int64_t first = 0; first < N; first += chunk) {
    const ArenaScope scope(ctx.scratch);
    const int64_t count = std::min(chunk, N - first);
    const ProductKeys::Scores half = keys_.scores(ctx, saved->queries, first, count, false);
    ops::product_top_k(ctx.stream, cells.slice(first, count), in.nans, half.s1, half.s2);
    ops::product_scores_forward(ctx.stream, scores.slice(first, count), half.s1, half.s2, cells.slice(first, count));
  }
  if (softmax) {
    const Tensor rows = weights.view({N * H, per_token_ / H});
    ops::softmax_rows_forward(ctx.stream, rows, Tensor(), rows);
  } else {
    ops::activation_forward(ctx.stream, weights, scores, Tensor(), keys_.options().weight);
  }
  out_saved = std::move(saved);
  return {.blocks = cells, .kept = cells, .weights = weights};
}

void ProductKeySelector::backward(Context& ctx, const Selector::Saved& base, const SelectorInput& in,
                                  const Selection& chosen, const Tensor& dweights, Tensor dx) {
  const Saved& saved = static_cast<const Saved&>(base);
  const ProductKeyOptions& options = keys_.options();
  const int64_t N = in.x.rows(), H = options.heads, k = per_token_ / H, chunk = keys_.chunk(N, in.x.dtype());
  const DType acc = dweights.dtype();
  const ArenaScope scope(ctx.scratch);
  const Tensor dscores = ctx.scratch.allocate({N, per_token_}, acc, "gradients of scores of cells");
  if (options.softmax) {
    ops::fill_zero(ctx.stream, dscores);
    const Shape rows{N * H, k};
    ops::softmax_rows_backward(ctx.stream, dscores.view(rows), chosen.weights.view(rows), dweights.view(rows), Tensor(),
                               0);
  } else {
    ops::activation_backward(ctx.stream, dscores, Tensor(), dweights, saved.scores, Tensor(), options.weight);
  }

  // score = s1[i1] + s2[i2]
  const Tensor dqueries = ctx.scratch.allocate(saved.queries.shape(), saved.queries.dtype(), "dqueries in halves");
  for (int64_t first = 0; first < N; first += chunk) {
    const ArenaScope of_chunk(ctx.scratch);
    const int64_t count = std::min(chunk, N - first);
    const ProductKeys::Scores dhalf{
        .s1 = ctx.scratch.allocate({H, count, options.half_keys1}, acc, "half score gradients 1"),
        .s2 = ctx.scratch.allocate({H, count, options.half_keys2}, acc, "half score gradients 2")};
    ops::product_scores_backward(ctx.stream, dhalf.s1, dhalf.s2, dscores.slice(first, count),
                                 chosen.kept.slice(first, count));
    keys_.backward_scores(ctx, dqueries, dhalf, saved.queries, first, false);
  }
  keys_.backward_queries(ctx, dx, dqueries, in.x);
}

}  // namespace sffn
