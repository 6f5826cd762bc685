// Softmax baseline of σ-MoE: top-b of the logits l = x·Wᵀ, weighed by a softmax over the b chosen logits ("after" the
// choice, Mixtral's order) or over all B of them ("before", not renormalised).
//   y = Σ_{i∈S} a_i Σ_{j in block i} f(x·K[j]) V[j];   loss += γ Σ_e p_e log p_e,  p = mean of softmax(l) over a group
// No biases. dl_i = a_i (da_i - Σ_{j∈S} a_j da_j), on the chosen (after) or on all, with da = 0 there (before).
// Csordás, Irie & Schmidhuber, arXiv 2310.10837, sections 4 and 6.
#include "ffn/router_selector.h"

namespace sffn {
namespace {

constexpr Named<Gate> kSoftmaxNames[] = {{"after", Gate::kSoftmaxChosen}, {"before", Gate::kSoftmax}};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model, {.block_size = {}, .may_have_bias = false});
  RouterOptions router;
  router.gate = reader.one_of("softmax", kSoftmaxNames, Gate::kSoftmaxChosen,
                              "Softmax after the choice, over the chosen; or before it, over all blocks.");
  router.expert_dropout = parse_expert_dropout(reader);
  router.balance = parse_balance(reader, BalanceType::kEntropy, true);
  return std::make_unique<RouterMethod>(sparse, router);
}

const RegisterFfn kRegistered{
    {.name = "softmax_moe",
     .summary = "a router's highest logits, weighed by a softmax over the chosen or over all",
     .source = "Csordás, Irie & Schmidhuber, arXiv 2310.10837, sections 4 and 6",
     .tiny_config = R"({"type": "softmax_moe", "block_size": 8, "expansion": 2, "active_cells": 16,
                        "activation": "relu", "softmax": "after", "expert_dropout": 0.1, "balance": {"weight": 0.1}})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
