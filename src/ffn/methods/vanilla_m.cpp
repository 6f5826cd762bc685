// VanillaM: the b blocks whose cells answer the token most, every cell being asked.
//   P = x·Kᵀ,   s_i = mean (min, max, mean of |·|) of P, or of f(P + c), over block i,   S = top-b(s),
//   y = Σ_{i∈S} Σ_{j in block i} f(P_j + c[j]) V[j] + c_v
// With the mean of P it chooses what Avg-K chooses. With a gate table the cell after the activation is
// f(x·Gᵀ) ⊙ (P + c).
// Liu et al., arXiv 2305.13999 (VanillaM).
#include "ffn/cell_ffn.h"

namespace sffn {
namespace {

constexpr Named<BlockAggregate> kAggregatorNames[] = {{"mean", BlockAggregate::kMean},
                                                      {"min", BlockAggregate::kMin},
                                                      {"max", BlockAggregate::kMax},
                                                      {"mean_abs", BlockAggregate::kMeanAbs}};
constexpr Named<SelectOn> kSelectOnNames[] = {{"preact", SelectOn::kPreact}, {"postact", SelectOn::kPostact}};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  CellOptions options;
  options.sparse = parse_sparse(reader, model);
  options.aggregator = reader.one_of("aggregator", kAggregatorNames, BlockAggregate::kMean,
                                     "What of its cells' scores is the score of a block.");
  options.select_on = reader.one_of("select_on", kSelectOnNames, SelectOn::kPreact,
                                    "Score of a cell: x·k before bias and activation, or its value after them.");
  options.balance = parse_balance(reader, BalanceType::kNone, false);
  return std::make_unique<CellMethod>(options);
}

const RegisterFfn kRegistered{
    {.name = "vanilla_m",
     .summary = "the blocks whose cells score highest, all cells being computed; no router, no weights",
     .source = "Liu et al., arXiv 2305.13999 (VanillaM)",
     .tiny_config =
         R"({"type": "vanilla_m", "block_size": 4, "expansion": 2, "active_cells": 8, "activation": "gelu", )"
         R"("select_on": "postact", "aggregator": "mean_abs", )"
         R"("balance": {"type": "switch", "weight": 0.5}})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
