// The feed-forward sub-layer of a block, whatever its method.
#pragma once
#include "nn/context.h"
#include "nn/residual.h"

#include <cstdint>
#include <memory>

namespace sffn {

struct FfnInput {
  Residual h;        // [N, D] each
  Tensor token_ids;  // [N] i32: hash methods choose by them
  int64_t time = 0;  // tokens per sequence: N = B·T
};

struct FfnCost {
  int64_t parameters = 0;         // of the layer, its norm included
  int64_t active_parameters = 0;  // parameters minus the rows of the cells one token does not use
  double flops_per_token = 0;     // forward, analytic (methods.md section 7)
};

// Residual stream in, residual stream out: the layer owns its norm, because Finedeep holds several norms and residual
// additions inside what a dense block calls its FFN.
class FfnLayer {
 public:
  struct Saved {
    virtual ~Saved() = default;
  };
  virtual ~FfnLayer() = default;
  // Allocates what backward needs in ctx.saved, and the result's tensors there too.
  virtual Residual forward(Context& ctx, const FfnInput& in, std::unique_ptr<Saved>& saved) = 0;
  // dh [N, D]: on entry the gradient of the output's value, on return that of the input's value. Parameter gradients
  // accumulate.
  virtual void backward(Context& ctx, const Saved& saved, Tensor dh) = 0;
  virtual FfnCost cost() const = 0;
};

}  // namespace sffn
