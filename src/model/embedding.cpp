#include "model/embedding.h"

#include "kernels/ops.h"
#include "nn/dropout.h"
#include "nn/host_values.h"
#include "nn/init.h"
#include "nn/linear.h"

#include <cmath>
#include <vector>

namespace sffn {
namespace {

// PE[t, 2i] = sin(t·10000^(-2i/d)), PE[t, 2i+1] = cos(…): Vaswani et al., arXiv 1706.03762, section 3.5
std::vector<double> sinusoid_table(int64_t positions, int64_t d) {
  std::vector<double> table(static_cast<size_t>(positions * d));
  for (int64_t t = 0; t < positions; ++t) {
    for (int64_t c = 0; c < d; ++c) {
      const double frequency = std::pow(10000.0, -static_cast<double>(c / 2 * 2) / static_cast<double>(d));
      const double angle = static_cast<double>(t) * frequency;
      table[static_cast<size_t>(t * d + c)] = c % 2 == 0 ? std::sin(angle) : std::cos(angle);
    }
  }
  return table;
}

}  // namespace

Embedding::Embedding(ParamStore& params, const ModelConfig& model)
    : tokens_(&params.add({.name = "embed.tokens.weight",
                           .shape = {model.vocab_size, model.d_model},
                           .init = matrix_init(model, model.d_model),
                           .padded_rows = model.padded_vocab()})),
      kind_(model.positions),
      d_model_(model.d_model),
      context_(model.context),
      dropout_probability_(model.dropout) {
  if (kind_ == Positions::kLearned) {
    positions_ = &params.add(
        {.name = "embed.positions.weight", .shape = {context_, d_model_}, .init = matrix_init(model, d_model_)});
  }
}

void Embedding::allocate(DeviceRuntime& runtime, DType dtype) {
  dtype_ = dtype;
  if (kind_ != Positions::kSinusoidal) return;
  sinusoids_ = Buffer(runtime, {context_, d_model_}, dtype);
  Stream stream(runtime);
  if (!stream.is_meta()) write_values(stream, position_table(), sinusoid_table(context_, d_model_));
}

Tensor Embedding::position_table() const {
  if (kind_ == Positions::kLearned) return positions_->value;
  return kind_ == Positions::kSinusoidal ? sinusoids_.tensor({context_, d_model_}, dtype_) : Tensor();
}

Dropout Embedding::dropout(const Context& ctx, const BatchTensors& batch) const {
  return site_dropout(ctx, dropout_probability_, RandomSite::kEmbeddingDropout, 0, batch.time * d_model_);
}

Tensor Embedding::forward(Context& ctx, const BatchTensors& batch) const {
  Tensor h = ctx.saved.allocate({batch.tokens(), d_model_}, tokens_->value.dtype(), "embedding");
  const Tensor table = position_table();
  ops::embedding_forward(ctx.stream, h, tokens_->value, batch.inputs, table,
                         table.defined() ? batch.positions : Tensor());
  const Dropout dropped = dropout(ctx, batch);
  if (dropped.probability > 0) ops::dropout(ctx.stream, h, dropped);
  return h;
}

void Embedding::backward(Context& ctx, const BatchTensors& batch, Tensor dh) const {
  const Dropout dropped = dropout(ctx, batch);
  if (dropped.probability > 0) ops::dropout(ctx.stream, dh, dropped);
  ops::embedding_backward(ctx.stream, tokens_->grad, grad_of(positions_), dh, batch.inputs,
                          positions_ != nullptr ? batch.positions : Tensor());
}

}  // namespace sffn
