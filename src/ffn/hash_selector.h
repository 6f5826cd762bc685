// Blocks by a fixed hash of the token's id: b distinct ones from a keyed permutation of the B blocks, another for every
// layer and id. Nothing is learned, weighed or kept; the seed of the run, which checkpoints hold, is the key.
#pragma once
#include "ffn/sparse_ffn.h"

namespace sffn {

class HashSelector final : public Selector {
 public:
  HashSelector(int64_t layer, const BlockShape& shape)
      : layer_(layer), blocks_(shape.blocks()), per_token_(shape.per_token) {}
  Selection select(Context&, const SelectorInput&, std::unique_ptr<Saved>&) override;
  void backward(Context&, const Saved&, const SelectorInput&, const Selection&, const Tensor&, Tensor) override {}

 private:
  int64_t layer_, blocks_, per_token_;
};

class HashMethod : public SparseMethod {
 public:
  explicit HashMethod(const SparseOptions& sparse) : SparseMethod(sparse) {}
  FfnCost selector_cost(const ModelConfig&) const override { return {}; }
  std::unique_ptr<Selector> make_selector(const FfnBuild& build, const BlockStore&) const override {
    return std::make_unique<HashSelector>(build.layer, shape());
  }
};

}  // namespace sffn
