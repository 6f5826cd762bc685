#include "model/block.h"

#include "kernels/ops.h"

namespace sffn {

Block::Block(const FfnBuild& build, const Config& config, const FfnOptions& ffn)
    : attention_(build.params, config.model, build.layer), ffn_(ffn.make(build)) {}

Residual Block::forward(Context& ctx, const BatchTensors& batch, const Residual& h, Saved& saved) const {
  return feed_forward(ctx, batch, attention_.forward(ctx, batch, h, saved.attention), saved);
}

Residual Block::feed_forward(Context& ctx, const BatchTensors& batch, const Residual& middle, Saved& saved) const {
  return ffn_->forward(ctx, {.h = middle, .token_ids = batch.inputs, .time = batch.time}, saved.ffn);
}

void Block::forward_discarding(Context& ctx, const BatchTensors& batch, const Residual& h, const Residual& out) const {
  const ArenaScope scope(ctx.saved);
  Saved discarded;
  const Residual result = forward(ctx, batch, h, discarded);
  ops::copy(ctx.stream, out.sum, result.sum);
  ops::copy(ctx.stream, out.pending, result.pending);
}

void Block::forward_cached(Context& ctx, const BatchTensors& batch, const Residual& h, const Residual& out,
                           Tensor cache, int64_t first) const {
  const ArenaScope scope(ctx.saved);
  Saved discarded;
  const Residual result = feed_forward(ctx, batch, attention_.forward_cached(ctx, batch, h, cache, first), discarded);
  ops::copy(ctx.stream, out.sum, result.sum);
  ops::copy(ctx.stream, out.pending, result.pending);
}

void Block::backward(Context& ctx, const BatchTensors& batch, Saved& saved, Tensor dh) const {
  const ArenaScope scope(ctx.saved);
  if (saved.input.defined()) {
    Context again = ctx;
    again.extra_losses = Tensor();  // recorded by the first pass, as choices were
    again.count_choices = false;
    again.choices = nullptr;
    forward(again, batch, {.sum = saved.input, .pending = {}}, saved);
  }
  ffn_->backward(ctx, *saved.ffn, dh);
  attention_.backward(ctx, batch, saved.attention, dh);
}

}  // namespace sffn
