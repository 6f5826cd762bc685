#include "kernels/cpu/choice_tiles.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <atomic>

namespace sffn::cpu {

void limit_capacity(Stream&, Tensor blocks, Tensor dropped, const Tensor& taken, int64_t groups, int64_t block_count,
                    int64_t capacity) {
  const int64_t B = block_count;
  check_blocks("limit_capacity", blocks, B);
  auto* ids = blocks.data<int32_t>();
  const auto* before = taken.data_or_null<int32_t>();
  const ChoiceTiles tiles(blocks.numel(), blocks.numel() / groups, B);
  int32_t* seen = tiles.count(ids);
  parallel_chunks(tiles.groups(), 1, [&](int64_t s, int64_t) {  // counts of a tile -> choices before the tile
    for (int64_t i = 0; i < B; ++i) {
      int32_t total = before ? before[s * B + i] : 0;
      for (int64_t t = s * tiles.tiles_per_group(); t < (s + 1) * tiles.tiles_per_group(); ++t) {
        const int32_t here = seen[t * B + i];
        seen[t * B + i] = total;
        total += here;
      }
    }
  });
  std::atomic<int64_t> late{0};
  parallel_chunks(tiles.count(), 1, [&](int64_t tile, int64_t) {
    int64_t late_here = 0;
    const auto [first, last] = tiles.choices_of(tile);
    for (int64_t c = first; c < last; ++c) {
      if (ids[c] < 0 || seen[tile * B + ids[c]]++ < capacity) continue;
      ids[c] = -1;
      ++late_here;
    }
    late += late_here;
  });
  if (dropped.defined()) dropped.data<double>()[0] += static_cast<double>(late);
}

}  // namespace sffn::cpu
