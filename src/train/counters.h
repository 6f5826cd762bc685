// The counters of a model's layers: cleared, and read over all ranks.
#pragma once
#include "comm/communicator.h"
#include "core/json.h"
#include "model/transformer.h"

#include <vector>

namespace sffn {

void clear_counters(const Transformer&, Stream&);
// Of each layer the sums over all ranks; empty for layers that count nothing, and on the meta device. Collective.
std::vector<std::vector<double>> gather_counters(const Transformer&, Stream&, Communicator&);
// {"LAYER": [choices of each block]} of the layers that choose blocks.
Json block_load(const Transformer&, const std::vector<std::vector<double>>& counters);

}  // namespace sffn
