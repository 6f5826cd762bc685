#include "kernels/cpu/choice_tiles.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

#include <algorithm>
#include <limits>

namespace sffn::cpu {

void count_blocks(Stream&, Tensor counts, const Tensor& blocks) {
  const int64_t S = counts.shape()[0], B = counts.cols();
  check_blocks("count_blocks", blocks, B);
  std::fill_n(counts.data<int32_t>(), S * B, 0);
  const ChoiceTiles tiles(blocks.numel(), blocks.numel() / S, B);
  const int32_t* of_tiles = tiles.count(blocks.data<int32_t>());
  parallel_chunks(tiles.groups(), 1, [&, counts = counts.data<int32_t>()](int64_t s, int64_t) {
    for (int64_t tile = s * tiles.tiles_per_group(); tile < (s + 1) * tiles.tiles_per_group(); ++tile) {
      for (int64_t i = 0; i < B; ++i) counts[s * B + i] += of_tiles[tile * B + i];
    }
  });
}

void accumulate_counts(Stream&, Tensor total, const Tensor& counts) {
  const int64_t S = counts.shape()[0], B = counts.cols();
  auto* sum = total.data<double>();
  const auto* values = counts.data<int32_t>();
  for (int64_t s = 0; s < S; ++s) {
    for (int64_t i = 0; i < B; ++i) sum[i] += values[s * B + i];
  }
}

void exclusive_scan(Stream&, Tensor offsets, const Tensor& counts) {
  auto* out = offsets.data<int32_t>();
  const auto* values = counts.data<int32_t>();
  int64_t total = 0;
  for (int64_t i = 0; i < counts.numel(); ++i) {
    out[i] = static_cast<int32_t>(total);
    total += values[i];
    SFFN_CHECK(total <= std::numeric_limits<int32_t>::max(), "the counts up to ", i, " add up to ", total,
               "; expected less than 2^31");
  }
  out[counts.numel()] = static_cast<int32_t>(total);
}

}  // namespace sffn::cpu
