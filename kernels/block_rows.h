// A BlockRouting as kernels see it: pointers and integers.
#pragma once
#include "kernels/routing.h"

#include <cstdint>

namespace sffn {

struct BlockRows {
  const int32_t *order = nullptr, *inverse = nullptr, *offsets = nullptr;
  int64_t tokens = 0, blocks = 0, per_token = 0, chunk = 1;  // N, B, b, tokens of a chunk

  BlockRows(const BlockRouting& r)  // NOLINT: kernels take it where ops take the tensors
      : order(r.order.data<int32_t>()),
        inverse(r.inverse.data<int32_t>()),
        offsets(r.offsets.data<int32_t>()),
        tokens(r.order.numel() / r.per_token),
        blocks(r.blocks),
        per_token(r.per_token),
        chunk(r.chunk) {}

  int64_t chunks() const { return (tokens + chunk - 1) / chunk; }
  int64_t choices() const { return tokens * per_token; }  // P
  // The sorted rows [first, last) of block i among the tokens of chunk c.
  int64_t first(int64_t c, int64_t i) const { return offsets[c * blocks + i]; }
  int64_t last(int64_t c, int64_t i) const { return offsets[c * blocks + i + 1]; }
  int64_t used() const { return offsets[chunks() * blocks]; }  // rows from here on are unused
  int64_t token(int64_t row) const { return order[row] / per_token; }
};

}  // namespace sffn
