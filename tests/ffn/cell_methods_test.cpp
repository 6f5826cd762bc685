// Methods that score every cell: vanilla_m, lorkm, top_k_act.
#include "ffn/block_scores.h"
#include "ffn/one_layer.h"
#include "model/gradient_check.h"
#include "support/error_of.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace sffn;
using namespace sffn::test;

namespace {

using Values = std::vector<double>;

double gelu(double z) { return 0.5 * z * (1 + std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z))); }

// rows of x [N, in] times those of w [out, in]
Values product(const Values& x, const Values& w, size_t in) {
  Values out;
  for (size_t n = 0; n < x.size() / in; ++n) {
    for (size_t m = 0; m < w.size() / in; ++m) {
      out.push_back(std::inner_product(&x[n * in], &x[n * in] + in, &w[m * in], 0.0));
    }
  }
  return out;
}

double aggregate(const std::string& how, const double* cells, size_t G) {
  if (how == "min") return *std::min_element(cells, cells + G);
  if (how == "max") return *std::max_element(cells, cells + G);
  double sum = 0;
  for (size_t j = 0; j < G; ++j) sum += how == "mean_abs" ? std::abs(cells[j]) : cells[j];
  return sum / static_cast<double>(G);
}

struct Expected {
  std::vector<int32_t> blocks;
  Values y;
};

// The method from its equations: P of all cells, the score of each block, the b largest, the chosen cells' values.
struct Method {
  std::string aggregator = "mean";
  bool postact = false, gated = false;
  size_t G = 1, b = 1;

  Expected expected(OneLayer& layer, const Values& h, size_t D) const {
    Values x = layer.normed(h);
    const Values values = layer.values("ffn.values.weight"), bias = layer.values("ffn.keys.bias"),
                 value_bias = layer.values("ffn.values.bias"), down = layer.values("ffn.key_down.weight");
    const size_t M = values.size() / D, N = x.size() / D;
    const Values gate = gated ? product(x, layer.values("ffn.gate_keys.weight"), D) : Values(N * M);
    if (!down.empty()) x = product(x, down, D);
    const Values P = product(x, layer.values("ffn.keys.weight"), x.size() / N);
    Expected out;
    for (size_t n = 0; n < N; ++n) {
      Values f(M), scores(M / G);
      for (size_t m = 0; m < M; ++m) {
        const double z = P[n * M + m] + bias[m];
        f[m] = gated ? gelu(gate[n * M + m]) * z : gelu(z);
      }
      for (size_t i = 0; i < scores.size(); ++i) {
        scores[i] = aggregate(aggregator, (postact ? f.data() : &P[n * M]) + i * G, G);
      }
      std::vector<int32_t> order(scores.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return scores[i] > scores[j]; });
      std::sort(order.begin(), order.begin() + b);
      out.blocks.insert(out.blocks.end(), order.begin(), order.begin() + b);
      Values y = value_bias;
      for (size_t c = 0; c < b * G; ++c) {
        const size_t m = order[c / G] * G + c % G;
        for (size_t i = 0; i < D; ++i) y[i] += f[m] * values[m * D + i];
      }
      out.y.insert(out.y.end(), y.begin(), y.end());
    }
    return out;
  }
};

void check_formula(const std::string& entry, const Method& method) {
  constexpr int64_t D = 16, N = 31;
  const Values h = random_values(N * D, 4);
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    for (const char* form : {"masked", "grouped"}) {
      Json json = parse_json(entry, "entry", ExitCode::kUsage);
      json["expert_compute"] = form;
      INFO(json.dump() << " " << name_of(dtype));
      OneLayer layer(one_layer(json.dump()), dtype);
      const Expected expected = method.expected(layer, h, D);
      const OneLayer::Output found = layer.run(h, N);
      CHECK(found.chosen.blocks == expected.blocks);
      check_close(found.y, expected.y, dtype == DType::kF64 ? 1e-13 : 1e-5);
    }
  }
}

std::string vanilla(const std::string& aggregator, const std::string& select_on, const std::string& activation) {
  return cat(R"({"type": "vanilla_m", "block_size": 4, "expansion": 2, "active_cells": 12, "aggregator": ")",
             aggregator, R"(", "select_on": ")", select_on, R"(", "activation": ")", activation, "\"}");
}

// A whole model of the given layers.
Config model_of(const std::string& entry, Precision precision = Precision::kFp64) {
  Config config = tiny_model(precision);
  Json json = parse_json(entry, "entry", ExitCode::kUsage);
  json["layers"] = "all";
  config.model.sparse_ffn = Json(Json::Array{json});
  return config;
}

void check_gradient(const std::string& entry) {
  INFO(entry);
  check_gradients(model_of(entry), random_batch(3, 7, 29));
}

std::string with(const std::string& entry, const std::string& more) {
  return cat(entry.substr(0, entry.size() - 1), ", ", more, "}");
}

}  // namespace

// Kills: the key bias in a score before the activation, or missing from z; an aggregate of other cells; scores before
// the activation where those after it are asked for; rows of choices in the order of blocks.
TEST_CASE("vanilla_m chooses and computes what its equations say", "[ffn]") {
  for (const char* aggregator : {"mean", "min", "max", "mean_abs"}) {
    for (const char* select_on : {"preact", "postact"}) {
      for (const char* activation : {"gelu", "geglu"}) {
        Method method{.aggregator = aggregator, .G = 4, .b = 3};
        method.postact = std::string(select_on) == "postact";
        method.gated = std::string(activation) == "geglu";
        check_formula(vanilla(aggregator, select_on, activation), method);
      }
    }
  }
}

// Kills: full keys in place of low-rank ones, a choice after the activation.
TEST_CASE("lorkm chooses and computes what its equations say", "[ffn]") {
  check_formula(R"({"type": "lorkm", "key_rank": 5, "expansion": 3, "active_cells": 9, "activation": "gelu"})",
                {.G = 1, .b = 9});
}

// Kills: a choice before the activation or by magnitude, a gate left out of the choice.
TEST_CASE("top_k_act keeps the largest activations", "[ffn]") {
  for (const char* activation : {"gelu", "geglu"}) {
    Method method{.postact = true, .G = 1, .b = 7};
    method.gated = std::string(activation) == "geglu";
    check_formula(
        cat(R"({"type": "top_k_act", "expansion": 1.5, "active_cells": 7, "activation": ")", activation, "\"}"),
        method);
  }
}

// Kills: other blocks than Avg-K's, other gradients.
TEST_CASE("vanilla_m by the mean before the activation is Avg-K", "[ffn]") {
  const std::string entry = R"("block_size": 4, "expansion": 2, "active_cells": 12, "activation": "gelu"})";
  const Batch batch = random_batch(3, 7, 29);
  for (const auto& [precision, tolerance] : {std::pair{Precision::kFp64, 1e-13}, std::pair{Precision::kFp32, 1e-5}}) {
    ModelRun vanilla_m(model_of(cat(R"({"type": "vanilla_m", )", entry), precision));
    ModelRun avg_k(model_of(cat(R"({"type": "avg_k", )", entry), precision));
    const double loss = avg_k.forward_backward(batch).nll;
    CHECK(std::abs(vanilla_m.forward_backward(batch).nll - loss) <= tolerance * loss);
    CHECK(relative_distance(vanilla_m.all_gradients(), avg_k.all_gradients()) < tolerance * 10);
  }
}

// Kills: a weight other than 1, a cell left out.
TEST_CASE("with every block chosen a method that scores cells is the dense layer", "[ffn]") {
  const Batch batch = random_batch(3, 7, 29);
  ModelRun dense(model_of(R"({"type": "dense", "d_ff": 40, "activation": "geglu"})"));
  const double loss = dense.forward_backward(batch).nll;
  for (const char* entry :
       {R"({"type": "vanilla_m", "block_size": 4, "cells": 40, "active_cells": 40, "activation": "geglu"})",
        R"({"type": "top_k_act", "cells": 40, "active_cells": 40, "activation": "geglu"})"}) {
    INFO(entry);
    ModelRun sparse(model_of(entry));
    CHECK(std::abs(sparse.forward_backward(batch).nll - loss) <= 1e-13 * loss);
    CHECK(relative_distance(sparse.all_gradients(), dense.all_gradients()) < 1e-12);
  }
}

// Kills: low-rank keys transposed, a gradient that stops at them.
TEST_CASE("lorkm with the identity for its low-rank map is vanilla_m of single cells", "[ffn]") {
  constexpr size_t D = 16;
  const char* sizes = R"("expansion": 2, "active_cells": 9, "activation": "silu"})";
  OneLayer lorkm(one_layer(cat(R"({"type": "lorkm", "key_rank": 16, )", sizes)), DType::kF64);
  OneLayer vanilla_m(one_layer(cat(R"({"type": "vanilla_m", "block_size": 1, )", sizes)), DType::kF64);
  Values identity(D * D);
  for (size_t i = 0; i < D; ++i) identity[i * (D + 1)] = 1;
  lorkm.write("layers.0.ffn.key_down.weight", identity);
  const Values h = random_values(20 * D, 4), dy = random_values(20 * D, 5);
  const OneLayer::Output a = lorkm.run(h, 10, dy), b = vanilla_m.run(h, 10, dy);
  CHECK(a.chosen.blocks == b.chosen.blocks);
  check_close(a.y, b.y, 1e-14);
  check_close(a.dh, b.dh, 1e-13);
}

// Kills: a term left out of the way from an extra loss to x, keys, gate keys, key biases or the low-rank map; blocks of
// the wrong chunk; a sign.
TEST_CASE("gradients through the scores of cells equal complex steps", "[ffn]") {
  for (const char* aggregator : {"mean", "min", "max", "mean_abs"}) {
    for (const char* select_on : {"preact", "postact"}) {
      const std::string activation = aggregator == std::string("min") ? "gelu" : "swiglu";
      check_gradient(with(vanilla(aggregator, select_on, activation), R"("balance": {"type": "switch", "weight": 3})"));
    }
  }
  const char* entropy = R"("balance": {"type": "entropy", "weight": 3, "group": "sequence"})";
  check_gradient(with(vanilla("mean", "preact", "gelu"), entropy));
  check_gradient(with(R"({"type": "lorkm", "key_rank": 5, "expansion": 2, "active_cells": 9})", entropy));
  check_gradient(with(R"({"type": "top_k_act", "expansion": 2, "active_cells": 9, "activation": "geglu"})", entropy));
  check_gradient(R"({"type": "lorkm", "key_rank": 5, "expansion": 2, "active_cells": 9})");
}

// Kills: cells made again by another kernel than the first time, or without the bias.
TEST_CASE("cells made again in the backward pass have the bits of the first time", "[ffn]") {
  for (const char* form : {"masked", "grouped"}) {
    for (const std::string& entry :
         {vanilla("mean", "preact", "geglu"), vanilla("max", "postact", "geglu"), vanilla("mean", "preact", "gelu"),
          std::string(R"({"type": "lorkm", "key_rank": 5, "expansion": 2, "active_cells": 9, "activation": "gelu"})"),
          std::string(R"({"type": "top_k_act", "expansion": 2, "active_cells": 9, "activation": "gelu"})")}) {
      const ModelConfig model = one_layer(with(entry, cat(R"("expert_compute": ")", form, "\"")));
      const Values h = random_values(31 * 16, 4), dy = random_values(31 * 16, 5);
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        INFO(entry << " " << form << " " << name_of(dtype));
        OneLayer kept(model, dtype), again(model, dtype, Recompute::kFfn);
        const OneLayer::Output a = kept.run(h, 31, dy), b = again.run(h, 31, dy);
        CHECK(a.dh == b.dh);
        CHECK(a.gradients == b.gradients);
      }
    }
  }
}

// Kills: a second chunk that reads or writes the first one's tokens, in choosing or in the backward pass of a loss.
TEST_CASE("tokens beyond a chunk of scores are treated like those of the first", "[ffn]") {
  constexpr int64_t D = 4, T = 70, cells = 65536;
  const ModelConfig model =
      one_layer(R"({"type": "vanilla_m", "block_size": 4096, "cells": 65536, "active_blocks": 1, "expert_compute":
                    "grouped", "balance": {"type": "entropy", "weight": 1000, "group": "sequence"}})",
                D, 64);
  REQUIRE(score_chunk(2 * T, cells, DType::kF32) < 2 * T);
  const Values h = random_values(2 * T * D, 4), dy = random_values(2 * T * D, 5);
  const auto half = [](const Values& v, int64_t i) { return Values(&v[i * T * D], &v[i * T * D] + T * D); };
  OneLayer whole(model, DType::kF32, Recompute::kNone, size_t{256} << 20);
  const OneLayer::Output both = whole.run(h, T, dy);
  whole.clear_gradients();
  const OneLayer::Output first = whole.run(half(h, 0), T, half(dy, 0), 0.5);
  const OneLayer::Output second = whole.run(half(h, 1), T, half(dy, 1), 0.5);
  CHECK(both.extra_loss == Approx((first.extra_loss + second.extra_loss) / 2).epsilon(1e-5));
  check_close(half(both.y, 0), first.y, 1e-5);
  check_close(half(both.y, 1), second.y, 1e-5);
  check_close(half(both.dh, 1), second.dh, 1e-4);
  CHECK(relative_distance(both.gradients, second.gradients) < 1e-5);
}

// Kills: chosen keys counted instead of all, a gate counted once too often, low-rank keys counted as full ones.
TEST_CASE("cost of methods that score cells is that of the tables", "[ffn]") {
  const auto cost = [](const std::string& entry) {
    const ModelConfig model = one_layer(entry);
    const FfnCost result = resolve_ffn(model, "c.json").at(0).options->cost(model);
    OneLayer layer(model, DType::kF32);
    CHECK(result.parameters == layer.params().parameter_count());
    return result;
  };
  // d 16, m 64, k 12
  const FfnCost plain = cost(vanilla("mean", "preact", "gelu"));
  CHECK(plain.flops_per_token == 2 * 16 * 64 + 2 * 12 * 16);
  CHECK(plain.parameters - plain.active_parameters == (64 - 12) * (2 * 16 + 1));
  CHECK(cost(vanilla("mean", "preact", "geglu")).flops_per_token == 2 * 16 * 64 + 4 * 12 * 16);
  CHECK(cost(vanilla("mean", "postact", "geglu")).flops_per_token == 4 * 16 * 64 + 2 * 12 * 16);
  const FfnCost low = cost(R"({"type": "lorkm", "key_rank": 5, "expansion": 2, "active_cells": 12})");
  CHECK(low.flops_per_token == 2 * 16 * 5 + 2 * 5 * 64 + 2 * 12 * 16);
  CHECK(low.parameters - low.active_parameters == (64 - 12) * (5 + 16 + 1));
  const FfnCost top = cost(R"({"type": "top_k_act", "expansion": 2, "active_cells": 12})");
  CHECK(top.flops_per_token == 2 * 16 * 64 + 2 * 12 * 16);
}

// Kills: a key of another method taken in silence, an aggregate that has no meaning for scores, a gate that would be
// left out.
TEST_CASE("what a method that scores cells cannot do is an error at its key", "[ffn]") {
  const auto error = [](const std::string& entry) {
    return error_of([&] { resolve_ffn(one_layer(entry), "c.json"); }).what;
  };
  const std::string sizes = R"("expansion": 2, "active_cells": 12)";
  const auto starts = [](const std::string& text, const std::string& part) { return text.rfind(part, 0) == 0; };
  CHECK(starts(error(cat(R"({"type": "vanilla_m", "block_size": 4, "aggregator": "l2_mean", )", sizes, "}")),
               "c.json: model.sparse_ffn.0.aggregator: "));
  CHECK(starts(error(cat(R"({"type": "vanilla_m", "block_size": 4, "select_on": "never", )", sizes, "}")),
               "c.json: model.sparse_ffn.0.select_on: "));
  CHECK(starts(error(cat(R"({"type": "vanilla_m", "block_size": 4, "balance": {"type": "cv2"}, )", sizes, "}")),
               "c.json: model.sparse_ffn.0.balance.type: is cv2"));
  CHECK(starts(error(cat(R"({"type": "lorkm", "block_size": 4, )", sizes, "}")), "c.json: model.sparse_ffn.0"));
  CHECK(
      starts(error(cat(R"({"type": "lorkm", "key_rank": 0, )", sizes, "}")), "c.json: model.sparse_ffn.0.key_rank: "));
  CHECK(starts(error(cat(R"({"type": "lorkm", "activation": "swiglu", )", sizes, "}")),
               "c.json: model.sparse_ffn.0.activation: has a gate"));
  CHECK(
      starts(error(cat(R"({"type": "top_k_act", "select_on": "preact", )", sizes, "}")), "c.json: model.sparse_ffn.0"));
}
