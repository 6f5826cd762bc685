// The sparse layers that score every cell: they choose blocks by what their cells are, and use the cells of the chosen.
//   P = x·Kᵀ,  or  P = (x·Dᵀ)·K̃ᵀ with keys of low rank
//   s_i = aggregate over block i of P (before the activation), or of h = f(P + c) (after it)
//   S = top-b(s),   y = Σ_{i∈S} Σ_{j in block i} h_j V[j] + c_v
// With a gate table h = f(x·Gᵀ) ⊙ (P + c). A 0/1 gate has no gradient, so none flows through the choice; the extra
// losses of "balance" do differentiate s, through every cell. P exists for a chunk of tokens at a time; from forward to
// backward only the chosen cells are kept, and s [N, B] where there is an extra loss.
// Legend: N tokens, D width, M cells in B blocks of G, b chosen.
#pragma once
#include "ffn/sparse_ffn.h"

#include <memory>

namespace sffn {

enum class SelectOn : uint8_t { kPreact, kPostact };

struct CellOptions {
  SparseOptions sparse;  // with shape.key_rank: low-rank keys, whose gate table is not supported
  BlockAggregate aggregator = BlockAggregate::kMean;  // of scores: mean, min, max or mean_abs
  SelectOn select_on = SelectOn::kPreact;
  BalanceOptions balance;
};

class CellMethod final : public FfnOptions {
 public:
  explicit CellMethod(const CellOptions& options) : options_(options) {}
  FfnCost cost(const ModelConfig&) const override;
  std::unique_ptr<FfnLayer> make(const FfnBuild&) const override;
  const BlockShape* block_shape() const override { return &options_.sparse.shape; }
  void resolve(Json& entry, DType dtype) const override { options_.sparse.resolve_form(entry, dtype); }

 private:
  CellOptions options_;
};

}  // namespace sffn
