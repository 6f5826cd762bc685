// Layers whose blocks are spread over ranks: what brings a token to its blocks and back (ffn/dispatch.h).
#pragma once
#include "comm/planned.h"
#include "config/config.h"
#include "ffn/dispatch.h"

#include <cstdint>
#include <vector>

namespace sffn {

struct SpreadLayer {
  struct ChunkTraffic {
    Traffic bring = {}, give_back = {};
  };

  int64_t layer = 0, blocks = 0, ranks = 1;
  TokenTrips trips = {};
  Dispatch way = Dispatch::kGather;
  int64_t forwards = 1;  // passes in the step of a micro-batch; backward: trips.passes
  bool ring = false;     // of transfers to all: over MPI those that run beside work go from each rank to each

  DispatchVolume volume(const TokenTrip&) const;
  // What a rank sends for a chunk of `tokens` tokens of each rank, when choices are spread evenly.
  ChunkTraffic chunk_traffic(const TokenTrip&, int64_t tokens) const;
  // Before the first chunk of a pass: how many rows of each chunk go where.
  Traffic count_traffic(int64_t chunks) const;
  // The same of all passes of a micro-batch in chunks, as it counts on the meta device, where every token goes to every
  // rank and no counts are exchanged.
  Traffic counted(int64_t tokens, int64_t chunk) const;
};

// The layers that have blocks, when config.parallel.expert ranks share these. on_gpus: the ranks have one each.
std::vector<SpreadLayer> spread_layers(const Config& config, bool on_gpus);

// How blocks can be spread over `ranks`: 1, and the powers of two that divide the ranks and every layer's blocks.
std::vector<int64_t> expert_layouts(const Config& config, int64_t ranks);

}  // namespace sffn
