// One transformer block: attention, then the FFN of whatever method.
#pragma once
#include "ffn/registry.h"
#include "model/attention.h"

#include <memory>

namespace sffn {

class Block {
 public:
  struct Saved {
    Attention::Saved attention;
    std::unique_ptr<FfnLayer::Saved> ffn;
    Tensor input;  // recompute block: sum' of the attention's norm [N, D], all that is kept
  };
  Block(const FfnBuild&, const Config&, const FfnOptions&);

  // Keeps in ctx.saved what backward needs.
  Residual forward(Context&, const BatchTensors&, const Residual& h, Saved&) const;
  // Keeps nothing but the result, which is written to `out` [N, D] each; out.sum may be h.sum and out.pending
  // h.pending.
  void forward_discarding(Context&, const BatchTensors&, const Residual& h, const Residual& out) const;
  // As forward_discarding, with attention over the cache too (see Attention::forward_cached).
  void forward_cached(Context&, const BatchTensors&, const Residual& h, const Residual& out, Tensor cache,
                      int64_t first) const;
  // As Attention::backward, for the whole block. saved.input defined: the forward pass is made again from it.
  void backward(Context&, const BatchTensors&, Saved&, Tensor dh) const;
  FfnLayer& ffn() const { return *ffn_; }

 private:
  Residual feed_forward(Context&, const BatchTensors&, const Residual& middle, Saved&) const;

  Attention attention_;
  std::unique_ptr<FfnLayer> ffn_;
};

}  // namespace sffn
