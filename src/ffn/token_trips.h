// What tokens cost on their way to blocks on other ranks and back (ffn/dispatch.h): bytes, collectives, and the work
// there.
#pragma once
#include "config/config.h"

#include <cstdint>

namespace sffn {

struct BlockShape;

// Bytes of one token on its way to one rank and back.
struct TokenBytes {
  double there = 0, back = 0;
  double list = 0;  // of its choices, which goes there as well

  // y = product(x) of rows [W] -> [D] of `value_bytes` an element, with a list of b blocks, and weights of 4 bytes.
  static TokenBytes forward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes);
  // Its backward pass, to which x is brought again.
  static TokenBytes backward(int64_t W, int64_t D, int64_t b, bool weighs, int64_t value_bytes);
};
// Bytes that a rank sends for one of its tokens, and for what others sent it, on average over uniform choices.
struct DispatchVolume {
  double gather = 0, all_to_all = 0;
  double naive = 0;  // a copy of the token for every choice
};
DispatchVolume dispatch_volume(int64_t ranks, int64_t chosen, const TokenBytes&);
// kAuto: all_to_all where it sends a tenth less, and the device can wait for counts.
Dispatch choose_dispatch(Dispatch wanted, const DispatchVolume& volume, bool is_cuda);

// Of a token in one pass over its blocks.
struct TokenTrip {
  TokenBytes bytes = {};
  int64_t brings = 0, returns = 0;  // collectives of a chunk
  double flops = 0;                 // of the blocks that the token uses
};
struct TokenTrips {
  TokenTrip forward = {}, backward = {};
  int64_t passes = 1;  // in each direction: sub-layers, to whose blocks tokens go one after another
  int64_t used = 1;    // blocks of a token in a pass
  bool all = false;    // that is all of them, and no choice travels
};
// Of a layer whose tokens choose blocks, and weigh them or not, in values of so many bytes. Keys are multiplied again
// in the backward pass, for which nothing is kept where blocks are spread.
TokenTrips trips_of_choices(const BlockShape&, bool weighs, int64_t d_model, int64_t value_bytes);

}  // namespace sffn
