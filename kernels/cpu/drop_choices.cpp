#include "core/stream.h"
#include "kernels/cpu/choice_tiles.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"
#include "kernels/ref/mask_scores.h"

namespace sffn::cpu {

void drop_choices(Stream&, Tensor out, const Tensor& blocks, int64_t block_count, const Dropout& given) {
  constexpr int64_t kGrain = 1024;  // tokens
  const Dropout d = given.now();
  check_blocks("drop_choices", blocks, block_count);
  const int64_t b = blocks.cols();
  parallel_chunks(blocks.rows(), kGrain, [&](int64_t first, int64_t last) {
    Dropout of_chunk = d;
    of_chunk.draws.first_index += first * block_count;
    ref::drop_choices(out.data<int32_t>() + first * b, blocks.data<int32_t>() + first * b, (last - first) * b, b,
                      block_count, of_chunk);
  });
}

}  // namespace sffn::cpu
