#include "train/sample.h"

#include "support/catch.h"
#include "support/error_of.h"

#include <cmath>
#include <limits>
#include <map>

using namespace sffn;
using namespace sffn::test;

namespace {

// Probabilities 0.1, 0.4, 0.2, 0.3 of the ids 0 to 3.
const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};

// Share of each id when `uniform` runs evenly through [0, 1).
std::map<int32_t, double> shares(const std::vector<float>& logits, const SampleOptions& options) {
  constexpr int kDraws = 10000;
  std::map<int32_t, double> counts;
  for (int i = 0; i < kDraws; ++i) counts[sample_token(logits, options, (i + 0.5) / kDraws)] += 1.0 / kDraws;
  return counts;
}

void check_shares(const SampleOptions& options, const std::map<int32_t, double>& expected) {
  const std::map<int32_t, double> found = shares(kLogits, options);
  CHECK(found.size() == expected.size());
  for (const auto& [id, share] : expected) {
    INFO("id " << id);
    REQUIRE(found.count(id) == 1);
    CHECK(std::abs(found.at(id) - share) < 2e-4);
  }
}

}  // namespace

// Kills: another distribution than softmax(logits / temperature), a filter that keeps one too many or too few, or
// that does not renormalise.
TEST_CASE("tokens are drawn from the tempered softmax, cut by top-k and top-p", "[sample]") {
  check_shares({}, {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.3}});
  check_shares({.temperature = 0.5}, {{0, 0.01 / 0.3}, {1, 0.16 / 0.3}, {2, 0.04 / 0.3}, {3, 0.09 / 0.3}});
  check_shares({.top_k = 2}, {{1, 4.0 / 7}, {3, 3.0 / 7}});
  check_shares({.top_k = 9}, {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.3}});
  check_shares({.top_p = 0.39}, {{1, 1}});
  check_shares({.top_p = 0.41}, {{1, 4.0 / 7}, {3, 3.0 / 7}});
  check_shares({.top_k = 3, .top_p = 0.5}, {{1, 4.0 / 7}, {3, 3.0 / 7}});  // 0.5 of what top-k left
}

// Kills: a tie that depends on the sort, an overflow of exp, a last id that rounding cannot reach.
TEST_CASE("ties go to the lower id and extreme logits are safe", "[sample]") {
  CHECK(sample_token({1, 3, 3, 2}, {.temperature = 0}, 0.99) == 1);
  CHECK(sample_token({1, 3, 3, 2}, {.top_k = 1}, 0.99) == 1);
  CHECK(sample_token({1e30f, -1e30f, 1e30f}, {}, std::nextafter(1.0, 0.0)) == 2);
  const float none = -std::numeric_limits<float>::infinity();
  CHECK(shares({none, 0, none}, {}) == std::map<int32_t, double>{{1, shares({0}, {})[0]}});
  CHECK(sample_token({5}, {}, 0.5) == 0);
}

// Kills: options that are believed, a NaN that wins or loses silently.
TEST_CASE("options out of range and logits that are no numbers are errors", "[sample]") {
  const auto code = [](const std::vector<float>& logits, const SampleOptions& options) {
    return error_of([&] { sample_token(logits, options, 0.5); }).code;
  };
  CHECK(code(kLogits, {.temperature = -0.1}) == ExitCode::kUsage);
  CHECK(code(kLogits, {.temperature = NAN}) == ExitCode::kUsage);
  CHECK(code(kLogits, {.top_k = -1}) == ExitCode::kUsage);
  for (const double p : {0.0, -1.0, 1.1, static_cast<double>(NAN)})
    CHECK(code(kLogits, {.top_p = p}) == ExitCode::kUsage);
  CHECK(code({1, NAN}, {}) == ExitCode::kRunFailed);
  CHECK(code({}, {}) == ExitCode::kRunFailed);
}
