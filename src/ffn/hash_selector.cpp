#include "ffn/hash_selector.h"

#include "kernels/ops.h"

namespace sffn {

Selection HashSelector::select(Context& ctx, const SelectorInput& in, std::unique_ptr<Saved>& saved) {
  saved = std::make_unique<Saved>();
  const Tensor blocks = ctx.saved.allocate({in.x.rows(), per_token_}, DType::kI32, "chosen blocks");
  ops::hash_blocks(ctx.stream, blocks, in.token_ids, ctx.seed, layer_, blocks_);
  return {.blocks = blocks, .kept = blocks, .weights = {}};
}

}  // namespace sffn
