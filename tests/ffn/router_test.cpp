// Switch and σ-MoE: choice, weights, extra losses and output against plain loops.
#include "core/error.h"
#include "ffn/router_case.h"
#include "nn/init.h"
#include "support/error_of.h"

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr LayerPass kEvaluation{.training = false};

Values elementwise(Values values, double (*f)(double)) {
  std::transform(values.begin(), values.end(), values.begin(), f);
  return values;
}

double mean_square_lse(const Values& logits) {
  double sum = 0;
  for (size_t at = 0; at < logits.size(); at += kB) {
    double exps = 0;
    for (size_t i = 0; i < kB; ++i) exps += std::exp(logits[at + i]);
    sum += std::log(exps) * std::log(exps);
  }
  return sum * kB / static_cast<double>(logits.size());
}

}  // namespace

// Kills: weights renormalised by default, frac without its factor B, losses of one group where each sequence has one.
TEST_CASE("switch weighs its b most probable blocks by their probabilities", "[ffn][router]") {
  for (const auto& [group, groups] : {std::pair{"micro_batch", 1}, {"sequence", 4}, {"step", 1}}) {
    const std::string entry =
        cat(R"({"type": "switch", "active_blocks": 2, "z_loss": 0.05, "balance": {"weight": 0.5, "group": ")", group,
            R"("}})");
    const Values logits = router_logits(entry);
    const Blocks blocks = top_of(logits, 2);
    const double loss = 0.5 * switch_loss(logits, blocks, groups) + 0.05 * mean_square_lse(logits);
    check_layer(entry, {}, blocks, taken_at(softmax_of(logits, kB), blocks), loss);
    check_layer(entry, kEvaluation, blocks, taken_at(softmax_of(logits, kB), blocks), loss);
  }
}

// Kills: a renormalisation over all blocks, a default balance loss that is not 0.01 of switch.
TEST_CASE("renormalised weights of switch sum to one, and its balance loss weighs 0.01", "[ffn][router]") {
  const std::string entry = R"({"type": "switch", "active_blocks": 3, "renormalise": true})";
  const Values logits = router_logits(entry);
  const Blocks blocks = top_of(logits, 3);
  check_layer(entry, {}, blocks, softmax_of(taken_at(logits, blocks), 3), 0.01 * switch_loss(logits, blocks, 1));
}

// Kills: a z-loss whose group sums take the place of those of cv2.
TEST_CASE("a z-loss stands beside a balance loss of weights", "[ffn][router]") {
  const std::string entry =
      R"({"type": "switch", "active_blocks": 2, "z_loss": 0.05, "balance": {"type": "cv2", "weight": 0.5}})";
  const Values logits = router_logits(entry);
  const Blocks blocks = top_of(logits, 2);
  const Values weights = taken_at(softmax_of(logits, kB), blocks);
  Values sums(kB);
  for (size_t c = 0; c < blocks.size(); ++c) sums[static_cast<size_t>(blocks[c])] += weights[c];
  double mean = 0, variance = 0;
  for (const double sum : sums) mean += sum / kB;
  for (const double sum : sums) variance += (sum - mean) * (sum - mean) / kB;
  check_layer(entry, {}, blocks, weights, 0.5 * variance / (mean * mean) + 0.05 * mean_square_lse(logits));
}

// Kills: capacity by score instead of place, a capacity that is rounded down, one count over all sequences.
TEST_CASE("a block of switch keeps its first tokens up to the capacity and counts the others", "[ffn][router]") {
  for (const auto& [group, groups] : {std::pair{"micro_batch", 1}, {"sequence", 4}, {"step", 1}}) {
    for (const double factor : {0.3, 0.7, 1.0, 9.0}) {
      const std::string entry = cat(R"({"type": "switch", "active_blocks": 2, "capacity_factor": )", factor,
                                    R"(, "balance": {"type": "none", "group": ")", group, R"("}})");
      const Values logits = router_logits(entry);
      const Blocks blocks = top_of(logits, 2);
      Values weights = taken_at(softmax_of(logits, kB), blocks);
      const size_t N = logits.size() / kB;
      const double capacity = std::ceil(factor * static_cast<double>(N / groups) * 2 / kB);
      int64_t dropped = 0;
      std::vector<int64_t> seen(groups * kB);
      for (size_t c = 0; c < blocks.size(); ++c) {
        if (static_cast<double>(seen[c * groups / blocks.size() * kB + static_cast<size_t>(blocks[c])]++) < capacity) {
          continue;
        }
        weights[c] = 0;
        ++dropped;
      }
      CHECK((dropped > 0) == (factor < 2));
      check_layer(entry, {}, blocks, weights, 0);
      const Json statistics = LayerRun(entry).forward().statistics;
      CHECK(statistics.find("dropped")->as_double() ==
            Approx(static_cast<double>(dropped) / static_cast<double>(blocks.size())));
    }
  }
}

// Kills: jitter on the experts' input, in evaluation, or of another width.
TEST_CASE("jitter scales what the router of switch sees, in training only", "[ffn][router]") {
  const std::string entry = R"({"type": "switch", "active_blocks": 2, "jitter": 0.4, "balance": {"type": "none"}})";
  Values x = LayerRun::normed_input();
  const RandomKey key = random_key(kSeed, RandomSite::kRouterJitter, 0, kStep);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= 1 + 0.4 * (2 * static_cast<double>(random_uniform(key, i)) - 1);
  const Values logits = times_rows(x, LayerRun(entry).parameter("router.weight"));
  const Blocks blocks = top_of(logits, 2), calm = top_of(router_logits(entry), 2);
  CHECK(blocks != calm);
  check_layer(entry, {}, blocks, taken_at(softmax_of(logits, kB), blocks), 0);
  check_layer(entry, kEvaluation, calm, taken_at(softmax_of(router_logits(entry), kB), calm), 0);
}

// Kills: a softmax where the sigmoid weighs, an entropy of sigmoids, biases in the tables.
TEST_CASE("sigma_moe weighs its b highest sigmoids and punishes low entropy of the mean softmax", "[ffn][router]") {
  for (const auto& [group, groups] : {std::pair{"micro_batch", 1}, {"sequence", 4}}) {
    const std::string entry =
        cat(R"({"type": "sigma_moe", "active_blocks": 3, "balance": {"group": ")", group, R"("}})");
    const Values logits = router_logits(entry);
    const Blocks blocks = top_of(logits, 3);
    const Values weights = taken_at(elementwise(logits, sigmoid_of), blocks);
    check_layer(entry, {}, blocks, weights, 0.001 * entropy_loss(logits, groups));
    CHECK(LayerRun(entry).parameter("keys.bias").empty());
    CHECK(LayerRun(entry).parameter("values.bias").empty());
  }
}

// Kills: expert dropout in evaluation, rescaled, after the choice, or that lets a chosen zeroed block weigh.
TEST_CASE("expert dropout hides blocks from the choice of sigma_moe in training", "[ffn][router]") {
  for (const double delta : {0.2, 0.8}) {
    const std::string entry = cat(R"({"type": "sigma_moe", "active_blocks": 3, "expert_dropout": )", delta, "}");
    const Values logits = router_logits(entry);
    Values scores = elementwise(logits, sigmoid_of);
    const Values unmasked = scores;
    for (size_t e = 0; e < scores.size(); ++e) {
      if (dropped_at(RandomSite::kExpertDropout, delta, e)) scores[e] = 0;
    }
    const Blocks blocks = top_of(scores, 3);
    const Values weights = taken_at(scores, blocks);
    CHECK((std::count(weights.begin(), weights.end(), 0.0) > 0) == (delta > 0.5));
    const double loss = 0.001 * entropy_loss(logits, 1);
    check_layer(entry, {}, blocks, weights, loss);
    check_layer(entry, kEvaluation, top_of(logits, 3), taken_at(unmasked, top_of(logits, 3)), loss);
  }
}

// Kills: a bias on logits, in the weights, or one that is never looked at.
TEST_CASE("a balance bias is added to the score for the choice only", "[ffn][router]") {
  const std::string entry = R"({"type": "sigma_moe", "active_blocks": 2, "balance": {"type": "bias"}})";
  const Values logits = router_logits(entry);
  Values biased = elementwise(logits, sigmoid_of), bias(kB);
  for (size_t i = 0; i < kB; ++i) bias[i] = 0.1 * static_cast<double>(i % 3);
  for (size_t e = 0; e < biased.size(); ++e) biased[e] += bias[e % kB];
  LayerRun run(entry);
  run.set_bias(bias);
  const LayerResult result = run.forward();
  CHECK(result.blocks == top_of(biased, 2));
  CHECK(result.blocks != top_of(logits, 2));
  check_close(result.weights, taken_at(elementwise(logits, sigmoid_of), result.blocks), 1e-12);
  CHECK(result.extra_loss == 0);
}

// Kills: a choice by saturated sigmoids, where every score is 1.
TEST_CASE("large logits still choose by their order", "[ffn][router]") {
  const std::string entry = R"({"type": "sigma_moe", "active_blocks": 2, "balance": {"type": "none"}})";
  LayerRun run(entry, DType::kF32);
  Values router = run.parameter("router.weight");
  for (double& w : router) w *= 512;
  run.set_parameter("router.weight", router);
  CHECK(run.forward().blocks == top_of(router_logits(entry), 2));
}

// Kills: options of other methods, ranges that are not looked at, null that is taken for an error.
TEST_CASE("options of switch and sigma_moe are refused by path and rule", "[ffn][router]") {
  const auto refusal = [](const std::string& entry) {
    return error_of([&] { resolve_ffn(router_model(entry), "c.json"); }).what;
  };
  CHECK(refusal(R"({"type": "switch", "active_blocks": 2, "capacity_factor": null})").empty());
  CHECK(refusal(R"({"type": "switch", "active_blocks": 2, "capacity_factor": 0})") ==
        "c.json: model.sparse_ffn.0.capacity_factor: is 0; a number > 0 or null is expected");
  CHECK(refusal(R"({"type": "switch", "active_blocks": 2, "jitter": 1})").find("sparse_ffn.0.jitter: is 1") !=
        std::string::npos);
  CHECK(refusal(R"({"type": "sigma_moe", "active_blocks": 2, "jitter": 0.1})").find("sparse_ffn.0.jitter") !=
        std::string::npos);
  CHECK(refusal(R"({"type": "sigma_moe", "active_blocks": 2, "bias": true})").find("sparse_ffn.0.bias") !=
        std::string::npos);
}

// Kills: rows scaled to norm 1, or a scale that forgets the mean.
TEST_CASE("routers of the xl scheme start with rows of one norm at the drawn deviation", "[ffn][router]") {
  const size_t rows = 7, columns = 12;
  Values matrix = random_values(rows * columns, 3, 0.3);
  const auto deviation = [](const Values& x) {
    const auto n = static_cast<double>(x.size());
    const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
    return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / n - mean * mean);
  };
  const double before = deviation(matrix);
  equalise_row_norms(matrix, columns);
  CHECK(deviation(matrix) == Approx(before).epsilon(1e-12));
  const auto norm = [&](size_t row) {
    const auto at = matrix.begin() + static_cast<int64_t>(row * columns);
    return std::sqrt(std::inner_product(at, at + columns, at, 0.0));
  };
  for (size_t row = 1; row < rows; ++row) CHECK(norm(row) == Approx(norm(0)).epsilon(1e-12));
}
