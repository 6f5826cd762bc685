// Weights and first moments of a model whose blocks are spread over ranks, put together again.
#pragma once
#include "nn/host_values.h"
#include "train/engine.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace sffn::test {

using WholeWeights = std::map<std::string, std::vector<double>>;

// The gradient, summed and clipped, where one step was made: a multiple of it.
inline std::string moment_of(const std::string& parameter) { return parameter + " first moment"; }

// Puts what the engine's rank holds into whole tensors.
inline void collect_weights(Engine& engine, WholeWeights& weights) {
  for (const ParameterGroup& group : engine.groups()) {
    for (const Param& param : group.params().all()) {
      const std::vector<double> held = read_values(engine.stream(), param.value.slice(0, param.spec.held_rows()));
      std::vector<double>& whole = weights[param.spec.name];
      whole.resize(static_cast<size_t>(param.spec.shape.numel()));
      for (const ElementRun& run : param.spec.runs()) {
        std::copy_n(held.begin() + run.at, run.count, whole.begin() + run.first);
      }
    }
    for (const AdamW::Piece& piece : group.optimizer().pieces()) {
      const ParamSpec& spec = piece.param->spec;
      const std::vector<double> held = read_values(engine.stream(), piece.m);
      std::vector<double>& whole = weights[moment_of(spec.name)];
      whole.resize(static_cast<size_t>(spec.shape.numel()));
      for (const ElementRun& run : spec.runs()) {
        for (int64_t at = std::max(run.at, piece.begin); at < std::min(run.at + run.count, piece.end); ++at) {
          whole[static_cast<size_t>(run.first + at - run.at)] = held[static_cast<size_t>(at - piece.begin)];
        }
      }
    }
  }
}

}  // namespace sffn::test
