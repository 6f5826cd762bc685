// One feed-forward layer of RMSNorm models alone, from an entry of sparse_ffn, with parameters at random.
#pragma once
#include "core/random.h"
#include "ffn/registry.h"
#include "nn/host_values.h"
#include "support/catch.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace sffn::test {

inline ModelConfig one_layer(const std::string& entry, int64_t d_model = 16, int64_t d_ff = 32) {
  ModelConfig model;
  model.vocab_size = 64;
  model.context = 8;
  model.layers = 1;
  model.d_model = d_model;
  model.heads = model.kv_heads = 1;
  model.head_dim = d_model;
  model.norm = Norm::kRms;
  model.ffn.d_ff = d_ff;
  Json json = parse_json(entry, "entry", ExitCode::kUsage);
  json["layers"] = "all";
  model.sparse_ffn = Json(Json::Array{json});
  return model;
}

class OneLayer {
 public:
  OneLayer(const ModelConfig& model, DType dtype, Recompute recompute = Recompute::kNone, size_t arena_bytes = 16 << 20)
      : d_model_(model.d_model),
        dtype_(dtype),
        layer_(resolve_ffn(model, "c.json")
                   .at(0)
                   .options->make({.params = params_, .model = model, .recompute = recompute, .layer = 0})),
        stream_(cpu_runtime()),
        saved_(cpu_runtime(), "saved", arena_bytes),
        scratch_(cpu_runtime(), "scratch", arena_bytes) {
    params_.allocate(cpu_runtime(), dtype);
    gradients_ = Buffer(cpu_runtime(), {params_.flat_size()}, accumulate_type(dtype));
    params_.use_gradients(gradients_.tensor({params_.flat_size()}, accumulate_type(dtype)));
    for (const Param& param : params_.all()) {
      const double mean = param.spec.name.find("norm.weight") != std::string::npos ? 1 : 0;
      std::vector<double> values(static_cast<size_t>(param.spec.shape.numel()));
      const double std = 1 / std::sqrt(static_cast<double>(d_model_));
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = mean + std * random_normal(random_key(17, param.spec.name), i);
      }
      write(param.spec.name, values);
    }
  }

  struct Output {
    std::vector<double> y, dh, gradients;
    ChoiceRecord chosen;
    double extra_loss = 0;
  };
  // The layer's branch for h [sequences·time, D], and with dy the gradients; those of parameters add up over calls.
  Output run(const std::vector<double>& h, int64_t time, const std::vector<double>& dy = {},
             double extra_loss_scale = 1) {
    const int64_t tokens = static_cast<int64_t>(h.size()) / d_model_;
    saved_.reset();
    scratch_.reset();
    saved_.poison();
    scratch_.poison();
    const Buffer sum(cpu_runtime(), {tokens, d_model_}, dtype_), loss(cpu_runtime(), {1}, accumulate_type(dtype_));
    write_values(stream_, sum.tensor({tokens, d_model_}, dtype_), h);
    std::vector<ChoiceRecord> choices;
    Context ctx{.stream = stream_, .saved = saved_, .scratch = scratch_, .parallel = {}, .seed = 5, .step = 11};
    ctx.gradients = !dy.empty();
    ctx.extra_losses = loss.tensor({1}, accumulate_type(dtype_));
    ctx.extra_loss_scale = extra_loss_scale;
    ctx.choices = &choices;
    std::unique_ptr<FfnLayer::Saved> saved;
    const FfnInput in{.h = {sum.tensor({tokens, d_model_}, dtype_), {}}, .token_ids = {}, .time = time};
    const Residual out = layer_->forward(ctx, in, saved);
    Output result;
    result.y = read_values(stream_, out.pending);
    result.extra_loss = read_values(stream_, ctx.extra_losses)[0];
    if (!choices.empty()) result.chosen = choices.at(0);
    if (dy.empty()) return result;
    const Buffer dh(cpu_runtime(), {tokens, d_model_}, dtype_);
    write_values(stream_, dh.tensor({tokens, d_model_}, dtype_), dy);
    layer_->backward(ctx, *saved, dh.tensor({tokens, d_model_}, dtype_));
    result.dh = read_values(stream_, dh.tensor({tokens, d_model_}, dtype_));
    result.gradients = read_values(stream_, gradients_.tensor({params_.flat_size()}, accumulate_type(dtype_)));
    return result;
  }
  void clear_gradients() { std::memset(gradients_.data(), 0, gradients_.bytes()); }

  ParamStore& params() { return params_; }
  // Of layers.0.NAME; none for a parameter that the layer has not.
  std::vector<double> values(const std::string& name) {
    const Param* param = params_.find("layers.0." + name);
    return param != nullptr ? read_values(stream_, param->value) : std::vector<double>();
  }
  void write(const std::string& name, const std::vector<double>& values) {
    write_values(stream_, params_.find(name)->value, values);
  }
  // h through the layer's norm: w ⊙ h / √(mean(h²) + eps)
  std::vector<double> normed(const std::vector<double>& h) {
    const std::vector<double> weight = values("ffn_norm.weight");
    const size_t D = weight.size();
    std::vector<double> x(h.size());
    for (size_t n = 0; n < h.size() / D; ++n) {
      double square = 0;
      for (size_t i = 0; i < D; ++i) square += h[n * D + i] * h[n * D + i];
      const double scale = 1 / std::sqrt(square / static_cast<double>(D) + 1e-5);
      for (size_t i = 0; i < D; ++i) x[n * D + i] = weight[i] * h[n * D + i] * scale;
    }
    return x;
  }

 private:
  int64_t d_model_;
  DType dtype_;
  ParamStore params_;
  std::unique_ptr<FfnLayer> layer_;
  Stream stream_;
  Arena saved_, scratch_;
  Buffer gradients_;
};

}  // namespace sffn::test
