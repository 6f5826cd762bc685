// RandHash: b blocks by the id of the input token alone, whatever its context; no router, no weights.
//   S(token) = the first b places of a permutation of the blocks keyed by (seed, layer, token),
//   y = Σ_{i∈S} Σ_{j in block i} f(x·K[j] + c[j]) V[j] + c_v
// The choice is a constant: all gradient is that of the block product.
// Roller et al., arXiv 2106.04426, section 3.2, with several blocks a token; Liu et al., arXiv 2305.13999.
#include "ffn/hash_selector.h"

namespace sffn {
namespace {

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  return std::make_unique<HashMethod>(parse_sparse(reader, model));
}

const RegisterFfn kRegistered{
    {.name = "rand_hash",
     .summary = "random blocks, fixed for each token id",
     .source = "Roller et al., arXiv 2106.04426, section 3.2; Liu et al., arXiv 2305.13999",
     .tiny_config =
         R"({"type": "rand_hash", "block_size": 4, "expansion": 2, "active_cells": 8, "activation": "gelu"})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
