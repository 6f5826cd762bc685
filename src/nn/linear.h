// y = x·Wᵀ + b with W stored [out, in].
#pragma once
#include "core/params.h"
#include "kernels/types.h"
#include "nn/context.h"

#include <cstdint>
#include <string>

namespace sffn {

class Linear {
 public:
  struct Options {
    int64_t out = 0, in = 0;
    Init init;
    bool bias = false;  // starts at 0
  };
  // Registers NAME.weight [out, in] and, with a bias, NAME.bias [out].
  Linear(ParamStore& params, const std::string& name, const Options&);

  // y [N, out] = x [N, in]·Wᵀ + b
  void forward(Context&, Tensor y, const Tensor& x) const;
  // z [N, out] = x·Wᵀ + b, not kept where absent;  h = f(z), or h = f(gate) ⊙ z with a gate
  void forward_activated(Context&, Tensor h, Tensor z, const Tensor& x, const Tensor& gate, Activation f) const;
  // dx [N, in] = dy·W, or += with kYes;  dW += dyᵀ·x;  db += Σ_n dy
  void backward(Context&, Tensor dx, const Tensor& dy, const Tensor& x, Accumulate to_dx = Accumulate::kNo) const;

 private:
  Param* weight_;
  Param* bias_ = nullptr;
};

// A parameter's value or gradient; absent for an absent parameter.
inline Tensor value_of(const Param* param) { return param != nullptr ? param->value : Tensor(); }
inline Tensor grad_of(const Param* param) { return param != nullptr ? param->grad : Tensor(); }

}  // namespace sffn
