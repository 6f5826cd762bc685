#include "train/state.h"

#include "kernels/ops.h"

#include <algorithm>

namespace sffn {
namespace {

// State is whole on every rank, and fp32 or i32 whatever the precision of the model.
void add_states(ParamStore& params, HostMirror& host, std::vector<Piece>& pieces) {
  for (const State& state : params.states()) {
    if (!state.spec.saved) continue;
    SFFN_CHECK(size_of(state.value.dtype()) == Piece::kElementBytes, state.spec.name, ": state of ",
               name_of(state.value.dtype()), " has no form in files");
    pieces.push_back(
        {state.spec.name, state.spec.shape, 0, state.spec.shape.numel(), host.add(state.value), state.value.dtype()});
  }
}

}  // namespace

void* HostMirror::add(const Tensor& tensor) {
  if (tensor.device() == Device::cpu()) return tensor.raw();
  copies_.push_back({tensor, std::vector<std::byte>(tensor.bytes())});
  return copies_.back().bytes.data();
}

void HostMirror::fetch() {
  for (Copy& copy : copies_) stream_->copy_to_host(copy.bytes.data(), copy.tensor);
  stream_->synchronize();
}

void HostMirror::store() {
  for (const Copy& copy : copies_) stream_->copy_to_device(copy.tensor, copy.bytes.data());
  stream_->synchronize();
}

StatePieces state_pieces(Engine& engine, StateShare share) {
  StatePieces state{{}, {}, HostMirror(engine.stream())};
  for (const ParameterGroup& group : engine.groups()) {
    for (const OwnedPiece& held : share == StateShare::kOwned ? owned_pieces(group) : held_pieces(group)) {
      const AdamW::Piece& piece = *held.piece;
      const ParamSpec& spec = piece.param->spec;
      const int64_t count = held.end - held.begin;
      const auto part = [&](const std::string& name, const Tensor& tensor) {
        void* data = state.host.add(tensor.slice(held.begin - piece.begin, count));
        return Piece{name, spec.shape, held.first, held.first + count, data, DType::kF32};
      };
      state.parameters.push_back(part(spec.name, piece.master));
      state.moments.push_back(part("adam.m:" + spec.name, piece.m));
      state.moments.push_back(part("adam.v:" + spec.name, piece.v));
    }
  }
  add_states(engine.model().params(), state.host, state.parameters);
  return state;
}

ModelPieces whole_pieces(Stream& stream, ParamStore& params) {
  ModelPieces whole{{}, {}, HostMirror(stream)};
  for (const Param& param : params.all()) {
    const int64_t count = param.spec.shape.numel();
    void* data = whole.values.emplace_back(count).data();
    whole.pieces.push_back({param.spec.name, param.spec.shape, 0, count, data, DType::kF32});
  }
  add_states(params, whole.states, whole.pieces);
  return whole;
}

void store_values(Stream& stream, ParamStore& params, ModelPieces& whole) {
  Stream host(cpu_runtime());
  std::vector<std::byte> rounded;
  size_t at = 0;
  for (const Param& param : params.all()) {
    std::vector<float>& values = whole.values[at++];
    const Shape shape{static_cast<int64_t>(values.size())};
    const Tensor target = param.value.view({param.count}).slice(0, shape[0]);
    rounded.resize(target.bytes());
    ops::copy(host, Tensor(rounded.data(), shape, target.dtype(), Device::cpu()),
              Tensor(values.data(), shape, DType::kF32, Device::cpu()));
    stream.copy_to_device(target, rounded.data());
    stream.synchronize();
  }
  whole.states.store();
}

}  // namespace sffn
