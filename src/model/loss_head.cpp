#include "model/loss_head.h"

#include "kernels/ops.h"
#include "nn/host_values.h"
#include "nn/init.h"

#include <algorithm>

namespace sffn {
namespace {

constexpr int64_t kChunkMultiple = 16;  // tokens: whole tiles for the matrix products

// The unpadded columns of logits [n, Vp], as double, appended.
void append_logits(Stream& stream, const Tensor& logits, int64_t vocab, std::vector<double>& out) {
  const std::vector<double> padded = read_values(stream, logits);
  for (int64_t row = 0; row < logits.rows(); ++row) {
    const auto first = padded.begin() + row * logits.cols();
    out.insert(out.end(), first, first + vocab);
  }
}

}  // namespace

LossSum read_loss(Stream& stream, const Tensor& nll, int64_t scored, Inspection* inspection) {
  LossSum loss;
  loss.tokens = scored;
  if (stream.is_meta()) return loss;
  std::complex<double> value;
  if (nll.dtype() == DType::kC128) {
    stream.copy_to_host(&value, nll);
    stream.synchronize();
  } else {
    value = read_values(stream, nll)[0];
  }
  loss.nll = value.real();
  if (inspection != nullptr) inspection->nll = value;
  return loss;
}

LossHead::LossHead(ParamStore& params, const ModelConfig& model, Param& embedding, int64_t logits_bytes)
    : vocab_(model.vocab_size),
      padded_vocab_(model.padded_vocab()),
      d_model_(model.d_model),
      logits_bytes_(logits_bytes),
      norm_(params, "final_norm", model.d_model, model.norm, model.norm_eps),
      weight_(&embedding) {
  if (!model.tie_embeddings) {
    weight_ = &params.add({.name = "lm_head.weight",
                           .shape = {vocab_, d_model_},
                           .init = matrix_init(model, d_model_),
                           .padded_rows = padded_vocab_});
  }
  if (model.output_bias) {
    bias_ = &params.add(
        {.name = "lm_head.bias", .shape = {vocab_}, .storage = Storage::kVector, .padded_rows = padded_vocab_});
  }
}

// As few chunks as fit, of equal size, so that no product is much smaller than the others.
int64_t LossHead::chunk_tokens(int64_t tokens, DType act) const {
  const int64_t row_bytes = padded_vocab_ * static_cast<int64_t>(size_of(act));
  const int64_t largest = std::max<int64_t>(1, logits_bytes_ / row_bytes);
  const int64_t chunks = (tokens + largest - 1) / largest;
  const int64_t even = (tokens + chunks - 1) / chunks;
  const int64_t whole_tiles = (even + kChunkMultiple - 1) / kChunkMultiple * kChunkMultiple;
  return std::min({tokens, largest, whole_tiles});
}

Tensor LossHead::allocate_logits(Context& ctx, int64_t tokens, DType act) const {
  return ctx.scratch.allocate({tokens, padded_vocab_}, act, "logits of a chunk");
}

void LossHead::logits_of(Context& ctx, Tensor logits, const Tensor& x) const {
  ops::matmul(ctx.stream, logits, x, Transpose::kNo, weight_->value, Transpose::kYes, value_of(bias_), Accumulate::kNo);
}

void LossHead::forward_backward(Context& ctx, const BatchTensors& batch, const Residual& h, Tensor dh, Tensor nll,
                                double loss_scale, Inspection* inspection) const {
  const ArenaScope saved_scope(ctx.saved), scope(ctx.scratch);
  Stream& stream = ctx.stream;
  const DType act = h.sum.dtype();
  const AddNorm::Saved norm = norm_.forward(ctx, h);
  Tensor losses = ctx.scratch.allocate({batch.tokens()}, accumulate_type(act), "losses");
  Tensor dx = ctx.scratch.allocate(dh.shape(), act, "final norm dx");
  const int64_t chunk = chunk_tokens(batch.tokens(), act);
  const Tensor chunk_logits = allocate_logits(ctx, chunk, act);
  for (int64_t first = 0; first < batch.tokens(); first += chunk) {
    const int64_t count = std::min(chunk, batch.tokens() - first);
    const Tensor x = norm.normed.slice(first, count);
    Tensor logits = chunk_logits.slice(0, count);
    logits_of(ctx, logits, x);
    if (inspection != nullptr && inspection->logits) append_logits(stream, logits, vocab_, inspection->logits_out);
    ops::cross_entropy(stream, losses.slice(first, count), logits, batch.targets.slice(first, count), vocab_,
                       loss_scale, true);
    // logits = x·Wᵀ + b; logits now hold their gradient
    ops::matmul(stream, dx.slice(first, count), logits, Transpose::kNo, weight_->value, Transpose::kNo, Tensor(),
                Accumulate::kNo);
    ops::weight_gradient(stream, weight_->grad, grad_of(bias_), logits, x, Transpose::kYes);
  }
  ops::fill_zero(stream, dh);
  norm_.backward(ctx, dh, dx, norm);
  ops::sum(stream, nll, losses);
}

LossSum LossHead::evaluate(Context& ctx, const BatchTensors& batch, const Residual& h, std::vector<float>* token_nll,
                           Inspection* inspection) const {
  const ArenaScope saved_scope(ctx.saved), scope(ctx.scratch);
  Stream& stream = ctx.stream;
  const DType act = h.sum.dtype();
  const Tensor normed = norm_.forward(ctx, h).normed;
  Tensor losses = ctx.scratch.allocate({batch.tokens()}, accumulate_type(act), "losses");
  const int64_t chunk = chunk_tokens(batch.tokens(), act);
  const Tensor chunk_logits = allocate_logits(ctx, chunk, act);
  for (int64_t first = 0; first < batch.tokens(); first += chunk) {
    const int64_t count = std::min(chunk, batch.tokens() - first);
    Tensor logits = chunk_logits.slice(0, count);
    logits_of(ctx, logits, normed.slice(first, count));
    if (inspection != nullptr && inspection->logits) append_logits(stream, logits, vocab_, inspection->logits_out);
    ops::cross_entropy(stream, losses.slice(first, count), logits, batch.targets.slice(first, count), vocab_, 0.0,
                       false);
  }
  if (token_nll != nullptr) {
    const std::vector<double> values = read_values(stream, losses);
    token_nll->assign(values.begin(), values.end());
  }
  const Tensor nll = ctx.scratch.allocate({1}, sum_type(losses.dtype()), "sum of losses");
  ops::sum(stream, nll, losses);
  return read_loss(stream, nll, batch.scored, inspection);
}

std::vector<float> LossHead::last_logits(Context& ctx, const BatchTensors& batch, const Residual& h) const {
  const ArenaScope saved_scope(ctx.saved), scope(ctx.scratch);
  const DType act = h.sum.dtype();
  const Tensor normed = norm_.forward(ctx, h).normed;
  Tensor logits = allocate_logits(ctx, 1, act);
  std::vector<double> out;
  for (int64_t sequence = 0; sequence < batch.batch; ++sequence) {
    logits_of(ctx, logits, normed.slice((sequence + 1) * batch.time - 1, 1));
    append_logits(ctx.stream, logits, vocab_, out);
  }
  return {out.begin(), out.end()};
}

}  // namespace sffn
