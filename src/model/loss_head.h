// The end of the model: x = norm(sum'), logits = x·Wᵀ + b, cross-entropy. Logits exist for a chunk of tokens at a time;
// their gradient overwrites them. Legend: N tokens, D width, V vocabulary, Vp padded vocabulary.
#pragma once
#include "config/config.h"
#include "core/params.h"
#include "model/batch_tensors.h"
#include "model/transformer.h"
#include "nn/context.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/residual.h"

namespace sffn {

class LossHead {
 public:
  // Logits of one chunk take at most this many bytes (one token's at least). A constant, so that rounding depends on
  // the micro-batch alone. Each chunk adds to the whole gradient of the output matrix, which large chunks do seldom.
  static constexpr int64_t kLogitsBytes = int64_t{512} << 20;

  // `embedding` is the output matrix of a model with tied embeddings; else lm_head.weight [V, D] is registered, and
  // lm_head.bias [V] where the model has an output bias.
  LossHead(ParamStore&, const ModelConfig&, Param& embedding, int64_t logits_bytes = kLogitsBytes);

  // nll [1] = Σ -log p, f64 (c128 for c128), and dh [N, D] = gradient of loss_scale · Σ nll by the value of h;
  // parameters' gradients accumulate.
  void forward_backward(Context&, const BatchTensors&, const Residual& h, Tensor dh, Tensor nll, double loss_scale,
                        Inspection*) const;
  // Σ nll; token_nll, when given, gets -log p of every token (0 where it is not scored).
  LossSum evaluate(Context&, const BatchTensors&, const Residual& h, std::vector<float>* token_nll, Inspection*) const;
  // Logits after the last token of every sequence, [B, V] on the host.
  std::vector<float> last_logits(Context&, const BatchTensors&, const Residual& h) const;

 private:
  int64_t chunk_tokens(int64_t tokens, DType) const;
  Tensor allocate_logits(Context&, int64_t tokens, DType) const;
  void logits_of(Context&, Tensor logits, const Tensor& x) const;

  int64_t vocab_, padded_vocab_, d_model_, logits_bytes_;
  AddNorm norm_;
  Param* weight_;
  Param* bias_ = nullptr;
};

// The dtype of a sum of losses of this one.
inline DType sum_type(DType acc) { return acc == DType::kC128 ? DType::kC128 : DType::kF64; }
// Waits for a sum of losses of `scored` tokens; nothing on the meta device.
LossSum read_loss(Stream&, const Tensor& nll, int64_t scored, Inspection*);

}  // namespace sffn
