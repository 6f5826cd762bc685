// The sorted rows of a routing cut into tiles of one block each, listed on the device. The list is in the order of
// segments of tokens, so that one kernel after another, or one kernel in its order, works on few tokens at a time. How
// many tiles a segment has is known to the device alone; memory and grids are for the most that it can have.
#pragma once
#include "core/stream.h"
#include "kernels/cuda/block_rows.cuh"

namespace sffn::cuda {

inline constexpr int kTileRows = 128;

struct ListedTile {
  int32_t block, first, last;
};

// Segment s has the choices of tokens [s·tokens, (s + 1)·tokens), and the tiles [s·most, s·most + counts[s]) of at most
// kTileRows rows.
struct TileList {
  const ListedTile* tiles = nullptr;
  const int32_t* counts = nullptr;
  int64_t tokens = 1, segments = 0, most = 0;

  TileList() = default;
  TileList(const BlockRows& rows, int64_t segment_tokens);
  int64_t slots() const { return segments * most; }
  int64_t bytes() const;  // of tiles and counts, a multiple of 256
};

// Fills tiles and counts, which it puts into `memory`.
void list_tiles(Stream&, TileList&, void* memory, const BlockRows&);

// Tokens of a segment whose rows, of row_bytes each, stay in L2 while their choices are multiplied; at least so many
// that a block has least_rows, if all are equally popular: half a tile of a block is empty, on average.
int64_t cached_segment(Stream&, const BlockRows&, int64_t row_bytes, int64_t least_rows);

// Tile slot % most of segment slot / most; false where the segment has fewer.
__device__ __forceinline__ bool listed_tile(RowTile& tile, const TileList& list, int64_t slot) {
  const auto most = static_cast<unsigned>(list.most), segment = static_cast<unsigned>(slot) / most;
  if (static_cast<int>(slot - segment * most) >= list.counts[segment]) return false;
  const ListedTile listed = list.tiles[slot];
  tile = {listed.block, listed.first, listed.last};
  return true;
}

}  // namespace sffn::cuda
