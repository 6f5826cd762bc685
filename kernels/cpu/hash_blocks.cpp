#include "kernels/ref/hash_blocks.h"

#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 512;  // choices a chunk

}  // namespace

void hash_blocks(Stream&, Tensor blocks, const Tensor& ids, uint64_t seed, int64_t layer, int64_t block_count) {
  const int64_t N = ids.numel(), b = blocks.cols();
  const int32_t* tokens = ids.data<int32_t>();
  int32_t* out = blocks.data<int32_t>();
  parallel_chunks(N, std::max<int64_t>(1, kGrain / b), [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      ref::hash_blocks_row(out + n * b, tokens[n], seed, layer, block_count, b);
    }
  });
}

}  // namespace sffn::cpu
