// S-BASE: in training the blocks are chosen by logits that Sinkhorn's iterations balance over the tokens of a group; in
// evaluation by the logits. Either way σ(l) weighs.
//   l = x·Wᵀ,  S = top-b(sinkhorn(l)),  y = Σ_{i∈S} σ(l_i) Σ_{j in block i} f(x·K[j]) V[j]
//   loss += γ Σ_e p_e log p_e,  p = mean of softmax(l) over a group
// "as_published" balances each sequence, with the sign that the authors' code gives the duals. No gradient flows
// through Sinkhorn. No biases. dl_i = da_i σ(l_i) (1 - σ(l_i)) on the chosen, plus the entropy's gradient. Clark et
// al., arXiv 2202.01169; as a baseline: Csordás, Irie & Schmidhuber, arXiv 2310.10837, section 4.
#include "ffn/router_selector.h"

namespace sffn {
namespace {

constexpr Named<Sinkhorn> kSinkhornNames[] = {{"textbook", Sinkhorn::kTextbook},
                                              {"as_published", Sinkhorn::kAsPublished}};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model, {.block_size = {}, .may_have_bias = false});
  RouterOptions router{.gate = Gate::kSigmoid, .assignment = Assignment::kSinkhorn};
  router.sinkhorn = reader.one_of("sinkhorn", kSinkhornNames, Sinkhorn::kTextbook,
                                  "Signs of the duals and the tokens they balance: a balance group, or (as_published) "
                                  "each sequence.");
  router.sinkhorn_iterations =
      reader.optional<int64_t>("sinkhorn_iterations", 3, "Iterations over both duals.", kAtLeastOne);
  router.expert_dropout = parse_expert_dropout(reader);
  router.balance = parse_balance(reader, BalanceType::kEntropy, true);
  return std::make_unique<RouterMethod>(sparse, router);
}

const RegisterFfn kRegistered{
    {.name = "s_base",
     .summary = "logits balanced by Sinkhorn choose in training; their sigmoids weigh",
     .source = "Clark et al., arXiv 2202.01169; Csordás et al., arXiv 2310.10837, section 4",
     .tiny_config = R"({"type": "s_base", "block_size": 8, "expansion": 2, "active_cells": 16, "activation": "relu",
                        "expert_dropout": 0.1, "balance": {"weight": 0.1, "group": "sequence"}})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
