#include "model/flops.h"

#include "ffn/registry.h"
#include "nn/norm.h"

namespace sffn {
namespace {

int64_t attention_parameters(const ModelConfig& m) {
  const int64_t qkv = (m.heads + 2 * m.kv_heads) * m.head_dim, out = m.heads * m.head_dim;
  const int64_t biases = m.attention_bias ? qkv + m.d_model : 0;
  return (qkv + out) * m.d_model + biases + norm_parameters(m);
}

int64_t outer_parameters(const ModelConfig& m) {
  int64_t count = m.vocab_size * m.d_model + norm_parameters(m);
  if (m.positions == Positions::kLearned) count += m.context * m.d_model;
  if (!m.tie_embeddings) count += m.vocab_size * m.d_model;
  if (m.output_bias) count += m.vocab_size;
  return count;
}

}  // namespace

ParameterCount count_parameters(const ModelConfig& model) {
  ParameterCount out;
  out.total = out.active = outer_parameters(model);
  for (const FfnEntry& entry : resolve_ffn(model, "config")) {
    const FfnCost cost = entry.options->cost(model);
    const int64_t attention = attention_parameters(model);
    out.by_layer.push_back(attention + cost.parameters);
    out.total += attention + cost.parameters;
    out.active += attention + cost.active_parameters;
    if (entry.type != "dense") out.sparse += cost.parameters;
  }
  return out;
}

FlopCount count_flops(const ModelConfig& m) {
  const auto d = static_cast<double>(m.d_model);
  const auto out_width = static_cast<double>(m.heads * m.head_dim);
  const double projections = 2 * d * static_cast<double>((2 * m.heads + 2 * m.kv_heads) * m.head_dim);
  const double scores = 4 * static_cast<double>(m.context) * out_width;
  const double output = 2 * d * static_cast<double>(m.vocab_size);
  double layers_full = 0, layers_causal = 0;
  for (const FfnEntry& entry : resolve_ffn(m, "config")) {
    const double ffn = entry.options->cost(m).flops_per_token;
    layers_full += projections + scores + ffn;
    layers_causal += projections + scores / 2 + ffn;
  }
  FlopCount count;
  count.forward_per_token = layers_causal + output;
  count.train_per_token = 3 * count.forward_per_token;
  count.paper_per_token = 4 * layers_full + 3 * output;
  return count;
}

double paper_zflops(const Config& config) {
  const double tokens = static_cast<double>(config.train.steps) * static_cast<double>(config.train.tokens_per_step);
  return tokens * count_flops(config.model).paper_per_token / 1e21;
}

}  // namespace sffn
