// Tokens at random, for benchmarks and comparisons, which read no data.
#pragma once
#include "config/config.h"
#include "data/batch_source.h"

#include <cstdint>
#include <vector>

namespace sffn {

// Rows [first, first + count) of the step: inputs and targets uniform over the vocabulary, a function of (seed, step).
Batch random_batch(const Config&, int64_t step, int64_t first, int64_t count);

// How often each id stands in such data, up to a factor.
std::vector<double> random_token_counts(const Config&);

}  // namespace sffn
