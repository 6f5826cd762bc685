// The tiles of all blocks of all chunks of each segment of tokens, in order. A block of threads lists one segment: it
// takes its pairs (chunk, block) 512 at a time; where a chunk reaches beyond the segment, the rows of the segment's
// tokens are found by bisection, as the rows of a block ascend by choice.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/scan.cuh"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kThreads = 512;

// Leaves of the rows [first, last) those with choices of [begin, end). Both ends at once: each step waits for memory.
__device__ __forceinline__ void keep_choices(int32_t& first, int32_t& last, const int32_t* order, int64_t begin,
                                             int64_t end) {
  int32_t low = first, high = last, low_end = first, high_end = last;  // each end lies between its two
  while (low < high || low_end < high_end) {
    const int32_t middle = low + (high - low) / 2, middle_end = low_end + (high_end - low_end) / 2;
    const bool ahead = low < high && order[middle] < begin, ahead_end = low_end < high_end && order[middle_end] < end;
    low = ahead ? middle + 1 : low, high = ahead ? high : middle;
    low_end = ahead_end ? middle_end + 1 : low_end, high_end = ahead_end ? high_end : middle_end;
  }
  first = low, last = low_end;
}

__global__ void __launch_bounds__(kThreads)
    list_tiles_kernel(ListedTile* tiles, int32_t* counts, BlockRows rows, int64_t segment_tokens, int64_t most) {
  const int64_t begin = blockIdx.x * segment_tokens, beyond = begin + segment_tokens;
  const int64_t end = beyond < rows.tokens ? beyond : rows.tokens;
  const int64_t first_pair = begin / rows.chunk * rows.blocks, last_pair = ((end - 1) / rows.chunk + 1) * rows.blocks;
  ListedTile* to = tiles + blockIdx.x * most;
  int32_t listed = 0;
  for (int64_t base = first_pair; base < last_pair; base += kThreads) {
    const int64_t q = base + threadIdx.x;
    int32_t first = 0, last = 0;
    if (q < last_pair) {
      const int64_t chunk = q / rows.blocks;
      first = rows.offsets[q], last = rows.offsets[q + 1];
      if (chunk * rows.chunk < begin || ((chunk + 1) * rows.chunk > end && end < rows.tokens)) {
        keep_choices(first, last, rows.order, begin * rows.per_token, end * rows.per_token);
      }
    }
    int32_t total = 0;
    int32_t at = listed + block_exclusive_scan((last - first + kTileRows - 1) / kTileRows, total);
    for (int32_t row = first; row < last; row += kTileRows) {
      to[at++] = {static_cast<int32_t>(q % rows.blocks), row, row + kTileRows < last ? row + kTileRows : last};
    }
    listed += total;
  }
  if (threadIdx.x == 0) counts[blockIdx.x] = listed;
}

int64_t align(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

TileList::TileList(const BlockRows& rows, int64_t segment_tokens) {
  const int64_t chunk = rows.chunk;
  tokens = std::clamp<int64_t>(segment_tokens, 1, std::max<int64_t>(1, rows.tokens));
  segments = (rows.tokens + tokens - 1) / tokens;
  const bool whole_chunks = tokens % chunk == 0, parts_of_chunks = chunk % tokens == 0;
  const int64_t touched = whole_chunks ? tokens / chunk : parts_of_chunks ? 1 : (tokens - 2 + chunk) / chunk + 1;
  // ⌈n / R⌉ <= n / R + 1 - 1 / R for each of a segment's pairs, and no tile is empty
  const int64_t choices = tokens * rows.per_token, pairs = std::min(touched, rows.chunks()) * rows.blocks;
  most = std::min(choices, choices / kTileRows + pairs);
}

int64_t TileList::bytes() const {
  return align(slots() * static_cast<int64_t>(sizeof(ListedTile))) +
         align(segments * static_cast<int64_t>(sizeof(int32_t)));
}

int64_t cached_segment(Stream& stream, const BlockRows& rows, int64_t row_bytes, int64_t least_rows) {
  return std::max(native(stream).cached_bytes / std::max<int64_t>(1, row_bytes),
                  least_rows * rows.blocks / rows.per_token);
}

void list_tiles(Stream& stream, TileList& list, void* memory, const BlockRows& rows) {
  auto* tiles = static_cast<ListedTile*>(memory);
  auto* counts = reinterpret_cast<int32_t*>(static_cast<char*>(memory) +
                                            align(list.slots() * static_cast<int64_t>(sizeof(ListedTile))));
  list.tiles = tiles, list.counts = counts;
  const int64_t full = rows.choices() / kTileRows;
  launch(stream, list_tiles_kernel, {static_cast<unsigned>(list.segments), kThreads},
         Work{bytes_for<int32_t>(pairs_of(rows) + list.segments) + bytes_for<ListedTile>(full)}, tiles, counts, rows,
         list.tokens, list.most);
}

}  // namespace sffn::cuda
