// Hash layer: one block by the id of the input token alone; no router, no weights.
//   y = Σ_{j in block i(token)} f(x·K[j] + c[j]) V[j] + c_v
//   random:    i(token) is the first place of the token's keyed permutation: rand_hash with one block a token
//   balanced:  i = hash_blocks[token], where ids were dealt out, the most frequent first, each to the block with the
//              fewest tokens of the training data so far
// The choice is a constant, so nothing but the tables has a gradient.
// Roller et al., arXiv 2106.04426, section 3 ("Balanced assignment": greedily, the most frequent to the emptiest).
#include "ffn/hash_selector.h"
#include "kernels/ops.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <queue>
#include <tuple>

namespace sffn {
namespace {

enum class HashKind : uint8_t { kRandom, kBalanced };
constexpr Named<HashKind> kHashNames[] = {{"random", HashKind::kRandom}, {"balanced", HashKind::kBalanced}};

// The block of each of `vocab_size` ids. Ids of equal count go by the lower id; blocks of equal load by the fewer ids,
// so that ids which were never seen are spread as well, then by the lower block.
std::vector<int32_t> deal_out(std::vector<double> counts, int64_t vocab_size, int64_t blocks) {
  counts.resize(static_cast<size_t>(vocab_size));
  std::vector<int32_t> ids(counts.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return counts[a] > counts[b]; });
  using Block = std::tuple<double, int64_t, int32_t>;  // load, ids, block
  std::priority_queue<Block, std::vector<Block>, std::greater<>> emptiest;
  for (int32_t i = 0; i < blocks; ++i) emptiest.emplace(0, 0, i);
  std::vector<int32_t> block_of(counts.size());
  for (const int32_t id : ids) {
    const auto [load, members, block] = emptiest.top();
    emptiest.pop();
    block_of[id] = block;
    emptiest.emplace(load + counts[id], members + 1, block);
  }
  return block_of;
}

class BalancedSelector final : public Selector {
 public:
  // Errors name `place`, where the configuration asks for it.
  BalancedSelector(const FfnBuild& build, int64_t blocks, std::string place)
      : blocks_(blocks),
        place_(std::move(place)),
        table_(&build.params.add_state({.name = cat("layers.", build.layer, ".ffn.hash_blocks"),
                                        .shape = {build.model.vocab_size},
                                        .kind = StateSpec::Kind::kIndices,
                                        .saved = true})) {}

  Selection select(Context& ctx, const SelectorInput& in, std::unique_ptr<Saved>& saved) override {
    saved = std::make_unique<Saved>();
    const int64_t N = in.x.rows();
    const Tensor blocks = ctx.saved.allocate({N, 1}, DType::kI32, "chosen blocks");
    ops::lookup_blocks(ctx.stream, blocks.view({N}), in.token_ids, table_->value);
    return {.blocks = blocks, .kept = blocks, .weights = {}};
  }
  void backward(Context&, const Saved&, const SelectorInput&, const Selection&, const Tensor&, Tensor) override {}

  void initialise_state(Stream& stream, const TokenCounts& token_counts) override {
    const std::vector<double> counts = token_counts();
    if (counts.empty()) {
      throw UsageError(place_,
                       "balanced needs to know how often each token stands in the training data, and there is "
                       "no manifest.json beside every shard of data.train; `sffn prepare` writes it");
    }
    const std::vector<int32_t> block_of = deal_out(counts, table_->value.numel(), blocks_);
    stream.copy_to_device(table_->value, block_of.data());
    stream.synchronize();
  }

 private:
  int64_t blocks_;
  std::string place_;
  State* table_;
};

class HashLayer final : public HashMethod {
 public:
  HashLayer(const SparseOptions& sparse, HashKind kind, std::string place)
      : HashMethod(sparse), kind_(kind), place_(std::move(place)) {}
  std::unique_ptr<Selector> make_selector(const FfnBuild& build, const BlockStore& tables) const override {
    if (kind_ == HashKind::kRandom) return HashMethod::make_selector(build, tables);
    return std::make_unique<BalancedSelector>(build, shape().blocks(), place_);
  }

 private:
  HashKind kind_;
  std::string place_;
};

std::unique_ptr<FfnOptions> parse(ConfigReader& reader, const ModelConfig& model) {
  const SparseOptions sparse = parse_sparse(reader, model);
  if (!reader.collecting() && sparse.shape.per_token != 1) {
    reader.fail("active_cells", cat("makes ", sparse.shape.per_token, " active blocks; hash_layer gives one block of ",
                                    sparse.shape.block_size, " cells to a token"));
  }
  const HashKind kind =
      reader.one_of("hash", kHashNames, HashKind::kRandom,
                    "How token ids are spread over the blocks: by a keyed permutation, or so that every block gets as "
                    "many tokens of the training data; that needs the token counts of its manifest.");
  return std::make_unique<HashLayer>(sparse, kind, reader.collecting() ? "" : reader.place("hash"));
}

const RegisterFfn kRegistered{
    {.name = "hash_layer",
     .summary = "one block, fixed for each token id: random or balanced",
     .source = "Roller et al., arXiv 2106.04426, section 3",
     .tiny_config =
         R"({"type": "hash_layer", "block_size": 8, "expansion": 2, "active_cells": 8, "activation": "gelu"})",
     .parse = parse}};

}  // namespace
}  // namespace sffn
