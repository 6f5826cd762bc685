// Hash layer: one block by the id of the input token alone; no router, no weights.
//   y = Σ_{j in block i(token)} f(x·K[j] + c[j]) V[j] + c_v,   i(token) the first place of the token's permutation
// random: what rand_hash does with one block a token. The choice is a constant.
// Roller et al., arXiv 2106.04426, section 3.
#include "ffn/hash_selector.h"

namespace sffn {
namespace {

enum class HashKind : uint8_t { kRandom };
constexpr Named<HashKind> kHashNames[] = {{"random", HashKind::kRandom}};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model);
  if (!reader.collecting() && sparse.shape.per_token != 1) {
    reader.fail("active_cells", cat("makes ", sparse.shape.per_token, " active blocks; hash_layer gives one block of ",
                                    sparse.shape.block_size, " cells to a token"));
  }
  reader.one_of("hash", kHashNames, HashKind::kRandom, "How token ids are spread over the blocks.");
  return std::make_unique<HashMethod>(sparse);
}

const RegisterFfn kRegistered{
    {.name = "hash_layer",
     .summary = "one random block, fixed for each token id",
     .source = "Roller et al., arXiv 2106.04426, section 3",
     .tiny_config =
         R"({"type": "hash_layer", "block_size": 8, "expansion": 2, "active_cells": 8, "activation": "gelu"})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
