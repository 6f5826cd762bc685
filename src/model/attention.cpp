#include "model/attention.h"

#include "kernels/ops.h"
#include "nn/dropout.h"
#include "nn/init.h"

#include <cmath>

namespace sffn {
namespace {

std::string name_of(int64_t layer, const char* part) { return cat("layers.", layer, ".", part); }

}  // namespace

Attention::Attention(ParamStore& params, const ModelConfig& model, int64_t layer)
    : layer_(layer),
      d_model_(model.d_model),
      heads_(model.heads),
      kv_heads_(model.kv_heads),
      head_dim_(model.head_dim),
      rope_(model.positions == Positions::kRope),
      rope_theta_(model.rope_theta),
      dropout_probability_(model.dropout),
      norm_(params, name_of(layer, "attn_norm"), model.d_model, model.norm, model.norm_eps),
      qkv_(params, name_of(layer, "attn.qkv"),
           {.out = (heads_ + 2 * kv_heads_) * head_dim_,
            .in = d_model_,
            .init = matrix_init(model, d_model_),
            .bias = model.attention_bias}),
      out_(params, name_of(layer, "attn.out"),
           {.out = d_model_,
            .in = heads_ * head_dim_,
            .init = branch_output_init(model, heads_ * head_dim_),
            .bias = model.attention_bias}) {}

AttentionShape Attention::shape(const BatchTensors& batch) const {
  return {.batch = batch.batch,
          .time = batch.time,
          .heads = heads_,
          .kv_heads = kv_heads_,
          .head_dim = head_dim_,
          .scale = 1.0 / std::sqrt(static_cast<double>(head_dim_))};
}

Dropout Attention::probability_dropout(const Context& ctx, const BatchTensors& batch) const {
  return site_dropout(ctx, dropout_probability_, RandomSite::kAttentionDropout, layer_,
                      heads_ * batch.time * batch.time);
}

Dropout Attention::branch_dropout(const Context& ctx, const BatchTensors& batch) const {
  return site_dropout(ctx, dropout_probability_, RandomSite::kAttentionOutDropout, layer_, batch.time * d_model_);
}

Residual Attention::forward(Context& ctx, const BatchTensors& batch, const Residual& h, Saved& saved) const {
  const AttentionShape shape = this->shape(batch);
  const DType act = h.sum.dtype();
  saved.norm = norm_.forward(ctx, h);
  saved.qkv = ctx.saved.allocate({batch.tokens(), shape.qkv_width()}, act, "qkv");
  saved.out = ctx.saved.allocate({batch.tokens(), shape.out_width()}, act, "attention");
  saved.lse = ctx.saved.allocate({shape.batch, shape.heads, shape.time}, accumulate_type(act), "attention lse");
  Tensor branch = ctx.saved.allocate(h.sum.shape(), act, "attention out");
  qkv_.forward(ctx, saved.qkv, saved.norm.normed);
  if (rope_) ops::rope_forward(ctx.stream, saved.qkv, batch.positions, shape, rope_theta_);
  ops::attention_forward(ctx.stream, saved.out, saved.lse, saved.qkv, batch.segment_start, shape,
                         probability_dropout(ctx, batch));
  out_.forward(ctx, branch, saved.out);
  const Dropout dropped = branch_dropout(ctx, batch);
  if (dropped.probability > 0) ops::dropout(ctx.stream, branch, dropped);
  return {saved.norm.sum, branch};
}

Residual Attention::forward_cached(Context& ctx, const BatchTensors& batch, const Residual& h, Tensor cache,
                                   int64_t first) const {
  const AttentionShape shape = this->shape(batch);
  const DType act = h.sum.dtype();
  const AddNorm::Saved norm = norm_.forward(ctx, h);
  Tensor qkv = ctx.saved.allocate({batch.tokens(), shape.qkv_width()}, act, "qkv");
  Tensor out = ctx.saved.allocate({batch.tokens(), shape.out_width()}, act, "attention");
  Tensor branch = ctx.saved.allocate(h.sum.shape(), act, "attention out");
  qkv_.forward(ctx, qkv, norm.normed);
  if (rope_) ops::rope_forward(ctx.stream, qkv, batch.positions, shape, rope_theta_);
  ops::attention_cached(ctx.stream, out, cache, qkv, shape, first);
  out_.forward(ctx, branch, out);
  return {norm.sum, branch};
}

void Attention::backward(Context& ctx, const BatchTensors& batch, const Saved& saved, Tensor dh) const {
  const AttentionShape shape = this->shape(batch);
  const ArenaScope scope(ctx.scratch);
  const DType act = dh.dtype();
  // branch = dropout(out·W_outᵀ + b)
  const Tensor dbranch = dropout_backward(ctx, dh, branch_dropout(ctx, batch));
  Tensor dout = ctx.scratch.allocate(saved.out.shape(), act, "attention dout");
  out_.backward(ctx, dout, dbranch, saved.out);
  // out = softmax(q·kᵀ/√d_h, masked)·v
  Tensor dqkv = ctx.scratch.allocate(saved.qkv.shape(), act, "attention dqkv");
  ops::attention_backward(ctx.stream, dqkv, dout, saved.out, saved.lse, saved.qkv, batch.segment_start, shape,
                          probability_dropout(ctx, batch));
  if (rope_) ops::rope_backward(ctx.stream, dqkv, batch.positions, shape, rope_theta_);
  // qkv = x·W_qkvᵀ + b
  Tensor dx = ctx.scratch.allocate(dh.shape(), act, "attention dx");
  qkv_.backward(ctx, dx, dqkv, saved.norm.normed);
  norm_.backward(ctx, dh, dx, saved.norm);
}

}  // namespace sffn
