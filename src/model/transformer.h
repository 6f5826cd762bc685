// The language model: embedding, blocks of attention and FFN, final norm and the loss head.
#pragma once
#include "config/config.h"
#include "core/params.h"
#include "data/batch_source.h"
#include "ffn/dispatch.h"
#include "ffn/ffn.h"
#include "model/batch_tensors.h"
#include "model/key_value_cache.h"
#include "nn/context.h"

#include <complex>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sffn {

// What a probe or a test wants to see of one pass. Tensors are copied to the host as float64.
struct Inspection {
  bool logits = false, hidden = false;
  std::complex<double> nll;                     // Σ -log p; a complex step of a parameter shows in the imaginary part
  std::complex<double> extra_loss;              // LossSum::extra_loss, likewise
  std::vector<double> logits_out;               // [B, T, V]
  std::vector<std::vector<double>> hidden_out;  // per layer [B, T, D]
  std::vector<ChoiceRecord> choices;            // of the layers that choose
};

struct LossSum {
  double nll = 0;         // Σ of -log p over scored tokens, nats
  int64_t tokens = 0;     // scored tokens
  double extra_loss = 0;  // balance losses and the like, already weighted; mean over groups; summed over layers
  std::vector<double> extra_by_layer;
};

// Where a pass leaves its losses on the device.
struct PassLosses {
  Tensor nll;    // [1] f64 (c128 for c128): Σ of -log p over scored tokens
  Tensor extra;  // [layers] acc: as LossSum::extra_by_layer
};

class Transformer {
 public:
  // Registers every parameter; memory comes with allocate(). Throws UsageError where the blocks of a layer cannot be
  // shared as `share` says.
  explicit Transformer(const Config& config, const ExpertShare& share = {});
  // Logits are made for at most this many bytes of tokens at a time: for tests of that chunking.
  Transformer(const Config& config, int64_t logits_bytes);
  ~Transformer();
  ParamStore& params();  // what every rank holds
  const ParamStore& params() const;
  // All of it: params(), and this rank's tables of blocks where these are spread over ranks.
  const std::vector<ParamStore*>& stores();

  // UsageError where the device has no kernels for the model.
  void allocate(DeviceRuntime& runtime);
  size_t constant_bytes() const;  // beside parameters: the table of sinusoidal positions, and state
  const std::vector<FfnLayer*>& ffn_layers() const;
  // Writes the initial values (fp32 draws by seed and name, rounded to the storage type), and the state of layers that
  // follows from token_counts (FfnLayer::initialise_state).
  void initialise(Stream& stream, uint64_t seed, const TokenCounts& token_counts = no_token_counts);

  // One micro-batch: gradients of loss_scale · Σ nll, and of B·T·loss_scale times its extra losses, accumulate into
  // params().all()[i].grad.
  LossSum forward_backward(Context& ctx, const Batch& batch, double loss_scale, Inspection* inspection = nullptr);
  // The same of a batch that is on the device; nothing is read back unless there is an inspection.
  void forward_backward(Context& ctx, const BatchTensors& batch, double loss_scale, const PassLosses& losses,
                        Inspection* inspection = nullptr);
  // Per-token -log p [B·T] (0 where the target is -1), no gradients; ctx.training is ignored (evaluation mode).
  LossSum evaluate(Context& ctx, const Batch& batch, std::vector<float>* token_nll = nullptr,
                   Inspection* inspection = nullptr);
  // Logits of the last position of each sequence [B, V] after `tokens` [B, n], which follow those in the cache and join
  // them: a prompt first, then one token at a time. Arenas that serve evaluate() for B sequences of n tokens serve
  // this. Throws RunError when the cache, or the table of positions, has no room for n more.
  std::vector<float> decode(Context& ctx, KeyValueCache& cache, const std::vector<int32_t>& tokens);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sffn
