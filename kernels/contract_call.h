// What one call of one op demands of its arguments. An error reads "OP: TENSOR is FOUND; expected EXPECTED".
#pragma once
#include "core/stream.h"
#include "kernels/routing.h"
#include "kernels/types.h"

#include <string>
#include <utility>

namespace sffn::contract {

inline std::string describe(const Tensor& tensor) {
  if (!tensor.defined()) return "absent";
  return cat(name_of(tensor.dtype()), " ", tensor.shape().str(), " on ", tensor.device().str());
}

inline bool is_floating(DType dtype) { return dtype != DType::kI32; }

class Call {
 public:
  Call(const Stream& stream, const char* op) : op_(op), device_(stream.device()) {}

  [[noreturn]] void refuse(const char* name, const Tensor& found, const std::string& expected) const {
    throw RunError(op_, cat(name, " is ", describe(found), "; expected ", expected));
  }
  template <class... Args>
  void require(bool condition, const Args&... message) const {
    if (!condition) throw RunError(op_, cat(message...));
  }

  // Present, on the stream's device, exactly this dtype and shape.
  void exact(const char* name, const Tensor& t, DType dtype, const Shape& shape) const {
    if (!t.defined() || t.device() != device_ || t.dtype() != dtype || t.shape() != shape) {
      refuse(name, t, cat(name_of(dtype), " ", shape.str(), " on ", device_.str()));
    }
  }
  void exact_or_absent(const char* name, const Tensor& t, DType dtype, const Shape& shape) const {
    if (t.defined()) exact(name, t, dtype, shape);
  }
  void same(const char* name, const Tensor& t, const Tensor& like) const { exact(name, t, like.dtype(), like.shape()); }
  void here(const char* name, const Tensor& t) const {
    if (!t.defined() || t.device() != device_) refuse(name, t, "a tensor on " + device_.str());
  }
  void floating(const char* name, const Tensor& t) const {
    if (!t.defined() || t.device() != device_ || !is_floating(t.dtype())) {
      refuse(name, t, "a floating dtype on " + device_.str());
    }
  }
  // f32, f64 or c128: what is never stored in bf16.
  void accumulator(const char* name, const Tensor& t) const {
    if (!t.defined() || t.device() != device_ || !is_floating(t.dtype()) || t.dtype() == DType::kBF16) {
      refuse(name, t, "f32, f64 or c128 on " + device_.str());
    }
  }
  // A floating matrix: its rows and columns.
  std::pair<int64_t, int64_t> matrix(const char* name, const Tensor& t) const {
    floating(name, t);
    if (t.shape().rank() != 2) refuse(name, t, "two dimensions");
    return {t.shape()[0], t.shape()[1]};
  }
  int64_t rows(const char* name, const Tensor& t) const { return matrix(name, t).first; }
  int64_t columns(const char* name, const Tensor& t) const { return matrix(name, t).second; }
  void dropout(const Dropout& dropout) const {
    require(dropout.probability >= 0 && dropout.probability < 1, "dropout probability is ", dropout.probability,
            "; expected [0, 1)");
    draws(dropout.draws);
  }
  void draws(const Draws& draws) const {
    require(draws.first_index >= 0, "first_index is ", draws.first_index, "; expected at least 0");
  }
  // The routing of N tokens: its sizes, and its tensors of these sizes.
  void routing(const BlockRouting& r, int64_t N) const {
    require(r.blocks >= 1 && r.per_token >= 1 && r.chunk >= 1, "the routing has ", r.blocks, " blocks, ", r.per_token,
            " a token and chunks of ", r.chunk, " tokens; expected at least 1 of each");
    exact("routing.order", r.order, DType::kI32, {N * r.per_token});
    exact("routing.inverse", r.inverse, DType::kI32, {N * r.per_token});
    exact("routing.offsets", r.offsets, DType::kI32, {(N + r.chunk - 1) / r.chunk * r.blocks + 1});
  }

 private:
  const char* op_;
  Device device_;
};

}  // namespace sffn::contract
