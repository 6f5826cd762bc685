#include "config/layers.h"
#include "config/names.h"
#include "config/parse.h"

namespace sffn {
namespace {

ModelConfig gpt_preset() { return {}; }

ModelConfig llama_preset() {
  ModelConfig model;
  model.backbone = "llama";
  model.norm = Norm::kRms;
  model.positions = Positions::kRope;
  model.attention_bias = model.ffn.bias = model.tie_embeddings = false;
  model.ffn.activation = Activation::kSilu;
  model.ffn.gated = true;
  return model;
}

// The default of a field that the backbone decides, as the reference shows it: "gpt: layernorm, llama: rms".
template <class Describe>
std::string by_backbone(Describe describe) {
  std::string text;
  for (const ModelConfig& preset : {gpt_preset(), llama_preset()}) {
    text += cat(text.empty() ? "" : ", ", preset.backbone, ": ", describe(preset));
  }
  return text;
}

std::string true_or_false(bool value) { return value ? "true" : "false"; }

// Returns model.bias.ffn if the file gives it.
std::optional<bool> read_bias(ConfigReader reader, ModelConfig& model) {
  const auto attention =
      reader.derived<bool>("attention", by_backbone([](const auto& m) { return true_or_false(m.attention_bias); }),
                           "Biases of the attention projections.");
  const auto ffn = reader.derived<bool>("ffn", by_backbone([](const auto& m) { return true_or_false(m.ffn.bias); }),
                                        "Biases of the FFN's keys and values.");
  model.output_bias = reader.optional("output", model.output_bias, "Bias of the output layer; untied embeddings only.");
  reader.finish();
  model.attention_bias = attention.value_or(model.attention_bias);
  model.ffn.bias = ffn.value_or(model.ffn.bias);
  return ffn;
}

void read_ffn(ConfigReader reader, ModelConfig& model, std::optional<bool> model_bias) {
  static constexpr Named<std::string_view> kTypes[] = {{"dense", "dense"}};
  FfnConfig& ffn = model.ffn;
  ffn.type =
      reader.one_of("type", kTypes, std::string_view("dense"), "FFN of every layer that no entry of sparse_ffn takes.");
  ffn.d_ff = reader.derived<int64_t>("d_ff", "4 * d_model", "Hidden width: the number of memory cells.", kWidth)
                 .value_or(4 * model.d_model);
  const auto name = [](const ModelConfig& m) {
    return name_of(kActivationNames, ActivationChoice{m.ffn.activation, m.ffn.gated});
  };
  const auto choice = reader.one_of(
      "activation", kActivationNames, ActivationChoice{ffn.activation, ffn.gated},
      "gelu is the tanh form, gelu_erf the exact one; swiglu and geglu have a gate table.", by_backbone(name));
  ffn.activation = choice.activation;
  ffn.gated = choice.gated;
  const auto bias = reader.derived<bool>("bias", "model.bias.ffn", "The same as model.bias.ffn, for short.");
  reader.finish();
  if (bias && model_bias && *bias != *model_bias) {
    reader.fail("bias", cat("is ", true_or_false(*bias), " and model.bias.ffn is ", true_or_false(*model_bias),
                            "; one of them, or both equal, is expected"));
  }
  ffn.bias = bias.value_or(ffn.bias);
}

void read_heads(ConfigReader& reader, ModelConfig& model) {
  model.heads = reader.required<int64_t>("heads", "Query heads.", kWidth);
  const auto kv_heads = reader.derived<int64_t>(
      "kv_heads", "heads", "Key and value heads; fewer than heads is grouped-query attention.", kWidth);
  const auto head_dim = reader.derived<int64_t>("head_dim", "d_model / heads",
                                                "Width of one head; with backend cuda at most 256.", kWidth);
  if (reader.collecting()) return;
  if (!head_dim && model.d_model % model.heads != 0) {
    reader.fail("heads", cat("is ", model.heads, " and d_model is ", model.d_model,
                             "; heads that divide d_model, or a head_dim, are expected"));
  }
  model.kv_heads = kv_heads.value_or(model.heads);
  model.head_dim = head_dim.value_or(model.d_model / model.heads);
}

// The methods' own keys are read by the ffn layer.
void read_sparse_ffn(ConfigReader& reader, ModelConfig& model) {
  const auto entries = reader.children("sparse_ffn",
                                       "Layers with a sparse method; an entry inherits d_ff, activation and bias from "
                                       "model.ffn.");
  for (ConfigReader entry : entries) {
    entry.document("layers", "object, list or string",
                   "{\"every\": n, \"offset\": o} takes the layers i with i % n == o (o is n - 1 unless given); "
                   "[5, 11] takes these; \"all\".");
    entry.required<std::string>("type", "Method; its further keys are its own: `sffn describe methods`.");
    if (!entry.collecting()) model.sparse_ffn.push_back(entry.json());
  }
  assign_layers(model.sparse_ffn, static_cast<int>(model.layers), reader.place("sparse_ffn"));
}

}  // namespace

ModelConfig read_model(ConfigReader reader) {
  using Preset = ModelConfig (*)();
  static constexpr Named<Preset> kBackbones[] = {{"gpt", gpt_preset}, {"llama", llama_preset}};
  ModelConfig m = reader.one_of("backbone", kBackbones, Preset{gpt_preset},
                                "Preset of norm, positions, bias, tie_embeddings and ffn.activation.")();
  m.vocab_size = reader.integer_or("vocab_size", "from_data", 0, "Token ids are below this.", kTokenCount);
  m.vocab_multiple = reader.optional("vocab_multiple", m.vocab_multiple,
                                     "In memory the embedding has a multiple of this many rows.", kLayerCount);
  m.context = reader.required<int64_t>("context", "Tokens of a sequence.", kWidth);
  m.layers = reader.required<int64_t>("layers", "Number of blocks.", kLayerCount);
  m.d_model = reader.required<int64_t>("d_model", "Width of the residual stream.", kWidth);
  read_heads(reader, m);
  m.norm = reader.one_of("norm", kNormNames, m.norm, "Before every branch and at the end.",
                         by_backbone([](const auto& p) { return name_of(kNormNames, p.norm); }));
  m.norm_eps = reader.optional("norm_eps", m.norm_eps, "Added to the variance or mean square.", kPositive);
  m.positions = reader.one_of("positions", kPositionsNames, m.positions, "How the order of tokens enters.",
                              by_backbone([](const auto& p) { return name_of(kPositionsNames, p.positions); }));
  m.rope_theta = reader.optional("rope_theta", m.rope_theta, "Base of the rotary frequencies.", kPositive);
  const std::optional<bool> bias = read_bias(reader.child("bias"), m);
  const auto tied =
      reader.derived<bool>("tie_embeddings", by_backbone([](const auto& p) { return true_or_false(p.tie_embeddings); }),
                           "The output layer is the token embedding.");
  m.tie_embeddings = tied.value_or(m.tie_embeddings);
  m.dropout = reader.optional(
      "dropout", m.dropout, "Of the embedding sum, attention probabilities, attention and FFN outputs.", kProbability);
  m.init = reader.one_of("init", kInitNames, m.init, "Initialisation scheme.");
  read_ffn(reader.child("ffn"), m, bias);
  read_sparse_ffn(reader, m);
  reader.finish();
  return m;
}

}  // namespace sffn
