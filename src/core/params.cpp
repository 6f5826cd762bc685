#include "core/params.h"

#include <algorithm>

namespace sffn {
namespace {

Shape shape_in_memory(const ParamSpec& spec) {
  const int rank = spec.shape.rank();
  if (spec.held.count > 0) {
    SFFN_CHECK((rank == 1 || rank == 2) && spec.padded_rows == 0 && spec.shape[0] % spec.parts == 0 &&
                   spec.held.first >= 0 && spec.held.first + spec.held.count <= spec.shape[0] / spec.parts,
               spec.name, ": cannot hold rows ", spec.held.first, " to ", spec.held.first + spec.held.count, " of ",
               spec.shape.str(), " in ", spec.parts, " parts");
    return rank == 1 ? Shape{spec.held_rows()} : Shape{spec.held_rows(), spec.shape[1]};
  }
  if (spec.padded_rows == 0) return spec.shape;
  SFFN_CHECK((rank == 1 || rank == 2) && spec.padded_rows >= spec.shape[0], spec.name, ": cannot pad ",
             spec.shape.str(), " to ", spec.padded_rows, " rows");
  return rank == 1 ? Shape{spec.padded_rows} : Shape{spec.padded_rows, spec.shape[1]};
}

DType type_of(StateSpec::Kind kind, DType dtype) {
  if (kind == StateSpec::Kind::kCounter) return DType::kF64;
  return kind == StateSpec::Kind::kIndices ? DType::kI32 : accumulate_type(dtype);
}

int64_t aligned(int64_t count) { return (count + ParamStore::kAlign - 1) / ParamStore::kAlign * ParamStore::kAlign; }

}  // namespace

std::vector<ElementRun> ParamSpec::runs() const {
  if (held.count == 0) return {{.count = shape.numel()}};
  std::vector<ElementRun> found;
  const int64_t count = held.count * row_elements(), of_part = shape.numel() / parts;
  for (int64_t part = 0; part < parts; ++part) {
    found.push_back({part * count, part * of_part + held.first * row_elements(), count});
  }
  return found;
}

Param& ParamStore::add(ParamSpec spec) {
  SFFN_CHECK(find(spec.name) == nullptr, "the parameter ", spec.name, " was added twice");
  Param param;
  param.count = shape_in_memory(spec).numel();
  param.spec = std::move(spec);
  params_.push_back(std::move(param));
  return params_.back();
}

State& ParamStore::add_state(StateSpec spec) {
  for (const State& state : states_) SFFN_CHECK(state.spec.name != spec.name, spec.name, " was added twice");
  states_.push_back({std::move(spec), Tensor()});
  return states_.back();
}

size_t ParamStore::state_bytes() const {
  size_t total = 0;
  for (const Buffer& memory : state_memory_) total += memory.bytes();
  return total;
}

Param* ParamStore::find(const std::string& name) {
  for (Param& param : params_) {
    if (param.spec.name == name) return &param;
  }
  return nullptr;
}

int64_t ParamStore::parameter_count() const {
  int64_t total = 0;
  for (const Param& param : params_) total += param.spec.shape.numel();
  return total;
}

void ParamStore::lay_out() {
  flat_size_ = 0;
  for (Storage storage : {Storage::kMatrix, Storage::kVector}) {
    for (Param& param : params_) {
      if (param.spec.storage != storage) continue;
      param.offset = flat_size_;
      flat_size_ += aligned(param.count);
      for (int64_t at = 0; at < param.count; at += kChunk) {
        chunks_.push_back({&param, param.offset + at, std::min(kChunk, param.count - at)});
      }
    }
    if (storage == Storage::kMatrix) matrix_size_ = flat_size_;
  }
}

void ParamStore::allocate(DeviceRuntime& runtime, DType dtype) {
  SFFN_CHECK(chunks_.empty(), "parameters are allocated once");
  dtype_ = dtype;
  lay_out();
  matrices_ = Buffer(runtime, {matrix_size_}, dtype);
  vectors_ = Buffer(runtime, {flat_size_ - matrix_size_}, accumulate_type(dtype));
  for (Param& param : params_) {
    const bool matrix = param.spec.storage == Storage::kMatrix;
    const Tensor flat = matrix ? flat_matrices() : flat_vectors();
    const int64_t first = matrix ? param.offset : param.offset - matrix_size_;
    param.value = flat.slice(first, param.count).view(shape_in_memory(param.spec));
  }
  for (State& state : states_) {
    const DType type = type_of(state.spec.kind, dtype);
    state.value = state_memory_.emplace_back(runtime, state.spec.shape, type).tensor(state.spec.shape, type);
  }
}

void ParamStore::use_gradients(const Tensor& flat) {
  SFFN_CHECK(flat.numel() == flat_size_ && flat.dtype() == accumulate_type(dtype_), "a gradient buffer of ",
             flat.numel(), " ", name_of(flat.dtype()), "; expected ", flat_size_, " ",
             name_of(accumulate_type(dtype_)));
  for (Param& param : params_) {
    param.grad = flat.slice(param.offset, param.count).view(shape_in_memory(param.spec));
  }
}

}  // namespace sffn
