// The state of a run as named pieces, for checkpoints.
#pragma once
#include "train/checkpoint/checkpoint.h"
#include "train/engine.h"

#include <vector>

namespace sffn {

struct StatePieces {
  std::vector<Piece> parameters;  // fp32 weights, by the names of the model contract
  std::vector<Piece> moments;     // "adam.m:NAME", "adam.v:NAME"
};

// The elements of the state that lie in the flat range `range` and on this rank, without padded rows.
StatePieces state_pieces(Engine& engine, FlatRange range);

// Every tensor of a model whole. In bf16 the pieces lie in `staging`, which store_values() rounds into the model.
std::vector<Piece> whole_pieces(ParamStore& params, std::vector<std::vector<float>>& staging);
void store_values(Stream& stream, ParamStore& params, const std::vector<std::vector<float>>& staging);

}  // namespace sffn
