// h[n] = dropout(tokens[ids[n]] + positions[position[n]]); the position table is learned, a constant of sines, or
// absent (rope). Legend: N tokens, D width, V vocabulary, P positions.
#pragma once
#include "config/config.h"
#include "core/buffer.h"
#include "core/params.h"
#include "model/batch_tensors.h"
#include "nn/context.h"

namespace sffn {

class Embedding {
 public:
  Embedding(ParamStore&, const ModelConfig&);
  // The table of sines, where there is one.
  void allocate(DeviceRuntime&, DType);
  size_t constant_bytes() const { return sinusoids_.bytes(); }

  Param& tokens() { return *tokens_; }
  // [N, D], allocated in ctx.saved.
  Tensor forward(Context&, const BatchTensors&) const;
  // Overwrites dh where there is dropout.
  void backward(Context&, const BatchTensors&, Tensor dh) const;

 private:
  Tensor position_table() const;
  Dropout dropout(const Context&, const BatchTensors&) const;

  Param* tokens_;
  Param* positions_ = nullptr;
  Positions kind_;
  int64_t d_model_, context_;
  double dropout_probability_;
  Buffer sinusoids_;
  DType dtype_ = DType::kF32;
};

}  // namespace sffn
