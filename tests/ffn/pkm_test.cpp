// Product-key memories against plain loops of their equations, in double.
#include "ffn/registry.h"
#include "model/gradient_check.h"
#include "nn/host_values.h"
#include "support/complex_step.h"

#include <algorithm>
#include <cmath>
#include <functional>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr int64_t kWidth = 8, kTokens = 13;
using Values = std::vector<double>;

ModelConfig model_config() {
  ModelConfig model;
  model.vocab_size = 64;
  model.context = kTokens;
  model.layers = 1;
  model.d_model = kWidth;
  model.heads = model.kv_heads = 2;
  model.head_dim = kWidth / 2;
  model.norm = Norm::kRms;
  model.ffn.d_ff = 8;
  model.ffn.bias = true;
  return model;
}

ModelConfig with_entry(const std::string& entry) {
  ModelConfig model = model_config();
  Json json = parse_json(entry, "test", ExitCode::kUsage);
  json["layers"] = "all";
  model.sparse_ffn = Json::Array{json};
  return model;
}

// What one layer makes of tokens drawn at random, and its parameters by name.
struct LayerRun {
  std::vector<Values> x;  // normed input
  std::vector<Values> y;
  std::vector<ChoiceRecord> choices;
  std::map<std::string, Values> parameters;  // without "layers.0.ffn."
  FfnCost cost;

  LayerRun(const std::string& entry, DType dtype) {
    const ModelConfig model = with_entry(entry);
    const std::vector<FfnEntry> entries = resolve_ffn(model, "test");
    cost = entries[0].options->cost(model);
    ParamStore params;
    const std::unique_ptr<FfnLayer> layer = entries[0].options->make({.params = params, .model = model});
    params.allocate(cpu_runtime(), dtype);
    Stream stream(cpu_runtime());
    uint64_t seed = 40;
    for (Param& param : params.all()) {
      const bool norm = param.spec.name.find("norm") != std::string::npos;
      Values values = random_values(static_cast<size_t>(param.value.numel()), ++seed, 0.5);
      for (double& v : values) v = norm ? 1 : static_cast<double>(static_cast<float>(v));
      write_values(stream, param.value, values);
      const size_t prefix = std::string("layers.0.ffn.").size();
      if (!norm) parameters[param.spec.name.substr(prefix)] = values;
    }
    Arena saved(cpu_runtime(), "saved", 1 << 22), scratch(cpu_runtime(), "scratch", 1 << 22);
    Context ctx{.stream = stream, .saved = saved, .scratch = scratch, .parallel = {}, .choices = &choices};
    const Tensor input = saved.allocate({kTokens, kWidth}, dtype, "x");
    write_values(stream, input, random_values(static_cast<size_t>(kTokens * kWidth), 39));
    for (const double v : read_values(stream, input)) {
      if (x.empty() || x.back().size() == kWidth) x.emplace_back();
      x.back().push_back(v);
    }
    for (Values& row : x) {
      double square = 0;
      for (const double v : row) square += v * v / kWidth;
      for (double& v : row) v /= std::sqrt(square + model.norm_eps);
    }
    std::unique_ptr<FfnLayer::Saved> kept;
    const Residual out = layer->forward(ctx, {.h = {input, Tensor()}, .token_ids = {}, .time = kTokens}, kept);
    const Values flat = read_values(stream, out.pending);
    for (int64_t n = 0; n < kTokens; ++n) y.emplace_back(flat.begin() + n * kWidth, flat.begin() + (n + 1) * kWidth);
  }
};

struct Case {
  int64_t heads, q, C1, C2, k;
  bool query = true, query_bias = false;
  int64_t cells() const { return C1 * C2; }
  std::string keys() const {
    return cat(R"("cells": )", cells(), R"(, "active_cells": )", k, R"(, "heads": )", heads, R"(, "query_dim": )", q,
               R"(, "half_keys": [)", C1, ", ", C2, R"(], "query": ")", query ? "linear" : "none",
               R"(", "query_bias": )", query_bias ? "true" : "false");
  }
};

constexpr Case kCases[] = {
    {1, 6, 4, 4, 3},
    {3, 4, 2, 5, 7},  // more cells a head than half keys, and heads that must choose alike
    {2, 8, 3, 4, 12, true, true},
    {1, 8, 5, 2, 1, false},
    {2, 8, 4, 3, 5, false},
};

// scores[h][cell] of the token x
std::vector<Values> scores_of(const Case& c, const LayerRun& run, const Values& x) {
  std::vector<Values> scores(static_cast<size_t>(c.heads), Values(static_cast<size_t>(c.cells())));
  for (int64_t h = 0; h < c.heads; ++h) {
    Values query = x;
    if (c.query) {
      query.assign(static_cast<size_t>(c.q), 0);
      for (int64_t j = 0; j < c.q; ++j) {
        const int64_t row = h * c.q + j;
        double& sum = query[static_cast<size_t>(j)];
        if (c.query_bias) sum += run.parameters.at("query.bias")[static_cast<size_t>(row)];
        for (int64_t d = 0; d < kWidth; ++d) {
          sum += x[static_cast<size_t>(d)] * run.parameters.at("query.weight")[static_cast<size_t>(row * kWidth + d)];
        }
      }
    }
    const int64_t half = c.q / 2;
    const Values &keys1 = run.parameters.at("half_keys.0"), &keys2 = run.parameters.at("half_keys.1");
    for (int64_t cell = 0; cell < c.cells(); ++cell) {
      double& score = scores[static_cast<size_t>(h)][static_cast<size_t>(cell)];
      for (int64_t j = 0; j < half; ++j) {
        score += query[static_cast<size_t>(j)] * keys1[static_cast<size_t>((h * c.C1 + cell / c.C2) * half + j)];
        score += query[static_cast<size_t>(half + j)] * keys2[static_cast<size_t>((h * c.C2 + cell % c.C2) * half + j)];
      }
    }
  }
  return scores;
}

// The k cells of the largest scores, ascending: brute force over all.
std::vector<int64_t> best_cells(const Values& scores, int64_t k) {
  std::vector<int64_t> cells(scores.size());
  for (size_t i = 0; i < cells.size(); ++i) cells[i] = static_cast<int64_t>(i);
  std::stable_sort(cells.begin(), cells.end(), [&](int64_t i, int64_t j) {
    return scores[static_cast<size_t>(i)] > scores[static_cast<size_t>(j)];
  });
  cells.resize(static_cast<size_t>(k));
  std::sort(cells.begin(), cells.end());
  return cells;
}

double gelu(double z) { return 0.5 * z * (1 + std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z))); }
double function(const std::string& name, double z) { return name == "relu" ? std::max(0.0, z) : gelu(z); }

// Weights of the cells from their scores: softmax over them, relu or gelu.
Values weights_of(const Values& scores, const std::string& weight) {
  Values weights;
  double sum = 0;
  for (const double s : scores) sum += std::exp(s);
  for (const double s : scores) weights.push_back(weight == "softmax" ? std::exp(s) / sum : function(weight, s));
  return weights;
}

// Compares y, cells and weights of a run with loops; hidden(cell, x): what multiplies a value beside its weight.
template <class Hidden>
void check_run(const Case& c, const LayerRun& run, const std::string& weight, double tolerance, Hidden&& hidden) {
  REQUIRE(run.choices.size() == 1);
  const Values& values = run.parameters.at("values.weight");
  for (size_t n = 0; n < run.x.size(); ++n) {
    Values y = run.parameters.at("values.bias"), weights;
    std::vector<int32_t> cells;
    for (const Values& scores : scores_of(c, run, run.x[n])) {
      Values chosen;
      const std::vector<int64_t> best = best_cells(scores, c.k);
      for (const int64_t cell : best) chosen.push_back(scores[static_cast<size_t>(cell)]);
      const Values a = weights_of(chosen, weight);
      for (size_t i = 0; i < best.size(); ++i) {
        cells.push_back(static_cast<int32_t>(best[i]));
        weights.push_back(a[i]);
        const double h = a[i] * hidden(run, best[i], run.x[n]);
        for (size_t d = 0; d < y.size(); ++d) y[d] += h * values[static_cast<size_t>(best[i] * kWidth) + d];
      }
    }
    const auto first = static_cast<int64_t>(n) * c.heads * c.k, count = c.heads * c.k;
    const ChoiceRecord& record = run.choices[0];
    REQUIRE(record.per_token == count);
    CHECK(std::vector<int32_t>(record.blocks.begin() + first, record.blocks.begin() + first + count) == cells);
    check_close(Values(record.weights.begin() + first, record.weights.begin() + first + count), weights, tolerance);
    check_close(run.y[n], y, tolerance);
  }
}

double one(const LayerRun&, int64_t, const Values&) { return 1; }

double relu_of_key(const LayerRun& run, int64_t cell, const Values& x) {
  double z = run.parameters.at("keys.bias")[static_cast<size_t>(cell)];
  for (size_t d = 0; d < x.size(); ++d) {
    z += x[d] * run.parameters.at("keys.weight")[static_cast<size_t>(cell * kWidth) + d];
  }
  return std::max(0.0, z);
}

Config whole_model(const std::string& entry) {
  Config config = tiny_model();
  Json json = parse_json(entry, "test", ExitCode::kUsage);
  json["layers"] = Json::Array{int64_t{1}};
  config.model.sparse_ffn = Json::Array{json};
  return config;
}

std::string error_of(const std::string& entry) {
  try {
    resolve_ffn(with_entry(entry), "c.json");
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

// Kills: halves or heads mixed up, C1 for C2, a query shared by heads, a softmax over all heads, cells that heads both
// choose counted once, a value bias for each head.
TEST_CASE("pkm is brute force over all sums of half scores", "[ffn][pkm]") {
  for (const Case& c : kCases) {
    for (const std::string weight : {"softmax", "relu", "gelu"}) {
      for (const std::string form : {"masked", "grouped"}) {
        const std::string entry = cat(R"({"type": "pkm", "d_ff": 8, )", c.keys(), R"(, "weight": ")", weight,
                                      R"(", "expert_compute": ")", form, R"("})");
        INFO(entry);
        check_run(c, LayerRun(entry, DType::kF64), weight, 1e-12, one);
        check_run(c, LayerRun(entry, DType::kF32), weight, 1e-5, one);
      }
    }
  }
}

// Kills: the coefficient left out, taken from the hidden value, or applied twice.
TEST_CASE("pkm_ffn weighs the hidden values of the cells that product keys choose", "[ffn][pkm]") {
  for (const Case& c : kCases) {
    for (const std::string gate : {"act", "softmax"}) {
      for (const std::string form : {"masked", "grouped"}) {
        const std::string entry = cat(R"({"type": "pkm_ffn", "d_ff": 8, "activation": "relu", )", c.keys(),
                                      R"(, "gate": ")", gate, R"(", "expert_compute": ")", form, R"("})");
        INFO(entry);
        const std::string weight = gate == "act" ? "relu" : gate;
        check_run(c, LayerRun(entry, DType::kF64), weight, 1e-12, relu_of_key);
        check_run(c, LayerRun(entry, DType::kF32), weight, 1e-5, relu_of_key);
      }
    }
  }
}

// Kills: heads that are weighed apart, a softmax over the chosen of a head, cells left out.
TEST_CASE("dense scores weigh all cells once by the sum of the heads' scores", "[ffn][pkm]") {
  for (const Case& c : kCases) {
    for (const std::string weight : {"softmax", "relu", "gelu"}) {
      for (const auto& [dtype, tolerance] : {std::pair{DType::kF64, 1e-12}, {DType::kF32, 1e-5}}) {
        const LayerRun run(
            cat(R"({"type": "pkm", "d_ff": 8, "dense_scores": true, )", c.keys(), R"(, "weight": ")", weight, R"("})"),
            dtype);
        CHECK(run.choices.empty());
        for (size_t n = 0; n < run.x.size(); ++n) {
          Values y = run.parameters.at("values.bias"), sums(static_cast<size_t>(c.cells()));
          for (const Values& scores : scores_of(c, run, run.x[n])) {
            for (size_t i = 0; i < sums.size(); ++i) sums[i] += scores[i];
          }
          const Values a = weights_of(sums, weight);
          for (size_t i = 0; i < a.size(); ++i) {
            for (size_t d = 0; d < y.size(); ++d) y[d] += a[i] * run.parameters.at("values.weight")[i * kWidth + d];
          }
          check_close(run.y[n], y, tolerance);
        }
      }
    }
  }
}

// Kills: a gradient that misses a head, the query's bias, one half, or x itself without a query.
TEST_CASE("gradients of product-key memories equal complex steps of the whole model", "[ffn][pkm]") {
  const std::string keys = R"("d_ff": 20, "cells": 20, "half_keys": [4, 5], "active_cells": 7, "heads": 2)";
  for (const std::string options :
       {R"("type": "pkm", "weight": "gelu", "query_dim": 6)", R"("type": "pkm", "weight": "softmax", "query": "none")",
        R"("type": "pkm", "weight": "softmax", "dense_scores": true, "query_bias": true)",
        R"("type": "pkm", "weight": "gelu", "dense_scores": true, "query": "none")",
        R"("type": "pkm_ffn", "activation": "swiglu", "query_bias": true)",
        R"("type": "pkm_ffn", "gate": "softmax", "query": "none")"}) {
    for (const std::string form : {"masked", "grouped"}) {
      INFO(options << ", " << form);
      const std::string entry = cat("{", keys, ", ", options, R"(, "expert_compute": ")", form, R"("})");
      check_gradients(whole_model(entry), random_batch(3, 7, 29));
    }
  }
}

// Kills: kernels that take the choices of a token for distinct: f32 and bf16, forward and backward.
TEST_CASE("heads that choose the same cells train alike in both forms", "[ffn][pkm]") {
  for (const std::string type : {"pkm", "pkm_ffn"}) {
    const std::string entry =
        cat(R"({"type": ")", type, R"(", "d_ff": 8, "cells": 8, "half_keys": [2, 4], "active_cells": 5, "heads": 3,)",
            R"( "expert_compute": ")");
    const auto gradients = [&](Precision precision, const std::string& form) {
      ModelRun run(in_precision(whole_model(entry + form + "\"}"), precision));
      run.forward_backward(random_batch(3, 7, 29), 0.125);
      return run.all_gradients();
    };
    const Values exact = gradients(Precision::kFp64, "grouped");
    for (const auto& [precision, bound] : {std::pair{Precision::kFp32, 1e-4}, {Precision::kBf16, 6e-2}}) {
      for (const std::string form : {"masked", "grouped"}) {
        INFO(type << " " << form);
        CHECK(relative_distance(gradients(precision, form), exact) < bound);
      }
    }
  }
}

// Kills: a FLOP or parameter count that forgets the heads, the half keys, or counts a cell twice.
TEST_CASE("product-key memories cost what the contract says", "[ffn][pkm]") {
  const std::string keys =
      R"("d_ff": 8, "cells": 12, "half_keys": [3, 4], "active_cells": 5, "heads": 2, "query_dim": 6)";
  const double choice = 2 * (2 * 8 * 6 + 7 * 6 + 12);
  const int64_t own = 2 * 6 * 8 + 2 * 7 * 3, norm = 8;
  const FfnCost pkm = LayerRun(cat(R"({"type": "pkm", )", keys, "}"), DType::kF64).cost;
  CHECK(pkm.flops_per_token == choice + 2 * (2 * 5 * 8));
  CHECK(pkm.parameters == own + norm + 12 * 8 + 8);
  CHECK(pkm.active_parameters == pkm.parameters - 2 * 8);
  const FfnCost ffn = LayerRun(cat(R"({"type": "pkm_ffn", )", keys, "}"), DType::kF64).cost;
  CHECK(ffn.flops_per_token == choice + 2 * (4 * 5 * 8));
  CHECK(ffn.parameters == own + norm + 12 * (16 + 1) + 8);
  const FfnCost dense = LayerRun(cat(R"({"type": "pkm", "dense_scores": true, )", keys, "}"), DType::kF64).cost;
  CHECK(dense.flops_per_token == choice + 2 * 12 * 8);
  CHECK(dense.parameters == pkm.parameters);
  CHECK(dense.active_parameters == dense.parameters);
}

// Kills: sizes that do not fit found later as a crash, or not at all.
TEST_CASE("impossible product keys are refused by key and rule", "[ffn][pkm]") {
  const auto error = [](const std::string& options) {
    return error_of(cat(R"({"type": "pkm", "d_ff": 8, )", options, "}"));
  };
  const std::string place = "c.json: model.sparse_ffn.0.";
  CHECK(error(R"("cells": 12)") ==
        place + "half_keys: is missing, and 12 cells are no square; [C1, C2] with C1·C2 = 12 is expected");
  CHECK(error(R"("cells": 12, "half_keys": [3, 5])") ==
        place + "half_keys: is [3, 5]; a product of 12, the cells, is expected");
  CHECK(error(R"("cells": 12, "half_keys": [12])") ==
        place + "half_keys: is a list of 1; a list of 2 integers is expected");
  CHECK(error(R"("cells": 16, "query_dim": 5)") ==
        place + "query_dim: is 5; an even number is expected, for two halves");
  CHECK(error(R"("cells": 16, "query": "none", "query_dim": 4)") ==
        place + "query_dim: is 4; with query none it is d_model, 8");
  CHECK(error(R"("cells": 16, "query": "none", "query_bias": true)") ==
        place + "query_bias: is true; with query none there is no bias");
  CHECK(error(R"("cells": 16, "active_cells": 17)").find(place + "active_cells: asks for 17 blocks of 16") == 0);
  CHECK(error(R"("cells": 16, "activation": "relu")").find(place + "activation") == 0);
  CHECK(error(R"("cells": 16, "gate": "act")").find(place + "gate") == 0);
  CHECK(error(R"("cells": 16, "query": "none", "heads": 3, "active_cells": 16)").empty());
}
