// Tiles of the choices blocks [N,b], for counting and ranking them on many threads without a race: each tile counts
// its own choices, the counts of earlier tiles of the same group say where each begins. Tiles are cut by sizes alone.
#pragma once
#include "core/tensor.h"

#include <cstdint>
#include <utility>

namespace sffn::cpu {

class ChoiceTiles {
 public:
  // Groups of `group` choices, the last one may be short, over B blocks.
  ChoiceTiles(int64_t choices, int64_t group, int64_t B);

  int64_t count() const { return groups_ * tiles_per_group_; }
  int64_t groups() const { return groups_; }
  int64_t tiles_per_group() const { return tiles_per_group_; }
  std::pair<int64_t, int64_t> choices_of(int64_t tile) const;  // first, one past the last

  // counts[t·B + i] = choices of block i in tile t. The memory is the calling thread's, until its next call.
  int32_t* count(const int32_t* blocks) const;

 private:
  int64_t choices_, group_, B_, tile_, tiles_per_group_, groups_;
};

}  // namespace sffn::cpu
