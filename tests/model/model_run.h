// Tiny models on arenas of exactly the planned size, poisoned with NaN before every pass.
#pragma once
#include "config/config.h"
#include "core/random.h"
#include "model/memory_plan.h"
#include "model/transformer.h"
#include "nn/host_values.h"
#include "support/catch.h"

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sffn::test {

// 2 layers, d 12, 2 heads of 6, d_ff 20, vocabulary 29 padded to 32, context 10.
inline Config tiny_model(Precision precision = Precision::kFp64) {
  Config config;
  ModelConfig& m = config.model;
  m.vocab_size = 29;
  m.vocab_multiple = 32;
  m.context = 10;
  m.layers = 2;
  m.d_model = 12;
  m.heads = m.kv_heads = 2;
  m.head_dim = 6;
  m.ffn.d_ff = 20;
  config.train.precision = precision;
  return config;
}

inline Config gpt_learned() { return tiny_model(); }
inline Config gpt_sinusoidal() {
  Config config = tiny_model();
  config.model.positions = Positions::kSinusoidal;
  config.model.ffn.activation = Activation::kRelu;
  return config;
}
inline Config llama_grouped() {
  Config config = tiny_model();
  ModelConfig& m = config.model;
  m.backbone = "llama";
  m.norm = Norm::kRms;
  m.positions = Positions::kRope;
  m.heads = 4;
  m.ffn.activation = Activation::kSilu;
  m.ffn.gated = true;
  m.ffn.bias = m.attention_bias = m.tie_embeddings = false;
  return config;
}
inline Config untied_biased() {
  Config config = tiny_model();
  config.model.tie_embeddings = false;
  config.model.output_bias = true;
  config.model.ffn.activation = Activation::kGeluErf;
  return config;
}
inline Config with_dropout(Config config) {
  config.model.dropout = 0.25;
  return config;
}
inline std::vector<std::pair<std::string, Config>> tiny_models() {
  return {{"gpt learned", gpt_learned()},
          {"gpt sinusoidal relu", gpt_sinusoidal()},
          {"llama grouped swiglu", llama_grouped()},
          {"untied with biases", untied_biased()},
          {"gpt dropout", with_dropout(gpt_learned())},
          {"llama dropout", with_dropout(llama_grouped())}};
}

inline Config in_precision(Config config, Precision precision) {
  config.train.precision = precision;
  return config;
}

// Tokens at random; a few targets are not scored.
inline Batch random_batch(int64_t batch, int64_t time, int64_t vocab, uint64_t stream = 1) {
  Batch out{.batch = batch, .time = time, .inputs = {}, .targets = {}, .positions = {}, .segment_start = {}};
  for (int64_t n = 0; n < batch * time; ++n) {
    const auto draw = [&](uint64_t index) {
      return static_cast<int32_t>(random_bits({3, stream}, static_cast<uint64_t>(2 * n) + index) % vocab);
    };
    out.inputs.push_back(draw(0));
    out.targets.push_back(n % 5 == 3 ? -1 : draw(1));
    out.positions.push_back(static_cast<int32_t>(n % time));
  }
  return out;
}

// Every sequence as documents that begin at the given tokens.
inline void mask_documents(Batch& batch, const std::vector<int64_t>& starts) {
  batch.segment_start.resize(batch.inputs.size());
  for (size_t n = 0; n < batch.inputs.size(); ++n) {
    const int64_t t = static_cast<int64_t>(n) % batch.time;
    int64_t first = 0;
    for (const int64_t start : starts) {
      if (start <= t) first = start;
    }
    batch.segment_start[n] = static_cast<int32_t>(first);
    batch.positions[n] = static_cast<int32_t>(t - first);
  }
}

inline double bf16_value(double value) { return static_cast<float>(bfloat16(static_cast<float>(value))); }

// A model with every parameter at random (norm weights around 1), the same values in every precision: they are exact
// in bf16.
class ModelRun {
 public:
  explicit ModelRun(const Config& config, int64_t batch = 3, int64_t time = 7, std::optional<int64_t> logits_bytes = {})
      : config_(config),
        plan_(measure_memory(config, batch, time)),
        model_(logits_bytes ? Transformer(config, *logits_bytes) : Transformer(config)),
        stream_(cpu_runtime()),
        saved_(cpu_runtime(), "saved", plan_.train.saved),
        scratch_(cpu_runtime(), "scratch", plan_.train.scratch) {
    model_.allocate(cpu_runtime());
    ParamStore& params = model_.params();
    gradients_ = Buffer(cpu_runtime(), {params.flat_size()}, accumulate_type(params.dtype()));
    params.use_gradients(flat_gradients());
    randomise();
  }

  Transformer& model() { return model_; }
  Stream& stream() { return stream_; }
  const MemoryPlan& plan() const { return plan_; }
  Arena& saved() { return saved_; }
  Arena& scratch() { return scratch_; }
  Tensor flat_gradients() const {
    return gradients_.tensor({model_.params().flat_size()}, accumulate_type(model_.params().dtype()));
  }
  Context context() {
    saved_.poison();
    scratch_.poison();
    const Parallel parallel{alone_.get(), alone_.get(), alone_.get()};
    return {.stream = stream_, .saved = saved_, .scratch = scratch_, .parallel = parallel, .seed = 5, .step = 11};
  }
  void clear_gradients() { std::memset(gradients_.data(), 0, gradients_.bytes()); }

  LossSum forward_backward(const Batch& batch, double scale = 1, Inspection* inspection = nullptr) {
    clear_gradients();
    Context ctx = context();
    return model_.forward_backward(ctx, batch, scale, inspection);
  }
  LossSum evaluate(const Batch& batch, std::vector<float>* token_nll = nullptr, Inspection* inspection = nullptr) {
    Context ctx = context();
    return model_.evaluate(ctx, batch, token_nll, inspection);
  }
  // As in checkpoints: without padded rows.
  std::vector<double> gradient(const Param& param) {
    return read_values(stream_, param.grad.slice(0, param.spec.shape[0]));
  }
  std::vector<double> all_gradients() { return read_values(stream_, flat_gradients()); }
  std::vector<char> gradient_bytes() const {
    const char* data = static_cast<const char*>(gradients_.data());
    return {data, data + gradients_.bytes()};
  }

 private:
  void randomise() {
    for (const Param& param : model_.params().all()) {
      const double std = 1 / std::sqrt(static_cast<double>(config_.model.d_model));
      const bool norm = param.spec.name.find("norm.weight") != std::string::npos;
      std::vector<double> values(static_cast<size_t>(param.spec.shape.numel()));
      const RandomKey key = random_key(17, param.spec.name);
      for (size_t i = 0; i < values.size(); ++i) values[i] = bf16_value((norm ? 1 : 0) + std * random_normal(key, i));
      write_values(stream_, param.value.slice(0, param.spec.shape[0]), values);
    }
  }

  Config config_;
  MemoryPlan plan_;
  Transformer model_;
  Stream stream_;
  std::unique_ptr<Communicator> alone_ = make_self_communicator();
  Arena saved_, scratch_;
  Buffer gradients_;
};

// ‖a − b‖ / ‖b‖
inline double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace sffn::test
