// LoRKM: memory cells with keys of low rank; the k cells that answer most.
//   P = (x·Dᵀ)·K̃ᵀ,   S = top-k(P),   y = Σ_{j∈S} f(P_j + c[j]) V[j] + c_v,   D [R, D], K̃ [M, R]
// Liu et al., arXiv 2305.13999 (LoRKM).
#include "ffn/cell_ffn.h"

namespace sffn {
namespace {

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  CellOptions options;
  options.sparse = parse_sparse(reader, model, {.block_size = 1});
  BlockShape& shape = options.sparse.shape;
  shape.key_rank = reader.optional<int64_t>("key_rank", 128, "Width of the low-rank keys.", kAtLeastOne);
  if (!reader.collecting() && shape.gated) {
    reader.fail("activation",
                "has a gate, for which keys of low rank have none; relu, gelu, gelu_erf or silu expected");
  }
  options.balance = parse_balance(reader, BalanceType::kNone, false);
  return std::make_unique<CellMethod>(options);
}

const RegisterFfn kRegistered{
    {.name = "lorkm",
     .summary = "the cells that score highest by keys of low rank; no router, no weights",
     .source = "Liu et al., arXiv 2305.13999 (LoRKM)",
     .tiny_config = R"({"type": "lorkm", "key_rank": 6, "expansion": 2, "active_cells": 8, "activation": "gelu", )"
                    R"("balance": {"type": "switch", "weight": 0.5}})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
