// One sparse layer with everything at random, run by itself, beside plain loops for what its method says.
#pragma once
#include "comm/communicator.h"
#include "config/reader.h"
#include "core/random.h"
#include "ffn/registry.h"
#include "ffn/sparse_ffn.h"
#include "nn/host_values.h"
#include "support/catch.h"
#include "support/complex_step.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace sffn::test {

using Values = std::vector<double>;
using Blocks = std::vector<int32_t>;

inline constexpr int64_t kD = 8, kCells = 32, kG = 4, kB = kCells / kG, kTime = 6, kSequences = 4;
inline constexpr uint64_t kSeed = 5;
inline constexpr int64_t kStep = 11;

inline ModelConfig router_model(const std::string& entry) {
  ModelConfig model;
  model.vocab_size = 64;
  model.context = 16;
  model.layers = 1;
  model.d_model = kD;
  model.heads = model.kv_heads = 1;
  model.head_dim = kD;
  model.ffn.d_ff = 16;
  model.ffn.activation = Activation::kRelu;
  Json json = parse_json(entry, "entry", ExitCode::kUsage);
  json["layers"] = "all";
  if (json.find("block_size") == nullptr) json["block_size"] = kG;
  if (json.find("cells") == nullptr) json["cells"] = kCells;
  model.sparse_ffn = Json::Array{json};
  return model;
}

struct LayerPass {
  bool training = true;
  int64_t first_sequence = 0, sequences = kSequences;  // of the input below
};

struct LayerResult {
  Blocks blocks;      // [N, b]
  Values weights, y;  // [N, b], [N, D]
  double extra_loss = 0;
  Json statistics;
};

class LayerRun {
 public:
  explicit LayerRun(const std::string& entry, DType dtype = DType::kF64)
      : model_(router_model(entry)), dtype_(dtype), stream_(cpu_runtime()) {
    layer_ = resolve_ffn(model_, "c.json")[0].options->make({.params = params_, .model = model_});
    params_.allocate(cpu_runtime(), dtype);
    for (Param& param : params_.all()) {
      const bool norm = param.spec.name.find("norm") != std::string::npos;
      Values values = draws(param.spec.name, static_cast<size_t>(param.count));
      if (norm) std::fill(values.begin(), values.end(), param.spec.name.ends_with("weight") ? 1.0 : 0.0);
      write_values(stream_, param.value, values);
    }
  }

  LayerResult forward(const LayerPass& pass = {}) {
    const int64_t N = pass.sequences * kTime;
    const Values all = draws("h", static_cast<size_t>(kSequences * kTime * kD));
    const Buffer memory(cpu_runtime(), {N, kD}, dtype_), loss_memory(cpu_runtime(), {1}, accumulate_type(dtype_));
    const Tensor h = memory.tensor({N, kD}, dtype_), loss = loss_memory.tensor({1}, accumulate_type(dtype_));
    const auto first = all.begin() + pass.first_sequence * kTime * kD;
    write_values(stream_, h, Values(first, first + N * kD));
    write_values(stream_, loss, Values{0});
    write_values(stream_, layer_->counters(), Values(static_cast<size_t>(layer_->counters().numel())));

    Arena saved(cpu_runtime(), "saved", 1 << 20), scratch(cpu_runtime(), "scratch", 1 << 20);
    saved.poison();
    scratch.poison();
    std::vector<ChoiceRecord> choices;
    const auto alone = make_self_communicator();
    Context ctx{.stream = stream_,
                .saved = saved,
                .scratch = scratch,
                .parallel = {alone.get(), alone.get(), alone.get()},
                .seed = kSeed,
                .step = kStep};
    ctx.first_sequence = pass.first_sequence;
    ctx.training = pass.training;
    ctx.count_choices = true;
    ctx.extra_losses = loss;
    ctx.extra_loss_scale = 1;
    ctx.choices = &choices;
    std::unique_ptr<FfnLayer::Saved> state;
    const Residual out = layer_->forward(ctx, {.h = {h, Tensor()}, .token_ids = {}, .time = kTime}, state);
    const Values counts = read_values(stream_, layer_->counters());
    return {.blocks = choices.at(0).blocks,
            .weights = choices.at(0).weights,
            .y = read_values(stream_, out.pending),
            .extra_loss = read_values(stream_, loss)[0],
            .statistics = layer_->statistics(counts)};
  }

  Values parameter(const std::string& name) {
    const Param* param = params_.find("layers.0.ffn." + name);
    return param != nullptr ? read_values(stream_, param->value) : Values();
  }
  void set_parameter(const std::string& name, const Values& values) {
    write_values(stream_, params_.find("layers.0.ffn." + name)->value, values);
  }
  void set_bias(const Values& values) {
    for (State& state : params_.states()) {
      if (state.spec.name == "layers.0.ffn.balance_bias") return write_values(stream_, state.value, values);
    }
    FAIL("the layer has no balance bias");
  }
  // The layer norm of the input, [N, D].
  static Values normed_input() {
    Values x = draws("h", static_cast<size_t>(kSequences * kTime * kD));
    for (size_t row = 0; row < x.size(); row += kD) {
      double mean = 0, variance = 0;
      for (size_t c = 0; c < kD; ++c) mean += x[row + c] / kD;
      for (size_t c = 0; c < kD; ++c) variance += (x[row + c] - mean) * (x[row + c] - mean) / kD;
      for (size_t c = 0; c < kD; ++c) x[row + c] = (x[row + c] - mean) / std::sqrt(variance + 1e-5);
    }
    return x;
  }

 private:
  // Exact in f32.
  static Values draws(const std::string& name, size_t count) {
    Values values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(0.5 * random_normal(random_key(17, name), i));
    return values;
  }

  ModelConfig model_;
  DType dtype_;
  Stream stream_;
  ParamStore params_;
  std::unique_ptr<FfnLayer> layer_;
};

// ---- What methods say, in plain loops. Matrices are row-major. ----

inline double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

// x·Wᵀ
inline Values times_rows(const Values& x, const Values& w) {
  const size_t rows = x.size() / kD, out = w.size() / kD;
  Values y(rows * out);
  for (size_t n = 0; n < rows; ++n) {
    for (size_t i = 0; i < out; ++i) {
      for (size_t c = 0; c < kD; ++c) y[n * out + i] += x[n * kD + c] * w[i * kD + c];
    }
  }
  return y;
}

inline Values softmax_of(const Values& rows, size_t columns) {
  Values p = rows;
  for (size_t at = 0; at < p.size(); at += columns) {
    double sum = 0;
    for (size_t i = 0; i < columns; ++i) sum += std::exp(rows[at + i]);
    for (size_t i = 0; i < columns; ++i) p[at + i] = std::exp(rows[at + i]) / sum;
  }
  return p;
}

inline Blocks top_of(const Values& scores, size_t b) {
  Blocks chosen;
  for (size_t at = 0; at < scores.size(); at += kB) {
    std::vector<int32_t> order(kB);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return scores[at + i] > scores[at + j]; });
    std::sort(order.begin(), order.begin() + static_cast<int64_t>(b));
    chosen.insert(chosen.end(), order.begin(), order.begin() + static_cast<int64_t>(b));
  }
  return chosen;
}

// values[n, blocks[n, i]]
inline Values taken_at(const Values& values, const Blocks& blocks) {
  const size_t rows = values.size() / kB, b = blocks.size() / rows;
  Values out;
  for (size_t c = 0; c < blocks.size(); ++c) out.push_back(values[c / b * kB + static_cast<size_t>(blocks[c])]);
  return out;
}

// Σ_i weights·relu(x·K + c) V + c_v over the cells of the chosen blocks
inline Values output_of(LayerRun& run, const Values& x, const Blocks& blocks, const Values& weights) {
  const Values keys = run.parameter("keys.weight"), values = run.parameter("values.weight");
  const Values key_bias = run.parameter("keys.bias"), value_bias = run.parameter("values.bias");
  const Values z = times_rows(x, keys);
  const size_t rows = x.size() / kD, b = blocks.size() / rows;
  Values y(x.size());
  for (size_t n = 0; n < rows; ++n) {
    for (size_t c = 0; c < kD && !value_bias.empty(); ++c) y[n * kD + c] = value_bias[c];
    for (size_t i = 0; i < b * kG; ++i) {
      const size_t choice = n * b + i / kG, cell = static_cast<size_t>(blocks[choice]) * kG + i % kG;
      const double h = std::max(0.0, z[n * kCells + cell] + (key_bias.empty() ? 0 : key_bias[cell]));
      for (size_t c = 0; c < kD; ++c) y[n * kD + c] += weights[choice] * h * values[cell * kD + c];
    }
  }
  return y;
}

// Mean of the rows of each of `groups` groups.
inline Values group_means(const Values& p, size_t groups) {
  const size_t per_group = p.size() / kB / groups;
  Values means(groups * kB);
  for (size_t e = 0; e < p.size(); ++e) {
    means[e / kB / per_group * kB + e % kB] += p[e] / static_cast<double>(per_group);
  }
  return means;
}

inline double entropy_loss(const Values& logits, size_t groups) {
  double loss = 0;
  for (const double p : group_means(softmax_of(logits, kB), groups)) loss += p * std::log(p);
  return loss / static_cast<double>(groups);
}

inline double switch_loss(const Values& logits, const Blocks& blocks, size_t groups) {
  const Values means = group_means(softmax_of(logits, kB), groups);
  const double share = static_cast<double>(groups) / static_cast<double>(blocks.size());
  double loss = 0;
  for (size_t c = 0; c < blocks.size(); ++c) {
    loss += share * means[c * groups / blocks.size() * kB + static_cast<size_t>(blocks[c])];
  }
  return loss * static_cast<double>(kB) / static_cast<double>(groups);
}

inline bool dropped_at(RandomSite site, double probability, size_t index) {
  return random_uniform(random_key(kSeed, site, 0, kStep), index) < probability;
}

// The layer's choice, weights and output are the expected ones, in f64 and f32.
inline void check_layer(const std::string& entry, const LayerPass& pass, const Blocks& blocks, const Values& weights,
                        double extra_loss) {
  const Values x = LayerRun::normed_input();
  for (const auto& [dtype, tolerance] : {std::pair{DType::kF64, 1e-12}, {DType::kF32, 3e-5}}) {
    INFO(entry << " in " << name_of(dtype));
    LayerRun run(entry, dtype);
    const LayerResult result = run.forward(pass);
    CHECK(result.blocks == blocks);
    check_close(result.weights, weights, tolerance);
    check_close(result.y, output_of(run, x, blocks, weights), tolerance);
    CHECK(result.extra_loss == Approx(extra_loss).epsilon(10 * tolerance).margin(tolerance));
  }
}

inline Values router_logits(const std::string& entry) {
  return times_rows(LayerRun::normed_input(), LayerRun(entry).parameter("router.weight"));
}

}  // namespace sffn::test
