// The data that a configuration names.
#pragma once
#include "config/config.h"
#include "data/batch_source.h"
#include "data/eval_source.h"

#include <map>
#include <string>
#include <vector>

namespace sffn {

// Throws UsageError where data.train is empty, and what BatchSource throws.
BatchSource open_training_data(const Config&);
// data.validation, by name. Throws what EvalSource throws.
std::map<std::string, EvalSource> open_validation_data(const Config&);

// What `generate` needs to find the tokenizer again; null for shards without a manifest.
Json tokenizer_record(const BatchSource&);
// Throws UsageError where `data` is known to be made with another tokenizer than the one of `trainer`, a checkpoint's
// trainer.json: the same ids would stand for other text.
void require_tokenizer(const Json& trainer, const Corpus& data);

// How often each id stands in data.train: counts where there is one corpus, else shares Σ_c w_c · counts_c / tokens_c.
// Empty where data.train is, or a shard has no manifest. Throws what Corpus throws.
std::vector<double> training_token_counts(const Config&);

}  // namespace sffn
