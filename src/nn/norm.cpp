#include "nn/norm.h"

#include "kernels/ops.h"
#include "nn/linear.h"

namespace sffn {

AddNorm::AddNorm(ParamStore& params, const std::string& name, int64_t d, Norm norm, double eps)
    : weight_(&params.add(
          {.name = name + ".weight", .shape = {d}, .init = {Init::Kind::kConstant, 1.0}, .storage = Storage::kVector})),
      eps_(eps) {
  if (norm == Norm::kLayer) bias_ = &params.add({.name = name + ".bias", .shape = {d}, .storage = Storage::kVector});
}

AddNorm::Saved AddNorm::forward(Context& ctx, const Residual& h) const {
  const DType act = h.sum.dtype(), acc = accumulate_type(act);
  const int64_t tokens = h.sum.rows();
  Saved saved;
  saved.sum = h.pending.defined() ? h.pending : h.sum;
  saved.normed = ctx.saved.allocate(h.sum.shape(), act, "normed");
  if (bias_ != nullptr) saved.mean = ctx.saved.allocate({tokens}, acc, "norm mean");
  saved.rstd = ctx.saved.allocate({tokens}, acc, "norm rstd");
  const Tensor sum_out = h.pending.defined() ? saved.sum : Tensor();
  ops::add_norm_forward(ctx.stream, sum_out, saved.normed, saved.mean, saved.rstd, h.sum, h.pending, weight_->value,
                        value_of(bias_), eps_);
  return saved;
}

void AddNorm::backward(Context& ctx, Tensor dh, const Tensor& dnormed, const Saved& saved) const {
  ops::add_norm_backward(ctx.stream, dh, weight_->grad, grad_of(bias_), dnormed, saved.sum, saved.mean, saved.rstd,
                         weight_->value);
}

}  // namespace sffn
