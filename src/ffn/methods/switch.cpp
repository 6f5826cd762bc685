// Switch: top-b of the router's probabilities, which weigh the blocks as they are.
//   p = softmax(x·Wᵀ),  S = top-b(p),  y = Σ_{i∈S} p_i Σ_{j in block i} f(x·K[j] + c[j]) V[j] + c_v
//   loss += w·B·Σ_i frac_i·mean(p_i), frac_i = share of the choices, a constant;  loss += w_z·mean (logsumexp x·Wᵀ)²
// With a capacity factor cf a block keeps the first ⌈cf·N·b/B⌉ of its tokens within a balance group; what is beyond
// passes by on the residual stream, with no gradient from there. renormalise: weights sum to 1 over what is kept.
// dl_i = p_i (da_i - Σ_{j∈S} da_j p_j), plus the extra losses.
// Fedus, Zoph & Shazeer, arXiv 2101.03961, sections 2.1-2.2; z-loss: Zoph et al., arXiv 2202.08906, equation 5.
#include "ffn/router_selector.h"

namespace sffn {
namespace {

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model);
  RouterOptions router{.score = RouterScore::kSoftmax};
  if (reader.optional<bool>("renormalise", false,
                            "Weights are divided by their sum over the blocks that keep the token.")) {
    router.gate = Gate::kSoftmaxChosen;
  }
  router.capacity_factor =
      reader.number_or_null("capacity_factor", "dropless",
                            "A block takes capacity_factor · tokens · b / B tokens of a balance group.", kPositive);
  router.jitter = reader.optional<double>(
      "jitter", 0.0, "ε: in training the router's input is scaled by U(1 - ε, 1 + ε).", kProbability);
  const double z_loss =
      reader.optional<double>("z_loss", 0.0, "Weight of the mean squared logsumexp of the logits.", kNotNegative);
  router.balance = parse_balance(reader, BalanceType::kSwitch, true);
  router.balance.z_weight = z_loss;
  return std::make_unique<RouterMethod>(sparse, router);
}

const RegisterFfn kRegistered{
    {.name = "switch",
     .summary = "a router's most probable blocks, weighed by their probabilities",
     .source = "Fedus, Zoph & Shazeer, arXiv 2101.03961, sections 2.1-2.2",
     .tiny_config = R"({"type": "switch", "block_size": 8, "expansion": 2, "active_cells": 16, "activation": "gelu",
                        "capacity_factor": 1.25, "jitter": 0.1, "z_loss": 0.01, "balance": {"weight": 0.1}})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
