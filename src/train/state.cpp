#include "train/state.h"

#include "kernels/ops.h"

#include <algorithm>

namespace sffn {
namespace {

// State is whole on every rank, and fp32 or i32 whatever the precision of the model.
void add_states(ParamStore& params, std::vector<Piece>& pieces) {
  for (const State& state : params.states()) {
    if (!state.spec.saved) continue;
    SFFN_CHECK(size_of(state.value.dtype()) == Piece::kElementBytes, state.spec.name, ": state of ",
               name_of(state.value.dtype()), " has no form in files");
    pieces.push_back(
        {state.spec.name, state.spec.shape, 0, state.spec.shape.numel(), state.value.raw(), state.value.dtype()});
  }
}

}  // namespace

StatePieces state_pieces(Engine& engine, FlatRange range) {
  StatePieces state;
  for (const AdamW::Piece& piece : engine.optimizer().pieces()) {
    const Param& param = *piece.param;
    // Padded rows are the last ones, so the elements of the file come first.
    const int64_t begin = std::max(piece.begin, range.offset - param.offset);
    const int64_t end = std::min({piece.end, range.offset + range.count - param.offset, param.spec.shape.numel()});
    if (begin >= end) continue;
    const int64_t skip = begin - piece.begin;
    const auto part = [&](const std::string& name, const Tensor& tensor) {
      return Piece{name, param.spec.shape, begin, end, tensor.data<float>() + skip, DType::kF32};
    };
    state.parameters.push_back(part(param.spec.name, piece.master));
    state.moments.push_back(part("adam.m:" + param.spec.name, piece.m));
    state.moments.push_back(part("adam.v:" + param.spec.name, piece.v));
  }
  add_states(engine.model().params(), state.parameters);
  return state;
}

std::vector<Piece> whole_pieces(ParamStore& params, std::vector<std::vector<float>>& staging) {
  std::vector<Piece> pieces;
  staging.clear();
  staging.reserve(params.all().size());
  for (const Param& param : params.all()) {
    const int64_t count = param.spec.shape.numel();
    staging.emplace_back(count);
    pieces.push_back({param.spec.name, param.spec.shape, 0, count, staging.back().data(), DType::kF32});
  }
  add_states(params, pieces);
  return pieces;
}

void store_values(Stream& stream, ParamStore& params, const std::vector<std::vector<float>>& staging) {
  size_t at = 0;
  for (const Param& param : params.all()) {
    const std::vector<float>& values = staging[at++];
    const int64_t count = static_cast<int64_t>(values.size());
    const Tensor target = param.value.view({param.count}).slice(0, count);
    const Tensor source(const_cast<float*>(values.data()), {count}, DType::kF32, Device::cpu());
    ops::copy(stream, target, source);
  }
}

}  // namespace sffn
