#include "kernels/cpu/choice_tiles.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

#include <algorithm>
#include <atomic>

namespace sffn::cpu {
namespace {

constexpr int64_t kTile = 1 << 15;       // choices: enough to hide the cost of handing a tile to a thread
constexpr int64_t kChoicesPerCount = 8;  // so that the counts of a tile cost little beside its choices

}  // namespace

void check_choices(const char* op, const Tensor& blocks, int64_t B) {
  const int32_t* ids = blocks.data<int32_t>();
  std::atomic<bool> valid{true};
  parallel_chunks(blocks.numel(), kTile, [&](int64_t first, int64_t last) {
    int32_t least = 0, most = 0;
#pragma omp simd reduction(min : least) reduction(max : most)
    for (int64_t c = first; c < last; ++c) {
      least = std::min(least, ids[c]);
      most = std::max(most, ids[c]);
    }
    if (least < -1 || most >= B) valid = false;
  });
  if (valid) return;
  const int64_t c = std::find_if(ids, ids + blocks.numel(), [B](int32_t id) { return id < -1 || id >= B; }) - ids;
  throw RunError(
      op, cat("blocks[", c / blocks.cols(), ", ", c % blocks.cols(), "] is ", ids[c], "; expected -1 to ", B - 1));
}

ChoiceTiles::ChoiceTiles(int64_t choices, int64_t group, int64_t B)
    : choices_(choices), group_(std::max<int64_t>(1, group)), B_(B), tile_(std::max(kTile, kChoicesPerCount * B)) {
  tiles_per_group_ = (std::min(group_, choices) + tile_ - 1) / tile_;
  groups_ = (choices + group_ - 1) / group_;
}

std::pair<int64_t, int64_t> ChoiceTiles::choices_of(int64_t tile) const {
  const int64_t group = tile / tiles_per_group_ * group_, first = group + tile % tiles_per_group_ * tile_;
  const int64_t end = std::min(choices_, group + group_);
  return {std::min(first, end), std::min(first + tile_, end)};
}

int32_t* ChoiceTiles::count(const int32_t* blocks) const {
  thread_local Scratch scratch;
  auto* counts = static_cast<int32_t*>(scratch.get(static_cast<size_t>(count() * B_) * sizeof(int32_t)));
  parallel_chunks(count(), 1, [&](int64_t tile, int64_t) {
    int32_t* of_tile = counts + tile * B_;
    std::fill_n(of_tile, B_, 0);
    const auto [first, last] = choices_of(tile);
    for (int64_t c = first; c < last; ++c) {
      if (blocks[c] >= 0) ++of_tile[blocks[c]];
    }
  });
  return counts;
}

}  // namespace sffn::cpu
