#pragma once
#include "config/config.h"
#include "core/params.h"

#include <cstdint>

namespace sffn {

// Which share of the blocks a rank holds, and how tokens get to them.
struct ExpertShare {
  int64_t rank = 0, ranks = 1;
  int64_t chunk = 8192;  // tokens of a rank
  Dispatch dispatch = Dispatch::kAuto;

  bool spread() const { return ranks > 1; }
  RowRange rows(int64_t rows) const { return {rank * (rows / ranks), rows / ranks}; }
};

}  // namespace sffn
