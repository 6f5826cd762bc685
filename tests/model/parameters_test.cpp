#include "model/flops.h"
#include "model/model_run.h"

using namespace sffn;
using namespace sffn::test;

namespace {

std::vector<std::string> described(const Config& config) {
  const Transformer model(config);
  std::vector<std::string> list;
  for (const Param& param : model.params().all()) {
    list.push_back(param.spec.name + " " + param.spec.shape.str() +
                   (param.spec.storage == Storage::kVector ? " vector" : ""));
  }
  return list;
}

}  // namespace

// Kills: a renamed or transposed tensor, a bias or norm in the wrong place, a matrix stored as a vector.
TEST_CASE("a gpt model has the parameters of the checkpoint contract", "[model]") {
  Config config = gpt_learned();
  config.model.layers = 1;
  CHECK(described(config) == std::vector<std::string>{
                                 "embed.tokens.weight [29, 12]",
                                 "embed.positions.weight [10, 12]",
                                 "layers.0.attn_norm.weight [12] vector",
                                 "layers.0.attn_norm.bias [12] vector",
                                 "layers.0.attn.qkv.weight [36, 12]",
                                 "layers.0.attn.qkv.bias [36] vector",
                                 "layers.0.attn.out.weight [12, 12]",
                                 "layers.0.attn.out.bias [12] vector",
                                 "layers.0.ffn_norm.weight [12] vector",
                                 "layers.0.ffn_norm.bias [12] vector",
                                 "layers.0.ffn.keys.weight [20, 12]",
                                 "layers.0.ffn.keys.bias [20] vector",
                                 "layers.0.ffn.values.weight [20, 12]",
                                 "layers.0.ffn.values.bias [12] vector",
                                 "final_norm.weight [12] vector",
                                 "final_norm.bias [12] vector",
                             });
}

// Kills: grouped heads counted as full ones, an RMSNorm with a bias, a tied llama head.
TEST_CASE("a llama model has the parameters of the checkpoint contract", "[model]") {
  Config config = llama_grouped();
  config.model.layers = 1;
  CHECK(described(config) == std::vector<std::string>{
                                 "embed.tokens.weight [29, 12]",
                                 "layers.0.attn_norm.weight [12] vector",
                                 "layers.0.attn.qkv.weight [48, 12]",
                                 "layers.0.attn.out.weight [12, 24]",
                                 "layers.0.ffn_norm.weight [12] vector",
                                 "layers.0.ffn.keys.weight [20, 12]",
                                 "layers.0.ffn.gate_keys.weight [20, 12]",
                                 "layers.0.ffn.values.weight [20, 12]",
                                 "final_norm.weight [12] vector",
                                 "lm_head.weight [29, 12]",
                             });
}

// Kills: an output bias that is not registered, or not padded with the vocabulary.
TEST_CASE("an untied output layer may have a bias", "[model]") {
  const std::vector<std::string> list = described(untied_biased());
  CHECK(std::count(list.begin(), list.end(), "lm_head.weight [29, 12]") == 1);
  CHECK(std::count(list.begin(), list.end(), "lm_head.bias [29] vector") == 1);
}

// Kills: an analytic count that forgets a bias, a norm, the positions or the output layer.
TEST_CASE("analytic parameter counts are those of the model", "[model]") {
  for (const auto& [name, config] : tiny_models()) {
    INFO(name);
    const ParameterCount count = count_parameters(config.model);
    CHECK(count.total == Transformer(config).params().parameter_count());
    CHECK(count.active == count.total);
    CHECK(count.sparse == 0);
    CHECK(count.by_layer.size() == 2);
  }
}

// Kills: any change of the published convention.
TEST_CASE("the published dense model has the published counts", "[model]") {
  Config config;
  ModelConfig& m = config.model;
  m.vocab_size = 51200;
  m.context = 2048;
  m.layers = 24;
  m.d_model = 1024;
  m.heads = m.kv_heads = 16;
  m.head_dim = 64;
  m.positions = Positions::kSinusoidal;
  m.ffn.d_ff = 4096;
  m.ffn.activation = Activation::kRelu;
  config.train.steps = 60000;
  config.train.tokens_per_step = 1000000;
  CHECK(count_parameters(m).total == 354740224);
  // 96·T·L·d²·(1 + s/(6d) + V/(16·L·d))
  const double L = 24, d = 1024, s = 2048, V = 51200, T = 60e9;
  const double closed = 96 * T * L * d * d * (1 + s / (6 * d) + V / (16 * L * d)) / 1e21;
  CHECK(paper_zflops(config) == Approx(closed).epsilon(1e-14));
  CHECK(std::abs(paper_zflops(config) - 0.2121) < 5e-5);
  const FlopCount flops = count_flops(m);
  CHECK(flops.forward_per_token == L * (24 * d * d + 2 * s * d) + 2 * d * V);
  CHECK(flops.train_per_token == 3 * flops.forward_per_token);
}

// Kills: padded rows drawn at random, a scale that forgets the branch outputs, biases or norms that start elsewhere.
TEST_CASE("initial weights have the spread of the gpt scheme and padded rows stay zero", "[model]") {
  Config config = tiny_model(Precision::kFp32);
  config.model.d_model = 96;
  config.model.head_dim = 48;
  config.model.ffn.d_ff = 512;
  Transformer model(config);
  Stream stream(cpu_runtime());
  model.allocate(cpu_runtime());
  model.initialise(stream, 3);
  for (const Param& param : model.params().all()) {
    const std::string& name = param.spec.name;
    INFO(name);
    const std::vector<double> all = read_values(stream, param.value);
    const std::vector<double> values(all.begin(), all.begin() + param.spec.shape.numel());
    for (size_t i = values.size(); i < all.size(); ++i) CHECK(all[i] == 0);
    double square = 0;
    for (const double value : values) square += value * value;
    const double spread = std::sqrt(square / static_cast<double>(values.size()));
    const bool branch =
        name.find("attn.out.weight") != std::string::npos || name.find("values.weight") != std::string::npos;
    if (param.spec.shape.rank() == 1) {
      CHECK(spread == (name.find("norm.weight") != std::string::npos ? 1.0 : 0.0));
    } else {
      CHECK(spread == Approx(branch ? 0.01 : 0.02).epsilon(0.08));
    }
  }
}

// Kills: draws that depend on the precision, the order of parameters or an earlier draw.
TEST_CASE("initial weights depend on seed and name alone", "[model]") {
  const auto keys = [](Precision precision, int64_t layers, uint64_t seed) {
    Config config = tiny_model(precision);
    config.model.layers = layers;
    Transformer model(config);
    Stream stream(cpu_runtime());
    model.allocate(cpu_runtime());
    model.initialise(stream, seed);
    return read_values(stream, model.params().find("layers.0.ffn.keys.weight")->value);
  };
  const std::vector<double> reference = keys(Precision::kFp32, 2, 3);
  CHECK(keys(Precision::kFp32, 1, 3) == reference);
  CHECK(keys(Precision::kFp64, 2, 3) == reference);
  CHECK(keys(Precision::kFp32, 2, 4) != reference);
}
