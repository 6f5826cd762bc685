// routing.order, routing.inverse from routing.offsets: stable counting sort of the choices blocks [N,b] by (chunk of
// tokens, block). limit_capacity: of each group a block keeps its first `capacity` choices.
// order, inverse [N·b]  offsets [C·B + 1]  blocks [N,b], all i32; C chunks of tokens, B blocks
//
// Both rank every choice among those of its block in its group (choice_tiles.cuh): the rank is a row, or too high.
#include "kernels/cuda/choice_tiles.cuh"
#include "kernels/ops.h"

#include <limits>

namespace sffn::cuda {
namespace {

struct PlaceInOrder {
  int32_t *order, *inverse;
  const int32_t* rows;  // [1]: all sorted rows

  __device__ int32_t operator()(int64_t c, int32_t block, int32_t row) const {
    inverse[c] = block < 0 ? -1 : row;
    if (block >= 0) order[row] = static_cast<int32_t>(c);
    if (c >= *rows) order[c] = -1;  // no choice has this row
    return 0;
  }
};

struct DropBeyond {
  int32_t* blocks;
  int32_t capacity;

  __device__ int32_t operator()(int64_t c, int32_t block, int32_t place) const {
    if (block < 0 || place < capacity) return 0;
    blocks[c] = -1;
    return 1;
  }
};

}  // namespace

void sort_by_block(Stream& stream, const BlockRouting& routing, const Tensor& blocks) {
  const ChoiceTiles tiles(blocks.numel(), routing.chunk * routing.per_token, routing.blocks);
  const int32_t* offsets = routing.offsets.data<int32_t>();
  const PlaceInOrder place{routing.order.data<int32_t>(), routing.inverse.data<int32_t>(),
                           offsets + tiles.groups * tiles.blocks};
  walk_choices(stream, workspace<int32_t>(stream, tiles.count() * tiles.blocks), blocks.data<int32_t>(), tiles, offsets,
               place, bytes_of(routing.order, routing.inverse), nullptr);
}

void limit_capacity(Stream& stream, Tensor blocks, Tensor dropped, const Tensor& taken, int64_t groups,
                    int64_t block_count, int64_t capacity) {
  const ChoiceTiles tiles(blocks.numel(), blocks.numel() / groups, block_count);
  auto* events = workspace<EventCount>(stream, 1 + (tiles.count() * tiles.blocks + 1) / 2);
  auto* counts = reinterpret_cast<int32_t*>(events + 1);
  clear_events(stream, events);
  const int64_t most = std::min<int64_t>(capacity, std::numeric_limits<int32_t>::max());
  const DropBeyond place{blocks.data<int32_t>(), static_cast<int32_t>(most)};
  walk_choices(stream, counts, blocks.data<int32_t>(), tiles, taken.data_or_null<int32_t>(), place, 0, events);
  if (dropped.defined()) add_events(stream, dropped.data<double>(), events);
}

}  // namespace sffn::cuda
