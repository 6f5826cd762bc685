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
    FlatRange range{0, group.params().flat_size()};
    if (share == StateShare::kOwned) {
      range = partition_flat(group.params(), group.replicas().size())[static_cast<size_t>(group.replicas().rank())];
    }
    for (const AdamW::Piece& piece : group.optimizer().pieces()) {
      const ParamSpec& spec = piece.param->spec;
      const int64_t offset = piece.param->offset, first = spec.first_element();
      // Padded rows are the last ones, so the elements of the file come first.
      const int64_t begin = std::max(piece.begin, range.offset - offset);
      const int64_t end = std::min({piece.end, range.offset + range.count - offset, spec.held_elements()});
      if (begin >= end) continue;
      const auto part = [&](const std::string& name, const Tensor& tensor) {
        void* data = state.host.add(tensor.slice(begin - piece.begin, end - begin));
        return Piece{name, spec.shape, first + begin, first + end, data, DType::kF32};
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
