#pragma once
#include "core/random.h"

#include <cstdint>
#include <vector>

namespace sffn {

struct SampleOptions {
  double temperature = 1;  // 0: the most probable token, the lower id of equals
  int64_t top_k = 0;       // only the k most probable; 0: all
  double top_p = 1;        // only the most probable whose sum first reaches p (Holtzman et al., arXiv 1904.09751)
};

void check(const SampleOptions& options);  // throws UsageError for one out of range

// Draws from softmax(logits / temperature) cut by top_k, then top_p; `uniform` in [0, 1) decides. Throws RunError when
// a logit is not a number, and what check() throws.
int32_t sample_token(const std::vector<float>& logits, const SampleOptions& options, double uniform);

}  // namespace sffn
