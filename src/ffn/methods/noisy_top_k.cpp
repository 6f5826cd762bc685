// Noisy top-k gating: in training each logit gets noise whose spread is learned.
//   l = x·Wᵀ + n ⊙ softplus(x·W_nᵀ),  n ~ N(0, 1) in training, 0 in evaluation;   S = top-b(l)
//   y = Σ_{i∈S} a_i Σ_{j in block i} f(x·K[j]) V[j],  a = softmax of l over S
//   loss += w·(population variance / mean²) of the weights summed over the tokens of a group
// No biases; W_n starts at 0. dl_i = a_i (da_i - Σ_{j∈S} a_j da_j) with da holding the loss's share; through the noise
// d(x·W_nᵀ) = dl ⊙ n ⊙ σ(x·W_nᵀ). Balance losses of scores look at x·Wᵀ.
// Shazeer et al., arXiv 1701.06538, equations 3-7.
#include "ffn/router_selector.h"

namespace sffn {
namespace {

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model, {.block_size = {}, .may_have_bias = false});
  RouterOptions router{.gate = Gate::kSoftmaxChosen, .noise = true};
  router.expert_dropout = parse_expert_dropout(reader);
  router.balance = parse_balance(reader, BalanceType::kCv2, true);
  return std::make_unique<RouterMethod>(sparse, router);
}

const RegisterFfn kRegistered{
    {.name = "noisy_top_k",
     .summary = "a router's highest logits under learned noise, weighed by a softmax over the chosen",
     .source = "Shazeer et al., arXiv 1701.06538, equations 3-7",
     .tiny_config = R"({"type": "noisy_top_k", "block_size": 8, "expansion": 2, "active_cells": 16,
                        "activation": "relu", "balance": {"weight": 0.1}})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
