// Which layers an entry of model.sparse_ffn takes.
#pragma once
#include "core/json.h"

#include <string>
#include <vector>

namespace sffn {

// Ascending layer numbers, from 0, of a selection over `layers` layers:
//   "all"                      every layer
//   {"every": n, "offset": o}  those with i % n == o; o defaults to n - 1
//   [5, 11]                    these
// Throws UsageError at `place` for anything else, a number outside the model, a repeated one, or an empty selection.
std::vector<int> resolve_layers(const Json& selection, int layers, const std::string& place);

// The entry of `sparse_ffn` that each layer takes, -1 for none. Throws UsageError for layers that two entries claim.
// `place` is that of the list.
std::vector<int> assign_layers(const Json& sparse_ffn, int layers, const std::string& place);

}  // namespace sffn
