// The weights of a model whose blocks are spread over ranks, put together again.
#pragma once
#include "nn/host_values.h"
#include "train/engine.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace sffn::test {

using WholeWeights = std::map<std::string, std::vector<double>>;

// Puts the rows that the engine's rank holds into whole tensors.
inline void collect_weights(Engine& engine, WholeWeights& weights) {
  for (const ParameterGroup& group : engine.groups()) {
    for (const Param& param : group.params().all()) {
      const std::vector<double> held = read_values(engine.stream(), param.value.slice(0, param.spec.held_rows()));
      std::vector<double>& whole = weights[param.spec.name];
      whole.resize(static_cast<size_t>(param.spec.shape.numel()));
      std::copy(held.begin(), held.end(), whole.begin() + param.spec.first_element());
    }
  }
}

}  // namespace sffn::test
