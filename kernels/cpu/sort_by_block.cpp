#include "kernels/cpu/choice_tiles.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <algorithm>
#include <atomic>

namespace sffn::cpu {
namespace {

// counts[tile, i] becomes the row of the tile's first choice of block i. Returns whether the offsets agree.
bool rows_from_counts(int32_t* counts, const ChoiceTiles& tiles, const int32_t* offsets, int64_t B) {
  std::atomic<bool> agree{true};
  parallel_chunks(tiles.groups(), 1, [&](int64_t chunk, int64_t) {
    for (int64_t i = 0; i < B; ++i) {
      int64_t row = offsets[chunk * B + i];
      for (int64_t t = chunk * tiles.tiles_per_group(); t < (chunk + 1) * tiles.tiles_per_group(); ++t) {
        const int32_t here = counts[t * B + i];
        counts[t * B + i] = static_cast<int32_t>(row);
        row += here;
      }
      if (row != offsets[chunk * B + i + 1]) agree = false;
    }
  });
  return agree;
}

}  // namespace

void sort_by_block(Stream&, const BlockRouting& routing, const Tensor& blocks) {
  const int64_t B = routing.blocks, P = blocks.numel();
  check_blocks("sort_by_block", blocks, B);
  const auto *ids = blocks.data<int32_t>(), *offsets = routing.offsets.data<int32_t>();
  auto *order = routing.order.data<int32_t>(), *inverse = routing.inverse.data<int32_t>();
  const ChoiceTiles tiles(P, routing.chunk * routing.per_token, B);
  int32_t* rows = tiles.count(ids);
  SFFN_CHECK(offsets[0] == 0 && rows_from_counts(rows, tiles, offsets, B),
             "routing.offsets are not those of blocks; expected the exclusive scan of their counts by chunk and block");
  std::fill(order + offsets[tiles.groups() * B], order + P, -1);
  parallel_chunks(tiles.count(), 1, [&](int64_t tile, int64_t) {
    int32_t* next = rows + tile * B;
    const auto [first, last] = tiles.choices_of(tile);
    for (int64_t c = first; c < last; ++c) {
      inverse[c] = ids[c] < 0 ? -1 : next[ids[c]]++;
      if (ids[c] >= 0) order[inverse[c]] = static_cast<int32_t>(c);
    }
  });
}

}  // namespace sffn::cpu
