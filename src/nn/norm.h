// The start of every sub-layer: the pending branch is added to the residual sum and the result is normalised, in one
// kernel (design.md section 3; equations at add_norm_forward in kernels/op_list.inc).
#pragma once
#include "config/config.h"
#include "core/params.h"
#include "nn/context.h"
#include "nn/residual.h"

#include <cstdint>
#include <string>

namespace sffn {

class AddNorm {
 public:
  struct Saved {
    Tensor sum;         // sum' [N, D]
    Tensor normed;      // [N, D]: the input of the linear layer that follows
    Tensor mean, rstd;  // [N]; no mean for RMSNorm
  };
  // Registers NAME.weight [d] (ones) and for LayerNorm NAME.bias [d] (zeros).
  AddNorm(ParamStore& params, const std::string& name, int64_t d, Norm norm, double eps);

  // sum' = h.sum + h.pending takes the memory of h.pending; without a pending branch sum' is h.sum itself. The other
  // tensors are allocated in ctx.saved.
  Saved forward(Context&, const Residual& h) const;
  // dh += gradient through the norm of dnormed; the parameters' gradients accumulate. All [N, D].
  void backward(Context&, Tensor dh, const Tensor& dnormed, const Saved&) const;

 private:
  Param* weight_;
  Param* bias_ = nullptr;
  double eps_;
};

// Of one norm of the model's width.
inline int64_t norm_parameters(const ModelConfig& model) {
  return model.norm == Norm::kLayer ? 2 * model.d_model : model.d_model;
}

}  // namespace sffn
