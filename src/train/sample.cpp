#include "train/sample.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sffn {

void check(const SampleOptions& options) {
  if (!(options.temperature >= 0)) throw UsageError("--temperature", "must be 0 or more");
  if (options.top_k < 0) throw UsageError("--top-k", "must be 0 or more");
  if (!(options.top_p > 0 && options.top_p <= 1)) throw UsageError("--top-p", "must be above 0 and at most 1");
}

int32_t sample_token(const std::vector<float>& logits, const SampleOptions& options, double uniform) {
  check(options);
  SFFN_CHECK(!logits.empty(), "no logits");
  SFFN_CHECK(std::none_of(logits.begin(), logits.end(), [](float l) { return std::isnan(l); }),
             "a logit is not a number");

  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.temperature == 0) return order[0];
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));

  std::vector<double> probability;
  double sum = 0;
  for (const int32_t id : order) {
    probability.push_back(std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / options.temperature));
    sum += probability.back();
  }
  double kept = 0;
  size_t count = 0;
  while (count < order.size() && kept < options.top_p * sum) kept += probability[count++];

  double left = uniform * kept;
  for (size_t i = 0; i < count; ++i) {
    left -= probability[i];
    if (left < 0) return order[i];
  }
  return order[count - 1];
}

}  // namespace sffn
