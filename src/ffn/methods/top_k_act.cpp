// Top-K activation: a dense FFN of which each token keeps the k largest activations, in evaluation as in training.
//   h = f(x·Kᵀ + c),   S = top-k(h), ties to the lower cell,   y = Σ_{j∈S} h_j V[j] + c_v
// With a gate table h = f(x·Gᵀ) ⊙ (x·Kᵀ + c).
// Csordás et al., arXiv 2310.10837, section 3.1.
#include "ffn/cell_ffn.h"

namespace sffn {
namespace {

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  CellOptions options;
  options.sparse = parse_sparse(reader, model, {.block_size = 1});
  options.select_on = SelectOn::kPostact;
  options.balance = parse_balance(reader, BalanceType::kNone, false);
  return std::make_unique<CellMethod>(options);
}

const RegisterFfn kRegistered{{.name = "top_k_act",
                               .summary = "a dense layer that keeps the largest activations of each token",
                               .source = "Csordás et al., arXiv 2310.10837, section 3.1",
                               .tiny_config =
                                   R"({"type": "top_k_act", "expansion": 2, "active_cells": 8, "activation": "geglu", )"
                                   R"("balance": {"type": "entropy", "weight": 0.5}})",
                               .parse = parse}};

}  // namespace
}  // namespace sffn
