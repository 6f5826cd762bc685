// The counters of a model's layers: cleared, and read over all ranks. Layer after layer, those of all layers are one
// list.
#pragma once
#include "comm/communicator.h"
#include "core/json.h"
#include "model/transformer.h"

#include <vector>

namespace sffn {

int64_t counter_count(const Transformer&);
void clear_counters(const Transformer&, Stream&);
// The first counter_count elements of out [n] f64 = the list of this rank.
void collect_counters(const Transformer&, Stream&, const Tensor& out);
// Of each layer its part of the list; empty for layers that count nothing.
std::vector<std::vector<double>> split_counters(const Transformer&, const double* list);
// The same of the sums over all ranks; empty on the meta device. Collective.
std::vector<std::vector<double>> gather_counters(const Transformer&, Stream&, Communicator&);
// {"LAYER": [choices of each block]} of the layers that choose blocks.
Json block_load(const Transformer&, const std::vector<std::vector<double>>& counters);

}  // namespace sffn
