// Product keys: M = C1·C2 cells whose keys are pairs of half keys. Of H heads each has a query of two halves (q1, q2):
//   s1 = q1·C1ᵀ,  s2 = q2·C2ᵀ,   score of cell i1·C2 + i2 = s1[i1] + s2[i2]
// so that the k best of M cells are found by C1 + C2 products. The query is x·Wqᵀ (+ b), or x itself for every head.
// Lample et al., arXiv 1907.05242, section 3.1; without a query: Csordás et al., arXiv 2310.10837, section 3.2.
// Legend: N tokens, D width, H heads, q query width of a head, C1 and C2 half keys, k cells of a head.
#pragma once
#include "ffn/registry.h"
#include "ffn/selector.h"
#include "ffn/sparse_ffn.h"
#include "nn/linear.h"

#include <cstdint>
#include <memory>
#include <optional>

namespace sffn {

struct ProductKeyOptions {
  int64_t heads = 1, query_dim = 0;        // H, q
  int64_t half_keys1 = 0, half_keys2 = 0;  // C1, C2
  bool query = true, query_bias = false;
  bool softmax = true;                    // weights: softmax over the k chosen of a head,
  Activation weight = Activation::kRelu;  // or this function of the score
};

// The keys query, query_bias, query_dim, heads and half_keys; the choices of a token in `shape` become those of all
// heads. The form of the weights is left to the caller. Throws UsageError.
ProductKeyOptions parse_product_keys(ConfigReader&, const ModelConfig&, BlockShape& shape);

// Parameters of queries and half keys, and FLOPs of choosing: H·(2d·q + (C1 + C2)·q + M), no 2d·q without a query.
FfnCost product_key_cost(const ModelConfig&, const ProductKeyOptions&);

class ProductKeys {
 public:
  // Half scores of a chunk of tokens, in scratch.
  struct Scores {
    Tensor s1, s2;  // [H, n, C1] and [H, n, C2] acc
  };
  // Registers layers.LAYER.ffn.query.weight (and .bias) and .half_keys.0, .half_keys.1.
  ProductKeys(const FfnBuild&, const ProductKeyOptions&);

  const ProductKeyOptions& options() const { return options_; }
  int64_t chunk(int64_t tokens, DType) const;  // tokens whose half scores are in scratch at once

  // The halves of the queries, [2H, N, q/2] act in ctx.saved: q1 of head 0, q2 of head 0, q1 of head 1, …; of one head
  // without a query.
  Tensor queries(Context&, const Tensor& x) const;
  // For tokens [first, first + count). Summed: over heads, H = 1.
  Scores scores(Context&, const Tensor& queries, int64_t first, int64_t count, bool summed) const;
  // The gradient of scores(): dqueries, like queries, of these tokens is overwritten; half keys accumulate.
  void backward_scores(Context&, Tensor dqueries, const Scores& dscores, const Tensor& queries, int64_t first,
                       bool summed) const;
  // dx += gradient through queries()
  void backward_queries(Context&, Tensor dx, const Tensor& dqueries, const Tensor& x) const;

 private:
  int64_t query_heads() const { return options_.query ? options_.heads : 1; }
  // Half `half` of the query of a head, of tokens [first, first + count): [count, q/2].
  Tensor query_rows(const Tensor& queries, int64_t head, int64_t half, int64_t first, int64_t count) const;

  ProductKeyOptions options_;
  std::optional<Linear> query_;
  Param* half_keys_[2];
};

// Chooses k cells for each head and weighs them by their scores: blocks of one cell, H·k a token, ascending within a
// head; heads may choose the same cell.
class ProductKeySelector final : public Selector {
 public:
  ProductKeySelector(const FfnBuild& build, const ProductKeyOptions& options, int64_t per_token)
      : keys_(build, options), per_token_(per_token) {}
  Selection select(Context& ctx, const SelectorInput& in, std::unique_ptr<Selector::Saved>& out_saved) override;
  void backward(Context& ctx, const Selector::Saved& saved, const SelectorInput& in, const Selection& chosen,
                const Tensor& dweights, Tensor dx) override;

 private:
  struct Saved final : Selector::Saved {
    Tensor queries;  // [2H, N, q/2] act
    Tensor scores;   // [N, H·k] acc: of the chosen; absent with softmax, whose gradient takes the weights
  };

  ProductKeys keys_;
  int64_t per_token_;  // H·k
};

}  // namespace sffn
