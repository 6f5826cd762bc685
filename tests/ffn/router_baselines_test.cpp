// softmax_moe, s_base, noisy_top_k and base: choice, weights, extra losses and output against plain loops; random
// choices in training.
#include "core/error.h"
#include "ffn/router_case.h"
#include "support/error_of.h"

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr LayerPass kEvaluation{.training = false};
constexpr size_t kTokens = kSequences * kTime;

Values sigmoids(Values values) {
  std::transform(values.begin(), values.end(), values.begin(), sigmoid_of);
  return values;
}

double log_sum(const Values& x) {
  double sum = 0;
  for (const double value : x) sum += std::exp(value);
  return std::log(sum);
}

// Duals in turn, the token's first: f_t = -lse_i(x + s g), g_i = log(n/B) - lse_t(x + s f).
Values sinkhorn_of(const Values& logits, size_t groups, int iterations, double sign) {
  const size_t n = logits.size() / kB / groups;
  Values out = logits;
  for (size_t s = 0; s < groups; ++s) {
    const double* x = logits.data() + s * n * kB;
    Values f(n), g(kB);
    for (int it = 0; it < iterations; ++it) {
      for (size_t t = 0; t < n; ++t) {
        Values row(kB);
        for (size_t i = 0; i < kB; ++i) row[i] = x[t * kB + i] + sign * g[i];
        f[t] = -log_sum(row);
      }
      for (size_t i = 0; i < kB; ++i) {
        Values column(n);
        for (size_t t = 0; t < n; ++t) column[t] = x[t * kB + i] + sign * f[t];
        g[i] = std::log(static_cast<double>(n) / kB) - log_sum(column);
      }
    }
    for (size_t e = 0; e < n * kB; ++e) out[s * n * kB + e] += f[e / kB] + g[e % kB];
  }
  return out;
}

double cv2_of(const Values& weights, const Blocks& blocks) {
  Values sums(kB);
  for (size_t c = 0; c < blocks.size(); ++c) sums[static_cast<size_t>(blocks[c])] += weights[c];
  double mean = 0, variance = 0;
  for (const double sum : sums) mean += sum / kB;
  for (const double sum : sums) variance += (sum - mean) * (sum - mean) / kB;
  return variance / (mean * mean);
}

// The largest sum of logits, at most `capacity` tokens a block: every assignment of tokens [t, n) is tried.
double best_assignment(const double* logits, size_t n, std::vector<size_t>& left) {
  if (n == 0) return 0;
  double best = -1e300;
  for (size_t i = 0; i < left.size(); ++i) {
    if (left[i] == 0) continue;
    --left[i];
    best = std::max(best, logits[i] + best_assignment(logits + left.size(), n - 1, left));
    ++left[i];
  }
  return best;
}

}  // namespace

// Kills: before and after swapped, "before" renormalised.
TEST_CASE("softmax_moe normalises over the chosen or over all blocks", "[ffn][router]") {
  for (const bool after : {true, false}) {
    const std::string entry =
        cat(R"({"type": "softmax_moe", "active_blocks": 3)", after ? "}" : R"(, "softmax": "before"})");
    const Values logits = router_logits(entry);
    const Blocks blocks = top_of(logits, 3);
    const Values weights = after ? softmax_of(taken_at(logits, blocks), 3) : taken_at(softmax_of(logits, kB), blocks);
    check_layer(entry, {}, blocks, weights, 0.001 * entropy_loss(logits, 1));
    check_layer(entry, kEvaluation, blocks, weights, 0.001 * entropy_loss(logits, 1));
  }
}

// Kills: a softmax over what expert dropout hid, or not over it where the softmax comes first.
TEST_CASE("blocks that expert dropout hides weigh nothing in softmax_moe", "[ffn][router]") {
  const std::string entry =
      R"({"type": "softmax_moe", "active_blocks": 3, "softmax": "before", "expert_dropout": 0.7})";
  const Values logits = router_logits(entry);
  Values scores = softmax_of(logits, kB);
  for (size_t e = 0; e < scores.size(); ++e) {
    if (dropped_at(RandomSite::kExpertDropout, 0.7, e)) scores[e] = 0;
  }
  const Blocks blocks = top_of(scores, 3);
  CHECK(blocks != top_of(logits, 3));
  check_layer(entry, {}, blocks, taken_at(scores, blocks), 0.001 * entropy_loss(logits, 1));
}

// Kills: Sinkhorn in evaluation, its scores in the weights, groups or signs of the other variant.
TEST_CASE("s_base chooses by balanced logits in training and by logits in evaluation", "[ffn][router]") {
  struct Case {
    const char* keys;
    size_t groups;
    int iterations;
    double sign;
  };
  for (const Case& c : {Case{R"("sinkhorn": "textbook")", 1, 3, 1.0},
                        {R"("sinkhorn_iterations": 1, "balance": {"group": "sequence"})", 4, 1, 1.0},
                        {R"("sinkhorn": "as_published", "sinkhorn_iterations": 2)", 4, 2, -1.0}}) {
    const std::string entry = cat(R"({"type": "s_base", "active_blocks": 2, )", c.keys, "}");
    const Values logits = router_logits(entry);
    const bool by_sequence = std::string(c.keys).find("sequence") != std::string::npos;
    const double loss = 0.001 * entropy_loss(logits, by_sequence ? 4 : 1);
    const Blocks balanced = top_of(sinkhorn_of(logits, c.groups, c.iterations, c.sign), 2), plain = top_of(logits, 2);
    CHECK(balanced != plain);
    check_layer(entry, {}, balanced, taken_at(sigmoids(logits), balanced), loss);
    check_layer(entry, kEvaluation, plain, taken_at(sigmoids(logits), plain), loss);
  }
}

// Kills: noise in evaluation, noise that weighs nothing, a spread without softplus, cv2 of counts.
TEST_CASE("noisy_top_k chooses and weighs by noisy logits in training", "[ffn][router]") {
  const std::string entry = R"({"type": "noisy_top_k", "active_blocks": 3, "balance": {"weight": 0.5}})";
  const Values logits = router_logits(entry);
  const Values spread = times_rows(LayerRun::normed_input(), LayerRun(entry).parameter("router_noise.weight"));
  const RandomKey key = random_key(kSeed, RandomSite::kRouterNoise, 0, kStep);
  Values noisy = logits;
  for (size_t e = 0; e < noisy.size(); ++e) {
    noisy[e] += static_cast<float>(random_normal(key, e)) * std::log1p(std::exp(spread[e]));
  }
  const Blocks blocks = top_of(noisy, 3), calm = top_of(logits, 3);
  const Values weights = softmax_of(taken_at(noisy, blocks), 3), calm_weights = softmax_of(taken_at(logits, calm), 3);
  CHECK(blocks != calm);
  check_layer(entry, {}, blocks, weights, 0.5 * cv2_of(weights, blocks));
  check_layer(entry, kEvaluation, calm, calm_weights, 0.5 * cv2_of(calm_weights, calm));
}

// Kills: an assignment that is greedy or unbalanced, in evaluation too, or over all sequences at once.
TEST_CASE("base assigns tokens to blocks evenly, for the largest sum of logits", "[ffn][router]") {
  const std::string entry = R"({"type": "base", "cells": 16, "active_blocks": 1, "balance": {"group": "sequence"}})";
  constexpr size_t kFew = 4, kCapacity = 2;  // 6 tokens of a sequence on 4 blocks
  const Values logits = times_rows(LayerRun::normed_input(), LayerRun(entry).parameter("router.weight"));
  REQUIRE(logits.size() == kTokens * kFew);
  const LayerResult result = LayerRun(entry).forward();
  for (size_t s = 0; s < kSequences; ++s) {
    double taken = 0;
    std::vector<size_t> load(kFew);
    for (size_t n = s * kTime; n < (s + 1) * kTime; ++n) {
      const auto block = static_cast<size_t>(result.blocks[n]);
      taken += logits[n * kFew + block];
      ++load[block];
      CHECK(result.weights[n] == Approx(sigmoid_of(logits[n * kFew + block])).epsilon(1e-12));
    }
    CHECK(*std::max_element(load.begin(), load.end()) <= kCapacity);
    std::vector<size_t> left(kFew, kCapacity);
    CHECK(taken >= best_assignment(logits.data() + s * kTime * kFew, kTime, left) - kFew * kCapacity * 1e-4);
  }
  CHECK(result.extra_loss == 0);
  const LayerResult calm = LayerRun(entry).forward(kEvaluation);
  for (size_t n = 0; n < kTokens; ++n) {
    const auto row = logits.begin() + static_cast<int64_t>(n * kFew);
    CHECK(calm.blocks[n] == std::max_element(row, row + kFew) - row);
  }
}

// Kills: random numbers by place in the micro-batch, or elements of a sequence counted by the wrong width.
TEST_CASE("a micro-batch draws what its sequences draw wherever they are", "[ffn][router]") {
  for (const std::string entry :
       {R"({"type": "switch", "active_blocks": 2, "jitter": 0.4, "balance": {"type": "none"}})",
        R"({"type": "sigma_moe", "active_blocks": 2, "expert_dropout": 0.4, "balance": {"type": "none"}})",
        R"({"type": "softmax_moe", "active_blocks": 2, "expert_dropout": 0.4, "balance": {"type": "none"}})",
        R"({"type": "s_base", "active_blocks": 2, "sinkhorn": "as_published", "expert_dropout": 0.4})",
        R"({"type": "noisy_top_k", "active_blocks": 2, "balance": {"type": "none"}})"}) {
    INFO(entry);
    LayerRun run(entry, DType::kF32);
    const LayerResult whole = run.forward();
    Blocks blocks;
    Values weights;
    for (int64_t first = 0; first < kSequences; first += 2) {
      const LayerResult part = run.forward({.first_sequence = first, .sequences = 2});
      blocks.insert(blocks.end(), part.blocks.begin(), part.blocks.end());
      weights.insert(weights.end(), part.weights.begin(), part.weights.end());
    }
    CHECK(blocks == whole.blocks);
    CHECK(weights == whole.weights);
    CHECK(run.forward().blocks == whole.blocks);
    CHECK(run.forward(kEvaluation).blocks != whole.blocks);
  }
}

// Kills: an assignment of more than one block, Sinkhorn without iterations.
TEST_CASE("options of the σ-MoE baselines are refused by path and rule", "[ffn][router]") {
  const auto refusal = [](const std::string& entry) {
    return error_of([&] { resolve_ffn(router_model(entry), "c.json"); }).what;
  };
  CHECK(refusal(R"({"type": "base", "active_blocks": 2})") ==
        "c.json: model.sparse_ffn.0.active_cells: makes 2 active blocks; base assigns one block of 4 cells to a token");
  CHECK(refusal(R"({"type": "s_base", "active_blocks": 2, "sinkhorn_iterations": 0})")
            .find("sparse_ffn.0.sinkhorn_iterations: is 0") != std::string::npos);
  CHECK(refusal(R"({"type": "softmax_moe", "active_blocks": 2, "softmax": "both"})").find("sparse_ffn.0.softmax") !=
        std::string::npos);
  CHECK(
      refusal(R"({"type": "noisy_top_k", "active_blocks": 2, "sinkhorn": "textbook"})").find("sparse_ffn.0.sinkhorn") !=
      std::string::npos);
}
