// BASE: one block a token. In training a balanced assignment maximises the sum of the logits, at most ⌈N/B⌉ of a
// group's N tokens a block; in evaluation each token takes its highest logit.
//   l = x·Wᵀ,  y = σ(l_i) Σ_{j in block i} f(x·K[j] + c[j]) V[j] + c_v
// The assignment is by auction, and has no gradient: dl_i = da σ(l_i) (1 - σ(l_i)). It balances by itself, so that a
// balance bias, the same for every token of a block, enters evaluation only.
// Lewis et al., arXiv 2103.16716, sections 3.1-3.2, without the published shuffle of tokens between ranks.
#include "ffn/router_selector.h"

namespace sffn {
namespace {

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model);
  if (!reader.collecting() && sparse.shape.per_token != 1) {
    reader.fail("active_cells", cat("makes ", sparse.shape.per_token, " active blocks; base assigns one block of ",
                                    sparse.shape.block_size, " cells to a token"));
  }
  RouterOptions router{.gate = Gate::kSigmoid, .assignment = Assignment::kAuction};
  router.balance = parse_balance(reader, BalanceType::kNone, true);
  return std::make_unique<RouterMethod>(sparse, router);
}

const RegisterFfn kRegistered{
    {.name = "base",
     .summary = "one block a token, by a balanced assignment in training; the logit's sigmoid weighs",
     .source = "Lewis et al., arXiv 2103.16716, sections 3.1-3.2",
     .tiny_config = R"({"type": "base", "block_size": 16, "expansion": 4, "active_cells": 16, "activation": "gelu"})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
