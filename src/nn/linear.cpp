#include "nn/linear.h"

#include "kernels/ops.h"

namespace sffn {

Linear::Linear(ParamStore& params, const std::string& name, const Options& options)
    : weight_(&params.add({.name = name + ".weight", .shape = {options.out, options.in}, .init = options.init})) {
  if (options.bias) bias_ = &params.add({.name = name + ".bias", .shape = {options.out}, .storage = Storage::kVector});
}

void Linear::forward(Context& ctx, Tensor y, const Tensor& x) const {
  ops::matmul(ctx.stream, y, x, Transpose::kNo, weight_->value, Transpose::kYes, value_of(bias_), Accumulate::kNo);
}

void Linear::forward_activated(Context& ctx, Tensor h, Tensor z, const Tensor& x, const Tensor& gate,
                               Activation f) const {
  ops::matmul_activation_forward(ctx.stream, h, z, x, weight_->value, value_of(bias_), gate, f);
}

void Linear::backward(Context& ctx, Tensor dx, const Tensor& dy, const Tensor& x, Accumulate to_dx) const {
  ops::matmul(ctx.stream, dx, dy, Transpose::kNo, weight_->value, Transpose::kNo, Tensor(), to_dx);
  ops::weight_gradient(ctx.stream, weight_->grad, grad_of(bias_), dy, x, Transpose::kYes);
}

}  // namespace sffn
