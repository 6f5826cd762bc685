// A stable order of integers, on the device: what lets rows that meet in one result be added in a fixed order.
#pragma once
#include "core/stream.h"

#include <cstdint>

namespace sffn::cuda {

// keys[i], ascending, is the key of element places[i]; of equal keys the earlier element comes first.
struct KeyOrder {
  const int32_t* keys;
  const int32_t* places;
};

// The int32 elements of scratch that ordering n keys takes; the order lies there.
int64_t order_scratch(int64_t n);
// 0 <= keys[i] < bound
KeyOrder order_by_key(Stream& stream, int32_t* scratch, const int32_t* keys, int64_t n, int64_t bound);

}  // namespace sffn::cuda
