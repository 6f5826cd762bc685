// σ-MoE: blocks that do not compete, each weighed by its own sigmoid.
//   s = σ(x·Wᵀ),  S = top-b(s),  y = Σ_{i∈S} s_i Σ_{j in block i} f(x·K[j]) V[j]
//   loss += γ Σ_e p_e log p_e,  p = mean of softmax(x·Wᵀ) over a balance group
// Expert dropout zeroes scores before the choice. No biases. dl_i = da_i s_i (1 - s_i) on the chosen, plus
// (γ/N) q_e (log p_e - Σ_j q_j log p_j) on all, q = softmax(x·Wᵀ).
// Csordás, Irie & Schmidhuber, arXiv 2310.10837, section 5.
#include "ffn/router_selector.h"

namespace sffn {
namespace {

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model, {.block_size = {}, .may_have_bias = false});
  RouterOptions router{.gate = Gate::kSigmoid, .score = RouterScore::kSigmoid};
  router.expert_dropout = parse_expert_dropout(reader);
  router.balance = parse_balance(reader, BalanceType::kEntropy, true);
  return std::make_unique<RouterMethod>(sparse, router);
}

const RegisterFfn kRegistered{
    {.name = "sigma_moe",
     .summary = "a router's highest sigmoids, which weigh their blocks",
     .source = "Csordás, Irie & Schmidhuber, arXiv 2310.10837, section 5",
     .tiny_config = R"({"type": "sigma_moe", "block_size": 8, "expansion": 2, "active_cells": 16, "activation": "relu",
                        "expert_dropout": 0.1, "balance": {"weight": 0.1}})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
