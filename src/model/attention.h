// Causal self-attention, the first sub-layer of a block:
//   x = norm(sum'),  qkv = x·W_qkvᵀ + b,  out = softmax(q·kᵀ/√d_h, masked)·v,  branch = dropout(out·W_outᵀ + b)
// with rotary positions on q and k where the model has them. Vaswani et al., arXiv 1706.03762, section 3.2; grouped
// heads: Ainslie et al., arXiv 2305.13245; rotary: Su et al., arXiv 2104.09864. Legend: N tokens, D width.
#pragma once
#include "config/config.h"
#include "core/params.h"
#include "model/batch_tensors.h"
#include "nn/context.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/residual.h"

namespace sffn {

class Attention {
 public:
  struct Saved {
    AddNorm::Saved norm;
    Tensor qkv;  // [N, (H + 2·H_kv)·d_h], rotated
    Tensor out;  // [N, H·d_h]
    Tensor lse;  // [B, H, T]
  };
  Attention(ParamStore&, const ModelConfig&, int64_t layer);

  Residual forward(Context&, const BatchTensors&, const Residual& h, Saved&) const;
  // The new tokens of sequences whose first `first` tokens are in `cache`, which takes the new ones (evaluation only).
  Residual forward_cached(Context&, const BatchTensors&, const Residual& h, Tensor cache, int64_t first) const;
  // dh [N, D]: on entry the gradient of the output's value, on return that of the input's value.
  void backward(Context&, const BatchTensors&, const Saved&, Tensor dh) const;

 private:
  AttentionShape shape(const BatchTensors&) const;
  Dropout probability_dropout(const Context&, const BatchTensors&) const;
  Dropout branch_dropout(const Context&, const BatchTensors&) const;

  int64_t layer_, d_model_, heads_, kv_heads_, head_dim_;
  bool rope_;
  double rope_theta_, dropout_probability_;
  AddNorm norm_;
  Linear qkv_, out_;
};

}  // namespace sffn
