#include "train/random_batch.h"

#include "core/random.h"

namespace sffn {

Batch random_batch(const Config& config, int64_t step, int64_t first, int64_t count) {
  Batch batch = make_batch(count, config.model.context);
  const RandomKey key = random_key(config.train.seed, RandomSite::kRandomTokens, 0, step);
  const auto vocab = static_cast<uint32_t>(config.model.vocab_size);
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    const uint64_t at = static_cast<uint64_t>(first * config.model.context) + i;
    batch.inputs[i] = static_cast<int32_t>(random_bits(key, 2 * at) % vocab);
    batch.targets[i] = static_cast<int32_t>(random_bits(key, 2 * at + 1) % vocab);
  }
  return batch;
}

std::vector<double> random_token_counts(const Config& config) {
  return std::vector<double>(static_cast<size_t>(config.model.vocab_size), 1);
}

}  // namespace sffn
