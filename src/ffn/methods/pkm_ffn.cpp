// Product keys choose the cells of a full feed-forward memory and weigh them (ffn/product_keys.h).
//   y = Σ_heads Σ_{i∈S_head} a_i f(x·K[i] + c[i]) V[i] + c_v,   a = f(score), or softmax over the k chosen of a head
// Choice of cells: Lample et al., arXiv 1907.05242, section 3.1; with keys and values: Liu et al., arXiv 2305.13999.
#include "ffn/product_keys.h"
#include "ffn/sparse_ffn.h"

namespace sffn {
namespace {

constexpr Named<bool> kGateNames[] = {{"act", false}, {"softmax", true}};

class PkmFfn final : public SparseMethod {
 public:
  PkmFfn(const SparseOptions& sparse, const ProductKeyOptions& keys) : SparseMethod(sparse), keys_(keys) {}

  bool weighs_blocks() const override { return true; }
  FfnCost selector_cost(const ModelConfig& model) const override { return product_key_cost(model, keys_); }
  std::unique_ptr<Selector> make_selector(const FfnBuild& build, const BlockStore&) const override {
    return std::make_unique<ProductKeySelector>(build, keys_, shape().per_token);
  }

 private:
  ProductKeyOptions keys_;
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  SparseOptions sparse = parse_sparse(reader, model, {.block_size = 1});
  ProductKeyOptions keys = parse_product_keys(reader, model, sparse.shape);
  keys.softmax = reader.one_of("gate", kGateNames, false,
                               "Weight of a cell: the activation (without its gate table) of its score, or softmax "
                               "over the chosen of its head.");
  keys.weight = sparse.shape.activation;
  return std::make_unique<PkmFfn>(sparse, keys);
}

const RegisterFfn kRegistered{
    {.name = "pkm_ffn",
     .summary = "cells of keys and values chosen and weighed by product keys",
     .source = "Lample et al., arXiv 1907.05242, section 3.1; Liu et al., arXiv 2305.13999",
     .tiny_config = R"({"type": "pkm_ffn", "expansion": 2, "active_cells": 6, "heads": 2, "query_dim": 8, )"
                    R"("activation": "gelu", "gate": "act"})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
