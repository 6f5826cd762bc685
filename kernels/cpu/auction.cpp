// An auction is a chain of bids: groups are what threads share.
#include "kernels/ref/auction.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

namespace sffn::cpu {

void auction(Stream&, Tensor blocks, const Tensor& logits, int64_t groups, double epsilon, int64_t rounds) {
  const int64_t tokens = logits.rows() / groups, block_count = logits.cols();
  if (tokens == 0) return;
  with_accumulate_type(logits.dtype(), [&]<class T>(T) {
    int32_t* chosen = blocks.data<int32_t>();
    const T* x = logits.data<T>();
    parallel_chunks(groups, 1, [&](int64_t first, int64_t last) {
      for (int64_t s = first; s < last; ++s) {
        ref::Auction<T>(x + s * tokens * block_count, tokens, block_count, epsilon, rounds).run(chosen + s * tokens);
      }
    });
  });
}

}  // namespace sffn::cpu
