#include "kernels/ref/lookup_blocks.h"

#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;  // tokens a chunk

}  // namespace

void lookup_blocks(Stream&, Tensor blocks, const Tensor& ids, const Tensor& table) {
  check_indices("lookup_blocks", "ids", ids, 0, table.numel());
  const int32_t *tokens = ids.data<int32_t>(), *block_of = table.data<int32_t>();
  int32_t* out = blocks.data<int32_t>();
  parallel_chunks(ids.numel(), kGrain, [&](int64_t first, int64_t last) {
    ref::lookup_blocks(out + first, tokens + first, block_of, last - first);
  });
}

}  // namespace sffn::cpu
