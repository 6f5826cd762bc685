#include "kernels/cpu/choice_tiles.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kTile = 1 << 15;       // choices: enough to hide the cost of handing a tile to a thread
constexpr int64_t kChoicesPerCount = 8;  // so that the counts of a tile cost little beside its choices

}  // namespace

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
